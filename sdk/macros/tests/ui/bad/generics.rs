#[wisp::handler]
async fn handle<T>(_request: wisp::Request) -> wisp::Result<wisp::Response> {
    Ok(wisp::response::text("hello"))
}

fn main() {}

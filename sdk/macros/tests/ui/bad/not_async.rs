#[wisp::handler]
fn handle(_request: wisp::Request) -> wisp::Result<wisp::Response> {
    Ok(wisp::response::text("hello"))
}

fn main() {}

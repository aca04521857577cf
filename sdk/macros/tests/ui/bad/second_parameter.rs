#[wisp::handler]
async fn handle(_request: wisp::Request, _id: u64) -> wisp::Result<wisp::Response> {
    Ok(wisp::response::text("hello"))
}

fn main() {}

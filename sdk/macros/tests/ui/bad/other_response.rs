#[wisp::handler]
async fn handle(_request: wisp::Request) -> wisp::Result<u64> {
    Ok(7)
}

fn main() {}

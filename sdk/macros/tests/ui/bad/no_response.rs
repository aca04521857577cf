#[wisp::handler]
async fn handle(_request: wisp::Request) {}

fn main() {}

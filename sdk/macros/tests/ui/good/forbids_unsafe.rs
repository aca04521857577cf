#![forbid(unsafe_code)]

#[wisp::init]
fn init() {}

#[wisp::handler]
async fn handle() -> &'static str {
    "safe"
}

fn main() {}

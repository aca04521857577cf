#[wisp::init]
fn init(_request: wisp::Request) {}

fn main() {}

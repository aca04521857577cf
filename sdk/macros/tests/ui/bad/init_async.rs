#[wisp::init]
async fn init() {}

fn main() {}

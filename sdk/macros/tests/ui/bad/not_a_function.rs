#[wisp::handler]
struct Handler;

fn main() {}

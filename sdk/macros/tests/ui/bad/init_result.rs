#[wisp::init]
fn init() -> u64 {
    7
}

fn main() {}

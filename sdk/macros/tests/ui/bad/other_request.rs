#[wisp::handler]
async fn handle(_name: String) -> &'static str {
    "hello"
}

fn main() {}

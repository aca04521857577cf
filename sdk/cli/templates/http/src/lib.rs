//! Greets whoever asks.

use serde::{Deserialize, Serialize};
use wisp::prelude::*;

#[derive(Deserialize)]
struct Who {
    name: String,
}

#[derive(Serialize)]
struct Greeting {
    message: String,
}

#[wisp::handler]
async fn handle(req: Request) -> Result<Response> {
    Router::new()
        .get("/", index)
        .get("/hello/{name}", hello)
        .post("/hello", posted)
        .handle(req)
        .await
}

async fn index(_req: Request) -> Result<Response> {
    Ok(response::text("Try /hello/YOUR-NAME\n"))
}

async fn hello(req: Request) -> Result<Response> {
    let name: String = req.param("name")?;
    greet(&name)
}

async fn posted(mut req: Request) -> Result<Response> {
    let who: Who = req.json().await?;
    greet(&who.name)
}

fn greet(name: &str) -> Result<Response> {
    let word = wisp::config::get("GREETING")?.unwrap_or_else(|| "Hello".to_owned());
    log::info!("greeting {name}");
    response::json(&Greeting {
        message: format!("{word}, {name}!"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_greets_by_name() {
        wisp::test::config("GREETING", "Hej");
        let request = wisp::test::request("GET", "/hello/Ada").build();
        let mut response = wisp::test::block_on(handle(request)).unwrap();
        assert_eq!(response.status(), 200);
        let body = wisp::test::block_on(response.text()).unwrap();
        assert_eq!(body, r#"{"message":"Hej, Ada!"}"#);
    }

    #[test]
    fn it_refuses_what_is_no_greeting() {
        let request = wisp::test::request("POST", "/hello").body("{}");
        let response = wisp::test::call(handle, request);
        assert_eq!(response.status(), 400);
    }
}

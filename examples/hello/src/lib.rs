//! Greets, as text or as JSON, whichever the client asks for.

use serde::{Deserialize, Serialize};
use wisp::prelude::*;
use wisp::{Request, Response, Result, Router};

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
        .get("/", world)
        .get("/{name}", named)
        .post("/", posted)
        .handle(req)
        .await
}

async fn world(req: Request) -> Result<Response> {
    greet(&req, "world")
}

async fn named(req: Request) -> Result<Response> {
    greet(&req, &req.param::<String>("name")?)
}

async fn posted(mut req: Request) -> Result<Response> {
    let who: Who = req.json().await?;
    greet(&req, &who.name)
}

fn greet(req: &Request, name: &str) -> Result<Response> {
    let word = wisp::config::get("GREETING")?.unwrap_or_else(|| "Hello".to_owned());
    let message = format!("{word}, {name}!");
    wisp::log::info!("greeting {name}");
    let wants_json = req
        .headers()
        .get("accept")
        .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
    if wants_json {
        wisp::response::json(&Greeting { message })
    } else {
        Ok(wisp::response::text(message + "\n"))
    }
}

#[cfg(test)]
mod tests {
    use wisp::test;

    use super::*;

    fn text(request: Request) -> String {
        let mut response = test::call(handle, request);
        assert_eq!(response.status(), 200);
        test::block_on(response.text()).unwrap()
    }

    #[test]
    fn greets_the_world_and_whom_it_is_told() {
        assert_eq!(text(test::request("GET", "/").build()), "Hello, world!\n");
        assert_eq!(
            text(test::request("GET", "/J%C3%BCrgen").build()),
            "Hello, Jürgen!\n"
        );
        assert_eq!(
            text(test::request("POST", "/").body(r#"{"name": "Ada"}"#)),
            "Hello, Ada!\n"
        );
    }

    #[test]
    fn answers_in_json_when_asked_to() {
        let request = test::request("GET", "/Ada")
            .header("accept", "application/json")
            .build();
        assert_eq!(text(request), r#"{"message":"Hello, Ada!"}"#);
    }

    #[test]
    fn takes_the_word_from_its_configuration() {
        test::config("GREETING", "Moin");
        assert_eq!(text(test::request("GET", "/").build()), "Moin, world!\n");
    }

    #[test]
    fn a_body_without_a_name_is_the_clients_mistake() {
        let mut response = test::call(handle, test::request("POST", "/").body("{}"));
        assert_eq!(response.status(), 400);
        assert!(
            test::block_on(response.text())
                .unwrap()
                .contains("missing field `name`")
        );
    }
}

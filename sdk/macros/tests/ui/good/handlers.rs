mod whole {
    #[wisp::handler]
    async fn handle(request: wisp::Request) -> wisp::Result<wisp::Response> {
        Ok(wisp::Response::new(request.into_body()))
    }
}

mod no_request {
    #[wisp::handler]
    async fn handle() -> impl wisp::IntoResponse {
        (wisp::http::StatusCode::CREATED, "made")
    }
}

mod own_error {
    #[wisp::handler]
    async fn handle(_: wisp::Request) -> Result<String, std::num::ParseIntError> {
        Ok("7".parse::<u8>()?.to_string())
    }
}

mod failing_init {
    #[wisp::init]
    fn init() -> Result<(), std::num::ParseIntError> {
        "7".parse::<u8>().map(drop)
    }
}

fn main() {}

use super::Router;
use super::pattern::Pattern;
use crate::http::{Method, StatusCode};
use crate::{Request, RequestExt, Response, ResponseExt, Result, test};

async fn param(request: Request) -> Result<String> {
    request.param("x")
}

fn ask(router: &Router, method: &str, uri: &str) -> Result<Response> {
    test::block_on(router.handle(test::request(method, uri).build()))
}

fn text(router: &Router, method: &str, uri: &str) -> String {
    test::block_on(ask(router, method, uri).unwrap().text()).unwrap()
}

#[test]
fn parameters_are_decoded_segments() {
    let router = Router::new().get("/a/{x}", param).get("/b/{*x}", param);
    assert_eq!(text(&router, "GET", "/a/1%2F2%20%C3%A4?q=3"), "1/2 ä");
    assert_eq!(text(&router, "GET", "/b/1/2%20/"), "1/2 /");
    for missing in ["/a", "/a/", "/a/1/2", "/b", "/b/", "/"] {
        assert_eq!(
            ask(&router, "GET", missing).unwrap_err().status(),
            404,
            "{missing}"
        );
    }
}

#[test]
fn the_most_fixed_route_goes_first_whatever_the_order() {
    let router = Router::new()
        .get("/{*x}", async |_| "rest")
        .get("/{x}/edit", async |_| "param, fixed")
        .get("/{x}/{y}", async |_| "params")
        .get("/new/{x}", async |_| "fixed, param")
        .get("/new/edit", async |_| "fixed");
    assert_eq!(text(&router, "GET", "/new/edit"), "fixed");
    assert_eq!(text(&router, "GET", "/new/1"), "fixed, param");
    assert_eq!(text(&router, "GET", "/1/edit"), "param, fixed");
    assert_eq!(text(&router, "GET", "/1/2"), "params");
    assert_eq!(text(&router, "GET", "/1/2/3"), "rest");
}

#[test]
fn a_method_that_a_path_does_not_take_is_told_those_that_it_takes() {
    let router = Router::new()
        .get("/a", async |_| "get")
        .post("/a", async |_| "post")
        .delete("/{x}", async |_| "delete");
    let error = ask(&router, "PUT", "/a").unwrap_err();
    assert_eq!(error.reason(), "method-not-allowed");
    assert_eq!(
        error.into_response().headers()["allow"],
        "DELETE, GET, HEAD, POST"
    );
    let options = ask(&router, "OPTIONS", "/a").unwrap();
    assert_eq!(
        (options.status().as_u16(), &options.headers()["allow"]),
        (204, &"DELETE, GET, HEAD, POST".parse().unwrap())
    );
    assert_eq!(ask(&router, "HEAD", "/a").unwrap().status(), 200);
    assert_eq!(text(&router, "DELETE", "/a"), "delete");
}

#[test]
fn nested_routes_live_below_their_prefix() {
    let inner = Router::new().get("/", async |_| "root").get("/{x}", param);
    let router = Router::new()
        .nest("/users/", inner)
        .nest("/", Router::new().get("/top", async |_| "top"));
    assert_eq!(text(&router, "GET", "/users"), "root");
    assert_eq!(text(&router, "GET", "/users/7"), "7");
    assert_eq!(text(&router, "GET", "/top"), "top");
    assert_eq!(
        format!("{router:?}"),
        r#"["GET /users", "GET /users/{x}", "GET /top"]"#
    );
}

#[test]
fn a_fallback_answers_unknown_paths_and_not_other_methods() {
    let router = Router::new()
        .get("/a", async |_| "a")
        .fallback(async |_| "fallback");
    assert_eq!(text(&router, "POST", "/b"), "fallback");
    assert_eq!(ask(&router, "POST", "/a").unwrap_err().status(), 405);
}

#[test]
fn a_parameter_that_the_route_lacks_is_the_functions_fault() {
    let router = Router::new().get("/{y}", param);
    let error = ask(&router, "GET", "/1").unwrap_err();
    assert_eq!(
        (error.status().as_u16(), error.chain()),
        (500, "the route has no parameter `{x}`".to_owned())
    );
}

/// Would fail if a route that no path fits were passed over in silence, and its paths were 404s.
#[test]
fn a_route_that_is_none_is_told_to_the_log() {
    let said = |router: Router| {
        let error = ask(&router, "GET", "/").unwrap_err();
        assert_eq!(error.status(), 500);
        error.chain()
    };
    let at = |path: &str| said(Router::new().get("/", async |_| "").get(path, param));
    for (path, wrong) in [
        (
            "/{*x}/edit",
            "`{*x}` takes all that is left of a path, so it stands at the end",
        ),
        (
            "/{x}.json",
            "a parameter is a whole segment, as `{name}` or `{*name}`, and `{x}.json` isn't one",
        ),
        ("/a/{}", "a parameter has no name"),
        ("/{x}/{*x}", "two parameters are called `x`"),
        (
            "/a?b=1",
            "`a?b=1` has a query or a fragment, which is no part of a path",
        ),
    ] {
        let whole = format!("the route `{path}` can't be: {wrong}");
        assert_eq!(at(path), whole);
    }
    let below = Router::new().nest("/{*x}", Router::new().get("/a", param));
    assert!(said(below).starts_with("the route `/{*x}/a` can't be: "));
}

#[test]
fn a_router_can_be_made_once() {
    static ROUTER: std::sync::LazyLock<Router> =
        std::sync::LazyLock::new(|| Router::new().get("/{x}", param));
    assert_eq!(text(&ROUTER, "GET", "/1"), "1");
}

#[test]
fn a_pattern_shows_as_it_was_written() {
    for path in ["/", "/a/{x}/b/{*rest}", "/a/"] {
        assert_eq!(Pattern::new(path).to_string(), path);
    }
}

/// Would fail if a route of HEAD never ran because one of GET was added before it.
#[test]
fn a_route_of_head_goes_before_one_of_get_that_stands_in_for_it() {
    let head = |_: Request| async { (StatusCode::ACCEPTED, "") };
    let router = Router::new()
        .get("/a/{x}", param)
        .route(Method::HEAD, "/a/{name}", head)
        .route(Method::HEAD, "/{*rest}", |_: Request| async {
            StatusCode::GONE
        });
    assert_eq!(ask(&router, "HEAD", "/a/1").unwrap().status(), 202);
    assert_eq!(ask(&router, "GET", "/a/1").unwrap().status(), 200);
    // A more fixed path still goes first.
    let router = Router::new()
        .route(Method::HEAD, "/{*rest}", head)
        .get("/a/{x}", param);
    assert_eq!(ask(&router, "HEAD", "/a/1").unwrap().status(), 200);
}

/// Would fail if different paths became one: both bytes would be shown by the same sign.
#[test]
fn a_parameter_that_is_no_text_is_refused() {
    let router = Router::new().get("/a/{x}", param).get("/b/{*x}", param);
    for (path, raw) in [("/a/%FF", "%FF"), ("/a/%fe", "%fe"), ("/b/1/%C3", "1/%C3")] {
        let error = ask(&router, "GET", path).unwrap_err();
        assert_eq!(error.status(), 400, "{path}");
        assert_eq!(
            error.detail(),
            format!("`x` in the path is no UTF-8 text: `{raw}`")
        );
    }
    assert_eq!(text(&router, "GET", "/b/1%2F2/%C3%A4"), "1/2/ä");
}

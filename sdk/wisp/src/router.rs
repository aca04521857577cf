//! Routing by method and path.

mod pattern;

use std::future::Future;

use ::http::{HeaderValue, Method, StatusCode, header};

pub(crate) use pattern::Params;
use pattern::Pattern;

use crate::handler::{Answer, answer};
use crate::{Body, Error, IntoResponse, Request, Response, Result, response};

/// Routes by method and path.
///
/// ```
/// use wisp::{Request, RequestExt, Response, Result, Router, response};
///
/// async fn list(_request: Request) -> Result<Response> {
///     response::json(&["a", "b"])
/// }
///
/// async fn show(request: Request) -> Result<String> {
///     Ok(format!("item {}", request.param::<String>("id")?))
/// }
///
/// async fn handle(request: Request) -> Result<Response> {
///     Router::new().get("/items", list).get("/items/{id}", show).handle(request).await
/// }
///
/// # use wisp::ResponseExt;
/// let mut response = wisp::test::block_on(handle(wisp::test::request("GET", "/items/7").build())).unwrap();
/// assert_eq!(wisp::test::block_on(response.text()).unwrap(), "item 7");
/// ```
///
/// In a path `{name}` is one segment, and `{*name}` at the end is all that is left, at least one segment.
/// A fixed segment goes before `{name}`, which goes before `{*name}`; routes that are equal so far go in their order. A
/// GET route answers HEAD too, unless another of the same path is for HEAD itself. A path that is known for other methods only is a 405 with `allow` (and answers OPTIONS
/// with it), an unknown path a 404. A route that is none, such as one with `{*name}` before its end, makes every request a
/// 500 whose log line says what is wrong with it.
#[derive(Default)]
pub struct Router {
    routes: Vec<Route>,
    /// What is wrong with the first route that is none.
    mistake: Option<String>,
    fallback: Option<Box<Handler>>,
}

type Handler = dyn Fn(Request) -> Answer + Send + Sync;

struct Route {
    /// `None` is any method.
    method: Option<Method>,
    pattern: Pattern,
    handler: Box<Handler>,
}

impl Router {
    /// A router without routes: everything is a 404.
    ///
    /// ```
    /// let error = wisp::test::block_on(wisp::Router::new().handle(wisp::test::request("GET", "/").build())).unwrap_err();
    /// assert_eq!(error.to_string(), "404 not-found: there is nothing at `/`");
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers GET, and HEAD, at `path`.
    ///
    /// ```
    /// # async fn list(_request: wisp::Request) -> &'static str { "" }
    /// let router = wisp::Router::new().get("/items", list);
    /// ```
    #[must_use]
    pub fn get<F, Fut>(self, path: &str, handler: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoResponse> + 'static,
    {
        self.route(Method::GET, path, handler)
    }

    /// Answers POST at `path`.
    ///
    /// ```
    /// # async fn create(_request: wisp::Request) -> &'static str { "" }
    /// let router = wisp::Router::new().post("/items", create);
    /// ```
    #[must_use]
    pub fn post<F, Fut>(self, path: &str, handler: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoResponse> + 'static,
    {
        self.route(Method::POST, path, handler)
    }

    /// Answers PUT at `path`.
    ///
    /// ```
    /// # async fn replace(_request: wisp::Request) -> &'static str { "" }
    /// let router = wisp::Router::new().put("/items/{id}", replace);
    /// ```
    #[must_use]
    pub fn put<F, Fut>(self, path: &str, handler: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoResponse> + 'static,
    {
        self.route(Method::PUT, path, handler)
    }

    /// Answers PATCH at `path`.
    ///
    /// ```
    /// # async fn change(_request: wisp::Request) -> &'static str { "" }
    /// let router = wisp::Router::new().patch("/items/{id}", change);
    /// ```
    #[must_use]
    pub fn patch<F, Fut>(self, path: &str, handler: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoResponse> + 'static,
    {
        self.route(Method::PATCH, path, handler)
    }

    /// Answers DELETE at `path`.
    ///
    /// ```
    /// # async fn remove(_request: wisp::Request) {}
    /// let router = wisp::Router::new().delete("/items/{id}", remove);
    /// ```
    #[must_use]
    pub fn delete<F, Fut>(self, path: &str, handler: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoResponse> + 'static,
    {
        self.route(Method::DELETE, path, handler)
    }

    /// Answers `method` at `path`.
    ///
    /// ```
    /// # async fn find(_request: wisp::Request) -> &'static str { "" }
    /// let router = wisp::Router::new().route(wisp::http::Method::from_bytes(b"QUERY").unwrap(), "/items", find);
    /// ```
    #[must_use]
    pub fn route<F, Fut>(mut self, method: Method, path: &str, handler: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoResponse> + 'static,
    {
        self.add(
            Some(method),
            path,
            Box::new(move |request| answer(handler(request))),
        );
        self
    }

    /// Answers every method at `path`.
    ///
    /// ```
    /// # async fn proxy(_request: wisp::Request) -> &'static str { "" }
    /// let router = wisp::Router::new().any("/{*path}", proxy);
    /// ```
    #[must_use]
    pub fn any<F, Fut>(mut self, path: &str, handler: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoResponse> + 'static,
    {
        self.add(
            None,
            path,
            Box::new(move |request| answer(handler(request))),
        );
        self
    }

    /// Puts all routes of `router` below `prefix`. Its fallback, where it has one, isn't taken along.
    ///
    /// ```
    /// # async fn show(_request: wisp::Request) -> &'static str { "user" }
    /// let users = wisp::Router::new().get("/{id}", show);
    /// let router = wisp::Router::new().nest("/users", users);
    /// # let request = wisp::test::request("GET", "/users/7").build();
    /// # assert_eq!(wisp::test::block_on(router.handle(request)).unwrap().status(), 200);
    /// ```
    #[must_use]
    pub fn nest(mut self, prefix: &str, router: Self) -> Self {
        for route in router.routes {
            self.push(Route {
                pattern: route.pattern.below(prefix),
                ..route
            });
        }
        self
    }

    /// Answers what no route does, in place of the 404.
    ///
    /// ```
    /// # async fn page(_request: wisp::Request) -> &'static str { "page" }
    /// let router = wisp::Router::new().fallback(page);
    /// # let request = wisp::test::request("GET", "/x").build();
    /// # assert_eq!(wisp::test::block_on(router.handle(request)).unwrap().status(), 200);
    /// ```
    #[must_use]
    pub fn fallback<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: IntoResponse> + 'static,
    {
        self.fallback = Some(Box::new(move |request| answer(handler(request))));
        self
    }

    /// Answers `request` by the route that fits it best.
    ///
    /// ```
    /// # async fn list(_request: wisp::Request) -> &'static str { "" }
    /// let router = wisp::Router::new().get("/items", list);
    /// let error = wisp::test::block_on(router.handle(wisp::test::request("PUT", "/items").build())).unwrap_err();
    /// assert_eq!(error.to_string(), "405 method-not-allowed: `/items` takes GET, HEAD, and not PUT");
    /// ```
    ///
    /// # Errors
    /// The handler's own, 404 and 405; 500 where one of the routes is none.
    pub async fn handle(&self, mut request: Request) -> Result<Response> {
        if let Some(mistake) = &self.mistake {
            return Err(Error::internal(mistake.clone()));
        }
        let path = request.uri().path();
        let mut best: Option<(&Route, Params)> = None;
        let mut elsewhere: Vec<&Method> = Vec::new();
        for route in &self.routes {
            let Some(params) = route.pattern.matches(path) else {
                continue;
            };
            if route.accepts(request.method()) {
                if best
                    .as_ref()
                    .is_none_or(|(other, _)| route.is_before(other, request.method()))
                {
                    best = Some((route, params));
                }
            } else {
                elsewhere.extend(
                    route
                        .method
                        .as_ref()
                        .filter(|method| !elsewhere.contains(method)),
                );
            }
        }
        if let Some((route, params)) = best {
            request.extensions_mut().insert(params);
            return (route.handler)(request).await;
        }
        if !elsewhere.is_empty() {
            return other_method(&request, &elsewhere);
        }
        match &self.fallback {
            Some(handler) => handler(request).await,
            None => Err(Error::not_found(format!("there is nothing at `{path}`"))),
        }
    }

    fn add(&mut self, method: Option<Method>, path: &str, handler: Box<Handler>) {
        self.push(Route {
            method,
            pattern: Pattern::new(path),
            handler,
        });
    }

    fn push(&mut self, route: Route) {
        if self.mistake.is_none() {
            self.mistake = route.pattern.mistake();
        }
        self.routes.push(route);
    }
}

impl Route {
    fn accepts(&self, method: &Method) -> bool {
        match &self.method {
            Some(own) => own == method || (*own == Method::GET && *method == Method::HEAD),
            None => true,
        }
    }

    /// Whether it goes before `other`, which accepts the method as well and was added before. A GET route only stands in
    /// for one of HEAD.
    fn is_before(&self, other: &Self, method: &Method) -> bool {
        let is_own = |route: &Self| route.method.as_ref() == Some(method);
        let stands_in = other.method == Some(Method::GET) && !is_own(other);
        self.pattern.is_before(&other.pattern)
            || (stands_in && is_own(self) && !other.pattern.is_before(&self.pattern))
    }
}

/// Answers a method that a known path doesn't take (RFC 9110, sections 9.3.7 and 15.5.6).
fn other_method(request: &Request, allowed: &[&Method]) -> Result<Response> {
    let mut names: Vec<&str> = allowed.iter().map(|method| method.as_str()).collect();
    if names.contains(&"GET") && !names.contains(&"HEAD") {
        names.push("HEAD");
    }
    names.sort_unstable();
    let names = names.join(", ");
    let allow = HeaderValue::from_str(&names)?;
    if *request.method() == Method::OPTIONS {
        let mut response = response::status(StatusCode::NO_CONTENT);
        response.headers_mut().insert(header::ALLOW, allow);
        *response.body_mut() = Body::empty();
        return Ok(response);
    }
    let detail = format!(
        "`{}` takes {names}, and not {}",
        request.uri().path(),
        request.method()
    );
    Err(
        Error::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
            .with_header(header::ALLOW, allow),
    )
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let routes = self.routes.iter().map(|route| {
            let method = route.method.as_ref().map_or("*", Method::as_str);
            format!("{method} {}", route.pattern)
        });
        f.debug_list().entries(routes).finish()
    }
}

#[cfg(test)]
mod tests;

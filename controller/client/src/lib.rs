//! The API server's client. What is asked of it is answered in time, or fails: a connection may die without a word, with its
//! node or its load balancer, and who waits for it would wait for ever.

use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::{Client, Config};
use tower_service::Service;

/// The longest that an answer may take: the API server's webhooks may take 30 s.
const WITHIN: Duration = Duration::from_secs(40);

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the API server doesn't answer within {} s", WITHIN.as_secs())]
pub struct Silent;

/// A client whose requests end within 40 s, with an error where they aren't answered: their whole answers, and the heads of
/// those of watches, which go on. [`kube::runtime::watcher()`] begins a watch anew that is silent for too long. A followed log is
/// left alone, as it may be silent from its start.
///
/// # Errors
/// When the configuration can't be used.
pub fn client(config: Config) -> Result<Client, kube::Error> {
    let namespace = config.default_namespace.clone();
    Ok(bounded(Client::try_from(config)?, namespace))
}

fn bounded(client: Client, namespace: String) -> Client {
    let valid_until = *client.valid_until();
    Client::new(Bounded(client), namespace).with_valid_until(valid_until)
}

/// A client whose requests end in time.
#[derive(Clone)]
struct Bounded(Client);

/// How the answer to a request comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It ends by itself.
    Whole,
    /// It begins at once and goes on.
    Watch,
    /// It may begin at any time.
    Log,
}

impl Kind {
    fn of<B>(request: &Request<B>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        let says = |what: &[&str]| query.split('&').any(|pair| what.contains(&pair));
        let is_log = request.uri().path().ends_with("/log");
        if is_log && says(&["follow=true", "follow=1"]) {
            Self::Log
        } else if says(&["watch=true", "watch=1"]) {
            Self::Watch
        } else {
            Self::Whole
        }
    }
}

impl Service<Request<Body>> for Bounded {
    type Response = Response<Body>;
    type Error = kube::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, kube::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), kube::Error>> {
        // Every request has a place of its own.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = self.0.clone();
        Box::pin(async move {
            let kind = Kind::of(&request);
            let answer = async {
                let response = client.send(request).await?;
                if kind != Kind::Whole {
                    return Ok(response);
                }
                let (head, body) = response.into_parts();
                let body = body.collect().await?.to_bytes();
                Ok(Response::from_parts(head, Body::from(body)))
            };
            if kind == Kind::Log {
                return answer.await;
            }
            // What isn't waited for any more is broken off, with its connection.
            let answered = tokio::time::timeout(WITHIN, answer).await;
            answered.unwrap_or_else(|_| Err(kube::Error::Service(Silent.into())))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use futures::{StreamExt as _, TryStreamExt as _, stream};
    use http_body_util::StreamBody;
    use http_body_util::combinators::UnsyncBoxBody;
    use k8s_openapi::api::core::v1::Pod;
    use kube::Api;
    use kube::api::{ListParams, LogParams, WatchParams};
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;

    /// An API server that says no more after that: nothing, or the head of its answer and some of its body.
    #[derive(Clone)]
    struct Stuck(Option<Bytes>);

    impl Service<Request<Body>> for Stuck {
        type Response = Response<UnsyncBoxBody<Bytes, Infallible>>;
        type Error = Infallible;
        type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            let begun = self.0.clone();
            Box::pin(async move {
                let Some(begun) = begun else {
                    return std::future::pending().await;
                };
                let begun = stream::once(async { Ok(http_body::Frame::data(begun)) });
                let body = StreamBody::new(begun.chain(stream::pending()));
                Ok(Response::new(UnsyncBoxBody::new(body)))
            })
        }
    }

    fn pods(stuck: Stuck) -> Api<Pod> {
        let client = bounded(Client::new(stuck, "n"), "n".to_owned());
        Api::default_namespaced(client)
    }

    fn is_silent(error: &kube::Error) -> bool {
        matches!(error, kube::Error::Service(source) if source.is::<Silent>())
    }

    /// Would fail if who asks an API server that is gone, or goes while it answers, waited for ever; or were told so after
    /// any other time than is meant.
    #[tokio::test(start_paused = true)]
    async fn what_is_asked_ends() {
        for stuck in [Stuck(None), Stuck(Some(Bytes::from_static(b"{")))] {
            let (pods, began) = (pods(stuck), Instant::now());
            let read = pods.get("p").await.unwrap_err();
            let listed = pods.list(&ListParams::default()).await.unwrap_err();
            let deleted = pods.delete("p", &Default::default()).await.unwrap_err();
            for error in [read, listed, deleted] {
                assert!(is_silent(&error), "{error:?}");
            }
            assert_eq!(began.elapsed(), WITHIN * 3);
        }
        // Nor does a watch wait for ever to begin.
        let watch = pods(Stuck(None));
        let watch = watch.watch(&WatchParams::default(), "0").await;
        assert!(is_silent(&watch.err().unwrap()));
    }

    /// Would fail if what goes on as long as somebody listens were broken off.
    #[tokio::test(start_paused = true)]
    async fn what_goes_on_is_not_broken_off() {
        let event =
            json!({"type": "ADDED", "object": {"metadata": {"name": "p"}}}).to_string() + "\n";
        let watched = pods(Stuck(Some(event.into())));
        let events = watched.watch(&WatchParams::default(), "0").await.unwrap();
        let mut events = std::pin::pin!(events);
        assert!(events.try_next().await.unwrap().is_some());
        let more = tokio::time::timeout(WITHIN * 10, events.next()).await;
        assert!(more.is_err(), "{more:?}");

        let followed = LogParams {
            follow: true,
            ..LogParams::default()
        };
        let silent = pods(Stuck(None));
        let logged = silent.log_stream("p", &followed);
        let logged = tokio::time::timeout(WITHIN * 10, logged).await;
        assert!(logged.is_err());
    }
}

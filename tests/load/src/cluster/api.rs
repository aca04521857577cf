//! Lists and watches, as an API server answers them.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::stream;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::server::{Body, Server};

pub(crate) const FUNCTIONS: &str = "/apis/wisp.dev/v1alpha1/functions";
pub(crate) const PODS: &str = "/api/v1/pods";
const SECRETS: &str = "/api/v1/secrets";

/// An API server.
#[derive(Debug)]
pub(crate) struct Api {
    server: Server,
    store: Arc<Store>,
}

#[derive(Debug)]
struct Store {
    state: Mutex<State>,
    /// The newest version, and how often all watches were broken.
    news: watch::Sender<(u64, u64)>,
}

#[derive(Debug, Default)]
struct State {
    version: u64,
    /// By collection, namespace and name.
    objects: BTreeMap<(&'static str, String, String), Value>,
    /// All that ever happened: version, collection, event.
    history: Vec<(u64, &'static str, Value)>,
}

impl Api {
    pub(crate) async fn start() -> std::io::Result<Self> {
        let store = Arc::new(Store {
            state: Mutex::default(),
            news: watch::Sender::new((0, 0)),
        });
        let answering = Arc::clone(&store);
        let server = Server::start(SocketAddr::from(([127, 0, 0, 1], 0)), move |request| {
            let store = Arc::clone(&answering);
            async move { store.answer(&request) }
        })
        .await?;
        Ok(Self { server, store })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.address
    }

    pub(crate) fn put_secret(&self, object: Value) {
        self.put(SECRETS, object);
    }

    pub(crate) fn put(&self, collection: &'static str, mut object: Value) {
        let key = (
            collection,
            text(&object, "/metadata/namespace"),
            text(&object, "/metadata/name"),
        );
        self.store.happen(collection, |state, version| {
            if let Some(metadata) = object.pointer_mut("/metadata") {
                metadata["resourceVersion"] = version.to_string().into();
            }
            let before = state.objects.insert(key, object.clone());
            let kind = if before.is_some() {
                "MODIFIED"
            } else {
                "ADDED"
            };
            Some(json!({"type": kind, "object": object}))
        });
    }

    pub(crate) fn remove(&self, collection: &'static str, namespace: &str, name: &str) {
        self.store.happen(collection, |state, version| {
            let key = (collection, namespace.to_owned(), name.to_owned());
            let mut object = state.objects.remove(&key)?;
            if let Some(metadata) = object.pointer_mut("/metadata") {
                metadata["resourceVersion"] = version.to_string().into();
            }
            Some(json!({"type": "DELETED", "object": object}))
        });
    }

    pub(crate) fn break_watches(&self) {
        self.store.news.send_modify(|(_, breaks)| *breaks += 1);
    }
}

fn text(object: &Value, pointer: &str) -> String {
    let value = object.pointer(pointer).and_then(Value::as_str);
    value.unwrap_or_default().to_owned()
}

impl Store {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn happen(
        &self,
        collection: &'static str,
        change: impl FnOnce(&mut State, u64) -> Option<Value>,
    ) {
        let mut state = self.state();
        let version = state.version + 1;
        state.version = version;
        if let Some(event) = change(&mut state, version) {
            state.history.push((version, collection, event));
        }
        drop(state);
        self.news.send_modify(|(newest, _)| *newest = version);
    }

    fn answer(self: &Arc<Self>, request: &Request<Incoming>) -> Response<Body> {
        let query: BTreeMap<&str, &str> = request
            .uri()
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        let path = request.uri().path();
        // `/api/v1/namespaces/<namespace>/secrets[/<name>]`
        let secrets = path
            .strip_prefix("/api/v1/namespaces/")
            .and_then(|rest| rest.split_once("/secrets"));
        let (collection, name) = match (path, secrets) {
            (FUNCTIONS, _) => (FUNCTIONS, None),
            (PODS, _) => (PODS, None),
            (_, Some((namespace, ""))) => {
                let field = query.get("fieldSelector").copied().unwrap_or_default();
                let name = field.rsplit("%3D").next().unwrap_or_default();
                let name = name.rsplit('=').next().unwrap_or_default();
                (SECRETS, Some((namespace.to_owned(), name.to_owned())))
            }
            (_, Some((namespace, name))) => {
                let name = name.trim_start_matches('/').to_owned();
                let state = self.state();
                let key = (SECRETS, namespace.to_owned(), name);
                return match state.objects.get(&key) {
                    Some(secret) => whole(StatusCode::OK, secret),
                    None => missing(),
                };
            }
            _ => return missing(),
        };
        let is_watch = query.get("watch").is_some_and(|value| *value != "false");
        if is_watch {
            let from = query
                .get("resourceVersion")
                .and_then(|version| version.parse().ok());
            return self.watch(collection, name, from.unwrap_or_default());
        }
        let state = self.state();
        let items: Vec<&Value> = state
            .objects
            .iter()
            .filter(|((of, namespace, called), _)| {
                *of == collection
                    && name
                        .as_ref()
                        .is_none_or(|(n, c)| n == namespace && c == called)
            })
            .map(|(_, object)| object)
            .collect();
        let list = json!({
            "apiVersion": "v1", "kind": "List", "items": items,
            "metadata": {"resourceVersion": state.version.to_string()},
        });
        whole(StatusCode::OK, &list)
    }

    /// Everything that happens after `version`, until the watches are broken.
    fn watch(
        self: &Arc<Self>,
        collection: &'static str,
        name: Option<(String, String)>,
        version: u64,
    ) -> Response<Body> {
        let news = self.news.subscribe();
        let breaks = news.borrow().1;
        let store = Arc::clone(self);
        let lines = stream::unfold(version, move |seen| {
            let (store, name, mut news) = (Arc::clone(&store), name.clone(), news.clone());
            async move {
                loop {
                    let (newest, broken) = *news.borrow_and_update();
                    if broken != breaks {
                        return None;
                    }
                    if newest > seen {
                        let lines = store.since(seen, collection, name.as_ref());
                        return Some((Ok::<_, Infallible>(Frame::data(lines)), newest));
                    }
                    news.changed().await.ok()?;
                }
            }
        });
        Response::new(StreamBody::new(lines).boxed_unsync())
    }

    fn since(&self, version: u64, collection: &str, name: Option<&(String, String)>) -> Bytes {
        let state = self.state();
        let mut lines = String::new();
        for (at, of, event) in &state.history {
            let is_named = name.is_none_or(|(namespace, name)| {
                text(event, "/object/metadata/namespace") == *namespace
                    && text(event, "/object/metadata/name") == *name
            });
            if *at > version && *of == collection && is_named {
                lines.push_str(&event.to_string());
                lines.push('\n');
            }
        }
        Bytes::from(lines)
    }
}

fn whole(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Full::from(value.to_string()).boxed_unsync());
    *response.status_mut() = status;
    response
}

fn missing() -> Response<Body> {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404,
        "message": "there is no such thing here",
    });
    whole(StatusCode::NOT_FOUND, &status)
}

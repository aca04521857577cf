//! Requests that name a function as its neighbours do: by its name alone, as `http://digits/` within a namespace.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use http::request::Parts;
use wisp_contract::FunctionId;

use crate::forward::Peer;
use crate::function::Function;
use crate::gateway::Gateway;
use crate::respond::Failure;

/// Knows whose neighbours clients are.
pub trait Namespaces: Send + Sync + 'static {
    /// The namespace of the pod that has this address; `None` where it is no pod's, or not one pod's alone. It is called
    /// on the runtime that [`Gateway::new`] was given: every few seconds for a connection, and for each request where it found
    /// none.
    ///
    /// # Errors
    /// That it could not be learnt.
    fn of(&self, client: IpAddr) -> BoxFuture<'_, Result<Option<Arc<str>>, UnknownNamespace>>;
}

/// A client's namespace could not be learnt, for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client's namespace could not be learnt")]
pub struct UnknownNamespace;

/// For how long a connection's namespace is not asked for again: at first its address may have been known as another's.
const KEPT: Duration = Duration::from_secs(5);

/// The namespace of a client, as it was learnt last on its connection, and when.
#[derive(Debug, Default)]
pub(crate) struct Namespace(Mutex<Option<(Arc<str>, Instant)>>);

impl Namespace {
    fn last(&self) -> Option<(Arc<str>, Instant)> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn learn(&self, namespace: Option<&Arc<str>>) {
        let learnt = namespace.map(|namespace| (Arc::clone(namespace), Instant::now()));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = learnt;
    }
}

/// What a request names, seen from its client's namespace.
pub(crate) enum Neighbour {
    /// More than a name, or one that no function has.
    No,
    /// A function of that namespace.
    Function(Arc<Function>),
    /// The name of functions of other namespaces alone, to which it doesn't lead, nor to whoever else claims it.
    Elsewhere,
}

impl Gateway {
    /// What `request` names to who calls from `peer`.
    pub(crate) async fn neighbour(
        &self,
        request: &Parts,
        peer: &Peer,
    ) -> Result<Neighbour, Failure> {
        let Some(namespaces) = &self.options().namespaces else {
            return Ok(Neighbour::No);
        };
        let Some(name) = self.routes().name_alone(request) else {
            return Ok(Neighbour::No);
        };
        let Ok(namespace) = self.namespace(namespaces, peer).await else {
            return Err(Failure::UnknownNamespace { name });
        };
        let id = namespace.and_then(|namespace| FunctionId::new(&namespace, &name).ok());
        let function = id.and_then(|id| self.routes().get(&id));
        Ok(function.map_or(Neighbour::Elsewhere, Neighbour::Function))
    }

    /// The namespace of `peer`, if it has one.
    async fn namespace(
        &self,
        namespaces: &Arc<dyn Namespaces>,
        peer: &Peer,
    ) -> Result<Option<Arc<str>>, UnknownNamespace> {
        let last = peer.namespace.last();
        if let Some((namespace, since)) = &last
            && since.elapsed() < KEPT
        {
            return Ok(Some(Arc::clone(namespace)));
        }
        let (namespaces, client) = (Arc::clone(namespaces), peer.ip);
        let asked = self
            .runtime()
            .spawn(async move { namespaces.of(client).await });
        match asked.await {
            Ok(Ok(namespace)) => {
                peer.namespace.learn(namespace.as_ref());
                Ok(namespace)
            }
            // It is the same pod's connection as before.
            Ok(Err(UnknownNamespace)) | Err(_) => match last {
                Some((namespace, _)) => Ok(Some(namespace)),
                None => Err(UnknownNamespace),
            },
        }
    }
}

//! Requests that name a function as its neighbours do: by its name alone, as `http://digits/` within a namespace.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// What was learnt last, for as long as that holds; else what `ask` finds. Where it can't be learnt anew, a connection is
    /// still the same pod's as before.
    async fn get(
        &self,
        now: Instant,
        ask: impl Future<Output = Result<Option<Arc<str>>, UnknownNamespace>>,
    ) -> Result<Option<Arc<str>>, UnknownNamespace> {
        let last = self.lock().clone();
        if let Some((namespace, since)) = &last
            && now.saturating_duration_since(*since) < KEPT
        {
            return Ok(Some(Arc::clone(namespace)));
        }
        match (ask.await, last) {
            (Ok(namespace), _) => {
                *self.lock() = namespace.clone().map(|namespace| (namespace, now));
                Ok(namespace)
            }
            (Err(UnknownNamespace), Some((namespace, _))) => Ok(Some(namespace)),
            (Err(UnknownNamespace), None) => Err(UnknownNamespace),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Arc<str>, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let (namespaces, client) = (Arc::clone(namespaces), peer.ip);
        let ask = async {
            let asked = async move { namespaces.of(client).await };
            let asked = self.runtime().spawn(asked).await;
            asked.unwrap_or(Err(UnknownNamespace))
        };
        peer.namespace.get(Instant::now(), ask).await
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    type Found = Result<Option<Arc<str>>, UnknownNamespace>;

    fn found(namespace: &str) -> Found {
        Ok(Some(namespace.into()))
    }

    /// Would fail if each request of a connection were looked up, or what an address was once were believed for ever.
    #[tokio::test]
    async fn a_connection_s_namespace_holds_for_seconds_and_is_asked_for_anew() {
        let (known, start) = (Namespace::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        let unasked = async { unreachable!("it is known") };
        assert_eq!(known.get(at(0), ready(found("old"))).await, found("old"));
        assert_eq!(known.get(at(4999), unasked).await, found("old"));
        assert_eq!(known.get(at(5000), ready(found("new"))).await, found("new"));
        assert_eq!(known.get(at(9999), ready(found("no"))).await, found("new"));
        assert_eq!(known.get(at(10_000), ready(Ok(None))).await, Ok(None));
        // Nowhere isn't kept: its pod may not have been told of yet.
        assert_eq!(known.get(at(10_001), ready(found("a"))).await, found("a"));
    }

    /// Would fail if a function's neighbours couldn't be reached while the API server is away.
    #[tokio::test]
    async fn a_connection_keeps_its_namespace_while_nobody_can_be_asked() {
        let (known, start) = (Namespace::default(), Instant::now());
        let failed = || ready(Err(UnknownNamespace));
        assert_eq!(known.get(start, failed()).await, Err(UnknownNamespace));
        assert_eq!(known.get(start, ready(found("shop"))).await, found("shop"));
        for later in [60, 3600] {
            let later = start + Duration::from_secs(later);
            assert_eq!(known.get(later, failed()).await, found("shop"));
        }
    }
}

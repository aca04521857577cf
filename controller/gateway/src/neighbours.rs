//! Requests that name a function as its neighbours do: by its name alone, as `http://digits/` within a namespace.

use std::net::IpAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use http::request::Parts;
use tokio::sync::OnceCell;
use wisp_contract::FunctionId;

use crate::forward::Peer;
use crate::function::Function;
use crate::gateway::Gateway;
use crate::respond::Failure;

/// Knows whose neighbours clients are.
pub trait Namespaces: Send + Sync + 'static {
    /// The namespace of the pod that has this address; `None` where it is no pod's, or not one pod's alone. It is called
    /// on the runtime that [`Gateway::new`] was given, and again where it found none.
    ///
    /// # Errors
    /// That it could not be learnt.
    fn of(&self, client: IpAddr) -> BoxFuture<'_, Result<Option<Arc<str>>, UnknownNamespace>>;
}

/// A client's namespace could not be learnt, for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client's namespace could not be learnt")]
pub struct UnknownNamespace;

/// Why there is no namespace to remember.
enum Missing {
    Nobodys,
    Unknown,
}

/// The namespace of a client, from when its connection first asked for a neighbour.
pub(crate) type Namespace = OnceCell<Arc<str>>;

impl Gateway {
    /// The function of the client's namespace that `request` names by its name alone, if it does and there is one.
    pub(crate) async fn neighbour(
        &self,
        request: &Parts,
        peer: &Peer,
    ) -> Result<Option<Arc<Function>>, Failure> {
        let Some(namespaces) = &self.options().namespaces else {
            return Ok(None);
        };
        let Some(name) = self.routes().name_alone(request) else {
            return Ok(None);
        };
        let learn = || async {
            let (namespaces, client) = (Arc::clone(namespaces), peer.ip);
            let asked = self
                .runtime()
                .spawn(async move { namespaces.of(client).await });
            match asked.await {
                Ok(Ok(Some(namespace))) => Ok(namespace),
                Ok(Ok(None)) => Err(Missing::Nobodys),
                Ok(Err(UnknownNamespace)) | Err(_) => Err(Missing::Unknown),
            }
        };
        let namespace = match peer.namespace.get_or_try_init(learn).await {
            Ok(namespace) => namespace,
            Err(Missing::Nobodys) => return Ok(None),
            Err(Missing::Unknown) => return Err(Failure::UnknownNamespace { name }),
        };
        let id = FunctionId::new(namespace, &name).ok();
        Ok(id.and_then(|id| self.routes().get(&id)))
    }
}

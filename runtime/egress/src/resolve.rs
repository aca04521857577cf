//! From names to addresses.

use std::io;
use std::net::{IpAddr, SocketAddr};

use futures::future::BoxFuture;

/// The addresses of a name, or why there are none.
pub type Resolving = BoxFuture<'static, io::Result<Vec<IpAddr>>>;

/// Resolves names. What it gives is checked before it is connected to.
pub trait Resolve: Send + Sync + 'static {
    /// All addresses of `name`, the preferred one first.
    fn resolve(&self, name: &str) -> Resolving;
}

/// The operating system's resolver, as the C library has it configured.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, name: &str) -> Resolving {
        let name = name.to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address: SocketAddr| address.ip()).collect())
        })
    }
}

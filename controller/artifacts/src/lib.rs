//! Components and models: from a registry or a URL to checked bytes in a folder, and from a component to machine code.
//!
//! [`Fetcher`] pulls OCI artifacts, downloads URLs and pushes; [`Store`] keeps what came by its SHA-256; [`Compiler`]
//! makes of a stored component what replicas run. [`Fetcher::verify`] tells whether an image is signed by one of some
//! [`PublicKey`]s, by what cosign keeps beside it in the registry: as layers of the tag `sha256-….sig` (cosign 1 and 2), or as
//! bundles that refer to it (cosign 3). Keys alone count: no certificate, and no transparency log. Nothing here knows Kubernetes. An [`Error`] has a word for conditions
//! and metrics ([`Error::reason`]), a sentence for people ([`Error::sentence`]), and says whether the same call may
//! succeed in a moment ([`Error::is_transient`]).
//!
//! ```no_run
//! # async fn example() -> Result<(), wisp_artifacts::Error> {
//! use wisp_artifacts::{Compiler, Cpu, Credentials, Fetcher, FetchOptions, Kind, Reference, Store};
//!
//! let store = Store::open("/var/lib/wisp".as_ref(), 8 << 30)?;
//! let fetcher = Fetcher::new(FetchOptions::default())?;
//! let image: Reference = "registry.example.com/vision/digits:1.4".parse()?;
//! let pulled = fetcher.pull(&image, Kind::Component, &Credentials::default(), &store, 128 << 20).await?;
//! println!("pinned to {}", image.pinned(&pulled.manifest));
//!
//! let prepared = Compiler::new(store.clone(), Default::default(), Cpu::here()).prepare(&pulled.sha256).await?;
//! store.hold("vision/digits", prepared.digests());
//! let (file, length) = store.find(&prepared.compiled.sha256).await?.expect("was just stored");
//! # Ok(())
//! # }
//! ```

mod address;
mod compile;
mod credentials;
mod error;
mod fetch;
mod later;
mod oci;
mod reference;
mod signature;
mod slots;
mod store;
mod subject;
mod turn;
mod url;

pub use compile::{Apart, Compiled, Compiler, Job, Prepared};
pub use credentials::Credentials;
pub use error::{Error, Origin};
pub use fetch::{FetchOptions, Fetcher, client_tls};
pub use oci::{Demand, Kind, Package, Pulled, Pushed};
pub use reference::Reference;
pub use signature::{KeyError, PublicKey};
pub use store::{Store, Stored, Usage, measure};
pub use wisp_engine::preinit::Limits;
pub use wisp_engine::{Cpu, Footprint, Wasi};

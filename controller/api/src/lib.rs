//! The Kubernetes resources of wisp as Rust types, with their schema, validation and the way to a host's configuration.
//!
//! ```
//! use wisp_api::{Objects, Place, parse_manifests};
//!
//! let manifests = parse_manifests(
//!     "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {name: hello}\nspec: {component: {file: hello.wasm}, env: [{name: LEVEL, value: info}]}\n",
//! )?;
//! let objects = Objects::new(&manifests);
//! for manifest in &manifests {
//!     manifest.validate_for(Place::Local { project: false })?;
//!     if let Some(function) = manifest.function() {
//!         let files = function.local_files("/srv/hello".as_ref(), None, "/tmp/kv".into())?;
//!         let config = function.to_config(&files, objects.values(function)?)?;
//!         assert_eq!(config.component.file, std::path::Path::new("/srv/hello/hello.wasm"));
//!     }
//! }
//!
//! let error = parse_manifests("apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {name: hello}\nspec:\n  modles: []\n").unwrap_err();
//! assert_eq!(error.to_string(), "line 5: spec.modles: unknown field; did you mean `models`?");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
mod crd;
mod duration;
mod function;
mod kinds;
mod manifest;
mod mistake;
mod objects;
mod pool;
mod quantity;
mod schema;
mod validate;
mod yaml;

pub use config::{ConfigError, Files, IN_CACHE};
pub use crd::{CrdError, Definition};
pub use duration::{Duration, DurationError};
pub use function::{
    Batching, ComponentSource, ComponentStatus, ConfigMapSource, Device, EnvVar, Function,
    FunctionSpec, FunctionStatus, HostStatus, ImageVolumeSource, InstanceMode, Instances,
    KeySelector, KeyValue, Limits, LocalObjectReference, MAX_NAME, Model, ModelFormat, ModelSource,
    Outbound, PersistentVolumeClaimSource, Pod, REQUESTED_AT, RevisionStatus, Scaling, Target,
    ValueSource,
};
pub use manifest::{Manifest, Object, Other, parse_manifests};
pub use mistake::{ManifestError, Mistake};
pub use objects::{Objects, Values};
pub use pool::{RuntimePool, RuntimePoolSpec, RuntimePoolStatus};
pub use quantity::{Bytes, QuantityError};
pub use validate::Place;

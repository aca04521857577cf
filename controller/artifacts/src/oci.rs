//! What are OCI artifacts of components and models made of? The media types, and the parts of a manifest that are read
//! and written.
//!
//! Components follow the CNCF TAG Runtime's *Wasm OCI Artifact Layout*: a config `application/vnd.wasm.config.v0+json`
//! and one layer `application/wasm`; the older layer `application/vnd.wasm.content.layer.v1+wasm` is read too. A model
//! is one layer of any type, or the one that has a title, as `oras push` makes it. Signatures are what cosign attaches.

mod auth;
mod manifest;
mod pull;
mod push;
mod session;
mod signatures;
mod upload;

pub use pull::{Kind, Pulled};
pub use push::{Package, Pushed};
pub use signatures::Demand;

/// Media types of manifests, in the order of preference.
pub(crate) const MANIFESTS: [&str; 4] = [
    OCI_MANIFEST,
    "application/vnd.docker.distribution.manifest.v2+json",
    OCI_INDEX,
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const WASM_CONFIG: &str = "application/vnd.wasm.config.v0+json";
pub(crate) const WASM_LAYER: &str = "application/wasm";
pub(crate) const OLD_WASM_LAYER: &str = "application/vnd.wasm.content.layer.v1+wasm";
/// The config of an artifact that needs none (OCI image specification 1.1).
pub(crate) const EMPTY_CONFIG: &str = "application/vnd.oci.empty.v1+json";
/// What `wisp push --model` makes.
pub(crate) const MODEL: &str = "application/vnd.wisp.model.v1";
pub(crate) const MODEL_LAYER: &str = "application/octet-stream";
/// The annotation that names a layer's file.
pub(crate) const TITLE: &str = "org.opencontainers.image.title";
/// The annotation by which ORAS says that a layer is a packed folder.
pub(crate) const UNPACK: &str = "io.deis.oras.content.unpack";
/// The annotation of a layer that is what cosign 1 and 2 signed.
pub(crate) const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// The annotation that says what a bundle signs.
pub(crate) const PREDICATE_TYPE: &str = "dev.sigstore.bundle.predicateType";
/// All that mean something here.
pub(crate) const KNOWN_ANNOTATIONS: [&str; 4] = [TITLE, UNPACK, SIGNATURE, PREDICATE_TYPE];

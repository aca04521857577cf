//! What tags meant, noted on objects that others may write, too, so that another operator takes the same, and replaces no pod.
//! Whoever may write them could note there a digest of what others have: only what an operator noted counts.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt;
use subtle::ConstantTimeEq as _;
use wisp_api::Function;
use wisp_contract::keys::Root;

use crate::resolve::{self, Pins};

/// Annotation of a ControllerRevision, and of a pool's Deployment: the digest of the spec, or of the models, as it was written.
pub const SPEC_ANNOTATION: &str = "wisp.dev/spec";
/// Annotation of the same: what the spec's tags meant.
pub const PINS_ANNOTATION: &str = "wisp.dev/pins";
/// Annotation of the same: what shows that the operator noted the pins.
pub const PINNED_ANNOTATION: &str = "wisp.dev/pins-mac";

/// What the tags meant of what is written with the digest `spec`, as annotations. `uid` is that of the Function or RuntimePool.
///
/// # Errors
/// When the pins can't be written as JSON.
pub fn notes(
    root: &Root,
    uid: &str,
    spec: String,
    pins: &Pins,
) -> Result<BTreeMap<String, String>, serde_json::Error> {
    let pins = serde_json::to_string(pins)?;
    let mac = root.pins(uid, &spec, &pins).0;
    let notes = [
        (SPEC_ANNOTATION, spec),
        (PINS_ANNOTATION, pins),
        (PINNED_ANNOTATION, mac),
    ];
    Ok(notes.map(|(key, value)| (key.to_owned(), value)).into())
}

/// What an operator noted on `object` that the tags meant of what is written with the digest `spec`; `None` where none did.
#[must_use]
pub fn noted(object: &impl ResourceExt, root: &Root, uid: &str, spec: &str) -> Option<Pins> {
    let notes = object.annotations();
    let (pins, mac) = (notes.get(PINS_ANNOTATION)?, notes.get(PINNED_ANNOTATION)?);
    let expected = root.pins(uid, spec, pins).0;
    let is_ours: bool = mac.as_bytes().ct_eq(expected.as_bytes()).into();
    is_ours.then(|| pins_in(object))
}

/// What somebody noted there: enough to know what to keep, and not to have anybody get it.
#[must_use]
pub fn pins_in(object: &impl ResourceExt) -> Pins {
    let pins = object.annotations().get(PINS_ANNOTATION);
    pins.and_then(|pins| serde_json::from_str(pins).ok())
        .unwrap_or_default()
}

/// What the tags of `function` meant when an operator made a revision with the same spec last.
#[must_use]
pub fn pins_of<'a>(
    function: &Function,
    records: impl IntoIterator<Item = &'a ControllerRevision>,
    root: &Root,
) -> Pins {
    let spec = resolve::spec_digest(function);
    let uid = function.metadata.uid.as_deref().unwrap_or_default();
    let same = records
        .into_iter()
        .filter_map(|record| Some((record.revision, noted(record, root, uid, &spec)?)));
    same.max_by_key(|(revision, _)| *revision)
        .map(|(_, pins)| pins)
        .unwrap_or_default()
}

//! What is here already of something whose other parts are still fetched.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use wisp_contract::FunctionId;

use crate::artifacts::Artifacts;
use crate::live::lock;

/// Tells those apart that hold something for the same Function or RuntimePool.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// What came so far for a Function, or a RuntimePool's models: it stays in the store, and counts as its namespace's, until this
/// is dropped. The rest may take hours, as where the component waits for others to be prepared.
pub struct Coming<'a> {
    pub(super) artifacts: &'a dyn Artifacts,
    owner: String,
    digests: Mutex<Vec<String>>,
}

impl<'a> Coming<'a> {
    /// Nothing came yet for `whom`.
    #[must_use]
    pub fn new(artifacts: &'a dyn Artifacts, whom: &FunctionId) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self {
            artifacts,
            owner: format!("coming-{number}/{whom}"),
            digests: Mutex::default(),
        }
    }

    /// These came.
    pub(super) fn add(&self, digests: impl IntoIterator<Item = String>) {
        let mut all = lock(&self.digests);
        all.extend(digests);
        all.sort();
        all.dedup();
        self.artifacts.hold(&self.owner, all.clone());
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.artifacts.release(&self.owner);
    }
}

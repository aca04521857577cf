//! What happens to a model that a guest brings?

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};
use wisp_contract::config::{Batching, Device};
use wisp_contract::model_file;

use super::{LoadError, Options, Source, around, load_source, start};
use crate::Model;
use crate::activity::Activity;
use crate::onnx::{self, ExternalData};

/// Models that are kept for the next instance.
const KEPT: usize = 8;
/// Bytes of their files, all together.
const KEPT_BYTES: usize = 256 << 20;
/// Models that are loaded at the same time.
const LOADS: usize = 2;
/// Models that there are, kept ones included, those that are being loaded, and those that nobody has any more but whose
/// threads still compute: each has sessions and threads, however small its file is.
const MOST: usize = 32;

/// The models that guests brought most recently, the last one in front.
pub(super) struct GuestModels {
    recent: Mutex<VecDeque<Entry>>,
    loads: Arc<Semaphore>,
    places: Arc<Semaphore>,
    activity: Arc<Activity>,
}

#[derive(Clone)]
struct Entry {
    digest: [u8; 32],
    device: Device,
    bytes: usize,
    /// Filled by the first who asks; others wait for it.
    model: Arc<OnceCell<Arc<Model>>>,
}

impl GuestModels {
    /// Those of a store whose models do this.
    pub(super) fn of(activity: Arc<Activity>) -> Self {
        Self {
            recent: Mutex::default(),
            loads: Arc::new(Semaphore::new(LOADS)),
            places: Arc::new(Semaphore::new(MOST)),
            activity,
        }
    }

    pub(super) async fn load(
        &self,
        bytes: Bytes,
        device: Device,
        options: &Arc<Options>,
    ) -> Result<Arc<Model>, LoadError> {
        let interrupted = || LoadError::Interrupted {
            model: "(guest)".to_owned(),
        };
        let hashed = bytes.clone();
        let digest: [u8; 32] = tokio::task::spawn_blocking(move || Sha256::digest(&hashed).into())
            .await
            .map_err(|_| interrupted())?;
        let cell = self.entry(digest, device, bytes.len());
        let load = || async {
            let permit = Arc::clone(&self.loads)
                .acquire_owned()
                .await
                .map_err(|_| interrupted())?;
            let place = Arc::clone(&self.places).try_acquire_owned();
            let place = place.map_err(|_| LoadError::TooMany {
                model: name(&digest),
                allowed: MOST,
            })?;
            let (options, activity) = (Arc::clone(options), Arc::clone(&self.activity));
            let task = tokio::task::spawn_blocking(move || {
                // Held while it runs, even if nobody waits any more.
                let _permit = permit;
                from_guest(digest, &bytes, device, &options, &activity, place)
            });
            let model = task.await.map_err(|_| interrupted())??;
            Ok(Arc::new(model))
        };
        let model = cell.get_or_try_init(load).await;
        if model.is_err() {
            self.forget(&cell);
        }
        model.cloned()
    }

    fn entry(&self, digest: [u8; 32], device: Device, bytes: usize) -> Arc<OnceCell<Arc<Model>>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let found = recent
            .iter()
            .position(|entry| entry.digest == digest && entry.device == device);
        let entry = found
            .and_then(|index| recent.remove(index))
            .unwrap_or_else(|| Entry {
                digest,
                device,
                bytes,
                model: Arc::default(),
            });
        let model = Arc::clone(&entry.model);
        recent.push_front(entry);
        let mut total = 0_usize;
        let fits = |entry: &Entry| {
            total = total.saturating_add(entry.bytes);
            total <= KEPT_BYTES
        };
        let keep = recent.iter().take(KEPT).map_while({
            let mut fits = fits;
            move |entry| fits(entry).then_some(())
        });
        let keep = keep.count();
        recent.truncate(keep);
        model
    }

    fn forget(&self, cell: &Arc<OnceCell<Arc<Model>>>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|entry| !Arc::ptr_eq(&entry.model, cell) || entry.model.initialized());
    }
}

/// What a guest's model is called.
fn name(digest: &[u8; 32]) -> String {
    format!(
        "sha256:{}",
        hex::encode(digest.get(..6).unwrap_or_default())
    )
}

fn from_guest(
    digest: [u8; 32],
    bytes: &Bytes,
    device: Device,
    options: &Options,
    activity: &Arc<Activity>,
    place: OwnedSemaphorePermit,
) -> Result<Model, LoadError> {
    let started = Instant::now();
    let name = name(&digest);
    let format = |found: String| LoadError::Format {
        model: name.clone(),
        found,
    };
    model_file::check(bytes).map_err(format)?;
    if model_file::is_ort_format(bytes) {
        return Err(format(
            "in ONNX Runtime's own format, which is only taken from spec.models".to_owned(),
        ));
    }
    match onnx::external_data(bytes) {
        ExternalData::None => {}
        ExternalData::Some => return Err(LoadError::ExternalData { model: name }),
        ExternalData::Malformed => {
            return Err(format("truncated, or no protobuf at all".to_owned()));
        }
    }
    // One session: how many models there are is up to the guests.
    let source = Source {
        bytes: bytes.clone(),
        length: bytes.len() as u64,
        beside: None,
        max_sessions: 1,
        trial: None,
        tries_later: false,
    };
    let batching = Batching::default();
    let loaded = load_source(&name, source, device, batching, options)?;
    let around = around(&name, batching, options, activity, Some(place));
    start(around, loaded, Vec::new(), started)
}

//! Models that are loaded before anybody asks for them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use wisp_contract::config::{self, Device};

use super::{LoadError, Options, around, load_file, start};
use crate::activity::Activity;
use crate::batch::LaneThread;
use crate::onnx::{self, LibraryError};
use crate::{Loaded, Model};

/// A model without a name yet.
pub struct Preloaded {
    file: PathBuf,
    device: Device,
    loaded: Loaded,
    /// Of its lanes those that took a while to be prepared.
    threads: Vec<LaneThread>,
}

/// Loads ONNX Runtime, on a thread where that may block.
///
/// # Errors
/// When it isn't to be found.
pub async fn load_library(options: &Options) -> Result<(), LibraryError> {
    let options = options.clone();
    let task = tokio::task::spawn_blocking(move || {
        onnx::library(options.onnxruntime.as_deref(), options.cache.as_deref()).map(drop)
    });
    // A task that was broken off: the process ends.
    task.await.unwrap_or(Ok(()))
}

impl Preloaded {
    /// Loads `model`, on a thread where that may block. It serves whoever asks for `file` on the same device.
    ///
    /// # Errors
    /// As [`super::ModelStore::load`].
    pub async fn load(
        model: config::Model,
        file: PathBuf,
        options: &Options,
    ) -> Result<Self, LoadError> {
        let (options, device, name) = (options.clone(), model.device, model.name.clone());
        let task = tokio::task::spawn_blocking(move || {
            // There is time: nobody waits for it yet.
            let mut loaded = load_file(&model, &options, false)?;
            loaded.complete();
            let threads = loaded.prepare(&model.name);
            let threads = threads.map_err(|source| LoadError::Thread {
                model: model.name.clone(),
                source,
            })?;
            Ok((loaded, threads))
        });
        let (loaded, threads) = task
            .await
            .map_err(|_| LoadError::Interrupted { model: name })??;
        Ok(Self {
            file,
            device,
            loaded,
            threads,
        })
    }

    /// Whether it is what loading `model` would give. Who wants no batches has other sessions.
    #[must_use]
    pub fn serves(&self, model: &config::Model) -> bool {
        self.file == model.file && self.device == model.device && model.batching.max_size.get() > 1
    }

    pub(super) fn start(
        self,
        model: &config::Model,
        options: &Options,
        activity: &Arc<Activity>,
    ) -> Result<Model, LoadError> {
        let around = around(&model.name, model.batching, options, activity, None);
        start(around, self.loaded, self.threads, Instant::now())
    }
}

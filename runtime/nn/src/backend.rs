//! What does a backend have to do?

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use wisp_contract::config::Tried;

use crate::{Tensor, TensorInfo};

/// A loaded model, as a backend hands it over.
pub struct Loaded {
    /// What computes it, such as `onnxruntime 1.31.1`.
    pub backend: String,
    /// Where: `cpu`, or `gpu` with the device's name.
    pub device: String,
    /// Why it isn't on the GPU, where `auto` was asked for and no GPU was to be had; or not on all GPUs.
    pub device_reason: Option<String>,
    /// Its inputs.
    pub inputs: Vec<TensorInfo>,
    /// Its outputs.
    pub outputs: Vec<TensorInfo>,
    /// `Ok` where items may be joined along dimension 0, else why not.
    pub joinable: Result<(), String>,
    /// What trying it on a CPU showed, if it was tried, or was known to have been.
    pub tried: Option<Tried>,
    /// What computes, each one batch at a time. Every lane gets a thread of its own.
    pub lanes: Vec<Box<dyn Lane>>,
    /// What computes an item sooner than a lane, with all cores, while there is no other.
    pub solo: Option<Box<dyn Lane>>,
    /// Makes the lanes that are missing yet, one by one, while what is there computes.
    pub more: MoreLanes,
    /// Makes a lane that computes an item of the usual size in microseconds, if that turns out to be so. It gets no thread:
    /// whoever has an item that is alone computes it at once.
    pub inline: Option<MakeInline>,
    /// Loads it anew and tries it, where what is here computes without that.
    pub later: Option<LoadLater>,
}

/// Loads a model once more, which takes a while, and ends early where nobody needs it any more; or why it wasn't loaded.
pub type LoadLater = Box<dyn Fn(&Abort) -> Result<Loaded, String> + Send>;

/// Makes a lane that needs no thread, which takes a while; `None` where items would take too long.
pub type MakeInline = Box<dyn FnOnce() -> Option<Box<dyn Lane>> + Send>;

/// Lanes that are made when they are asked for, which takes a while; or why one wasn't.
pub type MoreLanes = Box<dyn Iterator<Item = Result<Box<dyn Lane>, String>> + Send>;

impl Loaded {
    /// Makes the lanes that are missing yet.
    pub(crate) fn complete(&mut self) {
        let more = std::mem::replace(&mut self.more, Box::new(std::iter::empty()));
        for lane in more {
            match lane {
                Ok(lane) => self.lanes.push(lane),
                Err(reason) => {
                    tracing::warn!(reason, "a model computes less at once than it might")
                }
            }
        }
        let inline = self.inline.take().and_then(|make| make());
        self.inline = inline.map(|lane| -> MakeInline { Box::new(|| Some(lane)) });
    }
}

/// Computes one batch at a time: an inference session here, or a connection to a server elsewhere.
///
/// Nothing but the items crosses this line, so an implementation may send them over a network. It runs on a thread of
/// its own and may block it, save for that of [`Loaded::inline`], which blocks whoever calls for microseconds. Its future is polled there without a tokio runtime: what needs one brings a handle.
pub trait Lane: Send {
    /// Whether [`Lane::prepare`] has something to do.
    fn prepares(&self) -> bool {
        false
    }

    /// Called once, on the thread that will compute, before the first batch. It may take seconds: a model is ready once its
    /// first lanes are.
    fn prepare(&mut self) {}

    /// Computes the items together where there are several. They agree in everything but dimension 0, which is each
    /// item's `rows`. Gives back each item's outputs, in the order of [`Loaded::outputs`].
    ///
    /// # Errors
    /// When computing failed. Of several items each half is then computed again, and so on, so that only the faulty ones
    /// fail.
    fn run<'a>(
        &'a mut self,
        items: &'a [Item],
        abort: &'a Abort,
    ) -> BoxFuture<'a, Result<Vec<Vec<Tensor>>, BackendError>>;
}

/// One caller's inputs.
#[derive(Debug, Clone)]
pub struct Item {
    /// In the order of [`Loaded::inputs`].
    pub inputs: Vec<Tensor>,
    /// Dimension 0 of every input, where the item may be joined with others.
    pub rows: u64,
}

/// Computing failed, in the backend's own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);

/// Tells a lane that nobody waits for its batch any more.
#[derive(Clone)]
pub struct Abort(Arc<Mutex<AbortState>>);

struct AbortState {
    waiting: usize,
    hook: Option<Box<dyn FnOnce() + Send>>,
}

impl Abort {
    /// For a batch that `waiting` callers wait for.
    #[must_use]
    pub fn new(waiting: usize) -> Self {
        Self(Arc::new(Mutex::new(AbortState {
            waiting,
            hook: None,
        })))
    }

    /// Whether nobody waits any more.
    #[must_use]
    pub fn is_aborted(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .waiting
            == 0
    }

    /// Calls `hook` when the last caller goes, or now if none is left. It replaces an earlier one.
    pub fn on_abort(&self, hook: impl FnOnce() + Send + 'static) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.waiting == 0 {
            drop(state);
            hook();
        } else {
            state.hook = Some(Box::new(hook));
        }
    }

    /// Forgets the hook: the batch is done.
    pub fn disarm(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).hook = None;
    }

    /// One caller went.
    pub(crate) fn leave(&self) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.waiting = state.waiting.saturating_sub(1);
        let hook = if state.waiting == 0 {
            state.hook.take()
        } else {
            None
        };
        drop(state);
        if let Some(hook) = hook {
            hook();
        }
    }
}

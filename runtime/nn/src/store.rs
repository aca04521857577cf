//! Which models does this process have?

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::OwnedSemaphorePermit;
use wisp_contract::config::{self, Batching, Device, ModelFormat, Trial};
use wisp_contract::model_file;
use wisp_contract::status::ModelStatus;

use crate::activity::Activity;
use crate::backend::Abort;
use crate::batch::LaneThread;
use crate::model::Around;
use crate::name::listed;
use crate::onnx::{self, ExternalData, LibraryError, Refusal, Request};
use crate::{Loaded, Model, sentence, shown, trials};

mod guest;
mod preloaded;

use guest::GuestModels;
pub use preloaded::{Preloaded, load_library};

/// How models are loaded.
#[derive(Debug, Clone)]
pub struct Options {
    /// ONNX Runtime's library. Where it is named, no other is tried.
    pub onnxruntime: Option<PathBuf>,
    /// wisp's cache folder, which may hold `onnxruntime/VERSION/libonnxruntime.so`.
    pub cache: Option<PathBuf>,
    /// Cores that models share with everything else in the process.
    pub cores: NonZeroUsize,
    /// Calls that may wait for one model.
    pub queue: NonZeroUsize,
    /// Memory that one model may take on one GPU, in bytes.
    pub gpu_memory: Option<NonZeroU64>,
    /// Whether a model computes before it is tried, where that takes longer than a moment: with one session, each call by
    /// itself. Once it is tried, it has batches, or sessions side by side.
    pub tries_later: bool,
}

/// Cores as the process may use them, affinity and cgroup quota heeded; 1,024 waiting calls; models are tried while they
/// are loaded.
impl Default for Options {
    fn default() -> Self {
        Self {
            onnxruntime: None,
            cache: None,
            cores: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            queue: NonZeroUsize::MIN.saturating_add(1023),
            gpu_memory: None,
            tries_later: false,
        }
    }
}

/// Why a model was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Two models have one name.
    #[error("there are two models named `{0}`: each needs a name of its own")]
    Duplicate(String),
    /// Its file can't be read.
    #[error("model `{model}`: {path} can't be read")]
    Read {
        /// The model's name.
        model: String,
        /// Its file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its bytes aren't those that were promised.
    #[error("model `{model}`: {path} has sha256 {actual}, expected {expected}")]
    Sha256 {
        /// The model's name.
        model: String,
        /// Its file.
        path: PathBuf,
        /// The digest that the configuration names.
        expected: String,
        /// The file's.
        actual: String,
    },
    /// Its file is something else.
    #[error("model `{model}` is no ONNX model: it is {found}")]
    Format {
        /// The model's name.
        model: String,
        /// What it is.
        found: String,
    },
    /// A model that a guest brings must hold all its numbers itself.
    #[error(
        "model `{model}` keeps numbers in other files, which a model that a guest loads must not"
    )]
    ExternalData {
        /// The model's name.
        model: String,
    },
    /// ONNX Runtime can't be loaded.
    #[error("model `{model}` can't be loaded")]
    Library {
        /// The model's name.
        model: String,
        /// Why.
        source: LibraryError,
    },
    /// ONNX Runtime refused the model.
    #[error("model `{model}` was refused: {reason}")]
    Refused {
        /// The model's name.
        model: String,
        /// In its words.
        reason: String,
    },
    /// It asks for a GPU.
    #[error("model `{model}` asks for a GPU (device: gpu), and none can be had: {reason}")]
    Gpu {
        /// The model's name.
        model: String,
        /// Why.
        reason: String,
    },
    /// Guests have as many models loaded as they may.
    #[error(
        "model `{model}` can't be loaded: guests hold {allowed} models of their own, as many as they may at once"
    )]
    TooMany {
        /// The model's name.
        model: String,
        /// How many they may hold.
        allowed: usize,
    },
    /// The system has no thread left.
    #[error("model `{model}` gets no thread")]
    Thread {
        /// The model's name.
        model: String,
        /// Why.
        source: std::io::Error,
    },
    /// Loading it was interrupted: the process ends.
    #[error("loading model `{model}` was interrupted")]
    Interrupted {
        /// The model's name.
        model: String,
    },
}

impl LoadError {
    /// A stable word for metrics and logs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Duplicate(_) => "duplicate-model",
            Self::Read { .. } => "model-unreadable",
            Self::Sha256 { .. } => "model-digest",
            Self::Format { .. } => "model-format",
            Self::ExternalData { .. } => "model-external-data",
            Self::Library { .. } => "onnxruntime-missing",
            Self::TooMany { .. } => "too-many-models",
            Self::Refused { .. } => "model-refused",
            Self::Gpu { .. } => "no-gpu",
            Self::Thread { .. } | Self::Interrupted { .. } => "model-interrupted",
        }
    }
}

/// No model has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownModel {
    /// There are others.
    #[error("there is no model `{name}`: the function's models are {known}")]
    Other {
        /// The name.
        name: String,
        /// The names there are.
        known: String,
    },
    /// There are none.
    #[error("there is no model `{name}`: the function has no models (spec.models is empty)")]
    None {
        /// The name.
        name: String,
    },
}

/// A function's models. Clones share them.
#[derive(Clone)]
pub struct ModelStore {
    models: Arc<BTreeMap<String, Arc<Model>>>,
    guests: Arc<GuestModels>,
    options: Arc<Options>,
}

impl ModelStore {
    /// Loads all models, one after another, on a thread where that may block. ONNX Runtime is loaded with the first.
    /// Call it within a tokio runtime.
    ///
    /// # Errors
    /// With the first model that can't be loaded.
    pub async fn load(models: &[config::Model], options: &Options) -> Result<Self, LoadError> {
        Self::with_preloaded(models, Vec::new(), options).await
    }

    /// As [`ModelStore::load`], with those of `preloaded` that serve.
    ///
    /// # Errors
    /// As [`ModelStore::load`].
    pub async fn with_preloaded(
        models: &[config::Model],
        mut preloaded: Vec<Preloaded>,
        options: &Options,
    ) -> Result<Self, LoadError> {
        let options = Arc::new(options.clone());
        let activity = Arc::<Activity>::default();
        let mut loaded = BTreeMap::new();
        for model in models {
            if loaded.contains_key(&model.name) {
                return Err(LoadError::Duplicate(model.name.clone()));
            }
            let (config, shared) = (model.clone(), Arc::clone(&options));
            let active = Arc::clone(&activity);
            let ready = preloaded.iter().position(|ready| ready.serves(model));
            let ready = ready.map(|index| preloaded.swap_remove(index));
            let task = tokio::task::spawn_blocking(move || match ready {
                Some(ready) => ready.start(&config, &shared, &active),
                None => from_file(&config, &shared, &active),
            });
            let interrupted = || LoadError::Interrupted {
                model: model.name.clone(),
            };
            let model = task.await.map_err(|_| interrupted())??;
            model.tell();
            loaded.insert(model.name().to_owned(), Arc::new(model));
        }
        Ok(Self {
            models: Arc::new(loaded),
            guests: Arc::new(GuestModels::of(activity)),
            options,
        })
    }

    /// A store without models: guests may still bring their own.
    #[must_use]
    pub fn empty(options: &Options) -> Self {
        Self {
            models: Arc::default(),
            guests: Arc::new(GuestModels::of(Arc::default())),
            options: Arc::new(options.clone()),
        }
    }

    /// The model of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<Model>> {
        self.models.get(name).cloned()
    }

    /// The model of this name.
    ///
    /// # Errors
    /// When there is none, with the names there are.
    pub fn find(&self, name: &str) -> Result<Arc<Model>, UnknownModel> {
        self.get(name).ok_or_else(|| {
            let name = shown(name);
            if self.models.is_empty() {
                return UnknownModel::None { name };
            }
            UnknownModel::Other {
                name,
                known: listed(self.models.keys()),
            }
        })
    }

    /// All models, by name.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.models.values()
    }

    /// What the host tells about them.
    #[must_use]
    pub fn status(&self) -> Vec<ModelStatus> {
        self.models.values().map(|model| model.status()).collect()
    }

    /// Loads a model that a guest brings, on a thread where that may block; two at once, the others wait. The last few
    /// are kept, so that the next instance that brings the same bytes finds it loaded.
    ///
    /// # Errors
    /// When it can't be loaded, or keeps numbers in other files.
    pub async fn load_bytes(&self, bytes: Bytes, device: Device) -> Result<Arc<Model>, LoadError> {
        self.guests.load(bytes, device, &self.options).await
    }
}

/// Larger files without a digest are read by ONNX Runtime alone: they would be in memory twice while they are loaded.
const LARGE: u64 = 64 << 20;

fn from_file(
    config: &config::Model,
    options: &Options,
    activity: &Arc<Activity>,
) -> Result<Model, LoadError> {
    let started = Instant::now();
    let loaded = load_file(config, options, options.tries_later)?;
    let around = around(&config.name, config.batching, options, activity, None);
    start(around, loaded, Vec::new(), started)
}

fn load_file(
    config: &config::Model,
    options: &Options,
    tries_later: bool,
) -> Result<Loaded, LoadError> {
    let model = || config.name.clone();
    let path = || config.file.clone();
    let unread = |source| LoadError::Read {
        model: model(),
        path: path(),
        source,
    };
    let (file, length, mut bytes) = begin(&config.file).map_err(unread)?;
    match config.format {
        ModelFormat::Autodetect | ModelFormat::Onnx => {}
    }
    model_file::check(&bytes).map_err(|found| LoadError::Format {
        model: model(),
        found,
    })?;
    let is_ort_format = model_file::is_ort_format(&bytes);
    let by_path = length > LARGE && config.sha256.is_none() && !is_ort_format;
    if !by_path {
        // A length is what the file says of itself.
        (&file).read_to_end(&mut bytes).map_err(unread)?;
    }
    if let Some(expected) = &config.sha256 {
        let actual = hex::encode(Sha256::digest(&bytes));
        if !actual.eq_ignore_ascii_case(expected) {
            return Err(LoadError::Sha256 {
                model: model(),
                path: path(),
                expected: expected.clone(),
                actual,
            });
        }
    }
    // Files beside the model are found by its path. Otherwise exactly the bytes whose digest was checked are loaded.
    let outside = by_path || !is_ort_format && onnx::external_data(&bytes) == ExternalData::Some;
    let source = Source {
        length: length.max(bytes.len() as u64),
        bytes: bytes.into(),
        beside: outside.then(|| config.file.clone()),
        max_sessions: usize::MAX,
        trial: trials::known(&config.trials, options.cores),
        tries_later,
    };
    load_source(
        &config.name,
        source,
        config.device,
        config.batching,
        options,
    )
}

/// A file, how many bytes it has, and the first of them.
fn begin(path: &Path) -> std::io::Result<(File, u64, Vec<u8>)> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut head = Vec::new();
    (&file)
        .take(model_file::HEAD as u64)
        .read_to_end(&mut head)?;
    Ok((file, length, head))
}

struct Source {
    /// All of it, or only its beginning, where it is read from `beside`.
    bytes: Bytes,
    length: u64,
    beside: Option<PathBuf>,
    max_sessions: usize,
    trial: Option<Trial>,
    tries_later: bool,
}

fn load_source(
    model: &str,
    source: Source,
    device: Device,
    batching: Batching,
    options: &Options,
) -> Result<Loaded, LoadError> {
    let model = || model.to_owned();
    let library = onnx::library(options.onnxruntime.as_deref(), options.cache.as_deref());
    let library = library.map_err(|source| LoadError::Library {
        model: model(),
        source,
    })?;
    let request = Request {
        bytes: source.bytes,
        length: source.length,
        beside: source.beside,
        device,
        max_rows: batching.max_size,
        cores: options.cores,
        gpu_memory: options.gpu_memory.map(NonZeroU64::get),
        max_sessions: source.max_sessions,
        trial: source.trial,
        tries_later: source.tries_later,
        stop: Abort::new(1),
    };
    onnx::load(&library, &request).map_err(|refusal| match refusal {
        Refusal::Model(reason) => LoadError::Refused {
            model: model(),
            reason: sentence(&reason),
        },
        Refusal::Gpu(reason) => LoadError::Gpu {
            model: model(),
            reason: sentence(&reason),
        },
    })
}

/// What a model of this name is started with; `place` where it is one of those that there may be at once.
fn around(
    model: &str,
    batching: Batching,
    options: &Options,
    activity: &Arc<Activity>,
    place: Option<OwnedSemaphorePermit>,
) -> Around {
    Around {
        name: model.to_owned(),
        batching,
        limit: options.queue,
        metrics: Arc::default(),
        activity: Arc::clone(activity),
        place: place.map(Arc::new),
    }
}

fn start(
    around: Around,
    loaded: Loaded,
    threads: Vec<LaneThread>,
    started: Instant,
) -> Result<Model, LoadError> {
    let model = around.name.clone();
    Model::start(around, loaded, threads, started)
        .map_err(|source| LoadError::Thread { model, source })
}

//! From a Function to what its host reads.

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use wisp_contract::config::{self, FunctionConfig};

use crate::function::{Device, Function, InstanceMode, ModelFormat};
use crate::objects::Values;

/// Where a Function's bytes are on the host's machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The component.
    pub component: PathBuf,
    /// Each model's file by the model's name.
    pub models: BTreeMap<String, PathBuf>,
    /// The folder that the key-value stores' databases are in, named `<store>.redb`.
    pub key_value: PathBuf,
}

/// Why a Function cannot be turned into a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No file was given for a model.
    #[error("the model `{0}` has no file on this machine")]
    NoModelFile(String),
    /// There is no local component: neither a file nor anything that was built.
    #[error("the function has no component on this machine")]
    NoComponentFile,
}

/// What a model's `file` starts with where it lies in the folder for what can be made again: converted models, for example.
pub const IN_CACHE: &str = "$WISP_CACHE/";

impl Function {
    /// The same Function with every model's `$WISP_CACHE/…` as a path in `cache`, whether or not that variable is set.
    ///
    /// ```
    /// # use wisp_api::{Function, Model, ModelSource};
    /// let file = |file: &str| Model { source: ModelSource { file: Some(file.into()), ..Default::default() }, ..Default::default() };
    /// let mut function = Function::new("embed", Default::default());
    /// function.spec.models = vec![file("$WISP_CACHE/models/a.onnx"), file("b.onnx")];
    /// let function = function.with_cache("/var/cache/wisp".as_ref());
    /// let files: Vec<_> = function.spec.models.iter().filter_map(|model| model.source.file.as_deref()).collect();
    /// assert_eq!(files, ["/var/cache/wisp/models/a.onnx", "b.onnx"]);
    /// ```
    #[must_use]
    pub fn with_cache(mut self, cache: &Path) -> Self {
        for file in self
            .spec
            .models
            .iter_mut()
            .filter_map(|model| model.source.file.as_mut())
        {
            if let Some(rest) = file.strip_prefix(IN_CACHE) {
                *file = cache.join(rest).to_string_lossy().into_owned();
            }
        }
        self
    }

    /// Where the files are that a Function names by `file`, for a manifest in the folder `base`. `built` takes the
    /// place of `spec.component`.
    ///
    /// # Errors
    /// When the component or a model has no `file`; [`Function::validate_for`] tells so in a friendlier way.
    pub fn local_files(
        &self,
        base: &Path,
        built: Option<PathBuf>,
        key_value: PathBuf,
    ) -> Result<Files, ConfigError> {
        let named = || {
            self.spec
                .component
                .as_ref()
                .and_then(|component| component.file.as_ref())
                .map(|file| base.join(file))
        };
        let component = built.or_else(named).ok_or(ConfigError::NoComponentFile)?;
        let file = |model: &crate::Model| match &model.source.file {
            Some(file) => Ok((model.name.clone(), base.join(file))),
            None => Err(ConfigError::NoModelFile(model.name.clone())),
        };
        let models = self
            .spec
            .models
            .iter()
            .map(file)
            .collect::<Result<_, _>>()?;
        Ok(Files {
            component,
            models,
            key_value,
        })
    }

    /// What the Function's host reads, given where its files are and what it takes from Secrets and
    /// ConfigMaps ([`crate::Objects::values`]). The Function must be valid: what is out of range is brought into it.
    ///
    /// The component's digest is demanded only where the file is the one that `spec.component` names.
    ///
    /// # Errors
    /// When a model has no file.
    pub fn to_config(&self, files: &Files, values: Values) -> Result<FunctionConfig, ConfigError> {
        let spec = &self.spec;
        let component = config::Component {
            file: files.component.clone(),
            sha256: self.component_digest(&files.component),
        };
        let model = |model: &crate::Model| {
            let file = files
                .models
                .get(&model.name)
                .ok_or_else(|| ConfigError::NoModelFile(model.name.clone()))?;
            Ok(config::Model {
                name: model.name.clone(),
                format: match model.format {
                    ModelFormat::Autodetect => config::ModelFormat::Autodetect,
                    ModelFormat::Onnx => config::ModelFormat::Onnx,
                },
                file: file.clone(),
                sha256: model.source.sha256.clone(),
                device: match model.device {
                    Device::Auto => config::Device::Auto,
                    Device::Cpu => config::Device::Cpu,
                    Device::Gpu => config::Device::Gpu,
                },
                trials: Vec::new(),
                batching: config::Batching {
                    max_size: at_least_one(model.batching.max_size),
                    max_delay: model.batching.max_delay.into(),
                },
            })
        };
        Ok(FunctionConfig {
            component,
            models: spec.models.iter().map(model).collect::<Result<_, _>>()?,
            limits: self.limits(),
            instances: self.instances(),
            env: values.env,
            outbound: config::Outbound {
                allow: spec.outbound.allow.clone(),
                certificate_authorities: values.certificate_authorities,
            },
            key_value: spec
                .key_value
                .iter()
                .map(|store| config::KeyValueStore {
                    name: store.name.clone(),
                    file: files.key_value.join(format!("{}.redb", store.name)),
                    max_bytes: NonZeroU64::new(store.max_size.0).unwrap_or(NonZeroU64::MIN),
                })
                .collect(),
        })
    }

    fn component_digest(&self, file: &Path) -> Option<String> {
        let source = self.spec.component.as_ref()?;
        let local = source.file.as_ref().map(Path::new);
        // A component that was built here in place of the named one has a digest of its own.
        if local.is_some_and(|named| !file.ends_with(named.strip_prefix("./").unwrap_or(named))) {
            None
        } else {
            source.sha256.clone()
        }
    }

    /// The limits as gateway and host read them.
    #[must_use]
    pub fn limits(&self) -> config::Limits {
        let limits = &self.spec.limits;
        let bytes = |value: crate::Bytes| NonZeroU64::new(value.0).unwrap_or(NonZeroU64::MIN);
        let count = |value: u32| usize::try_from(value).unwrap_or(usize::MAX);
        let positive = |value: u32| NonZeroUsize::new(count(value)).unwrap_or(NonZeroUsize::MIN);
        config::Limits {
            timeout: limits.timeout.into(),
            memory: bytes(limits.memory),
            concurrency: positive(limits.concurrency),
            queue: count(limits.queue),
            queue_bytes: limits.queue_bytes.0,
            request_body: limits.request_body.0,
            log_rate: bytes(limits.log_rate),
            tensors: bytes(limits.tensors),
            handles: positive(limits.handles),
            table_elements: positive(limits.table_elements),
        }
    }

    fn instances(&self) -> config::Instances {
        let instances = &self.spec.instances;
        match instances.mode {
            InstanceMode::Fresh => config::Instances::Fresh,
            InstanceMode::Reuse => config::Instances::Reuse {
                max_requests: at_least_one(instances.max_requests.unwrap_or(1000)),
                max_concurrent: at_least_one(instances.max_concurrent.unwrap_or(1)),
                idle_timeout: instances
                    .idle_timeout
                    .map_or(Duration::from_secs(10), Duration::from),
            },
        }
    }
}

fn at_least_one(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN)
}

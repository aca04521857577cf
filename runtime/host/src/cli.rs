//! What the command line and the environment say.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use tracing_subscriber::EnvFilter;
use wisp_contract::assignment::{self, Assignment, Key, Preload};
use wisp_contract::config::{
    Batching, Component, Device, Env, FunctionConfig, Instances, Limits, Model, ModelFormat,
    Outbound,
};
use wisp_contract::{FunctionId, FunctionIdError};
use wisp_engine::Cpu;

use crate::process::Options;

/// Serves one Wasm component over HTTP.
///
/// The component must export wasi:http/incoming-handler@0.2 or wasi:http/handler@0.3. What to serve comes from
/// --component, from the environment variable WISP_ASSIGNMENT, or is posted once to /assign on the control port.
/// Log lines are JSON objects on standard output.
#[derive(Debug, Parser)]
#[command(name = "wisp-runtime", version, max_term_width = 100)]
pub struct Cli {
    /// Where requests for the function arrive. Port 0 takes a free one; the log line `listening` tells which.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub data: SocketAddr,
    /// Where /healthz, /readyz, /warmz, /status, /metrics, /assign, /hold and /drain are served. Keep it away from the public.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8081")]
    pub control: SocketAddr,
    /// Serve this component with default limits, instead of waiting for an Assignment.
    #[arg(long, value_name = "FILE")]
    pub component: Option<PathBuf>,
    /// With --component: an environment variable, which wasi:config shows too. May be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair, requires = "component")]
    pub env: Vec<(String, String)>,
    /// With --component: a model that the component may open by name. May be repeated.
    #[arg(long, value_name = "NAME=FILE", value_parser = pair, requires = "component")]
    pub model: Vec<(String, String)>,
    /// With --component: an origin that the component may send requests to. May be repeated.
    #[arg(long, value_name = "ORIGIN", requires = "component")]
    pub allow: Vec<String>,
    /// Where compiled components are kept [default: $XDG_CACHE_HOME/wisp, else ~/.cache/wisp].
    #[arg(long, value_name = "DIR", env = "WISP_CACHE")]
    pub cache: Option<PathBuf>,
    /// ONNX Runtime's shared library [default: the one in the cache folder, else the dynamic linker's].
    #[arg(long, value_name = "FILE", env = "WISP_ONNXRUNTIME")]
    pub onnxruntime: Option<PathBuf>,
    /// Threads that serve requests [default: one per CPU].
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// The most that machine code may ask of the processor, where that is x86-64: x86-64-v2 or x86-64-v3 [default: what it
    /// has].
    #[arg(long, value_name = "LEVEL", env = "WISP_CPU_LEVEL")]
    pub cpu_level: Option<Cpu>,
    /// How long requests in flight may take to finish after SIGTERM, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub drain_timeout: Duration,
    /// What the control port demands in the header wisp-key, but for /healthz, /readyz, /warmz and /metrics [default: nothing,
    /// and then it takes no machine code].
    #[arg(
        long,
        value_name = "KEY",
        env = "WISP_CONTROL_KEY",
        hide_env_values = true
    )]
    pub control_key: Option<String>,
    /// Where the reason goes if the process can't become its function; Kubernetes shows what is in /dev/termination-log.
    #[arg(long, value_name = "FILE", env = "WISP_TERMINATION_LOG")]
    pub termination_log: Option<PathBuf>,
    /// Log one line per request.
    #[arg(long)]
    pub access_log: bool,
    /// Which log lines of the host itself to write, as tracing-subscriber's EnvFilter has it.
    #[arg(long, value_name = "FILTER", env = "WISP_LOG", default_value = "info")]
    pub log: String,
}

/// Why no Assignment can be made of what was given.
#[derive(Debug, thiserror::Error)]
pub enum AssignmentError {
    /// Two sources.
    #[error(
        "both --component and the environment variable {} say what to serve: give one",
        assignment::ENV
    )]
    Twice,
    /// Not an Assignment.
    #[error("the environment variable {} is no Assignment", assignment::ENV)]
    Json(#[source] serde_json::Error),
    /// Nothing that could be had ready.
    #[error(
        "the environment variable {} doesn't say what is to be ready",
        assignment::PRELOAD_ENV
    )]
    Preload(#[source] serde_json::Error),
    /// A name that can't be one.
    #[error(transparent)]
    Function(#[from] FunctionIdError),
}

impl Cli {
    /// The Assignment that this process starts with, if it was given one.
    ///
    /// # Errors
    /// When two are given, or the one in the environment can't be read.
    pub fn assignment(&self) -> Result<Option<Assignment>, AssignmentError> {
        match (&self.component, std::env::var(assignment::ENV).ok()) {
            (None, None) => Ok(None),
            (None, Some(json)) => serde_json::from_str(&json)
                .map(Some)
                .map_err(AssignmentError::Json),
            (Some(file), None) => Ok(Some(self.quick(file.clone())?)),
            (Some(_), Some(_)) => Err(AssignmentError::Twice),
        }
    }

    fn quick(&self, file: PathBuf) -> Result<Assignment, FunctionIdError> {
        let name = file.file_stem().map(|stem| {
            stem.to_string_lossy()
                .to_lowercase()
                .replace(['_', '.', ' '], "-")
        });
        let function = name
            .and_then(|name| FunctionId::new("local", &name).ok())
            .map_or_else(|| FunctionId::new("local", "function"), Ok)?;
        let model = |(name, file): &(String, String)| Model {
            name: name.clone(),
            format: ModelFormat::Autodetect,
            file: file.into(),
            sha256: None,
            device: Device::Auto,
            batching: Batching::default(),
            trials: Vec::new(),
        };
        Ok(Assignment {
            function,
            uid: None,
            revision: "local".to_owned(),
            config: FunctionConfig {
                component: Component { file, sha256: None },
                models: self.model.iter().map(model).collect(),
                limits: Limits::default(),
                instances: Instances::Fresh,
                env: Env(self.env.iter().cloned().collect::<BTreeMap<_, _>>()),
                outbound: Outbound {
                    allow: self.allow.clone(),
                    certificate_authorities: Vec::new(),
                },
                key_value: Vec::new(),
            },
            cpus: None,
            key: None,
            artifacts: Vec::new(),
        })
    }

    /// What is to be ready while there is no function, if the environment says so.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn preload(&self) -> Result<Preload, AssignmentError> {
        std::env::var(assignment::PRELOAD_ENV).map_or_else(
            |_| Ok(Preload::default()),
            |json| serde_json::from_str(&json).map_err(AssignmentError::Preload),
        )
    }

    /// Everything else that a host wants to know.
    #[must_use]
    pub fn options(&self, preload: Preload, began: Instant) -> Options {
        Options {
            preload,
            data: self.data,
            control: self.control,
            cache: self.cache.clone().or_else(default_cache),
            onnxruntime: self.onnxruntime.clone(),
            drain_timeout: self.drain_timeout,
            control_key: self.control_key.clone().map(Key),
            termination_log: self.termination_log.clone(),
            access_log: self.access_log,
            began,
        }
    }

    /// Which of the host's own log lines are written. A filter that can't be read counts as `info`.
    #[must_use]
    pub fn log_filter(&self) -> EnvFilter {
        EnvFilter::try_new(&self.log).unwrap_or_else(|_| EnvFilter::new("info"))
    }
}

fn default_cache() -> Option<PathBuf> {
    let folder = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    // Whom no user database knows, as in a container, has `/` for a home.
    let home = || folder("HOME").filter(|home| home != Path::new("/"));
    folder("XDG_CACHE_HOME")
        .or_else(|| Some(home()?.join(".cache")))
        .map(|base| base.join("wisp"))
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text
        .parse()
        .map_err(|_| "expected a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_alone_makes_an_assignment_named_after_its_file() {
        let cli = Cli::parse_from([
            "wisp-runtime",
            "--component",
            "/tmp/My_handler.wasm",
            "--env",
            "A=b=c",
        ]);
        let assignment = cli.assignment().unwrap().unwrap();
        assert_eq!(assignment.function.to_string(), "local/my-handler");
        assert_eq!(assignment.config.env.0["A"], "b=c");
        assert_eq!(assignment.config.limits, Limits::default());
    }

    #[test]
    fn options_that_need_a_component_are_refused_without_one() {
        for arguments in [
            ["--env", "A=b"],
            ["--model", "m=f"],
            ["--allow", "https://a"],
        ] {
            assert!(
                Cli::try_parse_from(["wisp-runtime"].into_iter().chain(arguments)).is_err(),
                "{arguments:?}"
            );
        }
        assert!(
            Cli::try_parse_from(["wisp-runtime", "--component", "a", "--env", "novalue"]).is_err()
        );
    }
}

//! A `wisp-runtime` process with one function.

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use wisp_contract::FunctionId;
use wisp_contract::assignment::{self, Assignment};
use wisp_contract::config::{Component, Env, FunctionConfig, Instances, Limits, Outbound};
use wisp_contract::log::{Line, event};
use wisp_contract::status::HostStatus;

use crate::child::Child;
use crate::cores::{Cores, kept};

/// How long trying its models may take a host.
const TRIED_WITHIN: Duration = Duration::from_secs(60);
/// How often it is asked.
const PAUSE: Duration = Duration::from_millis(20);

/// How hosts are started.
#[derive(Debug, Clone)]
pub struct Place {
    /// `wisp-runtime`.
    pub program: PathBuf,
    /// The cache folder that compiled components are found in.
    pub cache: PathBuf,
}

/// A host that is ready.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) child: Child,
    pub(crate) data: SocketAddr,
    pub(crate) control: SocketAddr,
}

/// `component`'s function as it is without any setting.
pub(crate) fn config(component: &Path) -> FunctionConfig {
    FunctionConfig {
        component: Component {
            file: component.to_owned(),
            sha256: None,
        },
        models: Vec::new(),
        limits: Limits::default(),
        instances: Instances::Fresh,
        env: Env::default(),
        outbound: Outbound::default(),
        key_value: Vec::new(),
    }
}

impl Place {
    /// The command of a host that listens on `data` and `control`, with a function or without.
    pub(crate) fn command(
        &self,
        config: Option<FunctionConfig>,
        data: SocketAddr,
        control: SocketAddr,
    ) -> Result<Command> {
        let mut command = Command::new(&self.program);
        command
            .args(["--data", &data.to_string()])
            .args(["--control", &control.to_string()])
            .env("WISP_CACHE", &self.cache)
            // It costs more than everything else that a guest's trap does.
            .env_remove("RUST_BACKTRACE")
            .env_remove(assignment::ENV);
        if let Some(config) = config {
            let assignment = Assignment {
                function: FunctionId::new("load", "function")?,
                uid: None,
                revision: "1".to_owned(),
                config,
                cpus: None,
                key: None,
                artifacts: Vec::new(),
            };
            command.env(assignment::ENV, serde_json::to_string(&assignment)?);
        }
        Ok(command)
    }
}

impl Runtime {
    /// Starts a host and waits until it serves, and tries no model beside that.
    pub(crate) fn start(place: &Place, config: FunctionConfig) -> Result<Self> {
        Self::start_on(None, place, config)
    }

    /// The same on these cores alone, if any are given.
    pub(crate) fn start_on(
        cores: Option<&Cores>,
        place: &Place,
        config: FunctionConfig,
    ) -> Result<Self> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let command = place.command(Some(config), any, any)?;
        let (child, mut output) = Child::start(&mut kept(command, cores))?;
        let (data, control) = child.line(&mut output, |line| {
            let line: Line<'_> = serde_json::from_str(line).ok()?;
            let address = |name: &str| line.fields.get(name)?.as_str()?.parse().ok();
            let listening = line.event.as_deref() == Some(event::LISTENING);
            listening
                .then(|| Some((address("data")?, address("control")?)))
                .flatten()
        })?;
        let failed = child.line(&mut output, |text| {
            let line: Line<'_> = serde_json::from_str(text).ok()?;
            match line.event.as_deref() {
                Some(event::READY) => Some(None),
                Some(event::FAILED) => Some(Some(line.message.into_owned())),
                _ => None,
            }
        })?;
        if let Some(reason) = failed {
            bail!("wisp-runtime: {reason}");
        }
        // Read to the end, or it would wait for its reader.
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        let runtime = Self {
            child,
            data,
            control,
        };
        let since = Instant::now();
        while runtime.status()?.tries_models() {
            ensure!(since.elapsed() < TRIED_WITHIN, "a model is tried for ever");
            std::thread::sleep(PAUSE);
        }
        Ok(runtime)
    }

    /// What it says of itself.
    pub(crate) fn status(&self) -> Result<HostStatus> {
        let status = get(self.control, "/status")?;
        let (_, body) = status.split_once("\r\n\r\n").context("no body")?;
        Ok(serde_json::from_str(body)?)
    }
}

/// The answer to a GET, head and body, over a connection of its own.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<String> {
    use std::io::Write as _;
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.write_all(request(path).as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: load\r\nconnection: close\r\n\r\n")
}

//! The bytes that an Assignment tells to fetch: into memory, because a pod has no disk to write to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use wisp_contract::assignment::{Artifact, Assignment, Compiled, Facts, Key, Wasi, artifact_named};
use wisp_contract::headers;
use wisp_engine::sealed::{Sealed, Unsealed};
use wisp_engine::{Cpu, EngineError, Engines, Footprint};

use crate::receive::Pushed;

/// The most bytes of one artifact.
pub(crate) const LARGEST: u64 = 8 << 30;
/// How long it is tried to fetch one: who serves it may just be starting anew.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing may come.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);

/// Why an artifact isn't there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("the artifact {url} can't be fetched")]
    Transfer {
        url: String,
        /// Whether it may be otherwise in a moment.
        may_pass: bool,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("the artifact {url} has the sha256 {found}, but {expected} was asked for")]
    Digest {
        url: String,
        found: String,
        expected: String,
    },
    #[error("{file} names an artifact that the Assignment doesn't have")]
    Unknown { file: String },
}

impl FetchError {
    /// Whether it may be otherwise in a moment.
    pub(crate) fn may_pass(&self) -> bool {
        matches!(self, Self::Transfer { may_pass: true, .. })
    }
}

/// What went wrong in one attempt.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("its URL is none that can be fetched: expected http://HOST[:PORT]/PATH")]
    Url,
    #[error("it was answered with {0}")]
    Status(StatusCode),
    #[error("it has more than the {LARGEST} bytes it may have")]
    TooLarge,
    #[error("nothing came for {} s", SILENCE.as_secs())]
    Silence,
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Request(#[from] http::Error),
}

impl Failure {
    /// Whether it may be otherwise in a moment.
    fn may_pass(&self) -> bool {
        match self {
            Self::Status(status) => status.is_server_error(),
            Self::Silence | Self::Io(_) | Self::Http(_) => true,
            Self::Url | Self::TooLarge | Self::Request(_) => false,
        }
    }
}

/// What was fetched. Its files exist as long as it does.
#[derive(Debug, Default)]
pub(crate) struct Artifacts {
    files: BTreeMap<String, Sealed>,
}

/// Machine code that an engine of this host runs.
#[derive(Debug)]
pub(crate) struct Code {
    /// The digest of the component that it was compiled from.
    pub(crate) component_sha256: String,
    /// What there is to know of that component.
    pub(crate) facts: Facts,
    /// Its bytes, with the digest that the Assignment names.
    pub(crate) file: Sealed,
}

impl Code {
    /// What one instance of it takes from the pool.
    pub(crate) fn footprint(&self) -> Footprint {
        Footprint {
            core_instances: self.facts.core_instances,
            memories: self.facts.memories,
            tables: self.facts.tables,
        }
    }
}

/// The names of engines whose machine code can be run here: this host's, and those for lesser processors.
#[derive(Debug, Clone)]
pub(crate) struct Fitting {
    own: Names,
    lower: OnceLock<Vec<Names>>,
}

/// The names of the engines for one level of processors.
#[derive(Debug, Clone)]
struct Names {
    p2: String,
    p3: String,
}

impl Names {
    fn of(engines: &Engines) -> Result<Self, EngineError> {
        let of = |wasi| engines.get(wasi).map(wisp_engine::compatibility);
        let (p2, p3) = (of(wisp_engine::Wasi::P2)?, of(wisp_engine::Wasi::P3)?);
        Ok(Self { p2, p3 })
    }

    fn fit(&self, code: &Compiled) -> bool {
        match code.facts.wasi {
            Wasi::P2 => code.engine == self.p2,
            Wasi::P3 => code.engine == self.p3,
        }
    }

    fn all(&self) -> [&String; 2] {
        [&self.p2, &self.p3]
    }
}

impl Fitting {
    /// Finds them out, which the first time takes about a millisecond.
    ///
    /// # Errors
    /// When there is no engine for this machine.
    pub(crate) fn here() -> Result<&'static Self, EngineError> {
        static HERE: OnceLock<Fitting> = OnceLock::new();
        if let Some(fitting) = HERE.get() {
            return Ok(fitting);
        }
        let own = Names::of(&Engines::for_compilation())?;
        Ok(HERE.get_or_init(|| Self {
            own,
            lower: OnceLock::new(),
        }))
    }

    /// Those for lesser processors, found out when they are first asked for.
    fn lower(&self) -> &[Names] {
        self.lower.get_or_init(|| {
            let below = Cpu::here().below().iter();
            below
                .filter_map(|cpu| Names::of(&Engines::for_cpu(*cpu)).ok())
                .collect()
        })
    }

    /// The machine code of the Assignment's component that is best here, if any can be run.
    pub(crate) fn code<'a>(&self, assignment: &'a Assignment) -> Option<&'a Compiled> {
        let of = |names: &Names| assignment.compiled().iter().find(|code| names.fit(code));
        of(&self.own).or_else(|| self.lower().iter().find_map(of))
    }

    /// Whether the code can be run here.
    pub(crate) fn fit(&self, code: &Compiled) -> bool {
        self.own.fit(code) || self.lower().iter().any(|names| names.fit(code))
    }

    /// The names, the best first.
    pub(crate) fn names(&self) -> Vec<String> {
        let all = std::iter::once(&self.own).chain(self.lower());
        all.flat_map(Names::all).cloned().collect()
    }
}

impl Artifacts {
    /// Fetches all that the Assignment names, side by side, and puts the files that were made in the place of their
    /// names in its configuration. Where there is machine code of the component for one of the engines `fitting`, that
    /// is fetched in the component's stead, and returned. What was `pushed` is here already. What is `unneeded` isn't
    /// fetched, and keeps its name.
    ///
    /// # Errors
    /// When one can't be fetched or has another digest, or a file names one that there isn't.
    pub(crate) async fn fetch(
        assignment: &mut Assignment,
        fitting: &Fitting,
        unneeded: &BTreeSet<PathBuf>,
        pushed: &mut Pushed,
    ) -> Result<(Self, Option<Code>), FetchError> {
        let compiled = fitting.code(assignment).cloned();
        if compiled.is_none() && !assignment.compiled().is_empty() {
            tracing::info!(
                "the component is compiled here: none of its machine code fits this processor"
            );
        }
        let component = assignment.config.component.file.clone();
        let needed = assignment.artifacts.iter().filter(|artifact| {
            let file = artifact.file();
            (compiled.is_none() || file != component) && !unneeded.contains(&file)
        });
        let mut here = BTreeMap::new();
        let mut missing = Vec::new();
        for artifact in needed {
            match pushed.take(&artifact.sha256) {
                Some(file) => _ = here.insert(artifact.sha256.clone(), file),
                None => missing.push(artifact),
            }
        }
        let code = async {
            let Some(compiled) = &compiled else {
                return Ok(None);
            };
            if let Some(file) = pushed.take(&compiled.sha256) {
                return Ok(Some(file));
            }
            let key = compiled.key.as_ref();
            fetch(&compiled.url, &compiled.sha256, key).await.map(Some)
        };
        let (mut artifacts, code) = futures::future::try_join(fetch_all(missing), code).await?;
        artifacts.files.append(&mut here);
        let config = &mut assignment.config;
        let code = match (code, &compiled) {
            (Some(file), Some(compiled)) => Some(Code {
                component_sha256: artifact_named(&component).unwrap_or_default().to_owned(),
                facts: compiled.facts,
                file,
            }),
            _ => {
                artifacts.place(&mut config.component.file)?;
                None
            }
        };
        let models = config.models.iter_mut();
        for model in models.filter(|model| !unneeded.contains(&model.file)) {
            artifacts.place(&mut model.file)?;
        }
        Ok((artifacts, code))
    }

    /// Puts a file in the place of an artifact's name.
    pub(crate) fn place(&self, file: &mut PathBuf) -> Result<(), FetchError> {
        let Some(sha256) = artifact_named(file) else {
            return Ok(());
        };
        let fetched = self.files.get(sha256).ok_or_else(|| FetchError::Unknown {
            file: file.display().to_string(),
        })?;
        *file = fetched.path();
        Ok(())
    }
}

/// Fetches artifacts side by side, and not their machine code.
///
/// # Errors
/// When one can't be fetched or has another digest.
pub(crate) async fn fetch_all(
    artifacts: impl IntoIterator<Item = &Artifact>,
) -> Result<Artifacts, FetchError> {
    let one = |artifact: &Artifact| {
        let artifact = artifact.clone();
        async move { fetch(&artifact.url, &artifact.sha256, artifact.key.as_ref()).await }
    };
    let files = futures::future::try_join_all(artifacts.into_iter().map(one)).await?;
    let files = files.into_iter();
    Ok(Artifacts {
        files: files.map(|file| (file.sha256().to_owned(), file)).collect(),
    })
}

/// Fetches and checks one file, again and again for [`PATIENCE`].
async fn fetch(url: &str, sha256: &str, key: Option<&Key>) -> Result<Sealed, FetchError> {
    let began = Instant::now();
    let mut pause = Duration::from_millis(50);
    let file = loop {
        match attempt(url, key).await {
            Ok(file) => break file,
            Err(failure) if failure.may_pass() && began.elapsed() < PATIENCE => {
                tracing::warn!(url, error = %failure, "an artifact could not be fetched; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
            Err(failure) => {
                return Err(FetchError::Transfer {
                    url: url.to_owned(),
                    may_pass: failure.may_pass(),
                    source: failure.into(),
                });
            }
        }
    };
    if file.sha256() != sha256 {
        return Err(FetchError::Digest {
            url: url.to_owned(),
            found: file.sha256().to_owned(),
            expected: sha256.to_owned(),
        });
    }
    Ok(file)
}

async fn attempt(url: &str, key: Option<&Key>) -> Result<Sealed, Failure> {
    let uri: Uri = url.parse().map_err(|_| Failure::Url)?;
    let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(Failure::Url);
    };
    let host = authority.host().trim_matches(['[', ']']);
    let address = (host, authority.port_u16().unwrap_or(80));
    let stream = patient(TcpStream::connect(address)).await??;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::get(path)
        .header(HOST, authority.as_str())
        .header(headers::CPU, Cpu::here().to_string());
    if let Some(key) = key {
        request = request.header(headers::KEY, &key.0);
    }
    let response = patient(sender.send_request(request.body(Empty::<Bytes>::new())?)).await??;
    if response.status() != StatusCode::OK {
        return Err(Failure::Status(response.status()));
    }
    let mut body = response.into_body();
    let mut file = Unsealed::new("artifact")?;
    while let Some(frame) = patient(body.frame()).await? {
        if let Ok(bytes) = frame?.into_data() {
            file.write_all(&bytes)?;
            if file.length() > LARGEST {
                return Err(Failure::TooLarge);
            }
        }
    }
    Ok(file.seal()?)
}

async fn patient<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(SILENCE, future)
        .await
        .map_err(|_| Failure::Silence)
}

#[cfg(test)]
mod tests;

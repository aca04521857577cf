//! The bytes that an Assignment tells to fetch: into memory, because a pod has no disk to write to.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use wisp_contract::assignment::{ARTIFACT, Artifact, Assignment, Key};
use wisp_contract::headers;
use wisp_engine::sealed::{Sealed, Unsealed};

/// The most bytes of one artifact.
const LARGEST: u64 = 8 << 30;
/// How long it is tried to fetch one: who serves it may just be starting anew.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing may come.
const SILENCE: Duration = Duration::from_secs(10);

/// Why an artifact isn't there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("the artifact {url} can't be fetched")]
    Transfer {
        url: String,
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
    files: BTreeMap<String, Fetched>,
}

#[derive(Debug)]
struct Fetched {
    file: Sealed,
    compiled: Option<Code>,
}

/// Machine code.
#[derive(Debug)]
pub(crate) struct Code {
    /// The engine it fits.
    pub(crate) engine: String,
    /// Its bytes, with the digest that the Assignment names.
    pub(crate) file: Sealed,
}

impl Artifacts {
    /// Fetches all that the Assignment names, side by side, and puts the files that were made in the place of their
    /// names in its configuration. Returns the machine code of the component, too, where there is some.
    ///
    /// # Errors
    /// When one can't be fetched or has another digest, or a file names one that there isn't.
    pub(crate) async fn fetch(
        assignment: &mut Assignment,
    ) -> Result<(Self, Option<Code>), FetchError> {
        let all = assignment.artifacts.iter().map(fetch_one);
        let fetched = futures::future::try_join_all(all).await?;
        let mut artifacts = Self {
            files: fetched
                .into_iter()
                .map(|fetched| (fetched.file.sha256().to_owned(), fetched))
                .collect(),
        };
        let config = &mut assignment.config;
        let component = artifacts.place(&mut config.component.file)?;
        for model in &mut config.models {
            artifacts.place(&mut model.file)?;
        }
        let code = component
            .and_then(|sha256| artifacts.files.get_mut(&sha256))
            .and_then(|fetched| fetched.compiled.take());
        Ok((artifacts, code))
    }

    /// Puts a file in the place of an artifact's name. Returns the artifact's digest where it was one.
    fn place(&self, file: &mut PathBuf) -> Result<Option<String>, FetchError> {
        let Some(sha256) = file.to_str().and_then(|name| name.strip_prefix(ARTIFACT)) else {
            return Ok(None);
        };
        let sha256 = sha256.to_owned();
        let fetched = self.files.get(&sha256).ok_or_else(|| FetchError::Unknown {
            file: file.display().to_string(),
        })?;
        *file = fetched.file.path();
        Ok(Some(sha256))
    }
}

async fn fetch_one(artifact: &Artifact) -> Result<Fetched, FetchError> {
    let file = fetch(&artifact.url, &artifact.sha256, artifact.key.as_ref());
    let Some(compiled) = &artifact.compiled else {
        return Ok(Fetched {
            file: file.await?,
            compiled: None,
        });
    };
    let code = fetch(&compiled.url, &compiled.sha256, compiled.key.as_ref());
    let (file, code) = futures::future::try_join(file, code).await?;
    Ok(Fetched {
        file,
        compiled: Some(Code {
            engine: compiled.engine.clone(),
            file: code,
        }),
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
    let mut request = Request::get(path).header(HOST, authority.as_str());
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

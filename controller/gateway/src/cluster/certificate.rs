//! The certificate of the TLS listener, and its successors.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::watcher::{Config, Event};
use kube::{Api, Client};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::watch;
use wisp_contract::log::chain;

use crate::counts::Counts;
use crate::watches;

/// How often the files are looked at. Notifications miss what kubelets do with mounted Secrets, and other file systems.
const LOOK: Duration = Duration::from_secs(5);

/// Where certificates come from.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Files { certificate: PathBuf, key: PathBuf },
    Secret { namespace: String, name: String },
}

/// What the listener speaks TLS with; it changes under the listener's feet, and connections keep what they began with.
pub(crate) type Current = Arc<ArcSwap<ServerConfig>>;

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    #[error("the certificate is no PEM")]
    Certificate(#[source] rustls::pki_types::pem::Error),
    #[error("there is no certificate in it")]
    Empty,
    #[error("the private key is no PEM of a private key")]
    Key(#[source] rustls::pki_types::pem::Error),
    #[error("certificate and key don't go together")]
    Unfit(#[from] rustls::Error),
    #[error("{0} cannot be read")]
    File(PathBuf, #[source] std::io::Error),
    #[error("the Secret has no `{0}`")]
    NoKey(&'static str),
}

/// What TLS is spoken with, given both as PEM.
pub(crate) fn configuration(
    certificate: &[u8],
    key: &[u8],
) -> Result<Arc<ServerConfig>, CertificateError> {
    let chain = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<Vec<_>, _>>()
        .map_err(CertificateError::Certificate)?;
    if chain.is_empty() {
        return Err(CertificateError::Empty);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(CertificateError::Key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut configuration = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    configuration.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(configuration))
}

/// Certificate and key, PEM.
type Pair = (Vec<u8>, Vec<u8>);

impl Source {
    /// Follows the source for ever. `current` tells what to use, from the first certificate on that can be; one that
    /// can't be is logged and counted, and changes nothing.
    pub(crate) async fn follow(
        self,
        client: Client,
        current: watch::Sender<Option<Current>>,
        counts: Arc<Counts>,
    ) {
        let mut keeper = Keeper {
            last: None,
            told: String::new(),
            current,
            counts: Arc::clone(&counts),
        };
        match self {
            Self::Files { certificate, key } => loop {
                keeper.see(read(&certificate, &key).await);
                tokio::time::sleep(LOOK).await;
            },
            Self::Secret { namespace, name } => {
                let secrets = Api::<Secret>::namespaced(client, &namespace);
                let config = Config::default().fields(&format!("metadata.name={name}"));
                let events = watches::watch(secrets, config);
                watches::follow(
                    events,
                    "certificate",
                    || counts.certificate_watch.add(),
                    |event| {
                        if let Event::InitApply(secret) | Event::Apply(secret) = event {
                            keeper.see(of(secret));
                        }
                    },
                )
                .await;
            }
        }
    }
}

async fn read(certificate: &PathBuf, key: &PathBuf) -> Result<Pair, CertificateError> {
    let read = async |path: &PathBuf| {
        let bytes = tokio::fs::read(path).await;
        bytes.map_err(|error| CertificateError::File(path.clone(), error))
    };
    Ok((read(certificate).await?, read(key).await?))
}

fn of(secret: Secret) -> Result<Pair, CertificateError> {
    let mut data = secret.data.unwrap_or_default();
    let mut take = |key: &'static str| {
        let value = data.remove(key).map(|bytes| bytes.0);
        value.ok_or(CertificateError::NoKey(key))
    };
    Ok((take("tls.crt")?, take("tls.key")?))
}

struct Keeper {
    last: Option<Pair>,
    told: String,
    current: watch::Sender<Option<Current>>,
    counts: Arc<Counts>,
}

impl Keeper {
    fn see(&mut self, pair: Result<Pair, CertificateError>) {
        let taken = pair.and_then(|pair| {
            if self.last.as_ref() == Some(&pair) {
                return Ok(None);
            }
            let configuration = configuration(&pair.0, &pair.1)?;
            self.last = Some(pair);
            Ok(Some(configuration))
        });
        match taken {
            Ok(None) => {}
            Ok(Some(configuration)) => {
                self.told.clear();
                self.counts.certificates.add();
                tracing::info!("the certificate is in use");
                let existing = self.current.borrow().clone();
                match existing {
                    Some(current) => current.store(configuration),
                    None => {
                        let current = Arc::new(ArcSwap::new(configuration));
                        self.current.send_replace(Some(current));
                    }
                }
            }
            Err(error) => {
                let text = chain(&error);
                if text != self.told {
                    self.counts.bad_certificates.add();
                    tracing::error!(error = text, "the certificate cannot be used");
                    self.told = text;
                }
            }
        }
    }
}

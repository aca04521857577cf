//! How are servers spoken to? One HTTP client for registries and URLs, with bounds on time and redirects.
//!
//! The registry protocol ([`crate::oci`]) is spoken here directly instead of through the crate `oci-client`: that one
//! reads manifests, tokens and error pages of any size into memory, which would let whoever may create a Function end
//! the operator, and drops the answers of token servers, so that one that is down couldn't be told from a wrong password.

use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, Url};
use rustls::{ClientConfig, RootCertStore};

use crate::address::Others;
use crate::error::Error;
use crate::slots::Slots;
use crate::subject::Subject;

/// Redirects that are followed.
const REDIRECTS: usize = 5;

/// How servers are spoken to.
#[derive(Debug, Clone)]
pub struct FetchOptions {
    /// Registries that are spoken to without TLS: `host` or `host:port`. Those on this machine's loopback always are.
    pub plain_http: Vec<String>,
    /// Whether this machine itself and its network link are fetched from: loopback, link-local and such addresses, and those
    /// of clouds' metadata. Where others say what is fetched, they may mean what only this process can reach. Those of
    /// `plain_http` always are.
    pub own_addresses: bool,
    /// Certificate authorities that are trusted beside this machine's own, each in DER.
    pub authorities: Vec<Vec<u8>>,
    /// The longest that connecting may take.
    pub connect: Duration,
    /// The longest that nothing may come, or go.
    pub silence: Duration,
    /// The longest that a registry may take to answer once all of an upload is sent: it checks and stores it then.
    pub storing: Duration,
    /// How long a pull or download may bring next to nothing while others wait for their turn.
    pub patience: Duration,
    /// The longest that one pull or download may take in all. A push may take as long as it goes on.
    pub deadline: Duration,
}

impl Default for FetchOptions {
    /// From anywhere; ten seconds to connect, thirty of silence, five minutes to store an upload, a minute of patience, half an hour
    /// in all.
    fn default() -> Self {
        Self {
            plain_http: Vec::new(),
            own_addresses: true,
            authorities: Vec::new(),
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            storing: Duration::from_secs(5 * 60),
            patience: Duration::from_secs(60),
            deadline: Duration::from_secs(30 * 60),
        }
    }
}

/// Fetches artifacts, and pushes them. Clones share their connections, and how much is fetched at once.
#[derive(Debug, Clone)]
pub struct Fetcher {
    pub(crate) client: Client,
    /// One that waits for as long as it takes: an upload's answer comes after its last byte only, and the other's clock
    /// runs from its first.
    pub(crate) uploads: Client,
    /// What may be reached, unless that is everything.
    others: Option<Others>,
    pub(crate) slots: Arc<Slots>,
    /// On whose behalf it fetches.
    pub(crate) whom: Arc<str>,
    pub(crate) options: Arc<FetchOptions>,
}

impl Fetcher {
    /// A client that trusts this machine's certificate authorities, those of Mozilla, and the options'. It respects the
    /// environment's `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY`.
    ///
    /// # Errors
    /// When a certificate of the options can't be read.
    pub fn new(options: FetchOptions) -> Result<Self, Error> {
        let tls = client_tls(&options.authorities).map_err(|error| Error::Client(error.into()))?;
        let others = (!options.own_addresses).then(|| Others {
            named: options.plain_http.clone(),
        });
        let builder = || {
            let may_reach = others.clone();
            let builder = Client::builder()
                .tls_backend_preconfigured(tls.clone())
                .connect_timeout(options.connect)
                .redirect(Policy::custom(move |attempt| {
                    let reached = may_reach
                        .as_ref()
                        .map_or(Ok(()), |others| others.may_reach(attempt.url()));
                    if let Err(own) = reached {
                        return attempt.error(own);
                    }
                    let was_private = attempt
                        .previous()
                        .last()
                        .is_some_and(|url| url.scheme() == "https");
                    if was_private && attempt.url().scheme() != "https" {
                        attempt.error("it redirects from https to http")
                    } else if attempt.previous().len() > REDIRECTS {
                        attempt.error("it redirects in circles")
                    } else {
                        attempt.follow()
                    }
                }))
                .referer(false)
                .user_agent(concat!("wisp/", env!("CARGO_PKG_VERSION")));
            match others.clone() {
                Some(others) => builder.dns_resolver(others),
                None => builder,
            }
        };
        let built =
            |builder: ClientBuilder| builder.build().map_err(|error| Error::Client(error.into()));
        Ok(Self {
            client: built(builder().read_timeout(options.silence))?,
            uploads: built(builder())?,
            others,
            slots: Arc::default(),
            whom: "".into(),
            options: Arc::new(options),
        })
    }

    /// The same for `whom`, a namespace, say: of what is fetched at once, one gets a part.
    #[must_use]
    pub fn on_behalf_of(&self, whom: &str) -> Self {
        Self {
            whom: whom.into(),
            ..self.clone()
        }
    }

    /// Whether this URL may be asked at all.
    pub(crate) fn may_reach(&self, url: &Url, subject: &Subject) -> Result<(), Error> {
        match &self.others {
            Some(others) => others.may_reach(url).map_err(|own| subject.refused(own)),
            None => Ok(()),
        }
    }
}

/// TLS for clients that trust this machine's certificate authorities, those of Mozilla (all there are where the machine has
/// none), and `authorities`, each in DER.
///
/// # Errors
/// When one of `authorities` can't be read.
pub fn client_tls(authorities: &[Vec<u8>]) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let native = rustls_native_certs::load_native_certs();
    // Whoever says where they are wants them. What a machine comes with may have unreadable ones among it.
    let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].map(|name| std::env::var(name).ok());
    let are_named = named.iter().any(Option::is_some);
    for error in &native.errors {
        let error = error as &dyn std::error::Error;
        if are_named {
            tracing::warn!(error, "a certificate authority is left out");
        } else {
            tracing::debug!(error, "a certificate authority of this machine is left out");
        }
    }
    let (added, _) = roots.add_parsable_certificates(native.certs);
    if are_named && added == 0 {
        let [file, folder] = named.map(Option::unwrap_or_default);
        tracing::error!(
            "no certificate authority is in SSL_CERT_FILE ({file:?}) and SSL_CERT_DIR ({folder:?}): only Mozilla's are trusted"
        );
    }
    for authority in authorities {
        roots.add(authority.clone().into())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

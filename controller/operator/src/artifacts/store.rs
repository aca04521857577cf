//! The artifact store on this machine's disk.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use futures::future::BoxFuture;
use wisp_artifacts::{
    Apart, Compiled, Compiler, Cpu, Error, FetchOptions, Fetcher, Kind, Limits, Prepared,
    Reference, Store,
};
use wisp_contract::assignment::{Facts, Wasi};
use wisp_contract::model_file::check_whole;

use super::admit::{admit, logins};
use super::others::Others;
use super::{ArtifactError, Artifacts, Code, Figures, Origin, Source, Stage, Stored, Trials, Whom};
use crate::metrics::Metrics;
use crate::signatures::Policy;

/// The largest component.
const LARGEST_COMPONENT: u64 = 128 << 20;
/// The largest model.
const LARGEST_MODEL: u64 = 2 << 30;
/// Under which key it is noted what is known of models.
const TRIALS: &str = "trials.json";

/// The artifact store on this machine's disk, and what fills it.
#[derive(Debug)]
pub struct StoreArtifacts {
    store: Store,
    fetcher: Fetcher,
    compiler: Compiler,
    others: Others,
    policy: Policy,
    metrics: Arc<Metrics>,
}

/// What a source holds, in the store.
struct Fetched {
    sha256: String,
    length: u64,
    pinned: Option<String>,
}

impl StoreArtifacts {
    /// The store in `folder`, of at most `capacity` bytes, of which each namespace may have `share`. `plain_http` names
    /// registries that are spoken to without TLS, `policy` says whose signatures are demanded, `cpu` what processors most nodes
    /// have: this one's level where that isn't given. Components are prepared `apart`: whoever may make Functions says what is
    /// initialised and compiled, and could take all of this process's memory; without it they are in this process.
    ///
    /// # Errors
    /// When the folder can't be used, or no HTTPS client can be made.
    pub fn open(
        folder: &Path,
        capacity: u64,
        share: Option<u64>,
        plain_http: Vec<String>,
        policy: Policy,
        cpu: Option<Cpu>,
        apart: Option<Apart>,
    ) -> Result<Self, Error> {
        let store = Store::shared(folder, capacity, share)?;
        let options = FetchOptions {
            plain_http,
            // Whoever may make Functions says what is fetched.
            own_addresses: false,
            ..FetchOptions::default()
        };
        let first = cpu.unwrap_or_else(Cpu::here);
        let (stored, limits) = (store.clone(), Limits::default());
        let compiler = match apart {
            Some(apart) => Compiler::apart(stored, limits, first, apart),
            None => Compiler::new(stored, limits, first),
        };
        Ok(Self {
            fetcher: Fetcher::new(options)?,
            others: Others::new(compiler.clone(), first, cpu.is_some()),
            compiler,
            store,
            policy,
            metrics: Arc::default(),
        })
    }

    /// Counts in `metrics` how long what takes.
    #[must_use]
    pub fn counting(self, metrics: Arc<Metrics>) -> Self {
        Self { metrics, ..self }
    }

    /// Prepares a component for `whom`, or finds it prepared.
    async fn prepare(&self, whom: Whom<'_>, sha256: &str) -> Result<Prepared, Error> {
        if let Some(prepared) = self.compiler.prepared(sha256).await? {
            return Ok(prepared);
        }
        (whom.told)(Stage::Preparing);
        let began = Instant::now();
        let compiler = &self.compiler;
        let prepared = compiler.prepare_for(whom.namespace, sha256).await?;
        self.metrics.prepared(began.elapsed());
        Ok(prepared)
    }

    async fn fetch(
        &self,
        namespace: &str,
        source: Source,
        known: Option<String>,
        kind: Kind,
    ) -> Result<Fetched, Error> {
        if let Some(sha256) = known
            && let Some((_, length)) = self.store.find(&sha256).await?
        {
            let stored = wisp_artifacts::Stored { sha256, length };
            let store = self.store.on_behalf_of(namespace);
            store.claim(&called(&source), &stored).await?;
            return Ok(Fetched {
                sha256: stored.sha256,
                length,
                pinned: None,
            });
        }
        let began = Instant::now();
        let fetched = self.fetch_anew(namespace, source, kind).await?;
        self.metrics.fetched(began.elapsed());
        Ok(fetched)
    }

    async fn fetch_anew(
        &self,
        namespace: &str,
        source: Source,
        kind: Kind,
    ) -> Result<Fetched, Error> {
        let fetcher = self.fetcher.on_behalf_of(namespace);
        let (store, what) = (self.store.on_behalf_of(namespace), called(&source));
        let limit = match kind {
            Kind::Component => LARGEST_COMPONENT,
            Kind::Model => LARGEST_MODEL,
        };
        let fetched = match source {
            Source::Image {
                reference,
                credentials,
                sha256,
            } => {
                let image: Reference = reference.parse()?;
                let logins = logins(&credentials)?;
                let pulled = fetcher.pull(&image, kind, &logins, &store, limit).await?;
                expect(&reference, sha256, &pulled.sha256)?;
                Fetched {
                    sha256: pulled.sha256,
                    length: pulled.length,
                    pinned: Some(image.pinned(&pulled.manifest).to_string()),
                }
            }
            Source::Url { url, sha256 } => {
                let stored = fetcher.download(&url, &sha256, &store, limit).await?;
                Fetched {
                    sha256: stored.sha256,
                    length: stored.length,
                    pinned: None,
                }
            }
            Source::Bytes {
                what,
                bytes,
                sha256,
            } => {
                let stored = store.put(bytes).await?;
                expect(&what, sha256, &stored.sha256)?;
                Fetched {
                    sha256: stored.sha256,
                    length: stored.length,
                    pinned: None,
                }
            }
        };
        // It may have been here before.
        let stored = wisp_artifacts::Stored {
            sha256: fetched.sha256.clone(),
            length: fetched.length,
        };
        store.claim(&what, &stored).await?;
        Ok(fetched)
    }
}

pub(super) fn code(compiled: Compiled) -> Code {
    let footprint = compiled.footprint;
    Code {
        engine: compiled.engine,
        sha256: compiled.sha256,
        facts: Facts {
            wasi: match compiled.wasi {
                wisp_artifacts::Wasi::P2 => Wasi::P2,
                wisp_artifacts::Wasi::P3 => Wasi::P3,
            },
            core_instances: footprint.core_instances,
            memories: footprint.memories,
            tables: footprint.tables,
            asks_models: compiled.asks_models,
        },
    }
}

fn expect(what: &str, expected: Option<String>, found: &str) -> Result<(), Error> {
    match expected {
        Some(expected) if expected != found => Err(Error::DigestMismatch {
            what: what.to_owned(),
            expected,
            found: found.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// What a model is called in errors.
fn called(source: &Source) -> String {
    match source {
        Source::Image { reference, .. } => reference.clone(),
        Source::Url { url, .. } => url.clone(),
        Source::Bytes { what, .. } => what.clone(),
    }
}

impl StoreArtifacts {
    /// Refuses what is no model, before a replica has to.
    async fn check_model(&self, what: &str, sha256: &str) -> Result<(), ArtifactError> {
        let Some((mut file, length)) = self.store.find(sha256).await? else {
            return Ok(());
        };
        let checked = tokio::task::spawn_blocking(move || check_whole(&mut file, length)).await;
        let found = checked.map_err(std::io::Error::other).and_then(|read| read);
        match found {
            Ok(Ok(())) => Ok(()),
            Ok(Err(found)) => Err(ArtifactError {
                reason: "NotModel",
                message: format!("{what} is {found}"),
                is_transient: false,
                retry_after: None,
            }),
            Err(error) => Err(ArtifactError {
                reason: "StoreFailed",
                message: format!("{what} can't be read in the store: {error}"),
                is_transient: true,
                retry_after: None,
            }),
        }
    }
}

/// Says what to do with a model that is too large.
fn of_model(error: Error) -> ArtifactError {
    let is_too_large = matches!(error, Error::TooLarge { .. });
    let mut error = ArtifactError::from(error);
    if is_too_large {
        error.message.push_str(": a model of more than 2 GiB isn't fetched; nodes read it from an imageVolume or a persistentVolumeClaim");
    }
    error
}

impl From<Error> for ArtifactError {
    fn from(error: Error) -> Self {
        let mut message = error.sentence();
        match error {
            Error::StoreFull { .. } => {
                message
                    .push_str("; `operator.store.size` of the chart (WISP_STORE_SIZE) is how many");
            }
            Error::ShareFull { .. } => message.push_str(
                "; `operator.store.namespaceSize` of the chart (WISP_STORE_NAMESPACE_SIZE) is how many",
            ),
            _ => {}
        }
        Self {
            reason: error.reason(),
            message,
            is_transient: error.is_transient(),
            retry_after: error.retry_after(),
        }
    }
}

impl Artifacts for StoreArtifacts {
    fn admit<'a>(
        &'a self,
        namespace: &'a str,
        origin: Origin<'a>,
    ) -> BoxFuture<'a, Result<Option<String>, ArtifactError>> {
        let (fetcher, store) = (&self.fetcher, &self.store);
        Box::pin(admit(&self.policy, namespace, origin, fetcher, store))
    }

    fn component<'a>(
        &'a self,
        whom: Whom<'a>,
        source: Source,
        known: Option<String>,
    ) -> BoxFuture<'a, Result<Stored, ArtifactError>> {
        Box::pin(async move {
            let fetched = self
                .fetch(whom.namespace, source, known, Kind::Component)
                .await?;
            (whom.came)(&fetched.sha256);
            let prepared = self.prepare(whom, &fetched.sha256).await?;
            for caution in &prepared.cautions {
                tracing::info!(
                    component = fetched.sha256,
                    caution,
                    "a caution on a component"
                );
            }
            let memory = prepared.memory;
            let mut compiled = vec![code(prepared.compiled)];
            compiled.extend(self.others.of(&prepared.component).await);
            Ok(Stored {
                source: fetched.sha256,
                size: fetched.length,
                sha256: prepared.component,
                pinned: fetched.pinned,
                compiled,
                memory,
            })
        })
    }

    fn model<'a>(
        &'a self,
        namespace: &'a str,
        source: Source,
        known: Option<String>,
    ) -> BoxFuture<'a, Result<Stored, ArtifactError>> {
        Box::pin(async move {
            let what = called(&source);
            let fetched = self
                .fetch(namespace, source, known, Kind::Model)
                .await
                .map_err(of_model)?;
            self.check_model(&what, &fetched.sha256).await?;
            Ok(Stored {
                source: fetched.sha256.clone(),
                size: fetched.length,
                sha256: fetched.sha256,
                pinned: fetched.pinned,
                compiled: Vec::new(),
                memory: 0,
            })
        })
    }

    fn learn(&self, cpu: Cpu) -> bool {
        self.others.learn(cpu)
    }

    fn knows(&self, cpu: Cpu) -> bool {
        self.others.knows(cpu)
    }

    fn more(&self) -> BoxFuture<'_, String> {
        Box::pin(self.others.more())
    }

    fn trials(&self) -> BoxFuture<'_, Trials> {
        Box::pin(async { self.store.noted(TRIALS).await.unwrap_or_default() })
    }

    fn note_trials(&self, trials: Trials) -> BoxFuture<'_, Result<(), ArtifactError>> {
        Box::pin(async move { Ok(self.store.note(TRIALS, &trials).await?) })
    }

    fn open<'a>(
        &'a self,
        sha256: &'a str,
    ) -> BoxFuture<'a, Result<Option<(File, u64)>, ArtifactError>> {
        Box::pin(async move { Ok(self.store.find(sha256).await?) })
    }

    fn hurry(&self, sha256: &str) {
        self.compiler.hurry(sha256);
    }

    fn figures(&self) -> BoxFuture<'_, Result<Figures, ArtifactError>> {
        Box::pin(async move {
            Ok(Figures {
                usage: self.store.usage().await?,
                waiting: self.compiler.waiting(),
            })
        })
    }

    fn hold(&self, owner: &str, digests: Vec<String>) {
        self.store.hold(owner, digests);
    }

    fn release(&self, owner: &str) {
        self.store.release(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if who has a model that is too large to be fetched weren't told where else it may be.
    #[test]
    fn what_is_too_large_is_told_with_a_way() {
        let too_large = |limit| Error::TooLarge {
            what: "r/m:1".to_owned(),
            limit,
        };
        let error = of_model(too_large(LARGEST_MODEL));
        assert_eq!(error.reason, "TooLarge");
        for part in ["r/m:1", "2 GiB", "imageVolume", "persistentVolumeClaim"] {
            assert!(error.message.contains(part), "{error}");
        }
        let other = of_model(Error::Thread);
        assert_eq!(other, Error::Thread.into());
    }

    /// Would fail if what was here before went before the one that it was found for could hold it.
    #[tokio::test]
    async fn what_is_found_stays_until_it_can_be_held() {
        let folder = tempfile::tempdir().unwrap();
        let before = Store::open(folder.path(), 10).unwrap();
        let stored = before.put(&b"model"[..]).await.unwrap();
        let policy = Policy::default();
        let opened = StoreArtifacts::open(folder.path(), 10, None, vec![], policy, None, None);
        let artifacts = opened.unwrap();
        let source = Source::Url {
            url: "http://127.0.0.1:1/m".to_owned(),
            sha256: stored.sha256.clone(),
        };
        let known = Some(stored.sha256.clone());
        let found = artifacts.fetch("shop", source, known, Kind::Model).await;
        assert_eq!(found.unwrap().length, 5);
        let error = artifacts.store.put(&b"others"[..]).await.unwrap_err();
        assert_eq!(error.reason(), "StoreFull");
    }
}

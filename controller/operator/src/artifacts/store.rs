//! The artifact store on this machine's disk.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use wisp_artifacts::{
    Compiled, Compiler, Cpu, Error, FetchOptions, Fetcher, Kind, Reference, Store,
};
use wisp_contract::assignment::{Facts, Wasi};
use wisp_contract::model_file::check_whole;

use super::admit::{admit, logins};
use super::{ArtifactError, Artifacts, Code, Origin, Source, Stored};
use crate::live::lock;
use crate::signatures::Policy;

/// The largest component.
const LARGEST_COMPONENT: u64 = 128 << 20;
/// The largest model.
const LARGEST_MODEL: u64 = 2 << 30;

/// The artifact store on this machine's disk, and what fills it.
#[derive(Debug, Clone)]
pub struct StoreArtifacts {
    store: Store,
    fetcher: Fetcher,
    /// One for each level of processors that replicas are known to have; what components are compiled for from the
    /// start comes first.
    compilers: Arc<Mutex<Vec<(Cpu, Compiler)>>>,
    /// Whether somebody said what comes first: nothing is compiled for more.
    is_given: bool,
    policy: Policy,
}

/// What a source holds, in the store.
struct Fetched {
    sha256: String,
    length: u64,
    pinned: Option<String>,
}

impl StoreArtifacts {
    /// The store in `folder`, of at most `capacity` bytes. `plain_http` names registries that are spoken to without TLS,
    /// `policy` says whose signatures are demanded, `cpu` what processors most nodes have: this one's level where that isn't
    /// given.
    ///
    /// # Errors
    /// When the folder can't be used, or no HTTPS client can be made.
    pub fn open(
        folder: &Path,
        capacity: u64,
        plain_http: Vec<String>,
        policy: Policy,
        cpu: Option<Cpu>,
    ) -> Result<Self, Error> {
        let store = Store::open(folder, capacity)?;
        let options = FetchOptions {
            plain_http,
            ..FetchOptions::default()
        };
        let first = cpu.unwrap_or_else(Cpu::here);
        let compiler = Compiler::new(store.clone(), Default::default(), first);
        Ok(Self {
            fetcher: Fetcher::new(options)?,
            compilers: Arc::new(Mutex::new(vec![(first, compiler)])),
            is_given: cpu.is_some(),
            store,
            policy,
        })
    }

    async fn fetch(
        &self,
        source: Source,
        known: Option<String>,
        kind: Kind,
        limit: u64,
    ) -> Result<Fetched, Error> {
        if let Some(sha256) = known
            && let Some((_, length)) = self.store.find(&sha256).await?
        {
            return Ok(Fetched {
                sha256,
                length,
                pinned: None,
            });
        }
        match source {
            Source::Image {
                reference,
                credentials,
                sha256,
            } => {
                let image: Reference = reference.parse()?;
                let logins = logins(&credentials)?;
                let pulled = self
                    .fetcher
                    .pull(&image, kind, &logins, &self.store, limit)
                    .await?;
                expect(&reference, sha256, &pulled.sha256)?;
                Ok(Fetched {
                    sha256: pulled.sha256,
                    length: pulled.length,
                    pinned: Some(image.pinned(&pulled.manifest).to_string()),
                })
            }
            Source::Url { url, sha256 } => {
                let stored = self
                    .fetcher
                    .download(&url, &sha256, &self.store, limit)
                    .await?;
                Ok(Fetched {
                    sha256: stored.sha256,
                    length: stored.length,
                    pinned: None,
                })
            }
            Source::Bytes {
                what,
                bytes,
                sha256,
            } => {
                let stored = self.store.put(bytes).await?;
                expect(&what, sha256, &stored.sha256)?;
                Ok(Fetched {
                    sha256: stored.sha256,
                    length: stored.length,
                    pinned: None,
                })
            }
        }
    }
}

fn code(compiled: Compiled) -> Code {
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
    /// What components are compiled by first.
    fn first(&self) -> Result<Compiler, ArtifactError> {
        let compilers = lock(&self.compilers);
        let first = compilers.first().map(|(_, compiler)| compiler.clone());
        first.ok_or_else(|| Error::Thread.into())
    }

    /// The machine code of a component that was initialised, for all other processors. Who lacks it compiles for itself.
    async fn others(&self, component: &str) -> Vec<Code> {
        let others: Vec<_> = lock(&self.compilers).iter().skip(1).cloned().collect();
        let mut all = Vec::new();
        for (cpu, compiler) in others {
            match compiler.prepare(component).await {
                Ok(prepared) if prepared.component == component => {
                    all.push(code(prepared.compiled));
                }
                Ok(_) => {
                    tracing::warn!(component, %cpu, "the component is another once it is initialised anew")
                }
                Err(error) => {
                    tracing::warn!(component, %cpu, error = error.sentence(), "the component isn't compiled for all processors")
                }
            }
        }
        all
    }

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
            }),
            Err(error) => Err(ArtifactError {
                reason: "StoreFailed",
                message: format!("{what} can't be read in the store: {error}"),
                is_transient: true,
            }),
        }
    }
}

impl From<Error> for ArtifactError {
    fn from(error: Error) -> Self {
        Self {
            reason: error.reason(),
            message: error.sentence(),
            is_transient: error.is_transient(),
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

    fn component(
        &self,
        source: Source,
        known: Option<String>,
    ) -> BoxFuture<'_, Result<Stored, ArtifactError>> {
        Box::pin(async move {
            let fetched = self
                .fetch(source, known, Kind::Component, LARGEST_COMPONENT)
                .await?;
            let prepared = self.first()?.prepare(&fetched.sha256).await?;
            for caution in &prepared.cautions {
                tracing::info!(
                    component = fetched.sha256,
                    caution,
                    "a caution on a component"
                );
            }
            let mut compiled = vec![code(prepared.compiled)];
            compiled.extend(self.others(&prepared.component).await);
            Ok(Stored {
                source: fetched.sha256,
                size: fetched.length,
                sha256: prepared.component,
                pinned: fetched.pinned,
                compiled,
            })
        })
    }

    fn model(
        &self,
        source: Source,
        known: Option<String>,
    ) -> BoxFuture<'_, Result<Stored, ArtifactError>> {
        Box::pin(async move {
            let what = called(&source);
            let fetched = self
                .fetch(source, known, Kind::Model, LARGEST_MODEL)
                .await?;
            self.check_model(&what, &fetched.sha256).await?;
            Ok(Stored {
                source: fetched.sha256.clone(),
                size: fetched.length,
                sha256: fetched.sha256,
                pinned: fetched.pinned,
                compiled: Vec::new(),
            })
        })
    }

    fn learn(&self, cpu: Cpu) -> bool {
        let mut compilers = lock(&self.compilers);
        let known: Vec<Cpu> = compilers.iter().map(|(known, _)| *known).collect();
        let is_worthwhile = is_worthwhile(cpu, &known, self.is_given);
        if let Some((_, compiler)) = compilers.first().filter(|_| is_worthwhile) {
            let compiler = compiler.for_cpu(cpu);
            compilers.push((cpu, compiler));
        }
        is_worthwhile
    }

    fn open<'a>(
        &'a self,
        sha256: &'a str,
    ) -> BoxFuture<'a, Result<Option<(File, u64)>, ArtifactError>> {
        Box::pin(async move { Ok(self.store.find(sha256).await?) })
    }

    fn hold(&self, owner: &str, digests: Vec<String>) {
        self.store.hold(owner, digests);
    }

    fn release(&self, owner: &str) {
        self.store.release(owner);
    }
}

/// Whether to compile for `cpu` beside those `known`, the first of which was chosen, or `is_given` by somebody.
fn is_worthwhile(cpu: Cpu, known: &[Cpu], is_given: bool) -> bool {
    let Some(first) = known.first() else {
        return false;
    };
    // Nobody compiles for another family.
    let is_of_family = cpu != Cpu::Native && *first != Cpu::Native;
    let is_excluded = is_given && cpu > *first;
    is_of_family && !is_excluded && !known.contains(&cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if code were compiled for what nobody has, for what somebody excluded, or not for who has less.
    #[test]
    fn code_is_compiled_for_processors_that_were_told_and_not_excluded() {
        use Cpu::{Native, X86_64V2, X86_64V3};
        for (cpu, known, is_given, expected) in [
            (X86_64V2, &[X86_64V3][..], false, true),
            (X86_64V2, &[X86_64V3], true, true),
            (X86_64V3, &[X86_64V2], false, true),
            (X86_64V3, &[X86_64V2], true, false),
            (X86_64V2, &[X86_64V3, X86_64V2], false, false),
            (X86_64V3, &[X86_64V3], false, false),
            (Native, &[X86_64V3], false, false),
            (X86_64V2, &[Native], false, false),
        ] {
            let is_worthwhile = is_worthwhile(cpu, known, is_given);
            assert_eq!(
                is_worthwhile, expected,
                "{cpu} beside {known:?}, {is_given}"
            );
        }
    }
}

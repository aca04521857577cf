//! From a stored component to what replicas run: its initialisation runs once, here, and it is compiled to machine code
//! for the hosts' engines. Both results go into the same store.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use wisp_engine::preinit::{self, Outcome, preinit};
use wisp_engine::{
    Cpu, Engines, Footprint, Inspection, Loader, Wasi, cache::Source, compatibility,
};

use crate::error::Error;
use crate::store::Store;

/// The most bytes of a component that is compiled.
pub(crate) const LARGEST: u64 = 256 << 20;

/// Prepares components, one at a time: compiling takes all the processors there are.
#[derive(Debug, Clone)]
pub struct Compiler {
    store: Store,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    engines: Engines,
    limits: preinit::Limits,
    turn: Arc<Semaphore>,
}

/// A component that was prepared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prepared {
    /// What hosts run: the SHA-256 of the component after its initialisation, in lower-case hex. It is that of the
    /// source where nothing had to be done.
    pub component: String,
    /// How many bytes that has.
    pub length: u64,
    /// The same as machine code.
    pub compiled: Compiled,
    /// The handler that it exports, such as `wasi:http/incoming-handler@0.2.4`.
    pub handler: String,
    /// Sentences for whoever deployed it: on imports that are of little use, on an initialisation that every instance
    /// has to run itself.
    pub cautions: Vec<String>,
}

/// A component's machine code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Compiled {
    /// The engine it fits, as [`wisp_engine::compatibility`] names it.
    pub engine: String,
    /// The SHA-256 of the machine code, in lower-case hex.
    pub sha256: String,
    /// How many bytes it has.
    pub length: u64,
    /// The version of WASI that the component serves HTTP by.
    pub wasi: Wasi,
    /// What one instance of the component is made of.
    pub footprint: Footprint,
    /// Whether the component imports `wasi:nn`.
    pub asks_models: bool,
}

impl Prepared {
    /// What of the store it consists of, for [`Store::hold`].
    #[must_use]
    pub fn digests(&self) -> Vec<String> {
        vec![self.component.clone(), self.compiled.sha256.clone()]
    }
}

impl Compiler {
    /// A compiler from and to `store`, for machines of the level `cpu` and above. `limits` bound what a component's
    /// initialisation may use.
    #[must_use]
    pub fn new(store: Store, limits: preinit::Limits, cpu: Cpu) -> Self {
        Self::with_turn(store, limits, cpu, Arc::new(Semaphore::new(1)))
    }

    /// One for machines of the level `cpu`. The two take turns.
    #[must_use]
    pub fn for_cpu(&self, cpu: Cpu) -> Self {
        let turn = Arc::clone(&self.inner.turn);
        Self::with_turn(self.store.clone(), self.inner.limits, cpu, turn)
    }

    fn with_turn(store: Store, limits: preinit::Limits, cpu: Cpu, turn: Arc<Semaphore>) -> Self {
        Self {
            store,
            inner: Arc::new(Inner {
                engines: Engines::for_cpu(cpu),
                limits,
                turn,
            }),
        }
    }

    /// What [`Compiler::prepare`] gave for `source` before, where the store still has all of it.
    ///
    /// # Errors
    /// When the store can't be read, or this machine can't make the engines.
    pub async fn prepared(&self, source: &str) -> Result<Option<Prepared>, Error> {
        self.noted(&self.key(source)?).await
    }

    /// Prepares the component `source` (its SHA-256, in lower-case hex) of the store. What was prepared before, by
    /// whatever process of the same version for the same level, is not prepared again.
    ///
    /// # Errors
    /// When the store lacks the component, no host would serve it, its initialisation fails or it doesn't compile.
    pub async fn prepare(&self, source: &str) -> Result<Prepared, Error> {
        let key = self.key(source)?;
        if let Some(prepared) = self.noted(&key).await? {
            return Ok(prepared);
        }
        let turn = Arc::clone(&self.inner.turn).acquire_owned().await;
        let turn = turn.map_err(|_| Error::Thread)?;
        // Whoever had the turn before may have wanted the same.
        if let Some(prepared) = self.noted(&key).await? {
            return Ok(prepared);
        }
        let (this, source) = (self.clone(), source.to_owned());
        // In a task of its own: a compiler can't be stopped, so it keeps its turn, and what it makes is of use, whether or not
        // anybody still waits.
        let making = tokio::spawn(async move {
            let made = this.make(&key, &source).await;
            drop(turn);
            made
        });
        making.await.map_err(|_| Error::Thread)?
    }

    async fn make(&self, key: &str, source: &str) -> Result<Prepared, Error> {
        let bytes = self.store.read(source, LARGEST).await?;
        let inner = Arc::clone(&self.inner);
        let work = tokio::task::spawn_blocking(move || inner.prepare(&bytes));
        let made = work.await.map_err(|_| Error::Thread)??;
        let component = self.store.put(made.component).await?;
        let code = self.store.put(made.code).await?;
        let prepared = Prepared {
            component: component.sha256,
            length: component.length,
            compiled: Compiled {
                engine: made.engine,
                sha256: code.sha256,
                length: code.length,
                wasi: made.inspection.wasi,
                footprint: made.inspection.footprint,
                asks_models: made.inspection.asks_models(),
            },
            handler: made.inspection.handler,
            cautions: made.cautions,
        };
        self.store.note(key, &prepared).await?;
        Ok(prepared)
    }

    /// What was noted, where all of it is still there.
    async fn noted(&self, key: &str) -> Result<Option<Prepared>, Error> {
        let Some(prepared) = self.store.noted::<Prepared>(key).await else {
            return Ok(None);
        };
        for digest in prepared.digests() {
            if !self.store.has(&digest).await? {
                return Ok(None);
            }
        }
        Ok(Some(prepared))
    }

    /// What decides the result: the component, the engines, and this version.
    fn key(&self, source: &str) -> Result<String, Error> {
        let engines = &self.inner.engines;
        let (p2, p3) = (
            compatibility(engines.get(Wasi::P2)?),
            compatibility(engines.get(Wasi::P3)?),
        );
        let version = env!("CARGO_PKG_VERSION");
        Ok(format!("{source}-{p2}-{p3}-{version}.json"))
    }
}

struct Made {
    component: Vec<u8>,
    code: Vec<u8>,
    engine: String,
    inspection: Inspection,
    cautions: Vec<String>,
}

impl Inner {
    fn prepare(&self, bytes: &[u8]) -> Result<Made, Error> {
        let initialised = preinit(bytes, &self.limits).map_err(Error::Init)?;
        let source = Source::from_bytes(initialised.component).map_err(Error::Component)?;
        let code = Loader::compile(&source, &self.engines).map_err(Error::Compile)?;
        let inspection = source.inspection();
        let mut cautions = inspection.cautions.clone();
        if let Outcome::Plain(why) = &initialised.outcome {
            cautions.push(format!(
                "the initialisation runs in every instance, because {why}"
            ));
        }
        Ok(Made {
            engine: compatibility(self.engines.get(inspection.wasi)?),
            inspection: inspection.clone(),
            cautions,
            code,
            component: source.bytes().to_vec(),
        })
    }
}

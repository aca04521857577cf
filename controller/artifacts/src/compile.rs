//! From a stored component to what replicas run: its initialisation runs once, and it is compiled to machine code for the
//! hosts' engines. Both results go into the same store. Where whoever deploys is not to be trusted with this process's
//! memory and time, all of that happens [apart](Apart), in a process of its own.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use wisp_engine::preinit::{self, Outcome, preinit};
use wisp_engine::{Cpu, Engines, Footprint, Loader, Wasi, cache::Source, compatibility};

use crate::error::Error;
use crate::store::{FAILED, Store, Stored, is_full};

mod apart;
mod child;
mod failure;
mod turns;

pub use apart::Apart;
pub use child::Job;
use failure::Failure;
use turns::Turns;

/// The most bytes of a component that is compiled.
pub(crate) const LARGEST: u64 = 256 << 20;
/// The most bytes of a component's machine code.
const LARGEST_CODE: u64 = 1 << 30;

/// The most cautions that are told of a component's imports, and the most bytes of each: they may be many, and have long names.
const CAUTIONS: (usize, usize) = (64, 1024);

/// Prepares components, one at a time: compiling takes all the processors there are. Those that a replica waits for come first,
/// and who has many takes turns with others.
#[derive(Debug, Clone)]
pub struct Compiler {
    store: Store,
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    engines: Engines,
    cpu: Cpu,
    bounds: Bounds,
    turns: Arc<Turns>,
}

/// What one component may use.
#[derive(Debug, Clone)]
struct Bounds {
    init: preinit::Limits,
    /// Where it is prepared; `None`: in this process, as long as it takes.
    apart: Option<Apart>,
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
    /// How many bytes of linear memory an instance begins with.
    pub memory: u64,
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
    /// A compiler from and to `store`, for machines of the level `cpu` and above, in this process. `limits` bound what a
    /// component's initialisation may use; nothing bounds what compiling takes.
    #[must_use]
    pub fn new(store: Store, limits: preinit::Limits, cpu: Cpu) -> Self {
        let bounds = Bounds {
            init: limits,
            apart: None,
        };
        Self::with_turns(store, bounds, cpu, Arc::default())
    }

    /// The same, which has each component prepared in a process of its own.
    #[must_use]
    pub fn apart(store: Store, limits: preinit::Limits, cpu: Cpu, apart: Apart) -> Self {
        let bounds = Bounds {
            init: limits,
            apart: Some(apart),
        };
        Self::with_turns(store, bounds, cpu, Arc::default())
    }

    /// One for machines of the level `cpu`. The two take turns.
    #[must_use]
    pub fn for_cpu(&self, cpu: Cpu) -> Self {
        let (bounds, turns) = (self.inner.bounds.clone(), Arc::clone(&self.inner.turns));
        Self::with_turns(self.store.clone(), bounds, cpu, turns)
    }

    fn with_turns(store: Store, bounds: Bounds, cpu: Cpu, turns: Arc<Turns>) -> Self {
        Self {
            store,
            inner: Arc::new(Inner {
                engines: Engines::for_cpu(cpu),
                cpu,
                bounds,
                turns,
            }),
        }
    }

    /// Somebody waits for `sha256`, which the store doesn't have: what it is made of, by those who hold it, is prepared before
    /// all else.
    pub fn hurry(&self, sha256: &str) {
        self.inner.turns.hurry(self.store.held_beside(sha256));
    }

    /// How many wait for their turn.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.inner.turns.waiting()
    }

    /// What [`Compiler::prepare`] gave for `source` before, where the store still has all of it.
    ///
    /// # Errors
    /// When the store can't be read, or this machine can't make the engines.
    pub async fn prepared(&self, source: &str) -> Result<Option<Prepared>, Error> {
        self.noted(&self.key(source)?).await
    }

    /// Prepares the component `source` (its SHA-256, in lower-case hex) of the store. What was prepared before, by
    /// whatever process of the same version for the same level, is not prepared again; nor, for a while, is what failed and
    /// will fail again.
    ///
    /// # Errors
    /// When the store lacks the component, no host would serve it, its initialisation fails, it doesn't compile, or that
    /// takes more than it may.
    pub async fn prepare(&self, source: &str) -> Result<Prepared, Error> {
        self.prepare_for("", source).await
    }

    /// The same, for `whom`: where many wait, everybody has a turn after the other, however many are one's own.
    ///
    /// # Errors
    /// As [`Compiler::prepare`].
    pub async fn prepare_for(&self, whom: &str, source: &str) -> Result<Prepared, Error> {
        let key = self.key(source)?;
        if let Some(prepared) = self.known(&key).await? {
            return Ok(prepared);
        }
        let turn = self.inner.turns.take(whom, source).await;
        // Whoever had the turn before may have wanted the same.
        if let Some(prepared) = self.known(&key).await? {
            return Ok(prepared);
        }
        let (this, source) = (self.clone(), source.to_owned());
        // In a task of its own, which keeps its turn: what it makes is of use, whether or not anybody still waits. A compiler
        // in this process can't be stopped at all; one in another ends with this task, or when its time is over.
        let making = tokio::spawn(async move {
            let made = this.make(&key, &source).await;
            if let Err(error) = &made {
                this.note_failure(&key, error).await;
            }
            drop(turn);
            made
        });
        making.await.map_err(|_| Error::Thread)?
    }

    async fn make(&self, key: &str, source: &str) -> Result<Prepared, Error> {
        let (facts, component, code) = match &self.inner.bounds.apart {
            None => self.here(source).await?,
            Some(apart) => self.elsewhere(apart, source).await?,
        };
        let prepared = Prepared {
            component: component.sha256,
            length: component.length,
            compiled: Compiled {
                engine: facts.engine,
                sha256: code.sha256,
                length: code.length,
                wasi: facts.wasi,
                footprint: facts.footprint,
                asks_models: facts.asks_models,
            },
            handler: facts.handler,
            memory: facts.memory,
            cautions: facts.cautions,
        };
        self.store.note(key, &prepared).await?;
        Ok(prepared)
    }

    async fn here(&self, source: &str) -> Result<(Facts, Stored, Stored), Error> {
        let bytes = self.store.read(source, LARGEST).await?;
        let inner = Arc::clone(&self.inner);
        let work = tokio::task::spawn_blocking(move || {
            prepare(&bytes, &inner.engines, &inner.bounds.init)
        });
        let made = work.await.map_err(|_| Error::Thread)??;
        let component = self.store.put(made.component).await?;
        let code = self.store.put(made.code).await?;
        Ok((made.facts, component, code))
    }

    async fn elsewhere(
        &self,
        apart: &Apart,
        source: &str,
    ) -> Result<(Facts, Stored, Stored), Error> {
        let missing = || Error::Missing {
            sha256: source.to_owned(),
        };
        let (_, length) = self.store.find(source).await?.ok_or_else(missing)?;
        if length > LARGEST {
            return Err(Error::TooLarge {
                what: format!("the artifact sha256:{source}"),
                limit: LARGEST,
            });
        }
        // Removed with all that is in it, however this ends.
        let folder = self.store.scratch().await?;
        let job = Job::new(
            self.store.path(source),
            folder.path(),
            self.inner.cpu,
            &self.inner.bounds.init,
            apart.memory,
        );
        let made = apart.run(&job).await;
        if made.as_ref().is_err_and(wants_room) {
            // What it writes doesn't count as the store's, and is on the same disk.
            self.store.relieve().await;
        }
        let facts = made?;
        let component = job.component();
        let component = if component.exists() {
            self.store.take(&component, LARGEST).await?
        } else {
            Stored {
                sha256: source.to_owned(),
                length,
            }
        };
        let code = self.store.take(&job.code(), LARGEST_CODE).await?;
        Ok((facts, component, code))
    }

    /// What came of the same before, a failure too.
    async fn known(&self, key: &str) -> Result<Option<Prepared>, Error> {
        if let Some(prepared) = self.noted(key).await? {
            return Ok(Some(prepared));
        }
        let failure: Option<Failure> = self.store.noted(&self.failure_key(key)).await;
        match failure.filter(|failure| failure.holds(SystemTime::now())) {
            Some(failure) => Err(failure.error()),
            None => Ok(None),
        }
    }

    /// Notes what will fail again, so that it doesn't take the turn from others again and again.
    async fn note_failure(&self, key: &str, error: &Error) {
        if error.is_transient() {
            return;
        }
        let key = self.failure_key(key);
        let before: Option<Failure> = self.store.noted(&key).await;
        let failure = Failure::of(error, before.as_ref(), SystemTime::now());
        if let Err(error) = self.store.note(&key, &failure).await {
            tracing::warn!(error = error.sentence(), "a failure can't be noted");
        }
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

    /// Under what a failure is noted: with other bounds it may be none.
    fn failure_key(&self, key: &str) -> String {
        let Bounds { init, apart } = &self.inner.bounds;
        let (memory, timeout) = apart
            .as_ref()
            .map_or((0, 0), |apart| (apart.memory, apart.timeout.as_millis()));
        let of_init = init.timeout.as_millis();
        let (most, largest) = (init.memory, init.component);
        format!("{FAILED}{memory}-{timeout}-{of_init}-{most}-{largest}-{key}")
    }
}

/// Whether the process that prepares a component found the disk full.
fn wants_room(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => is_full(source),
        // ENOSPC, as an `io::Error` ends with it.
        Error::Unprepared { why } => why.contains("(os error 28)"),
        _ => false,
    }
}

/// What a component turned out to be.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    engine: String,
    wasi: Wasi,
    footprint: Footprint,
    asks_models: bool,
    handler: String,
    memory: u64,
    cautions: Vec<String>,
}

struct Made {
    component: Vec<u8>,
    code: Vec<u8>,
    facts: Facts,
}

/// Initialises and compiles, in this process and on this thread and its helpers.
fn prepare(bytes: &[u8], engines: &Engines, limits: &preinit::Limits) -> Result<Made, Error> {
    let initialised = preinit(bytes, limits).map_err(Error::Init)?;
    let source = Source::from_bytes(initialised.component).map_err(Error::Component)?;
    let code = Loader::compile(&source, engines).map_err(Error::Compile)?;
    let inspection = source.inspection();
    let (most, longest) = CAUTIONS;
    let mut cautions: Vec<String> = inspection.cautions.iter().take(most).cloned().collect();
    for caution in &mut cautions {
        caution.truncate(caution.floor_char_boundary(longest));
    }
    match &initialised.outcome {
        Outcome::Plain(why) => cautions.push(format!(
            "the initialisation runs in every instance, because {why}"
        )),
        Outcome::Snapshot {
            drew_random: true, ..
        } => cautions.push(preinit::RANDOM.to_owned()),
        Outcome::Snapshot { .. } | Outcome::Nothing => {}
    }
    let facts = Facts {
        engine: compatibility(engines.get(inspection.wasi)?),
        wasi: inspection.wasi,
        footprint: inspection.footprint,
        asks_models: inspection.asks_models(),
        handler: inspection.handler.clone(),
        memory: inspection.memory,
        cautions,
    };
    Ok(Made {
        component: source.into_bytes(),
        code,
        facts,
    })
}

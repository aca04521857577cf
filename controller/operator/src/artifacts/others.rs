//! Machine code for other processors than components are compiled for at first. It is made in the background: nobody
//! waits for it, and who needs it before compiles for itself.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use wisp_artifacts::{Compiler, Cpu, Error};

use super::Code;
use super::store::code;
use crate::live::lock;
use crate::resolver::back_off;

/// How often it is tried.
const ATTEMPTS: u32 = 20;

/// Compiles components for other processors.
#[derive(Debug)]
pub(super) struct Others {
    first: Compiler,
    first_cpu: Cpu,
    /// Whether somebody said what comes first: nothing is compiled for more.
    is_given: bool,
    compilers: Mutex<Vec<(Cpu, Compiler)>>,
    /// What is being compiled, for what.
    going: Arc<Mutex<BTreeSet<(String, Cpu)>>>,
    /// At most one at a time: who waits for its first code has at most one ahead.
    turn: Arc<Semaphore>,
    made: UnboundedSender<String>,
    told: tokio::sync::Mutex<UnboundedReceiver<String>>,
}

impl Others {
    /// Beside `first`, which compiles for `first_cpu`; `is_given` says whether somebody chose that.
    pub(super) fn new(first: Compiler, first_cpu: Cpu, is_given: bool) -> Self {
        let (made, told) = mpsc::unbounded_channel();
        Self {
            first,
            first_cpu,
            is_given,
            compilers: Mutex::default(),
            going: Arc::default(),
            turn: Arc::new(Semaphore::new(1)),
            made,
            told: tokio::sync::Mutex::new(told),
        }
    }

    /// From now on components are compiled for `cpu`, too. Returns whether they weren't before.
    pub(super) fn learn(&self, cpu: Cpu) -> bool {
        let mut compilers = lock(&self.compilers);
        let is_new = self.is_new(&compilers, cpu);
        if is_new {
            compilers.push((cpu, self.first.for_cpu(cpu)));
        }
        is_new
    }

    /// Whether [`Others::learn`] would change nothing.
    pub(super) fn knows(&self, cpu: Cpu) -> bool {
        !self.is_new(&lock(&self.compilers), cpu)
    }

    fn is_new(&self, compilers: &[(Cpu, Compiler)], cpu: Cpu) -> bool {
        let is_known = compilers.iter().any(|(known, _)| *known == cpu);
        !is_known && is_worthwhile(cpu, self.first_cpu, self.is_given)
    }

    /// The machine code that there is of `component`, which was initialised. What there isn't is made;
    /// [`Others::more`] tells when.
    pub(super) async fn of(&self, component: &str) -> Vec<Code> {
        let compilers = lock(&self.compilers).clone();
        let mut all = Vec::new();
        for (cpu, compiler) in compilers {
            match compiler.prepared(component).await {
                Ok(Some(prepared)) if prepared.component == component => {
                    all.push(code(prepared.compiled));
                }
                // Whoever made it warned of it.
                Ok(Some(_)) => {}
                Ok(None) => self.make(component, cpu, compiler),
                Err(error) => {
                    tracing::warn!(component, %cpu, error = error.sentence(), "it isn't known what the component is compiled for");
                }
            }
        }
        all
    }

    /// Waits until there is more machine code of a component, and gives its digest.
    pub(super) async fn more(&self) -> String {
        match self.told.lock().await.recv().await {
            Some(component) => component,
            // Never: a sender is beside it.
            None => std::future::pending().await,
        }
    }

    fn make(&self, component: &str, cpu: Cpu, compiler: Compiler) {
        let what = (component.to_owned(), cpu);
        if !lock(&self.going).insert(what.clone()) {
            return;
        }
        let going = Going {
            all: Arc::clone(&self.going),
            what,
        };
        let (turn, made) = (Arc::clone(&self.turn), self.made.clone());
        tokio::spawn(async move {
            let is_made = make(&compiler, &going.what, &turn).await;
            let component = going.what.0.clone();
            drop(going);
            if is_made {
                // Where nobody listens, nobody needs it.
                let _ = made.send(component);
            }
        });
    }
}

/// Something that is being compiled. However that ends, even by a panic, it may be tried again.
struct Going {
    all: Arc<Mutex<BTreeSet<(String, Cpu)>>>,
    what: (String, Cpu),
}

impl Drop for Going {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.what);
    }
}

/// Compiles, again where a failure may pass. Returns whether there is code now.
async fn make(compiler: &Compiler, (component, cpu): &(String, Cpu), turn: &Semaphore) -> bool {
    for failures in 0..ATTEMPTS {
        let result = match turn.acquire().await {
            Ok(_turn) => compiler.prepare(component).await,
            Err(_) => return false,
        };
        match result {
            Ok(prepared) if prepared.component == *component => return true,
            Ok(_) => {
                tracing::warn!(component, %cpu, "the component is another once it is initialised anew");
                return false;
            }
            // Nobody has it any more.
            Err(Error::Missing { .. }) => return false,
            Err(error) => {
                tracing::warn!(component, %cpu, error = error.sentence(), "the component isn't compiled for all processors");
                if !error.is_transient() {
                    return false;
                }
            }
        }
        tokio::time::sleep(back_off(failures, true)).await;
    }
    false
}

/// Whether to compile for `cpu` beside `first`, which was chosen, or `is_given` by somebody.
fn is_worthwhile(cpu: Cpu, first: Cpu, is_given: bool) -> bool {
    let is_excluded = is_given && cpu.below().contains(&first);
    // Only who has such a processor can compile for it.
    cpu != Cpu::Native && cpu != first && !is_excluded
}

#[cfg(test)]
mod tests {
    use wisp_artifacts::Store;

    use super::*;

    /// Would fail if code were compiled for what nobody has, for what somebody excluded, or not for who has less.
    #[test]
    fn code_is_compiled_for_processors_that_were_told_and_not_excluded() {
        use Cpu::{Arm64, Native, X86_64V2, X86_64V3};
        for (cpu, first, is_given, expected) in [
            (X86_64V2, X86_64V3, false, true),
            (X86_64V2, X86_64V3, true, true),
            (X86_64V3, X86_64V2, false, true),
            (X86_64V3, X86_64V2, true, false),
            (X86_64V3, X86_64V3, false, false),
            (Native, X86_64V3, false, false),
            (X86_64V2, Native, false, true),
            (Arm64, X86_64V3, false, true),
            (Arm64, X86_64V2, true, true),
            (X86_64V3, Arm64, true, true),
        ] {
            let is_worthwhile = is_worthwhile(cpu, first, is_given);
            assert_eq!(
                is_worthwhile, expected,
                "{cpu} beside {first:?}, {is_given}"
            );
        }
    }

    /// Would fail if a component's first code waited for the others, or nobody learned of them.
    #[tokio::test]
    async fn code_for_others_is_made_in_the_background_and_told_of() {
        let Some(lower) = Cpu::here().below().first() else {
            eprintln!("skipped: code for this machine has no levels");
            return;
        };
        let component = wat::parse_str(
            r#"(component
                (core module $m (func (export "f")))
                (core instance (instantiate $m))
                (instance $i)
                (export "wasi:http/incoming-handler@0.2.4" (instance $i)))"#,
        );
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path(), 64 << 20).unwrap();
        let component = store.put(component.unwrap()).await.unwrap().sha256;
        let first = Compiler::new(store, Default::default(), Cpu::here());
        let others = Others::new(first.clone(), Cpu::here(), false);
        assert!(others.of(&component).await.is_empty());
        assert!(!others.knows(*lower) && others.learn(*lower) && others.knows(*lower));
        assert!(!others.learn(*lower), "it is known");

        assert!(others.of(&component).await.is_empty(), "nobody waits");
        assert_eq!(others.more().await, component);
        let code = others.of(&component).await;
        assert_eq!(code.len(), 1, "{code:?}");
        let of_first = first.prepare(&component).await.unwrap().compiled;
        assert_ne!(code[0].engine, of_first.engine);

        let gone = "00".repeat(32);
        assert!(others.of(&gone).await.is_empty());
        while !lock(&others.going).is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(
            others.told.lock().await.try_recv().is_err(),
            "nothing was made"
        );
    }
}

//! Which engine runs a component, and how it is configured.

use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::OnceLock;

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
};

use crate::cpu::Cpu;
use crate::inspect::{Footprint, Wasi};
use crate::residency;
use crate::ticker::Ticks;

/// Bytes of a freed linear memory, and of a freed table, that are reset in place instead of being given back.
const KEEP_MEMORY: usize = 2 << 20;
const KEEP_TABLE: usize = 64 << 10;
/// Linear memory is reserved whole, so that most bounds checks need no code.
const LARGEST_MEMORY: u64 = 4 << 30;

/// How much an engine's instances may use together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// The most bytes of one linear memory; at most 4 GiB.
    pub memory: NonZeroU64,
    /// The most elements of one table.
    pub table_elements: NonZeroUsize,
    /// The most component instances that are alive at once.
    pub instances: NonZeroUsize,
    /// The most guest calls that run at once: for a component that serves several requests in one instance this is
    /// more than `instances`.
    pub calls: NonZeroUsize,
    /// What one component instance is made of.
    pub footprint: Footprint,
}

/// Why an engine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The options don't fit this machine.
    #[error(
        "no WebAssembly engine with {instances} instances of {memory} bytes of memory can be made on this machine"
    )]
    Config {
        /// What was asked for.
        instances: usize,
        /// What was asked for.
        memory: u64,
        /// What wasmtime says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The thread that moves the epochs could not be started.
    #[error("the epoch thread could not be started")]
    Thread(#[source] std::io::Error),
}

/// The engines of one process, each made when it is first asked for.
///
/// WASI 0.2 and 0.3 components need different ones: an engine that can run 0.3 components spends a fifth of a 0.2
/// request on bookkeeping for concurrency that 0.2 doesn't have.
#[derive(Debug)]
pub struct Engines {
    options: Option<EngineOptions>,
    cpu: Cpu,
    ticks: Ticks,
    p2: Slot,
    p3: Slot,
}

#[derive(Debug, Default)]
struct Slot {
    engine: OnceLock<Engine>,
    /// Whether its epoch moves.
    is_watched: OnceLock<()>,
}

impl Engines {
    /// Engines that run instances from a pool sized by `options`. Their epochs move by [`Engines::ticks`].
    #[must_use]
    pub fn new(options: &EngineOptions) -> Self {
        Self {
            options: Some(*options),
            cpu: Cpu::here(),
            ticks: Ticks::default(),
            p2: Slot::default(),
            p3: Slot::default(),
        }
    }

    /// Engines that only compile. What they make runs on engines of [`Engines::new`], whatever their options.
    #[must_use]
    pub fn for_compilation() -> Self {
        Self::for_cpu(Cpu::here())
    }

    /// The same, for machines of that level.
    #[must_use]
    pub fn for_cpu(cpu: Cpu) -> Self {
        Self {
            options: None,
            cpu,
            ticks: Ticks::default(),
            p2: Slot::default(),
            p3: Slot::default(),
        }
    }

    /// Whether these can stand for the engines that [`Engines::new`] would make.
    #[must_use]
    pub fn hold(&self, options: &EngineOptions) -> bool {
        self.options.is_some_and(|ours| ours.hold(options))
    }

    /// The engine for components of `wasi`, made now where this is the first call for it: 1 to 3 ms.
    ///
    /// # Errors
    /// When the pool's address space can't be reserved, or a thread can't be started.
    pub fn get(&self, wasi: Wasi) -> Result<&Engine, EngineError> {
        let engine = self.prepare(wasi)?;
        let slot = self.slot(wasi);
        if self.options.is_some() && slot.is_watched.get().is_none() {
            // Two first calls at once: the epoch moves twice as fast at worst.
            self.ticks.watch(engine).map_err(EngineError::Thread)?;
            let _ = slot.is_watched.set(());
        }
        Ok(engine)
    }

    /// What moves the epochs of those that were asked for by [`Engines::get`]. Whoever runs a guest on them must have a
    /// [`crate::Ticking`] of it meanwhile: the guest is interrupted by nothing else.
    #[must_use]
    pub fn ticks(&self) -> &Ticks {
        &self.ticks
    }

    /// The same, of which the epoch doesn't move yet: an engine that nobody uses costs no time.
    ///
    /// # Errors
    /// When the pool's address space can't be reserved.
    pub fn prepare(&self, wasi: Wasi) -> Result<&Engine, EngineError> {
        let slot = self.slot(wasi);
        if let Some(engine) = slot.engine.get() {
            return Ok(engine);
        }
        let refused = |source: wasmtime::Error| EngineError::Config {
            instances: self.options.map_or(0, |options| options.instances.get()),
            memory: self.options.map_or(0, |options| options.memory.get()),
            source: source.into(),
        };
        let mut config = config(wasi, self.cpu).map_err(refused)?;
        if let Some(options) = &self.options {
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(options)));
        }
        let engine = Engine::new(&config).map_err(refused)?;
        // Two first calls at once: the loser's engine is dropped.
        Ok(slot.engine.get_or_init(|| engine))
    }

    fn slot(&self, wasi: Wasi) -> &Slot {
        match wasi {
            Wasi::P2 => &self.p2,
            Wasi::P3 => &self.p3,
        }
    }
}

impl EngineOptions {
    /// Whether a pool of this size holds what one of `other`'s would, within the same bounds.
    fn hold(&self, other: &Self) -> bool {
        let (ours, theirs) = (&self.footprint, &other.footprint);
        self.memory == other.memory
            && self.table_elements == other.table_elements
            && self.instances >= other.instances
            && self.calls >= other.calls
            && ours.memories >= theirs.memories
            && ours.tables >= theirs.tables
    }
}

/// Everything that decides the machine code. Only this may: the artifact cache is shared by engines of all options.
pub(crate) fn config(wasi: Wasi, cpu: Cpu) -> Result<Config, wasmtime::Error> {
    let mut config = Config::new();
    config
        .cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(true)
        .memory_reservation(LARGEST_MEMORY)
        // Traps are told without offsets into the Wasm, and nobody unwinds through guests: an eighth of the machine
        // code's bytes.
        .generate_address_map(false)
        .native_unwind_info(false)
        .concurrency_support(wasi == Wasi::P3);
    cpu.apply(&mut config)?;
    Ok(config)
}

fn pool(options: &EngineOptions) -> PoolingAllocationConfig {
    let Footprint {
        memories, tables, ..
    } = options.footprint;
    let instances = u32::try_from(options.instances.get()).unwrap_or(u32::MAX);
    let calls = u32::try_from(options.calls.get()).unwrap_or(u32::MAX);
    let times = |each: u32| instances.saturating_mul(each.max(1));
    let memory = usize::try_from(options.memory.get().min(LARGEST_MEMORY)).unwrap_or(usize::MAX);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        // Only counted, and a composed component has more than its binary tells: wasmtime makes one for each pair of components
        // of which one calls the other.
        .total_core_instances(u32::MAX)
        .total_memories(times(memories))
        .total_tables(times(tables))
        // One in each store whose guest has objects or exceptions. It lies in one of the memories.
        .total_gc_heaps(instances)
        .total_stacks(calls.max(instances))
        .max_core_instances_per_component(u32::MAX)
        .max_memories_per_component(memories.max(1))
        .max_tables_per_component(tables.max(1))
        .max_memories_per_module(memories.max(1))
        .max_tables_per_module(tables.max(1))
        .max_core_instance_size(8 << 20)
        .max_component_instance_size(8 << 20)
        .max_memory_size(memory)
        .table_elements(options.table_elements.get())
        .max_unused_warm_slots(instances);
    if residency::may_keep_pages() {
        pool.pagemap_scan(Enabled::Auto)
            .linear_memory_keep_resident(KEEP_MEMORY)
            .table_keep_resident(KEEP_TABLE);
    } else {
        pool.pagemap_scan(Enabled::No)
            .linear_memory_keep_resident(0)
            .table_keep_resident(0);
    }
    pool
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::compatibility;

    fn options(instances: usize, memory: u64) -> EngineOptions {
        EngineOptions {
            memory: NonZeroU64::new(memory).unwrap(),
            table_elements: NonZeroUsize::new(10_000).unwrap(),
            instances: NonZeroUsize::new(instances).unwrap(),
            calls: NonZeroUsize::new(instances).unwrap(),
            footprint: Footprint {
                core_instances: 4,
                memories: 1,
                tables: 2,
            },
        }
    }

    /// Would fail if a component that is joined of others, as `wac` joins them, were refused for what wasmtime adds to it.
    #[test]
    fn a_component_of_components_fits_the_pool_that_is_made_for_it() {
        let inner = |name: &str, count: usize| {
            let instances =
                (0..count).map(|index| format!("(instance ${name}{index} (instantiate ${name}))"));
            instances.collect::<String>()
        };
        for count in [1, 2, 3] {
            let text = format!(
                r#"(component
                    (component $a
                        (core module $m (memory 1) (table 1 funcref)
                            (func (export "f") (param i32) (result i32) local.get 0))
                        (core instance $i (instantiate $m))
                        (func (export "f") (param "x" u32) (result u32) (canon lift (core func $i "f"))))
                    (component $b
                        (import "f" (func $f (param "x" u32) (result u32)))
                        (core func $f (canon lower (func $f)))
                        (core module $m
                            (import "" "f" (func $f (param i32) (result i32)))
                            (func (export "g") (param i32) (result i32) local.get 0 call $f))
                        (core instance $i (instantiate $m (with "" (instance (export "f" (func $f))))))
                        (func (export "g") (param "x" u32) (result u32) (canon lift (core func $i "g"))))
                    {}
                    (instance $b (instantiate $b (with "f" (func $a0 "f"))))
                    (export "wasi:http/incoming-handler@0.2.4" (instance $b)))"#,
                inner("a", count)
            );
            let bytes = wat::parse_str(text).unwrap();
            let options = EngineOptions {
                footprint: crate::inspect(&bytes).unwrap().footprint,
                ..options(1, 1 << 20)
            };
            let engines = Engines::new(&options);
            let engine = engines.get(Wasi::P2).unwrap();
            let component = wasmtime::component::Component::new(engine, &bytes).unwrap();
            let mut store = wasmtime::Store::new(engine, ());
            store.set_epoch_deadline(1);
            let linker = wasmtime::component::Linker::new(engine);
            linker.instantiate(&mut store, &component).unwrap();
        }
    }

    /// Would fail if a component with objects or exceptions, as Kotlin's compiler makes them, could have fewer instances than any
    /// other: their heap takes a memory beside its own.
    #[test]
    fn a_guest_with_objects_has_as_many_instances_as_any_other() {
        for inner in [
            "(type $t (struct (field i32))) (func (export \"f\") (drop (struct.new $t (i32.const 7))))",
            "(tag $t) (func (export \"f\") (block $caught (try_table (catch_all $caught) (throw $t))))",
            "(table 1 externref) (func (export \"f\"))",
        ] {
            let text = format!(
                r#"(component
                    (core module $m (memory 1) {inner})
                    (core instance $i (instantiate $m))
                    (func (export "f") (canon lift (core func $i "f")))
                    (instance $h)
                    (export "wasi:http/incoming-handler@0.2.4" (instance $h)))"#
            );
            let bytes = wat::parse_str(text).unwrap();
            let footprint = crate::inspect(&bytes).unwrap().footprint;
            assert_eq!(footprint.memories, 2, "{inner}");
            let engines = Engines::new(&EngineOptions {
                footprint,
                ..options(3, 1 << 20)
            });
            let engine = engines.get(Wasi::P2).unwrap();
            let component = wasmtime::component::Component::new(engine, &bytes).unwrap();
            let linker = wasmtime::component::Linker::new(engine);
            let all: Vec<_> = (0..3)
                .map(|_| {
                    let mut store = wasmtime::Store::new(engine, ());
                    store.set_epoch_deadline(1000);
                    let instance = linker.instantiate(&mut store, &component).unwrap();
                    let f = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
                    f.call(&mut store, ()).unwrap();
                    store
                })
                .collect();
            assert_eq!(all.len(), 3);
        }
    }

    #[test]
    fn what_is_compiled_without_a_pool_runs_in_every_pool_of_the_same_wasi() {
        let compile = Engines::for_compilation();
        for options in [options(1, 1 << 20), options(128, 1 << 30)] {
            let serve = Engines::new(&options);
            for wasi in [Wasi::P2, Wasi::P3] {
                assert_eq!(
                    compatibility(compile.get(wasi).unwrap()),
                    compatibility(serve.get(wasi).unwrap()),
                    "{wasi:?} {options:?}"
                );
            }
        }
        assert_ne!(
            compatibility(compile.get(Wasi::P2).unwrap()),
            compatibility(compile.get(Wasi::P3).unwrap())
        );
    }

    fn compile(engines: &Engines) -> Vec<u8> {
        let bytes = wat::parse_str(
            r#"(component
                (core module $m (func (export "f") (param i32) (result i32) local.get 0 i32.popcnt))
                (core instance (instantiate $m)))"#,
        )
        .unwrap();
        let engine = engines.get(Wasi::P2).unwrap();
        engine.precompile_component(&bytes).unwrap()
    }

    #[expect(unsafe_code, reason = "loading what was just compiled")]
    fn load(engines: &Engines, code: &[u8]) -> Result<(), wasmtime::Error> {
        let engine = engines.get(Wasi::P2).unwrap();
        // SAFETY: wasmtime made it, just now.
        unsafe { wasmtime::component::Component::deserialize(engine, code) }.map(drop)
    }

    /// Would fail if code made for lesser processors didn't run on this one, or code for this one were taken for such.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn code_of_a_lower_level_runs_here() {
        let here = Engines::new(&options(1, 1 << 20));
        for cpu in Cpu::here().below() {
            let lower = Engines::for_cpu(*cpu);
            let name = |engines: &Engines| compatibility(engines.get(Wasi::P2).unwrap());
            assert_ne!(name(&lower), name(&here));
            load(&here, &compile(&lower)).unwrap();
        }
    }

    /// Would fail if machine code could be made only for the family of processors that makes it, or code of one were
    /// taken for another's.
    #[test]
    fn code_is_made_for_every_family_and_runs_on_no_other() {
        let here = Engines::new(&options(1, 1 << 20));
        for (cpu, machine) in [(Cpu::X86_64V2, 0x3e), (Cpu::Arm64, 0xb7)] {
            let code = compile(&Engines::for_cpu(cpu));
            // The gABI's e_machine.
            assert_eq!(code[18], machine, "{cpu}");
            let is_of_here = Cpu::here() == cpu || Cpu::here().below().contains(&cpu);
            assert_eq!(load(&here, &code).is_ok(), is_of_here, "{cpu}");
        }
    }

    #[test]
    fn a_pool_stands_for_smaller_ones_within_the_same_bounds() {
        let engines = Engines::new(&options(8, 1 << 20));
        assert!(engines.hold(&options(8, 1 << 20)));
        assert!(engines.hold(&options(2, 1 << 20)));
        assert!(!engines.hold(&options(9, 1 << 20)));
        assert!(!engines.hold(&options(8, 1 << 16)));
        let mut larger = options(2, 1 << 20);
        larger.footprint.tables += 1;
        assert!(!engines.hold(&larger));
        assert!(!Engines::for_compilation().hold(&options(1, 1 << 20)));
    }

    #[test]
    fn a_loop_without_end_is_interrupted() {
        let engines = Engines::new(&options(1, 1 << 20));
        let engine = engines.get(Wasi::P2).unwrap();
        // (module (func (export "spin") (loop br 0)))
        let module = wasmtime::Module::new(
            engine,
            b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x08\x01\x04spin\0\0\x0a\x09\x01\x07\0\x03\x40\x0c\0\x0b\x0b",
        )
        .unwrap();
        let _ticking = engines.ticks().tick();
        let mut store = wasmtime::Store::new(engine, ());
        store.set_epoch_deadline(1);
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
        let spin = instance
            .get_typed_func::<(), ()>(&mut store, "spin")
            .unwrap();
        let error = spin.call(&mut store, ()).unwrap_err();
        assert_eq!(
            error.downcast_ref::<wasmtime::Trap>(),
            Some(&wasmtime::Trap::Interrupt)
        );
    }
}

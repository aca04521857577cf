//! What is in these bytes, and would a wisp host serve them?

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wasmparser::{Encoding, Parser, Payload};

use crate::interface::{self, InterfaceName};
use crate::preinit;

#[cfg(test)]
mod tests;

/// The version of WASI whose HTTP handler a component exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Wasi {
    /// `wasi:http/incoming-handler@0.2.x`.
    P2,
    /// `wasi:http/handler@0.3.x`.
    P3,
}

/// Whether `#[wisp::init]`'s function still has to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Init {
    /// The component has none.
    None,
    /// It runs before the first request of every instance.
    Pending,
    /// It ran when the component was built; its memory is part of the component.
    Done,
}

/// What one instance of a component is made of, but for the core instances that wasmtime adds where components within it call
/// each other.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Footprint {
    /// Core module instances.
    pub core_instances: u32,
    /// Linear memories, and the heap of objects and exceptions, which lies in one of its own.
    pub memories: u32,
    /// Tables.
    pub tables: u32,
}

impl Footprint {
    fn add(&mut self, other: Self) {
        self.core_instances = self.core_instances.saturating_add(other.core_instances);
        self.memories = self.memories.saturating_add(other.memories);
        self.tables = self.tables.saturating_add(other.tables);
    }
}

/// A component that a host can serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// Which handler it exports; 0.3 where it exports both.
    pub wasi: Wasi,
    /// The handler's full name, with its version.
    pub handler: String,
    /// What it imports, sorted.
    pub imports: Vec<InterfaceName>,
    /// Whether its initialisation ran.
    pub init: Init,
    /// What one instance takes from the pool.
    pub footprint: Footprint,
    /// How many bytes its linear memories begin with, together.
    pub memory: u64,
    /// Sentences on imports that are linked but of little use.
    pub cautions: Vec<String>,
}

impl Inspection {
    /// Whether it imports `wasi:nn`.
    #[must_use]
    pub fn asks_models(&self) -> bool {
        self.imports
            .iter()
            .any(|import| import.package == "wasi:nn")
    }
}

/// Why a host would not serve these bytes.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Nothing at all.
    #[error("the file is empty: a WebAssembly component is expected")]
    Empty,
    /// Neither binary nor anything close.
    #[error("these {len} bytes are not WebAssembly: they begin with `{start}` instead of `\\0asm`")]
    NotWasm {
        /// How many bytes there are.
        len: usize,
        /// The first ones, printable.
        start: String,
    },
    /// WebAssembly text.
    #[error(
        "this is WebAssembly text: assemble it to a binary component first (`wasm-tools parse`)"
    )]
    Text,
    /// A core module.
    #[error(
        "this is a core WebAssembly module, not a component: build it for the target wasm32-wasip2 \
         (`wisp build` does), or wrap it with `wasm-tools component new`"
    )]
    CoreModule,
    /// The file ends too early.
    #[error("this component is cut off: it ends at byte {at} in the middle of a section")]
    Truncated {
        /// The file's length.
        at: usize,
    },
    /// Bytes that break the format.
    #[error("this component is damaged")]
    Malformed(#[source] wasmparser::BinaryReaderError),
    /// No HTTP handler.
    #[error(
        "this component serves no HTTP: it exports {exports}, but wasi:http/incoming-handler@0.2.x or \
         wasi:http/handler@0.3.x is needed"
    )]
    NoHandler {
        /// What it exports, as a list for people.
        exports: String,
    },
    /// A handler of no version that is served: a draft, or what came later.
    #[error(
        "this component exports `{export}`, a version that this host doesn't serve: rebuild it with bindings for 0.2.x or 0.3.x"
    )]
    DraftHandler {
        /// The export.
        export: String,
    },
    /// Imports that no host offers.
    #[error("{}", .0.join("; "))]
    Imports(Vec<String>),
    /// The file could not be read.
    #[error("{} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// Reads the component's outline: a millisecond for megabytes. Function bodies are validated when it is compiled.
///
/// # Errors
/// When the bytes are no component, it exports no HTTP handler, or it imports what [`interface::OFFERS`] lacks.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, InspectError> {
    let outline = Outline::read(bytes)?;
    let (wasi, handler) = outline.handler()?;
    let mut missing = Vec::new();
    let mut cautions = Vec::new();
    let mut imports = Vec::new();
    for name in &outline.imports {
        match name.parse::<InterfaceName>() {
            Ok(interface) => {
                match interface::refusal(&interface) {
                    Some(why) => {
                        missing.push(format!("the component imports `{interface}`, {why}"))
                    }
                    None => {
                        if let Some(caution) = interface::caution(&interface) {
                            cautions
                                .push(format!("the component imports `{interface}`; {caution}"));
                        }
                    }
                }
                imports.push(interface);
            }
            Err(_) => missing.push(format!(
                "the component imports `{name}`, which is no interface: wisp offers only interfaces"
            )),
        }
    }
    if !missing.is_empty() {
        return Err(InspectError::Imports(missing));
    }
    imports.sort();
    let init = match (
        outline.preinitialised,
        outline.exports.iter().any(|name| name == preinit::EXPORT),
    ) {
        (true, _) => Init::Done,
        (false, true) => Init::Pending,
        (false, false) => Init::None,
    };
    Ok(Inspection {
        wasi,
        handler,
        imports,
        init,
        footprint: outline.whole.footprint,
        memory: outline.whole.memory,
        cautions,
    })
}

/// A component's top level.
struct Outline {
    imports: Vec<String>,
    exports: Vec<String>,
    preinitialised: bool,
    whole: Extent,
}

/// What one instance is made of, and how many bytes its memories begin with.
#[derive(Debug, Default, Clone, Copy)]
struct Extent {
    footprint: Footprint,
    memory: u64,
}

impl Extent {
    fn add(&mut self, other: Self) {
        self.footprint.add(other.footprint);
        self.memory = self.memory.saturating_add(other.memory);
    }
}

/// A module or a component that is being read, and what an instance of it is made of.
#[derive(Default)]
struct Scope {
    /// Of the modules and components that it can instantiate, by their indices.
    modules: Vec<Extent>,
    components: Vec<Extent>,
    whole: Extent,
    is_module: bool,
}

/// Whether the modules may have objects or exceptions: then wasmtime gives their store a heap for them, one for all.
fn asks_heap(payload: &Payload<'_>) -> Result<bool, wasmparser::BinaryReaderError> {
    match payload {
        Payload::TypeSection(types) => {
            for group in types.clone() {
                let mut types = group?.into_types();
                let is_object = |ty: wasmparser::SubType| {
                    let inner = ty.composite_type.inner;
                    !matches!(inner, wasmparser::CompositeInnerType::Func(_))
                };
                if types.any(is_object) {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Payload::TagSection(tags) => Ok(tags.count() > 0),
        Payload::GlobalSection(globals) => {
            for global in globals.clone() {
                if let wasmparser::ValType::Ref(held) = global?.ty.content_type
                    && held.heap_type() != wasmparser::HeapType::FUNC
                {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Payload::TableSection(tables) => {
            for table in tables.clone() {
                if table?.ty.element_type.heap_type() != wasmparser::HeapType::FUNC {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => Ok(false),
    }
}

impl Outline {
    fn read(bytes: &[u8]) -> Result<Self, InspectError> {
        check_magic(bytes)?;
        let mut outline = Self {
            imports: Vec::new(),
            exports: Vec::new(),
            preinitialised: false,
            whole: Extent::default(),
        };
        let mut scopes = vec![Scope::default()];
        let mut asked_heap = false;
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload.map_err(|error| broken(error, bytes))?;
            match &payload {
                Payload::Version {
                    encoding: Encoding::Module,
                    ..
                } if scopes.len() == 1 => return Err(InspectError::CoreModule),
                Payload::ModuleSection { .. } => scopes.push(Scope {
                    is_module: true,
                    ..Scope::default()
                }),
                Payload::ComponentSection { .. } => scopes.push(Scope::default()),
                Payload::End(_) => {
                    let Some(scope) = scopes.pop() else { break };
                    match scopes.last_mut() {
                        Some(around) if scope.is_module => around.modules.push(scope.whole),
                        Some(around) => around.components.push(scope.whole),
                        None => outline.whole = scope.whole,
                    }
                }
                payload => {
                    let asks = asks_heap(payload);
                    asked_heap |= asks.map_err(|error| broken(error, bytes))?;
                    let noted = note_instances(payload, &mut scopes);
                    noted.map_err(|error| broken(error, bytes))?;
                    if scopes.len() == 1 {
                        let noted = outline.note(payload);
                        noted.map_err(|error| broken(error, bytes))?;
                    }
                }
            }
        }
        let memories = &mut outline.whole.footprint.memories;
        *memories = memories.saturating_add(u32::from(asked_heap));
        Ok(outline)
    }

    fn note(&mut self, payload: &Payload<'_>) -> Result<(), wasmparser::BinaryReaderError> {
        match payload {
            Payload::ComponentImportSection(imports) => {
                for import in imports.clone() {
                    self.imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports.clone() {
                    self.exports.push(export?.name.name.to_owned());
                }
            }
            Payload::CustomSection(section) if section.name() == preinit::SECTION => {
                self.preinitialised = true
            }
            _ => {}
        }
        Ok(())
    }

    fn handler(&self) -> Result<(Wasi, String), InspectError> {
        let handlers: Vec<InterfaceName> = self
            .exports
            .iter()
            .filter_map(|name| name.parse().ok())
            .filter(|name: &InterfaceName| {
                name.package == "wasi:http"
                    && (name.interface == "incoming-handler" || name.interface == "handler")
            })
            .collect();
        let find = |interface: &str, track: &str| {
            handlers
                .iter()
                .find(|name| name.interface == interface && name.is_version(track))
                .map(ToString::to_string)
        };
        if let Some(name) = find("handler", "0.3") {
            return Ok((Wasi::P3, name));
        }
        if let Some(name) = find("incoming-handler", "0.2") {
            return Ok((Wasi::P2, name));
        }
        Err(match handlers.first() {
            Some(other) => InspectError::DraftHandler {
                export: other.to_string(),
            },
            None => InspectError::NoHandler {
                exports: list(&self.exports),
            },
        })
    }
}

/// Adds what `payload` says of instances to the innermost of the `scopes`.
fn note_instances(
    payload: &Payload<'_>,
    scopes: &mut [Scope],
) -> Result<(), wasmparser::BinaryReaderError> {
    let Some((scope, around)) = scopes.split_last_mut() else {
        return Ok(());
    };
    let at = |all: &[Extent], index: u32| {
        let found = usize::try_from(index).ok().and_then(|index| all.get(index));
        found.copied().unwrap_or_default()
    };
    let whole = &mut scope.whole;
    let of_whole = &mut whole.footprint;
    match payload {
        Payload::MemorySection(memories) => {
            of_whole.memories = of_whole.memories.saturating_add(memories.count());
            for memory in memories.clone() {
                let memory = memory?;
                let page = 1_u64 << memory.page_size_log2.unwrap_or(16).min(63);
                whole.memory = whole
                    .memory
                    .saturating_add(memory.initial.saturating_mul(page));
            }
        }
        Payload::TableSection(tables) => {
            of_whole.tables = of_whole.tables.saturating_add(tables.count());
        }
        Payload::InstanceSection(instances) => {
            for instance in instances.clone() {
                if let wasmparser::Instance::Instantiate { module_index, .. } = instance? {
                    let module = at(&scope.modules, module_index);
                    scope.whole.add(module);
                    let of_whole = &mut scope.whole.footprint;
                    of_whole.core_instances = of_whole.core_instances.saturating_add(1);
                }
            }
        }
        Payload::ComponentInstanceSection(instances) => {
            for instance in instances.clone() {
                if let wasmparser::ComponentInstance::Instantiate {
                    component_index, ..
                } = instance?
                {
                    let component = at(&scope.components, component_index);
                    scope.whole.add(component);
                }
            }
        }
        Payload::ComponentAliasSection(aliases) => {
            for alias in aliases.clone() {
                let wasmparser::ComponentAlias::Outer { kind, count, index } = alias? else {
                    continue;
                };
                // 0 is this one, 1 the one around it.
                let outer = usize::try_from(count)
                    .ok()
                    .and_then(|count| around.len().checked_sub(count))
                    .map(|place| around.get(place).unwrap_or(scope));
                let Some(outer) = outer else { continue };
                match kind {
                    wasmparser::ComponentOuterAliasKind::CoreModule => {
                        let module = at(&outer.modules, index);
                        scope.modules.push(module);
                    }
                    wasmparser::ComponentOuterAliasKind::Component => {
                        let component = at(&outer.components, index);
                        scope.components.push(component);
                    }
                    _ => {}
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn check_magic(bytes: &[u8]) -> Result<(), InspectError> {
    if bytes.starts_with(b"\0asm") {
        return Ok(());
    }
    let text = bytes.trim_ascii_start();
    if text.starts_with(b"(component") || text.starts_with(b"(module") {
        return Err(InspectError::Text);
    }
    match bytes.get(..bytes.len().min(8)) {
        Some([]) | None => Err(InspectError::Empty),
        Some(start) => Err(InspectError::NotWasm {
            len: bytes.len(),
            start: start.escape_ascii().to_string(),
        }),
    }
}

fn broken(error: wasmparser::BinaryReaderError, bytes: &[u8]) -> InspectError {
    let message = error.message();
    if message.contains("unexpected end")
        || message.contains("unexpected-eof")
        || message.contains("out of bounds")
    {
        InspectError::Truncated { at: bytes.len() }
    } else {
        InspectError::Malformed(error)
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "nothing".to_owned();
    }
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

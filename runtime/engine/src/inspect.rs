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

/// The most instances of the same component within one that are counted, as a power of two.
const MOST_DOUBLED: u32 = 6;

/// What one instance of a component is made of, at most; but for the core instances that wasmtime adds where components within it
/// call each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Footprint {
    /// Core module instances.
    pub core_instances: u32,
    /// Linear memories.
    pub memories: u32,
    /// Tables.
    pub tables: u32,
}

impl Footprint {
    fn times(self, factor: u32) -> Self {
        Self {
            core_instances: self.core_instances.saturating_mul(factor),
            memories: self.memories.saturating_mul(factor),
            tables: self.tables.saturating_mul(factor),
        }
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
        footprint: outline.footprint,
        cautions,
    })
}

/// A component's top level.
struct Outline {
    imports: Vec<String>,
    exports: Vec<String>,
    preinitialised: bool,
    footprint: Footprint,
    /// Components within it, and how many instances of those are made where they are.
    components: u32,
    component_instances: u32,
}

impl Outline {
    fn read(bytes: &[u8]) -> Result<Self, InspectError> {
        check_magic(bytes)?;
        let mut outline = Self {
            imports: Vec::new(),
            exports: Vec::new(),
            preinitialised: false,
            footprint: Footprint {
                core_instances: 0,
                memories: 0,
                tables: 0,
            },
            components: 0,
            component_instances: 0,
        };
        let mut depth = 0_usize;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(|error| broken(error, bytes))? {
                Payload::Version {
                    encoding: Encoding::Module,
                    ..
                } if depth == 0 => return Err(InspectError::CoreModule),
                Payload::ModuleSection { .. } => depth += 1,
                Payload::ComponentSection { .. } => {
                    depth += 1;
                    outline.components = outline.components.saturating_add(1);
                }
                Payload::End(_) => depth = depth.saturating_sub(1),
                payload => outline
                    .note(&payload, depth)
                    .map_err(|error| broken(error, bytes))?,
            }
        }
        outline.footprint = outline.footprint.times(outline.repeats());
        Ok(outline)
    }

    /// How often a component within it is instantiated, at most: once each for most. Of those beyond, each may double what
    /// there is, as it may itself be within one that is instantiated twice.
    fn repeats(&self) -> u32 {
        let beyond = self.component_instances.saturating_sub(self.components);
        1 << beyond.min(MOST_DOUBLED)
    }

    fn note(
        &mut self,
        payload: &Payload<'_>,
        depth: usize,
    ) -> Result<(), wasmparser::BinaryReaderError> {
        match payload {
            Payload::MemorySection(memories) => {
                self.footprint.memories = self.footprint.memories.saturating_add(memories.count())
            }
            Payload::TableSection(tables) => {
                self.footprint.tables = self.footprint.tables.saturating_add(tables.count())
            }
            Payload::InstanceSection(instances) => {
                for instance in instances.clone() {
                    if matches!(instance?, wasmparser::Instance::Instantiate { .. }) {
                        self.footprint.core_instances =
                            self.footprint.core_instances.saturating_add(1);
                    }
                }
            }
            Payload::ComponentInstanceSection(instances) => {
                for instance in instances.clone() {
                    if matches!(instance?, wasmparser::ComponentInstance::Instantiate { .. }) {
                        self.component_instances = self.component_instances.saturating_add(1);
                    }
                }
            }
            Payload::ComponentImportSection(imports) if depth == 0 => {
                for import in imports.clone() {
                    self.imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(exports) if depth == 0 => {
                for export in exports.clone() {
                    self.exports.push(export?.name.name.to_owned());
                }
            }
            Payload::CustomSection(section) if depth == 0 && section.name() == preinit::SECTION => {
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

//! What a component's top level says of its modules, and where a shim stands among them.

use std::collections::{HashMap, HashSet};

use wasmparser::{
    CanonicalFunction, Chunk, ComponentAlias, ComponentExternalKind, ComponentInstance,
    ComponentOuterAliasKind, ComponentTypeRef, ExternalKind, Instance, Parser, Payload,
};

use super::forward::Shim;
use super::main::Main;
use super::{only, place};

/// What a component's top level says of its modules and their instances.
#[derive(Default)]
pub(super) struct Outline<'a> {
    pub(super) modules: Vec<&'a [u8]>,
    instances: Vec<Instance<'a>>,
    /// Of each core function, the instance that exports it and the name there; `None` for one that is lowered.
    functions: Vec<Option<(u32, &'a str)>>,
    /// What else is taken from an instance.
    taken: Vec<Taken<'a>>,
}

struct Taken<'a> {
    from: u32,
    name: &'a str,
    kind: ExternalKind,
    /// How many instances there were.
    after: usize,
}

/// What becomes of a component.
pub(super) struct Plan {
    pub(super) shim_module: u32,
    pub(super) shim_instance: u32,
    pub(super) main_module: u32,
    pub(super) main_instance: u32,
    /// The core functions that are the shim's, in ascending order.
    pub(super) functions: Vec<u32>,
    /// The module that has them as its own.
    pub(super) main: Vec<u8>,
}

impl<'a> Outline<'a> {
    pub(super) fn read(component: &'a [u8]) -> Option<Self> {
        let mut outline = Self::default();
        let mut parser = Parser::new(0);
        let mut rest = component;
        loop {
            let Chunk::Parsed { consumed, payload } = parser.parse(rest, true).ok()? else {
                return None;
            };
            rest = rest.get(consumed..)?;
            match payload {
                Payload::ModuleSection {
                    unchecked_range, ..
                } => {
                    rest = rest.get(unchecked_range.len()..)?;
                    outline.modules.push(component.get(unchecked_range)?);
                }
                Payload::ComponentSection {
                    unchecked_range, ..
                } => {
                    rest = rest.get(unchecked_range.len()..)?;
                    let inner = component.get(unchecked_range)?;
                    if takes_modules(inner)? {
                        return None;
                    }
                }
                Payload::End(_) => return Some(outline),
                payload => outline.note(payload)?,
            }
        }
    }

    /// `None` where modules come from elsewhere, or go there: then their indices are more than this looks at.
    fn note(&mut self, payload: Payload<'a>) -> Option<()> {
        match payload {
            Payload::InstanceSection(instances) => {
                for instance in instances {
                    self.instances.push(instance.ok()?);
                }
            }
            Payload::ComponentCanonicalSection(functions) => {
                for function in functions {
                    if !matches!(function.ok()?, CanonicalFunction::Lift { .. }) {
                        self.functions.push(None);
                    }
                }
            }
            Payload::ComponentAliasSection(aliases) => {
                for alias in aliases {
                    match alias.ok()? {
                        ComponentAlias::CoreInstanceExport {
                            kind: ExternalKind::Func,
                            instance_index,
                            name,
                        } => self.functions.push(Some((instance_index, name))),
                        ComponentAlias::CoreInstanceExport {
                            kind: ExternalKind::FuncExact,
                            ..
                        } => return None,
                        ComponentAlias::CoreInstanceExport {
                            kind,
                            instance_index,
                            name,
                        } => self.taken.push(Taken {
                            from: instance_index,
                            name,
                            kind,
                            after: self.instances.len(),
                        }),
                        ComponentAlias::InstanceExport {
                            kind: ComponentExternalKind::Module,
                            ..
                        }
                        | ComponentAlias::Outer {
                            kind: ComponentOuterAliasKind::CoreModule,
                            ..
                        } => return None,
                        _ => {}
                    }
                }
            }
            Payload::ComponentImportSection(imports) => {
                for import in imports {
                    if matches!(import.ok()?.ty, ComponentTypeRef::Module(_)) {
                        return None;
                    }
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports {
                    if export.ok()?.kind == ComponentExternalKind::Module {
                        return None;
                    }
                }
            }
            Payload::ComponentInstanceSection(instances) => {
                for instance in instances {
                    let has_module = match instance.ok()? {
                        ComponentInstance::Instantiate { args, .. } => args
                            .iter()
                            .any(|arg| arg.kind == ComponentExternalKind::Module),
                        ComponentInstance::FromExports(exports) => exports
                            .iter()
                            .any(|export| export.kind == ComponentExternalKind::Module),
                    };
                    if has_module {
                        return None;
                    }
                }
            }
            _ => {}
        }
        Some(())
    }

    pub(super) fn plan(self) -> Option<Plan> {
        let (shim_module, shim) = (0..)
            .zip(&self.modules)
            .find_map(|(index, module)| Some((index, Shim::read(module)?)))?;
        let shim_instance = self.only_instance_of(shim_module)?;
        let mut functions = HashMap::new();
        for (index, alias) in (0..).zip(&self.functions) {
            if let Some((instance, name)) = alias
                && *instance == shim_instance
            {
                functions.insert(index, *shim.functions.get(name)?);
            }
        }

        // The shim's functions stand for imports, and each of those is one module's.
        let mut sources = HashMap::new();
        for (index, instance) in (0..).zip(&self.instances) {
            if let Instance::FromExports(exports) = instance {
                let of_shim: HashMap<&str, u32> = exports
                    .iter()
                    .filter(|export| export.kind == ExternalKind::Func)
                    .filter_map(|export| Some((export.name, *functions.get(&export.index)?)))
                    .collect();
                if !of_shim.is_empty() {
                    sources.insert(index, of_shim);
                }
            }
        }
        let mut takers = HashSet::new();
        for (index, instance) in (0..).zip(&self.instances) {
            let Instance::Instantiate { module_index, args } = instance else {
                continue;
            };
            if args.iter().any(|arg| arg.index == shim_instance) {
                return None;
            }
            if args.iter().any(|arg| sources.contains_key(&arg.index)) {
                takers.insert((*module_index, index));
            }
        }
        let (main_module, main_instance) = only(takers)?;
        if self.only_instance_of(main_module)? != main_instance {
            return None;
        }
        // What is taken from where the functions no longer are, or isn't the table.
        let aliased = self.functions.iter().flatten().map(|(from, _)| from);
        let mut others = aliased.chain(self.taken.iter().map(|taken| &taken.from));
        if others.any(|from| sources.contains_key(from)) {
            return None;
        }
        let main_made = place(main_instance)?;
        let mut of_shim = self
            .taken
            .iter()
            .filter(|taken| taken.from == shim_instance);
        if of_shim.any(|taken| {
            let is_table = taken.kind == ExternalKind::Table && taken.name == shim.table;
            !is_table || taken.after <= main_made
        }) {
            return None;
        }

        let Instance::Instantiate { args, .. } = self.instances.get(main_made)? else {
            return None;
        };
        let imports = args
            .iter()
            .filter_map(|arg| Some((arg.name, sources.get(&arg.index)?)))
            .collect();
        let main = Main::merge(self.modules.get(place(main_module)?)?, &imports, &shim)?;
        let mut functions: Vec<u32> = functions.into_keys().collect();
        functions.sort_unstable();
        Some(Plan {
            shim_module,
            shim_instance,
            main_module,
            main_instance,
            functions,
            main,
        })
    }

    fn only_instance_of(&self, module: u32) -> Option<u32> {
        only((0..).zip(&self.instances).filter_map(|(index, instance)| {
            let Instance::Instantiate { module_index, .. } = instance else {
                return None;
            };
            (*module_index == module).then_some(index)
        }))
    }
}

/// Whether an inner component takes modules of those around it.
fn takes_modules(component: &[u8]) -> Option<bool> {
    for payload in Parser::new(0).parse_all(component) {
        if let Payload::ComponentAliasSection(aliases) = payload.ok()? {
            for alias in aliases {
                if let ComponentAlias::Outer {
                    kind: ComponentOuterAliasKind::CoreModule,
                    ..
                } = alias.ok()?
                {
                    return Some(true);
                }
            }
        }
    }
    Some(false)
}

//! Components whose module doesn't go through another one to reach its host.
//!
//! An import that reads or writes a guest's memory can only be made once the guest's module is instantiated, which asks for that
//! import. So wit-component, by which Rust, C, Go and JavaScript make their components, instantiates a shim first: a module of functions
//! that call through a table, which a third module fills at last. Every instance pays for it. Here the functions and the table become
//! the guest's own, of which an instance of a small component takes a third less time to make.

use wasm_encoder::reencode::{Error, Reencode, ReencodeComponent, component_utils};
use wasm_encoder::{
    Component, ComponentAliasSection, ComponentSectionId, InstanceSection, RawSection,
};
use wasmparser::{ComponentAlias, ExternalKind, Instance, Parser};

mod forward;
mod main;
mod outline;
#[cfg(test)]
mod tests;

use outline::{Outline, Plan};

/// Changes with what [`merge`] makes of the same component: with the text of whatever makes it.
pub(crate) const VERSION: u64 = hash(&[
    include_bytes!("shim.rs"),
    include_bytes!("shim/forward.rs"),
    include_bytes!("shim/main.rs"),
    include_bytes!("shim/outline.rs"),
]);

/// FNV-1a of all of it.
const fn hash(mut texts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    while let Some((text, others)) = texts.split_first() {
        let mut text = *text;
        while let Some((byte, rest)) = text.split_first() {
            hash = (hash ^ *byte as u64).wrapping_mul(0x0100_0000_01b3);
            text = rest;
        }
        texts = others;
    }
    hash
}

/// The same `component` without the shim; `None` where it has none of the form that is known, or that does more than stand for imports.
pub(crate) fn merge(component: &[u8]) -> Option<Vec<u8>> {
    let plan = Outline::read(component)?.plan()?;
    let mut merged = Component::new();
    let mut merging = Merging {
        plan: &plan,
        module: 0,
    };
    merging
        .parse_component(&mut merged, Parser::new(0), component)
        .ok()?;
    Some(merged.finish())
}

/// The component's top level, written anew.
struct Merging<'a> {
    plan: &'a Plan,
    /// The next module.
    module: u32,
}

impl Reencode for Merging<'_> {
    type Error = Gone;

    fn function_index(&mut self, function: u32) -> Result<u32, Error<Gone>> {
        // Found, it is gone; else as many are gone before it.
        let before = self.plan.functions.binary_search(&function);
        before
            .err()
            .and_then(|before| function.checked_sub(u32::try_from(before).ok()?))
            .ok_or(Error::UserError(Gone))
    }
}

impl ReencodeComponent for Merging<'_> {
    fn module_index(&mut self, module: u32) -> u32 {
        module - u32::from(module > self.plan.shim_module)
    }

    fn instance_index(&mut self, instance: u32) -> u32 {
        instance - u32::from(instance > self.plan.shim_instance)
    }

    fn parse_component_submodule(
        &mut self,
        component: &mut Component,
        _parser: Parser,
        module: &[u8],
    ) -> Result<(), Error<Gone>> {
        let index = self.module;
        self.module += 1;
        if index != self.plan.shim_module {
            let data = if index == self.plan.main_module {
                &self.plan.main
            } else {
                module
            };
            component.section(&RawSection {
                id: ComponentSectionId::CoreModule.into(),
                data,
            });
        }
        Ok(())
    }

    fn parse_component_subcomponent(
        &mut self,
        component: &mut Component,
        _parser: Parser,
        inner: &[u8],
        _whole: &[u8],
    ) -> Result<(), Error<Gone>> {
        component.section(&RawSection {
            id: ComponentSectionId::Component.into(),
            data: inner,
        });
        Ok(())
    }

    fn parse_component_custom_section(
        &mut self,
        _component: &mut Component,
        _section: wasmparser::CustomSectionReader<'_>,
    ) -> Result<(), Error<Gone>> {
        Ok(())
    }

    fn parse_instance_section(
        &mut self,
        instances: &mut InstanceSection,
        section: wasmparser::InstanceSectionReader<'_>,
    ) -> Result<(), Error<Gone>> {
        for instance in section {
            match instance? {
                Instance::Instantiate { module_index, .. }
                    if module_index == self.plan.shim_module => {}
                Instance::FromExports(exports) => {
                    let left = exports.into_iter().filter(|export| {
                        export.kind != ExternalKind::Func
                            || self.plan.functions.binary_search(&export.index).is_err()
                    });
                    let left = Instance::FromExports(left.collect());
                    self.parse_instance(instances, left)?;
                }
                instance => self.parse_instance(instances, instance)?,
            }
        }
        Ok(())
    }

    fn parse_component_alias_section(
        &mut self,
        aliases: &mut ComponentAliasSection,
        section: wasmparser::ComponentAliasSectionReader<'_>,
    ) -> Result<(), Error<Gone>> {
        for alias in section {
            let alias = match alias? {
                ComponentAlias::CoreInstanceExport {
                    kind,
                    instance_index,
                    name,
                } if instance_index == self.plan.shim_instance => {
                    if kind == ExternalKind::Func {
                        continue;
                    }
                    ComponentAlias::CoreInstanceExport {
                        kind,
                        instance_index: self.plan.main_instance,
                        name,
                    }
                }
                alias => alias,
            };
            aliases.alias(component_utils::component_alias(self, alias)?);
        }
        Ok(())
    }
}

/// Something refers to what is no longer there.
#[derive(Debug)]
struct Gone;

fn only<T>(items: impl IntoIterator<Item = T>) -> Option<T> {
    let mut items = items.into_iter();
    let first = items.next()?;
    items.next().is_none().then_some(first)
}

fn place(index: u32) -> Option<usize> {
    usize::try_from(index).ok()
}

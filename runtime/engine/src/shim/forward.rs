//! Modules of functions that call through a table.

use std::collections::HashMap;

use wasm_encoder::{RefType, TableType};
use wasmparser::{CompositeInnerType, ExternalKind, Operator, Parser, Payload, TableInit};

use super::{only, place};

/// A module of functions that call through a table.
pub(super) struct Shim<'a> {
    /// The place in the table that each exported function calls.
    pub(super) functions: HashMap<&'a str, u32>,
    /// The table's name.
    pub(super) table: &'a str,
    pub(super) places: u32,
}

impl<'a> Shim<'a> {
    /// `None` where the module is or does anything else.
    pub(super) fn read(module: &'a [u8]) -> Option<Self> {
        let mut types = Vec::new();
        let mut declared = Vec::new();
        let mut places = None;
        let mut table = None;
        let mut names = Vec::new();
        let mut calls = Vec::new();
        for payload in Parser::new(0).parse_all(module) {
            match payload.ok()? {
                Payload::TypeSection(section) => types = parameters(section)?,
                Payload::FunctionSection(functions) => {
                    declared = functions.into_iter().collect::<Result<_, _>>().ok()?;
                }
                Payload::TableSection(tables) => {
                    let found = only(tables)?.ok()?;
                    let is_plain = found.ty.element_type.is_func_ref()
                        && !found.ty.table64
                        && !found.ty.shared
                        && found.ty.maximum == Some(found.ty.initial)
                        && matches!(found.init, TableInit::RefNull);
                    places = is_plain.then_some(u32::try_from(found.ty.initial).ok()?);
                }
                Payload::ExportSection(exports) => {
                    for export in exports {
                        let export = export.ok()?;
                        match export.kind {
                            ExternalKind::Func => names.push((export.name, export.index)),
                            ExternalKind::Table if table.is_none() => table = Some(export.name),
                            _ => return None,
                        }
                    }
                }
                Payload::CodeSectionEntry(body) => {
                    let own = *declared.get(calls.len())?;
                    calls.push(forwarded(&body, own, *types.get(place(own)?)?)?);
                }
                Payload::Version { .. }
                | Payload::CodeSectionStart { .. }
                | Payload::CustomSection(_)
                | Payload::End(_) => {}
                // As Wizer leaves it.
                Payload::DataSection(data) if data.count() == 0 => {}
                _ => return None,
            }
        }
        let functions = names
            .into_iter()
            .map(|(name, index)| Some((name, *calls.get(place(index)?)?)))
            .collect::<Option<_>>()?;
        Some(Self {
            functions,
            table: table?,
            places: places?,
        })
    }

    pub(super) fn table_type(&self) -> TableType {
        TableType {
            element_type: RefType::FUNCREF,
            table64: false,
            minimum: self.places.into(),
            maximum: Some(self.places.into()),
            shared: false,
        }
    }
}

/// The place in the module's table that a function of the type `own` calls with the parameters it was called with.
fn forwarded(
    body: &wasmparser::FunctionBody<'_>,
    own: u32,
    parameters: Option<u32>,
) -> Option<u32> {
    if body.get_locals_reader().ok()?.get_count() > 0 {
        return None;
    }
    let mut operators = body.get_operators_reader().ok()?;
    for parameter in 0..parameters? {
        if !matches!(operators.read().ok()?, Operator::LocalGet { local_index } if local_index == parameter)
        {
            return None;
        }
    }
    let Operator::I32Const { value } = operators.read().ok()? else {
        return None;
    };
    let Operator::CallIndirect {
        type_index,
        table_index: 0,
    } = operators.read().ok()?
    else {
        return None;
    };
    let ends = matches!(operators.read().ok()?, Operator::End) && operators.eof();
    (ends && type_index == own).then_some(u32::try_from(value).ok()?)
}

/// How many parameters each type has; `None` for what is no function's, or has kin that calls would tell apart.
pub(super) fn parameters(types: wasmparser::TypeSectionReader<'_>) -> Option<Vec<Option<u32>>> {
    let mut all = Vec::new();
    for group in types {
        for ty in group.ok()?.into_types() {
            let is_alone = ty.is_final && ty.supertype_idx.is_none();
            all.push(match ty.composite_type.inner {
                CompositeInnerType::Func(ty) if is_alone => {
                    Some(u32::try_from(ty.params().len()).ok()?)
                }
                _ => None,
            });
        }
    }
    Some(all)
}

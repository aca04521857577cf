//! The module whose imports a shim's functions were, written anew.

use std::collections::{BTreeMap, HashMap};

use wasm_encoder::reencode::{Error, Reencode, utils};
use wasm_encoder::{
    CodeSection, ExportKind, ExportSection, Function, FunctionSection, ImportSection, Instruction,
    Module, NameMap, NameSection, SectionId, TableSection,
};
use wasmparser::{Parser, Payload, TypeRef};

use super::forward::{Shim, parameters};
use super::{Gone, place};

pub(super) struct Main<'a> {
    shim: &'a Shim<'a>,
    /// Where each imported function is found now.
    imported: Vec<u32>,
    /// What became a function of its own: its type, how many parameters that has, and its place in the table.
    own: Vec<(u32, u32, u32)>,
    /// The shim's table.
    table: u32,
    /// Whether the module has no other, so no section for it either.
    is_first_table: bool,
    imports: &'a Imports<'a>,
}

/// The shim's functions among what is imported, by module and name. Many modules may have one source: what each of them has
/// isn't told for each, which would be as much as the square of what a component says.
pub(super) type Imports<'a> = HashMap<&'a str, &'a HashMap<&'a str, u32>>;

impl<'a> Main<'a> {
    pub(super) fn merge(
        module: &[u8],
        imports: &'a Imports<'a>,
        shim: &'a Shim<'a>,
    ) -> Option<Vec<u8>> {
        let mut types = Vec::new();
        let mut is_own = Vec::new();
        let mut own = Vec::new();
        let mut defined = None;
        let mut tables = 0;
        let mut has_tables = false;
        let mut has_code = false;
        let mut has_exports = false;
        for payload in Parser::new(0).parse_all(module) {
            match payload.ok()? {
                Payload::TypeSection(section) => types = parameters(section)?,
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import.ok()?;
                        match import.ty {
                            TypeRef::Func(ty) => {
                                let at = imports
                                    .get(import.module)
                                    .and_then(|source| source.get(import.name));
                                is_own.push(at.is_some());
                                if let Some(at) = at {
                                    own.push((ty, (*types.get(place(ty)?)?)?, *at));
                                }
                            }
                            TypeRef::FuncExact(_) => return None,
                            TypeRef::Table(_) => tables += 1,
                            _ => {}
                        }
                    }
                }
                Payload::FunctionSection(functions) => defined = Some(functions.count()),
                Payload::TableSection(section) => {
                    has_tables = true;
                    tables += section.count();
                }
                Payload::ExportSection(exports) => {
                    has_exports = true;
                    for export in exports {
                        if export.ok()?.name == shim.table {
                            return None;
                        }
                    }
                }
                Payload::CodeSectionStart { .. } => has_code = true,
                _ => {}
            }
        }
        // What is added is little beside the module, unless somebody wants it to be much.
        let added = own.iter().map(|(_, parameters, _)| u64::from(*parameters));
        let is_little = added.sum::<u64>() <= module.len() as u64;
        if !(has_code && has_exports && is_little) {
            return None;
        }
        // Imports come first, and what is added comes last.
        let mut kept = 0;
        let mut added = u32::try_from(is_own.len().checked_sub(own.len())?).ok()? + defined?;
        let imported = is_own
            .into_iter()
            .map(|is_own| {
                let next = if is_own { &mut added } else { &mut kept };
                *next += 1;
                *next - 1
            })
            .collect();
        let mut main = Self {
            shim,
            imported,
            own,
            table: tables,
            is_first_table: !has_tables,
            imports,
        };
        let mut merged = Module::new();
        main.parse_core_module(&mut merged, Parser::new(0), module)
            .ok()?;
        Some(merged.finish())
    }
}

impl Reencode for Main<'_> {
    type Error = Gone;

    fn function_index(&mut self, function: u32) -> Result<u32, Error<Gone>> {
        let imported = place(function).and_then(|index| self.imported.get(index));
        if let Some(index) = imported {
            return Ok(*index);
        }
        u32::try_from(self.own.len())
            .ok()
            .and_then(|own| function.checked_sub(own))
            .ok_or(Error::UserError(Gone))
    }

    fn parse_import_section(
        &mut self,
        imports: &mut ImportSection,
        section: wasmparser::ImportSectionReader<'_>,
    ) -> Result<(), Error<Gone>> {
        for import in section.into_imports() {
            let import = import?;
            let is_own = matches!(import.ty, TypeRef::Func(_))
                && self
                    .imports
                    .get(import.module)
                    .is_some_and(|source| source.contains_key(import.name));
            if !is_own {
                self.parse_import(imports, import)?;
            }
        }
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: wasmparser::FunctionSectionReader<'_>,
    ) -> Result<(), Error<Gone>> {
        utils::parse_function_section(self, functions, section)?;
        for (ty, ..) in &self.own {
            functions.function(*ty);
        }
        Ok(())
    }

    fn parse_table_section(
        &mut self,
        tables: &mut TableSection,
        section: wasmparser::TableSectionReader<'_>,
    ) -> Result<(), Error<Gone>> {
        utils::parse_table_section(self, tables, section)?;
        tables.table(self.shim.table_type());
        Ok(())
    }

    fn intersperse_section_hook(
        &mut self,
        module: &mut Module,
        _after: Option<SectionId>,
        before: Option<SectionId>,
    ) -> Result<(), Error<Gone>> {
        use SectionId::{Function, Import, Type};
        if self.is_first_table && !matches!(before, Some(Type | Import | Function)) {
            self.is_first_table = false;
            let mut tables = TableSection::new();
            tables.table(self.shim.table_type());
            module.section(&tables);
        }
        Ok(())
    }

    fn parse_export_section(
        &mut self,
        exports: &mut ExportSection,
        section: wasmparser::ExportSectionReader<'_>,
    ) -> Result<(), Error<Gone>> {
        utils::parse_export_section(self, exports, section)?;
        exports.export(self.shim.table, ExportKind::Table, self.table);
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: wasmparser::CodeSectionReader<'_>,
    ) -> Result<(), Error<Gone>> {
        utils::parse_code_section(self, code, section)?;
        for (type_index, parameters, at) in &self.own {
            let mut function = Function::new([]);
            for parameter in 0..*parameters {
                function.instruction(&Instruction::LocalGet(parameter));
            }
            function.instruction(&Instruction::I32Const(at.cast_signed()));
            function.instruction(&Instruction::CallIndirect {
                type_index: *type_index,
                table_index: self.table,
            });
            function.instruction(&Instruction::End);
            code.function(&function);
        }
        Ok(())
    }

    /// Functions' names are kept, for backtraces. What else there may be tells of places that moved.
    fn parse_custom_section(
        &mut self,
        module: &mut Module,
        section: wasmparser::CustomSectionReader<'_>,
    ) -> Result<(), Error<Gone>> {
        if let wasmparser::KnownCustom::Name(names) = section.as_known() {
            module.section(&self.custom_name_section(names)?);
        }
        Ok(())
    }

    fn parse_custom_name_subsection(
        &mut self,
        names: &mut NameSection,
        section: wasmparser::Name<'_>,
    ) -> Result<(), Error<Gone>> {
        match section {
            wasmparser::Name::Module { name, .. } => names.module(name),
            wasmparser::Name::Function(functions) => {
                let mut moved = BTreeMap::new();
                for function in functions {
                    let function = function?;
                    moved.insert(self.function_index(function.index)?, function.name);
                }
                let mut map = NameMap::new();
                for (index, name) in moved {
                    map.append(index, name);
                }
                names.functions(&map);
            }
            _ => {}
        }
        Ok(())
    }
}

//! Components whose module doesn't go through another one to reach its host.
//!
//! An import that reads or writes a guest's memory can only be made once the guest's module is instantiated, which asks for that
//! import. So wit-component, by which Rust, C, Go and JavaScript make their components, instantiates a shim first: a module of functions
//! that call through a table, which a third module fills at last. Every instance pays for it. Here the functions and the table become
//! the guest's own, of which an instance of a small component takes a third less time to make.

use std::collections::{BTreeMap, HashMap, HashSet};

use wasm_encoder::reencode::{Error, Reencode, ReencodeComponent, component_utils, utils};
use wasm_encoder::{
    CodeSection, Component, ComponentAliasSection, ComponentSectionId, ExportKind, ExportSection,
    Function, FunctionSection, ImportSection, InstanceSection, Instruction, Module, NameMap,
    NameSection, RawSection, RefType, SectionId, TableSection, TableType,
};
use wasmparser::{
    CanonicalFunction, Chunk, ComponentAlias, ComponentExternalKind, ComponentInstance,
    ComponentOuterAliasKind, ComponentTypeRef, CompositeInnerType, ExternalKind, Instance,
    Operator, Parser, Payload, TableInit, TypeRef,
};

/// Changes with what [`merge`] makes of the same component.
pub(crate) const VERSION: u8 = 1;

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

/// What a component's top level says of its modules and their instances.
#[derive(Default)]
struct Outline<'a> {
    modules: Vec<&'a [u8]>,
    instances: Vec<Instance<'a>>,
    /// Of each core function, the instance that exports it and the name there; `None` for one that is lowered.
    functions: Vec<Option<(u32, &'a str)>>,
    /// What else is taken from an instance.
    taken: Vec<(u32, &'a str, ExternalKind)>,
}

/// A module of functions that call through a table.
struct Shim<'a> {
    /// The place in the table that each exported function calls.
    functions: HashMap<&'a str, u32>,
    /// The table's name.
    table: &'a str,
    places: u32,
}

/// What becomes of a component.
struct Plan {
    shim_module: u32,
    shim_instance: u32,
    main_module: u32,
    main_instance: u32,
    /// The core functions that are the shim's, and what they call.
    functions: BTreeMap<u32, u32>,
    main: Vec<u8>,
}

impl<'a> Outline<'a> {
    fn read(component: &'a [u8]) -> Option<Self> {
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
                            kind,
                            instance_index,
                            name,
                        } => self.taken.push((instance_index, name, kind)),
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

    fn plan(self) -> Option<Plan> {
        let (shim_module, shim) = (0..)
            .zip(&self.modules)
            .find_map(|(index, module)| Some((index, Shim::read(module)?)))?;
        let shim_instance = self.only_instance_of(shim_module)?;
        let mut functions = BTreeMap::new();
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
        let mut others = aliased.chain(self.taken.iter().map(|(from, ..)| from));
        if others.any(|from| sources.contains_key(from)) {
            return None;
        }
        let mut of_shim = self
            .taken
            .iter()
            .filter(|(from, ..)| *from == shim_instance);
        if of_shim.any(|(_, name, kind)| *name != shim.table || *kind != ExternalKind::Table) {
            return None;
        }

        let Instance::Instantiate { args, .. } = self.instances.get(place(main_instance)?)? else {
            return None;
        };
        let imports: HashMap<(&str, &str), u32> = args
            .iter()
            .filter_map(|arg| Some((arg.name, sources.get(&arg.index)?)))
            .flat_map(|(module, source)| {
                source.iter().map(move |(name, at)| ((module, *name), *at))
            })
            .collect();
        let main = Main::merge(self.modules.get(place(main_module)?)?, &imports, &shim)?;
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

impl<'a> Shim<'a> {
    /// `None` where the module is or does anything else.
    fn read(module: &'a [u8]) -> Option<Self> {
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

    fn table_type(&self) -> TableType {
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

/// How many parameters each type has; `None` for what is no function's.
fn parameters(types: wasmparser::TypeSectionReader<'_>) -> Option<Vec<Option<u32>>> {
    let mut all = Vec::new();
    for group in types {
        for ty in group.ok()?.into_types() {
            all.push(match ty.composite_type.inner {
                CompositeInnerType::Func(ty) => Some(u32::try_from(ty.params().len()).ok()?),
                _ => None,
            });
        }
    }
    Some(all)
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

fn only<T>(items: impl IntoIterator<Item = T>) -> Option<T> {
    let mut items = items.into_iter();
    let first = items.next()?;
    items.next().is_none().then_some(first)
}

fn place(index: u32) -> Option<usize> {
    usize::try_from(index).ok()
}

/// Something refers to what is no longer there.
#[derive(Debug)]
struct Gone;

/// The component's top level, written anew.
struct Merging<'a> {
    plan: &'a Plan,
    /// The next module.
    module: u32,
}

impl Reencode for Merging<'_> {
    type Error = Gone;

    fn function_index(&mut self, function: u32) -> Result<u32, Error<Gone>> {
        let functions = &self.plan.functions;
        if functions.contains_key(&function) {
            return Err(Error::UserError(Gone));
        }
        let before = functions.range(..function).count();
        u32::try_from(before)
            .ok()
            .and_then(|before| function.checked_sub(before))
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
                            || !self.plan.functions.contains_key(&export.index)
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

/// The module whose imports the shim's functions were, written anew.
struct Main<'a> {
    shim: &'a Shim<'a>,
    /// Where each imported function is found now.
    imported: Vec<u32>,
    /// What became a function of its own: its type, how many parameters that has, and its place in the table.
    own: Vec<(u32, u32, u32)>,
    /// The shim's table.
    table: u32,
    /// Whether the module has no other, so no section for it either.
    is_first_table: bool,
    imports: &'a HashMap<(&'a str, &'a str), u32>,
}

impl<'a> Main<'a> {
    fn merge(
        module: &[u8],
        imports: &'a HashMap<(&'a str, &'a str), u32>,
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
                                let at = imports.get(&(import.module, import.name));
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
        if !(has_code && has_exports) {
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
                && self.imports.contains_key(&(import.module, import.name));
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

#[cfg(test)]
mod tests;

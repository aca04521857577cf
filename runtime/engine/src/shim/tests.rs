use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, Store};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use std::collections::HashMap;

use super::forward::Shim;
use super::*;

/// A component of the form that wit-component gives it.
const WITH_SHIM: &str = r#"(component
    (import "length" (func $length (param "text" string) (result u32)))
    (import "twice" (func $twice (param "n" u32) (result u32)))
    (core module $shim
        (type (func (param i32 i32) (result i32)))
        (table 1 1 funcref)
        (func (type 0) local.get 0 local.get 1 i32.const 0 call_indirect (type 0))
        (export "0" (func 0))
        (export "$imports" (table 0)))
    (core module $main
        (import "env" "length" (func $length (param i32 i32) (result i32)))
        (import "env" "twice" (func $twice (param i32) (result i32)))
        (import "env" "again" (func $again (param i32 i32) (result i32)))
        (type $length (func (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (global $started (mut i32) (i32.const 0))
        (table 2 2 funcref)
        (elem (i32.const 0) $answer $again)
        (start $start)
        (func $start (global.set $started (call $twice (i32.const 1))))
        (func $answer (result i32)
            (call $twice (call $length (i32.const 8) (i32.const 3)))
            (call_indirect (type $length) (i32.const 8) (i32.const 3) (i32.const 1))
            global.get $started
            i32.add
            i32.add)
        (export "again" (func $again))
        (func (export "run") (result i32) i32.const 0 call_indirect (result i32))
        (data (i32.const 8) "abc"))
    (core module $fixup
        (import "" "0" (func (param i32 i32) (result i32)))
        (import "" "$imports" (table 1 1 funcref))
        (elem (i32.const 0) func 0))
    (core instance $shim (instantiate $shim))
    (core func $twice (canon lower (func $twice)))
    (core instance $env
        (export "length" (func $shim "0"))
        (export "again" (func $shim "0"))
        (export "twice" (func $twice)))
    (core instance $main (instantiate $main (with "env" (instance $env))))
    (core func $lowered (canon lower (func $length) (memory (core memory $main "memory"))))
    (core instance (instantiate $fixup (with "" (instance
        (export "0" (func $lowered))
        (export "$imports" (table $shim "$imports"))))))
    (func (export "run") (result u32) (canon lift (core func $main "run"))))"#;

/// What `run` returns, or why it doesn't.
fn run(component: &[u8]) -> Result<u32, String> {
    let run = || {
        let engine = Engine::default();
        let component = Component::new(&engine, component)?;
        let mut linker = Linker::new(&engine);
        let mut root = linker.root();
        root.func_wrap("length", |_, (text,): (String,)| Ok((text.len() as u32,)))?;
        root.func_wrap("twice", |_, (n,): (u32,)| {
            n.checked_mul(2)
                .map(|n| (n,))
                .ok_or_else(|| wasmtime::format_err!("{n} is too large"))
        })?;
        let mut store = Store::new(&engine, ());
        let instance = linker.instantiate(&mut store, &component)?;
        let run = instance.get_typed_func::<(), (u32,)>(&mut store, "run")?;
        run.call(&mut store, ()).map(|(found,)| found)
    };
    run().map_err(|error: wasmtime::Error| format!("{error:?}"))
}

fn modules(component: &[u8]) -> usize {
    Outline::read(component).unwrap().modules.len()
}

#[test]
fn what_wit_component_makes_runs_the_same_without_its_shim() {
    let mut resolve = Resolve::default();
    let package = resolve
        .push_str(
            "test.wit",
            "package test:test; world test {
                import length: func(text: string) -> u32;
                import twice: func(n: u32) -> u32;
                export run: func() -> u32;
            }",
        )
        .unwrap();
    let world = resolve.select_world(&[package], None).unwrap();
    for (answer, expected) in [
        (
            "(call $twice (call $length (i32.const 8) (i32.const 3)))",
            Ok(6),
        ),
        (
            "(drop (call $length (i32.const 8) (i32.const 0))) unreachable",
            Err("answer"),
        ),
        (
            "(call $twice (i32.const -1))",
            Err("4294967295 is too large"),
        ),
    ] {
        let mut module = wat::parse_str(format!(
            r#"(module
                (import "$root" "length" (func $length (param i32 i32) (result i32)))
                (import "$root" "twice" (func $twice (param i32) (result i32)))
                (memory (export "memory") 1)
                (func $answer (result i32) {answer})
                (func (export "run") (result i32) call $answer)
                (data (i32.const 8) "abc"))"#
        ))
        .unwrap();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        let mut encoder = ComponentEncoder::default().module(&module).unwrap();
        let component = encoder.encode().unwrap();
        let merged = merge(&component).unwrap();
        assert_eq!((modules(&component), modules(&merged)), (3, 2));
        for component in [&component, &merged] {
            match (run(component), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                (found, _) => panic!("{answer}: {found:?}"),
            }
        }
    }
}

#[test]
fn a_component_of_the_same_form_runs_the_same_without_its_shim() {
    let component = wat::parse_str(WITH_SHIM).unwrap();
    let merged = merge(&component).unwrap();
    assert_eq!((modules(&component), modules(&merged)), (3, 2));
    assert_eq!((run(&component), run(&merged)), (Ok(11), Ok(11)));
    assert!(merge(&merged).is_none(), "it has none any more");
}

#[test]
fn a_shim_that_wizer_wrote_is_one() {
    let mut module = wat::parse_str(
        r#"(module
            (table (export "$imports") 1 1 funcref)
            (func (export "0") (param i64) local.get 0 i32.const 0 call_indirect (param i64)))"#,
    )
    .unwrap();
    // A section for data, with none.
    module.extend([11, 1, 0]);
    let shim = Shim::read(&module).unwrap();
    assert_eq!((shim.table, shim.places), ("$imports", 1));
    assert_eq!(shim.functions, HashMap::from([("0", 0)]));
}

/// Would fail if a call found its function where it trapped before.
#[test]
fn a_shim_of_types_that_have_kin_is_none() {
    for kin in ["final", ""] {
        let module = wat::parse_str(format!(
            r#"(module
                (type $type (sub {kin} (func (param i64))))
                (table (export "$imports") 1 1 funcref)
                (func (export "0") (type $type) local.get 0 i32.const 0 call_indirect (type $type)))"#
        ))
        .unwrap();
        assert_eq!(Shim::read(&module).is_some(), !kin.is_empty(), "{kin}");
    }
}

/// Would fail, for want of memory, if what is imported were told for each module and name: that is the square of what is said.
#[test]
fn many_modules_of_many_names_take_no_more_than_they_say() {
    let many = 0..10_000;
    let modules: String = many
        .clone()
        .map(|n| format!("(with \"{n}\" (instance $env))"))
        .collect();
    let names: String = many
        .map(|n| format!("(export \"{n}\" (func $shim \"0\"))"))
        .collect();
    let text = WITH_SHIM
        .replace(
            "(with \"env\" (instance $env))",
            &format!("(with \"env\" (instance $env)) {modules}"),
        )
        .replace(
            "(export \"length\" (func $shim \"0\"))",
            &format!("(export \"length\" (func $shim \"0\")) {names}"),
        );
    let component = wat::parse_str(&text).unwrap();
    let outline = Outline::read(&component).unwrap();
    assert!(outline.plan().is_some());
}

/// Would fail if what looks like a shim were taken for one.
#[test]
fn a_shim_that_does_anything_else_stays() {
    for (what, from, to) in [
        (
            "a function that computes",
            "local.get 0 local.get 1 i32.const 0",
            "local.get 0 local.get 1 i32.const 1 i32.add i32.const 0",
        ),
        (
            "a function that swaps its parameters",
            "local.get 0 local.get 1 i32.const 0",
            "local.get 1 local.get 0 i32.const 0",
        ),
        (
            "a function with a variable",
            "(func (type 0) local.get 0",
            "(func (type 0) (local i32) local.get 0",
        ),
        (
            "a function that goes on",
            "call_indirect (type 0))\n",
            "call_indirect (type 0) i32.const 1 i32.add)\n",
        ),
        (
            "a table that grows",
            "1 1 funcref",
            "1 2 funcref",
        ),
        (
            "a second table",
            "(table 1 1 funcref)\n        (func (type 0)",
            "(table 1 1 funcref) (table 1 1 funcref)\n        (func (type 0)",
        ),
        (
            "a memory",
            "(export \"$imports\" (table 0))",
            "(export \"$imports\" (table 0)) (memory 1)",
        ),
        (
            "an element of its own",
            "(export \"$imports\" (table 0))",
            "(export \"$imports\" (table 0)) (elem (i32.const 0) func 0)",
        ),
        (
            "a table that is taken before its user is made",
            "(core instance $main",
            "(alias core export $shim \"$imports\" (core table)) (core instance $main",
        ),
        (
            "another instance",
            "(core instance $shim (instantiate $shim))",
            "(core instance $shim (instantiate $shim)) (core instance (instantiate $shim))",
        ),
        (
            "a second instance of its module's user",
            "(core func $lowered",
            "(core instance (instantiate $main (with \"env\" (instance $env)))) (core func $lowered",
        ),
        (
            "two modules that use it",
            "(core func $lowered",
            "(core module $other (import \"env\" \"length\" (func (param i32 i32) (result i32))))
            (core instance (instantiate $other (with \"env\" (instance $env)))) (core func $lowered",
        ),
        (
            "a module that has the instance itself",
            "(with \"env\" (instance $env))",
            "(with \"env\" (instance $env)) (with \"shim\" (instance $shim))",
        ),
        (
            "a function that is lifted",
            "(func (export \"run\") (result u32) (canon lift",
            "(func (export \"add\") (param \"a\" u32) (param \"b\" u32) (result u32)
                (canon lift (core func $shim \"0\")))
            (func (export \"run\") (result u32) (canon lift",
        ),
        (
            "a function that is taken from its user's imports",
            "(func (export \"run\") (result u32) (canon lift",
            "(func (export \"add\") (param \"a\" u32) (param \"b\" u32) (result u32)
                (canon lift (core func $env \"length\")))
            (func (export \"run\") (result u32) (canon lift",
        ),
        (
            "a module that exports a table of that name",
            "(table 2 2 funcref)\n        (elem",
            "(table (export \"$imports\") 2 2 funcref)\n        (elem",
        ),
        (
            "a module that is exported",
            "(func (export \"run\") (result u32)",
            "(export \"module\" (core module $main)) (func (export \"run\") (result u32)",
        ),
        (
            "a component within that takes a module",
            "(func (export \"run\") (result u32)",
            "(component (core instance (instantiate $shim))) (func (export \"run\") (result u32)",
        ),
    ] {
        let text = WITH_SHIM.replace(from, to);
        assert_ne!(text, WITH_SHIM, "{what}");
        let component = wat::parse_str(&text).unwrap();
        assert!(Component::new(&Engine::default(), &component).is_ok(), "{what}");
        assert!(merge(&component).is_none(), "{what}");
    }
}

/// Would fail if bytes of any kind were too much, or what runs with its shim didn't run without it.
#[test]
fn what_is_valid_stays_valid_whatever_its_bytes_are() {
    let is_valid = |component: &[u8]| wasmparser::validate(component).is_ok();
    let told =
        |component: &[u8]| run(component).map_err(|error| error.lines().last().map(str::to_owned));
    let mut component = wat::parse_str(WITH_SHIM).unwrap();
    let mut merged = 0;
    for place in 0..component.len() {
        merge(&component[..place]);
        let byte = component[place];
        for other in [0, 1, 2, byte ^ 1, byte.wrapping_add(1), 0x20, 0x7f, 0xff] {
            component[place] = other;
            if let Some(without) = merge(&component)
                && is_valid(&component)
            {
                merged += 1;
                assert!(is_valid(&without), "{other} at {place}");
                if other == byte ^ 1 {
                    assert_eq!(told(&component), told(&without), "{other} at {place}");
                }
            }
        }
        component[place] = byte;
    }
    assert!(merged > 100, "{merged}");
}

/// Would fail if what a part of this made were taken for what it makes once its text has changed.
#[test]
fn the_version_is_that_of_all_parts() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/shim");
    let files = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["forward.rs", "main.rs", "outline.rs", "tests.rs"]);
    let one = hash(&[b"a", b"bc"]);
    for other in [hash(&[b"a", b"bd"]), hash(&[b"b", b"bc"]), hash(&[b"a"])] {
        assert_ne!(one, other);
    }
}

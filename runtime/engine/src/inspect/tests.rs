use super::*;

/// A component in text, in binary.
fn component(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

const P2: &str = r#"(component
    (import "wasi:cli/environment@0.2.6" (instance))
    (import "wasi:sockets/tcp@0.2.0" (instance))
    (core module $m (memory 1) (table 1 funcref))
    (core instance (instantiate $m))
    (core instance (instantiate $m))
    (instance $i)
    (export "wasi:http/incoming-handler@0.2.4" (instance $i))
)"#;

#[test]
fn a_component_with_a_released_handler_is_served() {
    let found = inspect(&component(P2)).unwrap();
    assert_eq!(found.wasi, Wasi::P2);
    assert_eq!(found.handler, "wasi:http/incoming-handler@0.2.4");
    assert_eq!(found.init, Init::None);
    assert_eq!(
        found.footprint,
        Footprint {
            core_instances: 2,
            memories: 2,
            tables: 2
        }
    );
    assert_eq!(found.memory, 2 << 16);
    let imports: Vec<String> = found.imports.iter().map(ToString::to_string).collect();
    assert_eq!(
        imports,
        ["wasi:cli/environment@0.2.6", "wasi:sockets/tcp@0.2.0"]
    );
    insta::assert_snapshot!("cautions", found.cautions.join("\n"));
}

/// Would fail if the pool that is made for a component had less than one of its instances takes, or much more.
#[test]
fn what_an_instance_is_made_of_is_counted_wherever_it_is_defined() {
    let of = |text: &str| {
        let handler = "(instance $h) (export \"wasi:http/incoming-handler@0.2.4\" (instance $h))";
        let text = format!("(component {text} {handler})");
        let Footprint {
            core_instances,
            memories,
            tables,
        } = inspect(&component(&text)).unwrap().footprint;
        (core_instances, memories, tables)
    };
    let module = "(core module $m (memory 1))";
    let inner = format!("(component $c {module} (core instance (instantiate $m)))");
    let twice = "(instance (instantiate $c)) (instance (instantiate $c))";
    assert_eq!(of(module), (0, 0, 0), "it is only defined");
    assert_eq!(of(&inner), (0, 0, 0), "so is this");
    assert_eq!(of(&format!("{inner} {twice}")), (2, 2, 0));
    let aliased =
        "(component $c (core instance (instantiate $m)) (core instance (instantiate $m)))";
    assert_eq!(of(&format!("{module} {aliased} {twice}")), (4, 4, 0));
    let deep = format!(
        "{inner} (component $d (instance (instantiate $c)) {twice}) (instance (instantiate $d))"
    );
    assert_eq!(of(&deep), (3, 3, 0));
}

#[test]
fn a_component_with_both_handlers_is_served_by_the_newer() {
    let both = component(
        r#"(component (instance $i)
            (export "wasi:http/incoming-handler@0.2.4" (instance $i))
            (export "wasi:http/handler@0.3.0" (instance $i)))"#,
    );
    assert_eq!(inspect(&both).unwrap().wasi, Wasi::P3);
}

#[test]
fn each_way_to_be_no_function_has_its_sentence() {
    let said = |bytes: &[u8]| inspect(bytes).unwrap_err().to_string();
    let p2 = component(P2);
    insta::assert_snapshot!(
        "refusals",
        [
            said(b""),
            said(b"#!/bin/sh\necho hello"),
            said(b"(component)"),
            said(&component("(module)")),
            said(p2.get(..p2.len() - 20).unwrap()),
            said(p2.get(..10).unwrap()),
            said(&component("(component)")),
            said(&component(r#"(component (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#)),
            said(&component(r#"(component (instance $i) (export "wasi:http/handler@0.3.0-rc-2026-01-06" (instance $i)))"#)),
            said(&component(
                r#"(component
                    (import "wasi:nn/graph@0.2.0-rc-2024-06-25" (instance))
                    (import "wasi:tls/types@0.2.0-draft" (instance))
                    (import "now" (func))
                    (instance $i)
                    (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#
            )),
        ]
        .join("\n")
    );
}

#[test]
fn every_cut_is_called_a_cut() {
    let whole = component(P2);
    for length in 4..whole.len() {
        match inspect(whole.get(..length).unwrap()) {
            // Between two sections the rest is a component of its own: one without a handler, or without its names.
            Err(InspectError::Truncated { .. } | InspectError::NoHandler { .. }) => {}
            Ok(_) if whole.get(length) == Some(&0) => {}
            other => panic!("{length}: {other:?}"),
        }
    }
}

#[test]
fn bytes_that_break_the_format_are_an_error_and_no_panic() {
    let whole = component(P2);
    for at in 8..whole.len() {
        for value in [0, 0x7f, 0xff] {
            let mut bytes = whole.clone();
            *bytes.get_mut(at).unwrap() = value;
            let _ = inspect(&bytes);
        }
    }
}

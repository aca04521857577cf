//! The checked-in bindings are what wit-bindgen makes of `sdk/wit`: guests needn't build the generator. Those of the
//! fixture without the SDK, which are made of upstream's interface alone, are checked here, too.
//! `UPDATE_BINDINGS=1 cargo test -p wisp --test bindings` writes them anew.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use wit_bindgen_core::wit_parser::Resolve;
use wit_bindgen_core::{Files, WorldGenerator};
use wit_bindgen_rust::Opts;

fn check(wit: &str, world: &str, file: &str, options: Opts) {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut resolve = Resolve::default();
    let (id, _) = resolve.push_path(package.join(wit)).unwrap();
    let world_id = resolve.select_world(&[id], Some(world)).unwrap();
    let mut files = Files::default();
    options
        .build()
        .generate(&mut resolve, world_id, &mut files)
        .unwrap();
    let (_, generated) = files.iter().next().unwrap();

    let file = package.join(file);
    if std::env::var_os("UPDATE_BINDINGS").is_some() {
        std::fs::write(&file, generated).unwrap();
    }
    assert!(
        std::fs::read(&file).unwrap() == generated,
        "{} isn't what wit-bindgen makes of {wit}: run the test with UPDATE_BINDINGS=1",
        file.display()
    );
}

#[test]
fn imports_are_current() {
    check(
        "../wit",
        "imports",
        "src/bindings/imports.rs",
        Opts {
            format: true,
            generate_all: true,
            runtime_path: Some("::wit_bindgen::rt".into()),
            ..Opts::default()
        },
    );
}

#[test]
fn the_start_up_export_is_current() {
    check(
        "../wit",
        "init",
        "src/bindings/init.rs",
        Opts {
            format: true,
            pub_export_macro: true,
            export_macro_name: Some("__export_wisp_init".into()),
            default_bindings_module: Some("$crate::__private::init_bindings".into()),
            runtime_path: Some("wit_bindgen::rt".into()),
            ..Opts::default()
        },
    );
}

#[test]
fn those_without_the_sdk_are_current() {
    check(
        "../wit/deps/nn",
        "ml",
        "../../tests/fixtures/nn/src/bindings.rs",
        Opts {
            format: true,
            ..Opts::default()
        },
    );
}

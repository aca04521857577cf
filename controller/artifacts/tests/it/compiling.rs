use std::io::Write as _;
use std::time::Duration;

use wisp_artifacts::{Compiler, Cpu, Store};
use wisp_engine::preinit::Limits;
use wisp_engine::sealed::Unsealed;
use wisp_engine::{Engines, Loader};

use super::registries::{component, sha256, store};

fn compiler(store: &Store) -> Compiler {
    let limits = Limits {
        timeout: Duration::from_secs(5),
        memory: 1 << 24,
        ..Limits::default()
    };
    Compiler::new(store.clone(), limits, Cpu::here())
}

/// Would fail if hosts could not run what is compiled here, or it were compiled again after every restart.
#[tokio::test]
async fn machine_code_is_what_a_host_maps_and_is_made_once() {
    let (_folder, store) = store();
    let stored = store.put(component(7)).await.unwrap();
    let prepared = compiler(&store).prepare(&stored.sha256).await.unwrap();
    // It has no initialisation.
    assert_eq!(prepared.component, stored.sha256);
    assert_eq!(prepared.length, stored.length);
    assert_eq!(prepared.handler, "wasi:http/incoming-handler@0.2.4");

    let code = store
        .read(&prepared.compiled.sha256, 1 << 24)
        .await
        .unwrap();
    assert_eq!(
        code.len(),
        usize::try_from(prepared.compiled.length).unwrap()
    );
    let mut file = Unsealed::new("code").unwrap();
    file.write_all(&code).unwrap();
    let wasi = prepared.compiled.wasi;
    // SAFETY: this process compiled it.
    #[expect(unsafe_code, reason = "what a host does")]
    unsafe {
        let engines = Engines::for_compilation();
        Loader::load_code(wasi, &engines, &file.seal().unwrap()).unwrap();
    }
    // Its result is known without the source.
    store.hold("x", prepared.digests());
    let again = compiler(&store).prepare(&stored.sha256).await.unwrap();
    assert_eq!(again, prepared);
}

/// Would fail if code for one level were taken for another's, by an operator that is told another.
#[tokio::test]
async fn every_level_has_code_of_its_own() {
    let (_folder, store) = store();
    let stored = store.put(component(7)).await.unwrap();
    let first = compiler(&store);
    let here = first.prepare(&stored.sha256).await.unwrap();
    for cpu in Cpu::here().below() {
        let compiler = first.for_cpu(*cpu);
        assert_eq!(compiler.prepared(&stored.sha256).await.unwrap(), None);
        let lower = compiler.prepare(&stored.sha256).await.unwrap();
        let known = compiler.prepared(&stored.sha256).await.unwrap();
        assert_eq!(known.as_ref(), Some(&lower));
        assert_eq!(lower.component, here.component);
        assert_ne!(lower.compiled.engine, here.compiled.engine);
    }
}

#[tokio::test]
async fn what_cannot_run_is_told_by_reason() {
    let (_folder, store) = store();
    let import = wat::parse_str(
        r#"(component
            (import "acme:db/query@1.0.0" (instance))
            (instance $i)
            (export "wasi:http/incoming-handler@0.2.4" (instance $i)))"#,
    )
    .unwrap();
    let fails = wat::parse_str(
        r#"(component
            (core module $m (func (export "init") unreachable))
            (core instance $i (instantiate $m))
            (func $init (canon lift (core func $i "init")))
            (export "wisp-init" (func $init))
            (instance $h)
            (export "wasi:http/incoming-handler@0.2.4" (instance $h)))"#,
    )
    .unwrap();
    let spins = wat::parse_str(
        r#"(component
            (core module $m (func (export "init") (loop br 0)))
            (core instance $i (instantiate $m))
            (func $init (canon lift (core func $i "init")))
            (export "wisp-init" (func $init))
            (instance $h)
            (export "wasi:http/incoming-handler@0.2.4" (instance $h)))"#,
    )
    .unwrap();
    let quick = Compiler::new(
        store.clone(),
        Limits {
            timeout: Duration::from_millis(100),
            memory: 1 << 20,
            ..Limits::default()
        },
        Cpu::here(),
    );
    for (bytes, reason) in [
        (import, "UnsupportedImport"),
        (fails, "InitFailed"),
        (spins, "InitFailed"),
        (wat::parse_str("(component)").unwrap(), "NoHandler"),
        (wat::parse_str("(module)").unwrap(), "NotWasm"),
        (component(1)[..30].to_vec(), "NotWasm"),
        (b"hello".to_vec(), "NotWasm"),
    ] {
        let stored = store.put(bytes).await.unwrap();
        let error = quick.prepare(&stored.sha256).await.unwrap_err();
        assert_eq!(error.reason(), reason, "{}", error.sentence());
        assert!(!error.is_transient());
    }
    let error = quick.prepare(&sha256(b"else")).await.unwrap_err();
    assert_eq!(error.reason(), "StoreFailed");
}

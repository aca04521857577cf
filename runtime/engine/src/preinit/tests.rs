use wasmtime::component::Linker;

use super::*;

/// A component whose initialisation is `init`, a core function that may call `$imported`. `get` reads what it left in
/// memory, `handle` in the global.
fn component(imports: &str, init: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(component
            {imports}
            (core module $m
                (import "host" "imported" (func $imported (result i32)))
                (memory (export "memory") 1)
                (global $global (mut i32) (i32.const 0))
                (func (export "init") {init})
                (func (export "get") (result i32) (i32.load (i32.const 8)))
                (func (export "global") (result i32) (global.get $global)))
            (core instance $i (instantiate $m (with "host" (instance (export "imported" (func $lowered))))))
            (func $init (canon lift (core func $i "init")))
            (export "wisp-init" (func $init))
            (func $get (result u32) (canon lift (core func $i "get")))
            (export "get" (func $get))
            (func $global (result u32) (canon lift (core func $i "global")))
            (export "global" (func $global))
            (instance $h)
            (export "wasi:http/incoming-handler@0.2.4" (instance $h)))"#
    ))
    .unwrap()
}

/// An import that belongs to requests.
const DENIED: &str = r#"
    (import "wasi:logging/logging@0.1.0-draft" (instance $log (export "level" (func (result u32)))))
    (core func $lowered (canon lower (func $log "level")))"#;

/// Standard output, whose handle a guest may keep.
const STDOUT: &str = r#"
    (import "wasi:io/streams@0.2.0" (instance $streams (export "output-stream" (type (sub resource)))))
    (alias export $streams "output-stream" (type $stream))
    (import "wasi:cli/stdout@0.2.0" (instance $stdout
        (alias outer 1 $stream (type $outer))
        (export "output-stream" (type $inner (eq $outer)))
        (export "get-stdout" (func (result (own $inner))))))
    (core func $lowered (canon lower (func $stdout "get-stdout")))"#;

/// Random numbers, as the seeds of a `HashMap` are drawn.
const RANDOM: &str = r#"
    (import "wasi:random/random@0.2.0" (instance $random (export "get-random-u64" (func (result u64)))))
    (core func $long (canon lower (func $random "get-random-u64")))
    (core module $narrow
        (import "host" "long" (func $long (result i64)))
        (func (export "narrow") (result i32) (i32.wrap_i64 (call $long))))
    (core instance $narrowed (instantiate $narrow (with "host" (instance (export "long" (func $long))))))
    (alias core export $narrowed "narrow" (core func $lowered))"#;

/// The seconds of the wall clock.
const CLOCK: &str = r#"
    (import "wasi:clocks/wall-clock@0.2.0" (instance $clock
        (type $d (record (field "seconds" u64) (field "nanoseconds" u32)))
        (export "datetime" (type $datetime (eq $d)))
        (export "now" (func (result $datetime)))))
    (core module $memory (memory (export "memory") 1))
    (core instance $shared (instantiate $memory))
    (alias core export $shared "memory" (core memory $space))
    (core func $now (canon lower (func $clock "now") (memory $space)))
    (core module $narrow
        (import "host" "now" (func $now (param i32)))
        (import "host" "memory" (memory 1))
        (func (export "narrow") (result i32) (call $now (i32.const 0)) (i32.load (i32.const 0))))
    (core instance $narrowed (instantiate $narrow (with "host" (instance
        (export "now" (func $now))
        (export "memory" (memory $space))))))
    (alias core export $narrowed "narrow" (core func $lowered))"#;

const SOON: Limits = Limits {
    timeout: Duration::from_millis(200),
    memory: 1 << 20,
    component: 1 << 20,
};

fn call(bytes: &[u8], name: &str) -> u32 {
    let engine = Engine::new(&config(Wasi::P2, Cpu::here()).unwrap()).unwrap();
    let component = Component::from_binary(&engine, bytes).unwrap();
    let mut linker = Linker::<()>::new(&engine);
    linker.define_unknown_imports_as_traps(&component).unwrap();
    let mut store = Store::new(&engine, ());
    store.set_epoch_deadline(1);
    let instance = linker.instantiate(&mut store, &component).unwrap();
    let function = instance
        .get_typed_func::<(), (u32,)>(&mut store, name)
        .unwrap();
    function.call(&mut store, ()).unwrap().0
}

#[test]
fn memory_and_globals_are_kept_and_a_second_run_does_nothing() {
    let plain = component(
        DENIED,
        "(i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 42))) (global.set $global (i32.const 7))",
    );
    assert_eq!((call(&plain, "get"), call(&plain, "global")), (0, 0));
    let done = preinit(&plain, &Limits::default()).unwrap();
    assert!(
        matches!(done.outcome, Outcome::Snapshot { before, after, .. } if before == plain.len() && after == done.component.len())
    );
    assert_eq!(
        (
            call(&done.component, "get"),
            call(&done.component, "global")
        ),
        (42, 7)
    );
    assert_eq!(inspect(&plain).unwrap().init, Init::Pending);
    assert_eq!(inspect(&done.component).unwrap().init, Init::Done);
    let again = preinit(&done.component, &Limits::default()).unwrap();
    assert_eq!(
        (again.outcome, again.component),
        (Outcome::Nothing, done.component)
    );
}

#[test]
fn a_call_that_belongs_to_requests_is_named() {
    let error = preinit(
        &component(DENIED, "(drop (call $imported))"),
        &Limits::default(),
    )
    .unwrap_err();
    assert!(
        matches!(&error, PreinitError::HostCall { call } if call == "wasi:logging/logging@0.1.0-draft#level"),
        "{error:?}"
    );
}

#[test]
fn a_trap_is_the_functions_own_failure() {
    let error = preinit(&component(DENIED, "unreachable"), &Limits::default()).unwrap_err();
    assert!(matches!(&error, PreinitError::Failed { .. }), "{error:?}");
}

#[test]
fn a_loop_without_end_is_ended() {
    let error = preinit(&component(DENIED, "(loop (br 0))"), &SOON).unwrap_err();
    assert!(matches!(&error, PreinitError::Timeout { .. }), "{error:?}");
}

#[test]
fn memory_is_bounded() {
    // 16 pages are the limit of a MiB; the guest has one and asks for 16 more.
    let grow = "(if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))";
    let error = preinit(&component(DENIED, grow), &SOON).unwrap_err();
    assert!(matches!(&error, PreinitError::Failed { .. }), "{error:?}");
}

#[test]
fn a_handle_kept_over_the_snapshot_leaves_the_component_plain() {
    let bytes = component(STDOUT, "(drop (call $imported))");
    let done = preinit(&bytes, &Limits::default()).unwrap();
    assert_eq!(done.component, bytes);
    let Outcome::Plain(why) = done.outcome else {
        panic!("{:?}", done.outcome)
    };
    assert!(why.contains("holds 1 of the host's resources"), "{why}");
}

#[test]
fn what_the_snapshotter_refuses_leaves_the_component_plain() {
    let bytes = wat::parse_str(
        r#"(component
            (core module $m (func (export "init")))
            (core instance $i (instantiate $m))
            (core instance (instantiate $m))
            (func $init (canon lift (core func $i "init")))
            (export "wisp-init" (func $init))
            (instance $h)
            (export "wasi:http/incoming-handler@0.2.4" (instance $h)))"#,
    )
    .unwrap();
    let done = preinit(&bytes, &Limits::default()).unwrap();
    assert_eq!(done.component, bytes);
    assert!(
        matches!(done.outcome, Outcome::Plain(_)),
        "{:?}",
        done.outcome
    );
}

#[test]
fn without_an_initialisation_nothing_happens() {
    let bytes = wat::parse_str(
        r#"(component (instance $h) (export "wasi:http/incoming-handler@0.2.4" (instance $h)))"#,
    )
    .unwrap();
    assert_eq!(
        preinit(&bytes, &Limits::default()).unwrap().outcome,
        Outcome::Nothing
    );
}

/// Would fail if each build of the same code gave another digest, and so another revision and another push.
#[test]
fn what_is_random_and_what_time_it_is_follows_from_the_component() {
    let init = |more: &str| format!("(i32.store (i32.const 8) (call $imported)) {more}");
    let ready = |plain: &[u8]| {
        let done = preinit(plain, &Limits::default()).unwrap();
        let is_snapshot = matches!(done.outcome, Outcome::Snapshot { .. });
        assert!(is_snapshot, "{:?}", done.outcome);
        done.component
    };
    let plain = component(RANDOM, &init(""));
    let first = ready(&plain);
    assert_eq!(first, ready(&plain));
    // It is random all the same.
    assert_ne!(call(&first, "get"), 0);
    let other = ready(&component(RANDOM, &init("(nop)")));
    assert_ne!(call(&first, "get"), call(&other, "get"));

    let timed = component(CLOCK, &init(""));
    let first = ready(&timed);
    assert_eq!(first, ready(&timed));
    // 1 January 1980.
    assert_eq!(call(&first, "get"), 315_532_800);
}

/// Would fail if nobody were told that what is random in a snapshot is the same in every instance.
#[test]
fn random_numbers_that_are_drawn_are_noticed() {
    let drew = |imports| {
        let init = "(i32.store (i32.const 8) (call $imported))";
        let done = preinit(&component(imports, init), &Limits::default()).unwrap();
        match done.outcome {
            Outcome::Snapshot { drew_random, .. } => drew_random,
            other => panic!("{other:?}"),
        }
    };
    assert!(drew(RANDOM));
    assert!(!drew(CLOCK));
}

/// Would fail if an initialisation could make a component as large as all the memory that it may have.
#[test]
fn a_snapshot_of_too_much_is_refused() {
    let fill = "(memory.fill (i32.const 0) (i32.const 7) (i32.const 65536))";
    let bytes = component(DENIED, fill);
    let limits = Limits {
        component: 1 << 16,
        ..SOON
    };
    let error = preinit(&bytes, &limits).unwrap_err();
    assert!(
        matches!(error, PreinitError::TooLarge { bytes, limit } if bytes > limit && limit == 1 << 16),
        "{error}"
    );
    let done = preinit(&bytes, &SOON).unwrap();
    assert!(matches!(done.outcome, Outcome::Snapshot { .. }));
}

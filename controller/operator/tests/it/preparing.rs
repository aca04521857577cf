//! Components are prepared by processes of the operator's own program.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use wisp_artifacts::{Apart, Compiler, Cpu, Error, Limits, Store};

/// A component whose initialisation is `init`, and which has `memories` memories of at most 1 GiB each.
fn component(memories: usize, init: &str) -> Vec<u8> {
    let all: String = (0..memories)
        .map(|index| format!("(memory $m{index} 1 16384)"))
        .collect();
    wat::parse_str(format!(
        r#"(component
            (core module $m {all} (func (export "init") {init}))
            (core instance $i (instantiate $m))
            (func $init (canon lift (core func $i "init")))
            (export "wisp-init" (func $init))
            (instance $h)
            (export "wasi:http/incoming-handler@0.2.4" (instance $h)))"#
    ))
    .unwrap()
}

/// An initialisation that has so many pages of the memory, and writes all of them.
fn fill(pages: u32) -> String {
    let more = pages - 1;
    let bytes = u64::from(pages) << 16;
    format!(
        "(if (i32.eq (memory.grow $m0 (i32.const {more})) (i32.const -1)) (then unreachable))
         (memory.fill $m0 (i32.const 0) (i32.const 7) (i32.const {bytes}))"
    )
}

const SPIN: &str = "(loop br 0)";
const NOTHING: &str = "(i32.store $m0 (i32.const 8) (i32.const 42))";

fn store(folder: &Path) -> Store {
    Store::open(folder, 1 << 30).unwrap()
}

fn apart() -> Apart {
    Apart {
        program: env!("CARGO_BIN_EXE_wisp-operator").into(),
        memory: 256 << 20,
        timeout: Duration::from_secs(60),
    }
}

fn compiler(store: &Store, apart: Apart) -> Compiler {
    Compiler::apart(store.clone(), Limits::default(), Cpu::here(), apart)
}

/// The processes of the operator's program that prepare something for the store in `folder`.
fn children(folder: &Path) -> Vec<u32> {
    let folder = folder.display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap();
    let ids = processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    ids.filter(|id| {
        let said = std::fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
        said.contains("prepare-component") && said.contains(&folder)
    })
    .collect()
}

async fn until(condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), met)
        .await
        .unwrap();
}

fn left(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("partial")).unwrap().count()
}

/// Would fail if what a process of its own makes were anything else than what this one makes, or it left files behind.
#[tokio::test]
async fn it_comes_to_the_same_in_a_process_of_its_own() {
    let (here, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plain = wat::parse_str(
        r#"(component (instance $h) (export "wasi:http/incoming-handler@0.2.4" (instance $h)))"#,
    );
    for bytes in [component(1, NOTHING), plain.unwrap()] {
        let first = store(here.path());
        let source = first.put(bytes.clone()).await.unwrap().sha256;
        let expected = Compiler::new(first, Limits::default(), Cpu::here())
            .prepare(&source)
            .await
            .unwrap();
        let second = store(elsewhere.path());
        second.put(bytes).await.unwrap();
        let began = Instant::now();
        let prepared = compiler(&second, apart()).prepare(&source).await.unwrap();
        println!("prepared apart in {:?}", began.elapsed());
        assert_eq!(prepared, expected);
        for digest in prepared.digests() {
            assert!(second.has(&digest).await.unwrap(), "{digest}");
        }
    }
    assert_eq!(left(elsewhere.path()), 0);
}

/// Would fail if a Function could take all of the operator's memory, if the others had to go without because of it, or if it
/// were tried again at once, also by an operator that starts.
#[tokio::test]
async fn who_takes_too_much_memory_is_told_and_takes_it_from_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let compiler = compiler(&store, apart());
    // The guest itself is refused what it asks for, though it may have it.
    let greedy = store.put(component(1, &fill(8000))).await.unwrap().sha256;
    let error = compiler.prepare(&greedy).await.unwrap_err();
    assert_eq!(error.reason(), "OutOfMemory", "{}", error.sentence());
    // What is made of what the guest has takes more.
    let hungry = store.put(component(1, &fill(2000))).await.unwrap().sha256;
    let error = compiler.prepare(&hungry).await.unwrap_err();
    assert_eq!(error.reason(), "OutOfMemory", "{}", error.sentence());
    assert!(error.sentence().contains("256 MiB"), "{}", error.sentence());
    assert!(!error.is_transient());
    assert_eq!(left(folder.path()), 0);

    let modest = store.put(component(1, NOTHING)).await.unwrap().sha256;
    compiler.prepare(&modest).await.unwrap();

    // What can't be started can't be tried.
    let nobody = Apart {
        program: "/nobody".into(),
        ..apart()
    };
    let again = self::compiler(&self::store(folder.path()), nobody);
    let told = again.prepare(&hungry).await.unwrap_err();
    assert_eq!(told.sentence(), error.sentence());
    assert_eq!(told.reason(), error.reason());
    let other = store.put(component(2, NOTHING)).await.unwrap().sha256;
    let unable = again.prepare(&other).await.unwrap_err();
    assert!(unable.is_transient(), "{}", unable.sentence());

    // With more memory it is another matter, and this much a component may have.
    let more = Apart {
        memory: 1 << 30,
        ..apart()
    };
    let large = store.put(component(1, &fill(1600))).await.unwrap().sha256;
    let error = compiler.prepare(&large).await.unwrap_err();
    assert_eq!(error.reason(), "OutOfMemory", "{}", error.sentence());
    let began = Instant::now();
    self::compiler(&store, more).prepare(&large).await.unwrap();
    println!("100 MiB prepared apart in {:?}", began.elapsed());
}

/// Would fail if a component that doesn't come to an end kept its turn for ever.
#[tokio::test]
async fn who_takes_too_long_is_ended_and_told() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let quick = Apart {
        timeout: Duration::from_millis(1500),
        ..apart()
    };
    let compiler = compiler(&store, quick);
    let endless = store.put(component(1, SPIN)).await.unwrap().sha256;
    let modest = store.put(component(1, NOTHING)).await.unwrap().sha256;
    let (ended, served) = tokio::join!(compiler.prepare(&endless), compiler.prepare(&modest));
    let error = ended.unwrap_err();
    assert!(matches!(error, Error::TooSlow { .. }), "{error}");
    assert!(error.sentence().contains("1.5 s"), "{error}");
    assert!(!error.is_transient());
    served.unwrap();
    assert_eq!((children(folder.path()), left(folder.path())), (vec![], 0));
}

/// Would fail if a disk that takes nothing more, or an OOM killer that came first, were told as the component's fault: that is
/// noted, and keeps it from being tried again.
#[tokio::test]
async fn what_is_no_fault_of_the_component_passes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let store = store(path);
    let spins = store.put(component(1, SPIN)).await.unwrap().sha256;
    let compiler = compiler(&store, apart());
    let (ended, ()) = tokio::join!(compiler.prepare(&spins), async {
        until(|| children(path).len() == 1).await;
        let id = children(path)[0].to_string();
        let killed = Command::new("kill").args(["-KILL", &id]).status();
        assert!(killed.unwrap().success());
    });
    let error = ended.unwrap_err();
    assert_eq!(error.reason(), "PrepareFailed");
    assert!(error.is_transient(), "{}", error.sentence());
    assert!(error.sentence().contains("was killed"), "{error}");

    let job = serde_json::json!({
        "source": path.join("none"), "folder": path.join("none"), "cpu": Cpu::here().to_string(), "memory": 256 << 20,
        "init_timeout": {"secs": 60, "nanos": 0}, "init_memory": 1 << 20, "init_component": 1 << 20,
    });
    let mut child = Command::new(apart().program)
        .args(["prepare-component", &job.to_string()])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let _open = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(75));
}

/// Would fail if processes outlived the operator that asked for them, though nobody but it ends them; or if an error of the
/// component's own were told as another.
#[tokio::test]
async fn nothing_is_left_of_an_operator_that_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let of = |init: &'static str| {
        let path = path.clone();
        async move {
            let store = store(&path);
            let sha256 = store.put(component(1, init)).await.unwrap().sha256;
            compiler(&store, apart()).prepare(&sha256).await
        }
    };
    let error = of("unreachable").await.unwrap_err();
    assert_eq!(error.reason(), "InitFailed", "{}", error.sentence());

    // An operator whose runtime ends.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.spawn(of(SPIN));
    until(|| children(&path).len() == 1).await;
    runtime.shutdown_background();
    until(|| children(&path).is_empty()).await;

    // One that is killed: its end of the pipe is all that goes.
    let job = serde_json::json!({
        "source": path.join("none"), "folder": path, "cpu": Cpu::here().to_string(), "memory": 256 << 20,
        "init_timeout": {"secs": 60, "nanos": 0}, "init_memory": 1 << 20, "init_component": 1 << 20,
    });
    let fifo = path.join("none");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let mut child = Command::new(apart().program)
        .args(["prepare-component", &job.to_string()])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    until(|| children(&path).len() == 1).await;
    assert_eq!(
        child.try_wait().unwrap(),
        None,
        "it waits for the component"
    );
    drop(child.stdin.take());
    let status = child.wait().unwrap();
    assert!(!status.success(), "{status}");
}

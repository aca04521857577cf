use std::os::unix::fs::PermissionsExt;

use super::*;

const COMPONENT: &str = r#"(component
    (core module $m (memory 1) (func (export "f") (result i32) i32.const 7))
    (core instance (instantiate $m))
    (instance $i)
    (export "wasi:http/incoming-handler@0.2.4" (instance $i))
)"#;

fn source() -> Source {
    Source::from_bytes(wat::parse_str(COMPONENT).unwrap()).unwrap()
}

fn artifacts(cache: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(cache.join("components"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "cwasm")
        })
        .collect();
    found.sort();
    found
}

#[test]
fn what_one_loader_compiled_another_maps() {
    let cache = tempfile::tempdir().unwrap();
    let engines = Engines::for_compilation();
    assert!(
        !Loader::new(cache.path())
            .load(&source(), &engines)
            .unwrap()
            .cached
    );
    assert!(
        Loader::new(cache.path())
            .load(&source(), &engines)
            .unwrap()
            .cached
    );
    let [artifact] = artifacts(cache.path()).try_into().unwrap();
    assert_eq!(
        std::fs::metadata(artifact).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_damaged_artifact_is_compiled_anew() {
    let cache = tempfile::tempdir().unwrap();
    let engines = Engines::for_compilation();
    let loader = Loader::new(cache.path());
    loader.load(&source(), &engines).unwrap();
    let artifact = artifacts(cache.path()).remove(0);
    let whole = std::fs::read(&artifact).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for damaged in [Vec::new(), whole.get(..100).unwrap().to_vec(), flipped] {
        std::fs::write(&artifact, damaged).unwrap();
        assert!(!loader.load(&source(), &engines).unwrap().cached);
        assert!(loader.load(&source(), &engines).unwrap().cached);
    }
}

#[test]
fn a_damaged_entry_is_compiled_anew() {
    let cache = tempfile::tempdir().unwrap();
    let engines = Engines::for_compilation();
    let loader = Loader::new(cache.path());
    loader.load(&source(), &engines).unwrap();
    let artifact = artifacts(cache.path()).remove(0);
    let entry = artifact.with_extension("").with_extension("json");
    for damaged in ["", "{}", r#"{"sha256": "../../../etc/passwd"}"#] {
        std::fs::write(&entry, damaged).unwrap();
        assert!(
            !loader.load(&source(), &engines).unwrap().cached,
            "{damaged}"
        );
        assert!(loader.load(&source(), &engines).unwrap().cached);
    }
}

#[test]
fn what_others_may_write_is_not_run() {
    let cache = tempfile::tempdir().unwrap();
    let engines = Engines::for_compilation();
    let loader = Loader::new(cache.path());
    loader.load(&source(), &engines).unwrap();
    let artifact = artifacts(cache.path()).remove(0);
    std::fs::set_permissions(&artifact, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(!loader.load(&source(), &engines).unwrap().cached);

    let folder = cache.path().join("components");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    let loader = Loader::new(cache.path());
    for _ in 0..2 {
        assert!(!loader.load(&source(), &engines).unwrap().cached);
    }
}

#[test]
fn a_link_in_the_cache_is_not_followed() {
    let cache = tempfile::tempdir().unwrap();
    let engines = Engines::for_compilation();
    let loader = Loader::new(cache.path());
    loader.load(&source(), &engines).unwrap();
    let artifact = artifacts(cache.path()).remove(0);
    let elsewhere = cache.path().join("elsewhere");
    std::fs::rename(&artifact, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &artifact).unwrap();
    assert!(!loader.load(&source(), &engines).unwrap().cached);
}

#[test]
fn the_folder_keeps_to_its_capacity() {
    let cache = tempfile::tempdir().unwrap();
    let engines = Engines::for_compilation();
    let loader = Loader::with_capacity(cache.path(), 1);
    for value in 0..3 {
        let text = COMPONENT.replace("i32.const 7", &format!("i32.const {value}"));
        let source = Source::from_bytes(wat::parse_str(text).unwrap()).unwrap();
        loader.load(&source, &engines).unwrap();
        assert_eq!(artifacts(cache.path()).len(), 1);
        assert!(loader.load(&source, &engines).unwrap().cached);
    }
}

#[test]
fn another_digest_than_asked_for_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f.wasm");
    std::fs::write(&file, wat::parse_str(COMPONENT).unwrap()).unwrap();
    let read = Source::read(&file, None).unwrap();
    Source::read(&file, Some(&read.sha256().to_uppercase())).unwrap();
    let error = Source::read(&file, Some(&"0".repeat(64)))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(read.sha256()) && error.contains(&"0".repeat(64)),
        "{error}"
    );
}

#[test]
fn without_a_folder_it_compiles_every_time() {
    let cache = tempfile::tempdir().unwrap();
    let file = cache.path().join("file");
    std::fs::write(&file, "").unwrap();
    let loader = Loader::new(&file);
    let engines = Engines::for_compilation();
    for _ in 0..2 {
        assert!(!loader.load(&source(), &engines).unwrap().cached);
    }
}

#[test]
fn machine_code_that_was_fetched_is_mapped_where_it_fits() {
    use std::io::Write as _;

    let engines = Engines::for_compilation();
    let code = Loader::compile(&source(), &engines).unwrap();
    let seal = |bytes: &[u8]| {
        let mut file = crate::sealed::Unsealed::new("code").unwrap();
        file.write_all(bytes).unwrap();
        file.seal().unwrap()
    };
    // SAFETY: this test compiled it.
    #[expect(unsafe_code, reason = "what is tested")]
    let load = |bytes: &[u8]| unsafe {
        Loader::load_code(source().inspection().wasi, &engines, &seal(bytes))
    };
    assert!(load(&code).unwrap().cached);
    assert!(matches!(load(b"no machine code"), Err(LoadError::Code(_))));
}

//! Whatever is written into a `function.yaml`: no panic, and every mistake names its field and its line.
#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value, json};
use wisp_api::{ManifestError, Objects, Place, parse_manifests};

/// Every field there is, with a value that is right.
fn whole() -> Value {
    json!({
        "apiVersion": "wisp.dev/v1alpha1",
        "kind": "Function",
        "metadata": {"name": "digits", "namespace": "vision", "labels": {"app": "digits"}},
        "spec": {
            "component": {"file": "./digits.wasm", "sha256": "00".repeat(32)},
            "models": [{
                "name": "mnist",
                "format": "onnx",
                "source": {"file": "models/mnist.onnx"},
                "device": "cpu",
                "batching": {"maxSize": 8, "maxDelay": "1.5ms"},
            }],
            "scaling": {
                "minReplicas": 1,
                "maxReplicas": 3,
                "target": {"concurrency": 4},
                "idleTimeout": "1m30s",
            },
            "limits": {
                "timeout": "3s",
                "memory": "128Mi",
                "concurrency": 16,
                "queue": 10,
                "requestBody": "1M",
            },
            "env": [
                {"name": "LEVEL", "value": "info"},
                {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "token", "key": "value", "optional": true}}},
                {"name": "MODE", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "mode", "optional": true}}},
            ],
            "outbound": {"allow": ["https://api.example.com"], "certificateAuthorities": [{"configMapKeyRef": {"name": "company", "key": "ca.crt"}}]},
            "keyValue": [{"name": "default", "maxSize": "1Mi"}],
            "hosts": ["digits.example.com"],
            "instances": {"mode": "reuse", "maxRequests": 100, "idleTimeout": "5s"},
            "pod": {
                "gpu": 1,
                "resources": {"requests": {"cpu": "500m", "memory": "128Mi"}},
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
            },
        },
    })
}

/// What people write where something else belongs.
fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec![
            "",
            " ",
            "-1",
            "0",
            "1e400",
            "NaN",
            ".inf",
            "64Mi",
            "64MiB",
            "18446744073709551616",
            "9999999999999Ei",
            "0.1m",
            "1h",
            "-5s",
            "99999999999999h",
            "..",
            "/",
            "../../etc/passwd",
            "https://*",
            "a b",
            "Ünïcode",
            "\0",
            "\u{feff}",
            "true",
            "~",
            "{}",
            "name",
        ])
        .prop_map(Value::from),
        "\\PC{0,80}".prop_map(Value::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key(), inner), 0..4)
                .prop_map(|fields| Value::from(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "name",
            "file",
            "image",
            "spec",
            "models",
            "source",
            "limits",
            "memory",
            "value",
            "valueFrom",
            "mode",
            "gpu",
            "modles",
            "Name",
            "<<",
            "a.b",
            "0",
            "",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,12}",
    ]
}

/// What happens to one place of a manifest.
#[derive(Debug, Clone)]
enum Change {
    Replace(Value),
    Remove,
    Add(String, Value),
    Repeat,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => value().prop_map(Change::Replace),
        2 => Just(Change::Remove),
        2 => (key(), value()).prop_map(|(key, value)| Change::Add(key, value)),
        1 => Just(Change::Repeat),
    ]
}

/// Pointers to every place inside of `value`.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let at = format!("{at}/{}", escaped(key));
                places(value, &at, all);
                all.push(at);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                let at = format!("{at}/{index}");
                places(value, &at, all);
                all.push(at);
            }
        }
        _ => {}
    }
}

fn apply(manifest: &mut Value, place: &Index, change: Change) {
    let mut all = Vec::new();
    places(manifest, "", &mut all);
    let Some(at) = (!all.is_empty()).then(|| place.get(&all)) else {
        return;
    };
    let (parent, last) = at.rsplit_once('/').unwrap();
    match change {
        Change::Replace(value) => *manifest.pointer_mut(at).unwrap() = value,
        Change::Remove => match manifest.pointer_mut(parent).unwrap() {
            Value::Object(fields) => {
                fields.remove(&last.replace("~1", "/").replace("~0", "~"));
            }
            Value::Array(items) => {
                items.remove(last.parse().unwrap());
            }
            _ => {}
        },
        Change::Add(key, value) => match manifest.pointer_mut(at).unwrap() {
            Value::Object(fields) => {
                fields.insert(key, value);
            }
            Value::Array(items) => items.push(value),
            scalar => *scalar = value,
        },
        Change::Repeat => {
            let copy = manifest.pointer(at).unwrap().clone();
            if let Value::Array(items) = manifest.pointer_mut(parent).unwrap() {
                items.push(copy);
            }
        }
    }
}

/// What the command line and the operator do with a text; the error is what its author reads.
fn read(text: &str) -> Result<(), ManifestError> {
    let manifests = parse_manifests(text)?;
    for manifest in &manifests {
        for place in [
            Place::Cluster,
            Place::Local { project: true },
            Place::Local { project: false },
        ] {
            if let Err(error) = manifest.validate_for(place) {
                told(text, &error, true);
            }
        }
        let Some(function) = manifest.function() else {
            continue;
        };
        let built = Some("/built.wasm".into());
        if let Ok(files) = function.local_files(Path::new("/srv"), built, "/kv".into()) {
            match Objects::new(&manifests).values(function) {
                Ok(values) => {
                    if let Err(error) = function.to_config(&files, values) {
                        assert!(!error.to_string().is_empty());
                    }
                }
                Err(error) => told(text, &error, true),
            }
        }
    }
    Ok(())
}

/// Checks that each mistake has a line, a sentence, and a field where `fields` says that there is one to name.
fn told(text: &str, error: &ManifestError, fields: bool) {
    assert!(!error.mistakes().is_empty());
    for mistake in error.mistakes() {
        assert!(!mistake.message.trim().is_empty(), "{mistake:?} of\n{text}");
        assert!(
            !mistake.path.is_empty() || !fields,
            "no field in {mistake:?} of\n{text}"
        );
        let lines = text.lines().count() + 1;
        assert!(
            mistake.line.is_none_or(|line| (1..=lines).contains(&line)),
            "{mistake:?} of {lines} lines"
        );
    }
}

#[test]
fn the_manifest_that_the_others_are_made_of_is_right() {
    read(&whole().to_string()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// JSON is YAML, and its structure is sound: so whatever is wrong is wrong with a field.
    #[test]
    fn every_mistake_in_a_changed_manifest_names_its_field(
        changes in prop::collection::vec((any::<Index>(), change()), 1..4),
        pretty in any::<bool>(),
    ) {
        let mut manifest = whole();
        for (place, change) in changes {
            apply(&mut manifest, &place, change);
        }
        let text = if pretty {
            serde_json::to_string_pretty(&manifest).unwrap()
        } else {
            manifest.to_string()
        };
        if let Err(error) = read(&text) {
            told(&text, &error, true);
        }
    }

    /// A text that is no YAML any more has no fields, but lines.
    #[test]
    fn no_changed_text_panics(
        cuts in prop::collection::vec((any::<Index>(), any::<Index>(), "(\\PC|\n|\t|: |- |\\{|\\}|\\[|\\]|&a|\\*a|<<|!!|---\n|'|\"|\\||>|#){0,6}"), 1..4),
        example in 0..EXAMPLES.len(),
    ) {
        let mut text: Vec<char> = EXAMPLES.get(example).unwrap().chars().collect();
        for (at, length, insert) in cuts {
            let at = at.index(text.len() + 1);
            let end = (at + length.index(12)).min(text.len());
            text.splice(at..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(error) = read(&text) {
            told(&text, &error, false);
        }
    }

    #[test]
    fn no_spec_panics(spec in value()) {
        let manifest = json!({
            "apiVersion": "wisp.dev/v1alpha1",
            "kind": "Function",
            "metadata": {"name": "f"},
            "spec": spec,
        });
        let text = manifest.to_string();
        if let Err(error) = read(&text) {
            told(&text, &error, true);
        }
    }
}

/// What people begin with.
const EXAMPLES: [&str; 5] = [
    include_str!("../../../../examples/hello/function.yaml"),
    include_str!("../../../../examples/digits/function.yaml"),
    include_str!("../../../../examples/classify/function.yaml"),
    include_str!("../../../../examples/embed/function.yaml"),
    include_str!("../../../../examples/stream/function.yaml"),
];

use std::path::Path;

use super::*;
use crate::{Bytes, ConfigError, Objects};

fn told(text: &str) -> String {
    parse_manifests(text)
        .err()
        .map_or_else(|| "valid".to_owned(), |error| error.to_string())
}

const WHOLE: &str = r#"
apiVersion: wisp.dev/v1alpha1
kind: Function
metadata: {name: digits, namespace: vision, labels: {app: digits}}
spec:
  component: {file: ./digits.wasm, sha256: "0000000000000000000000000000000000000000000000000000000000000000"}
  models:
  - name: mnist
    format: onnx
    source: {file: models/mnist.onnx}
    device: cpu
    batching: {maxSize: 8, maxDelay: 1.5ms}
  scaling: {minReplicas: 1, maxReplicas: 3, target: {concurrency: 4}, idleTimeout: 1m30s}
  limits: {timeout: 3s, memory: 128Mi, concurrency: 16, queue: 10, requestBody: 1M}
  env:
  - {name: LEVEL, value: info}
  - {name: TOKEN, valueFrom: {secretKeyRef: {name: token, key: value}}}
  - {name: MODE, valueFrom: {configMapKeyRef: {name: settings, key: mode}}}
  - {name: MAYBE, valueFrom: {secretKeyRef: {name: none, key: value, optional: true}}}
  outbound: {allow: ["https://api.example.com"]}
  keyValue: [{name: default, maxSize: 1Mi}]
  hosts: [digits.example.com]
  instances: {mode: reuse, maxRequests: 100, idleTimeout: 5s}
  pod:
    gpu: 1
    resources: {requests: {cpu: 500m, memory: 128Mi}}
    nodeSelector: {disk: ssd}
    tolerations: [{key: gpu, operator: Exists}]
---
apiVersion: v1
kind: Secret
metadata: {name: token, namespace: vision}
data: {value: aHVudGVyMg==}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: vision}
data: {mode: "fast"}
"#;

#[test]
fn a_whole_function_becomes_what_its_host_reads() {
    let manifests = parse_manifests(WHOLE).unwrap();
    assert_eq!(manifests.len(), 3);
    let function = manifests[0].function().unwrap();
    assert_eq!(function.id().unwrap().to_string(), "vision/digits");
    let files = function
        .local_files(Path::new("/srv"), None, "/kv".into())
        .unwrap();
    let config = function
        .to_config(&files, Objects::new(&manifests).values(function).unwrap())
        .unwrap();
    assert_eq!(
        config.env.0.get("TOKEN").map(String::as_str),
        Some("hunter2")
    );
    let mut json = serde_json::to_value(&config).unwrap();
    json["env"]["TOKEN"] = "…".into();
    insta::assert_snapshot!(serde_json::to_string_pretty(&json).unwrap());
    assert!(
        !format!("{function:?}").contains("info"),
        "values of variables aren't printed"
    );
}

#[test]
fn an_empty_spec_is_all_defaults_and_those_of_the_host() {
    let manifests = parse_manifests("apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {name: f}\nspec: {limits: , scaling: {minReplicas: }}\n").unwrap();
    let function = manifests[0].function().unwrap();
    assert_eq!(function.limits(), wisp_contract::config::Limits::default());
    assert_eq!(function.spec.scaling.target_concurrency(64), 44);
    assert_eq!(function.spec.limits.memory, Bytes::mebi(64));
    assert_eq!(function.id().unwrap().to_string(), "default/f");
    assert_eq!(
        function.local_files(Path::new("/srv"), None, "/kv".into()),
        Err(ConfigError::NoComponentFile)
    );
    let files = function
        .local_files(Path::new("/srv"), Some("/built.wasm".into()), "/kv".into())
        .unwrap();
    assert_eq!(files.component, Path::new("/built.wasm"));
}

#[test]
fn every_mistake_is_told_at_once_with_its_line() {
    insta::assert_snapshot!(told(
        r#"apiVersion: wisp.dev/v1alpha1
kind: Function
metadata:
  name: digits
  lables: {a: b}
spec:
  modles: []
  component:
    fil: digits.wasm
  models:
  - name: mnist
    source: {file: [1]}
    device: gpus
    format: 3
  scaling: {minReplicas: one, maxReplicas: 2000}
  limits:
    timeout: 10
    memory: 64MiB
    concurrency: 1.5
  env:
  - {name: PORT, value: 8080}
  - {name: ON, value: yes}
  - {value: x}
  hosts: digits.example.com
  access: {public: true}
  pod: {nodeSelector: {disk: 1}}
---
apiVersion: v1
kind: Secret
metadata: {name: s}
stringdata: {a: b}
---
kind: Functoin
"#
    ));
}

/// Would fail if what `kubectl apply` takes could not stand beside a function, or hid a mistake in a kind of ours.
#[test]
fn objects_of_other_kinds_may_stand_among_ours() {
    let pool = "apiVersion: wisp.dev/v1alpha1\nkind: RuntimePool\nmetadata: {name: warm}\nspec: {minReplicas: 2}\n";
    let text = [
        pool,
        "apiVersion: apps/v1\nkind: Deployment\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: warm}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: warm}\n",
        "apiVersion: external-secrets.io/v1\nkind: SecretStore\nmetadata: {name: vault}\n",
        WHOLE,
    ]
    .join("---\n");
    let manifests = parse_manifests(&text).unwrap();
    let others = manifests
        .iter()
        .filter_map(|manifest| match &manifest.object {
            Object::Other(other) => Some(format!("{} {}", other.kind, other.name)),
            _ => None,
        });
    assert_eq!(
        others.collect::<Vec<_>>(),
        [
            "RuntimePool warm",
            "Deployment ",
            "Service warm",
            "Service warm",
            "SecretStore vault"
        ]
    );
    assert_eq!(manifests.iter().filter_map(Manifest::function).count(), 1);
    assert_eq!(parse_manifests(pool).unwrap().len(), 1);
}

#[test]
fn what_is_no_manifest_is_told_what_one_is() {
    let cases = [
        "",
        "---\n---\n",
        "just text",
        "[1, 2]",
        "a: [",
        "kind: Deployment\n",
        "kind: Secrets\napiVersion: v1\n",
        "kind: Functions\napiVersion: wips.dev/v1alpha1\n",
        "kind: RuntimePools\napiVersion: wisp.dev/v1alpha1\n",
        "kind: Function\n",
        "kind: Function\napiVersion: wisp.dev/v1\n",
        "kind: 3\n",
        "kind: Function\napiVersion: wisp.dev/v1alpha1\n",
        "kind: Function\napiVersion: wisp.dev/v1alpha1\nmetadata: {name: a}\nspec: 3\n",
        "kind: Function\napiVersion: wisp.dev/v1alpha1\nmetadata: {name: a}\nspec: {}\nspec: {}\n",
        "kind: Secret\napiVersion: v1\nmetadata: {name: a}\ndata: {a: '!!'}\n",
        "kind: Secret\napiVersion: v1\nmetadata: {name: a}\n---\nkind: Secret\napiVersion: v1\nmetadata: {name: a}\n",
    ];
    insta::assert_snapshot!(
        cases
            .map(|text| format!("{text:?}\n  {}\n", told(text).replace('\n', "\n  ")))
            .concat()
    );
}

#[test]
fn variables_whose_source_is_missing_are_named() {
    let text = "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {name: f}\nspec:\n  env:\n  - {name: A, valueFrom: {secretKeyRef: {name: tokens, key: a}}}\n  - {name: B, valueFrom: {secretKeyRef: {name: token, key: valeu}}}\n  - {name: C, valueFrom: {configMapKeyRef: {name: bin, key: raw}}}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: token}\nstringData: {value: x}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: bin}\nbinaryData: {raw: /w==}\n";
    let manifests = parse_manifests(text).unwrap();
    let error = Objects::new(&manifests)
        .env(manifests[0].function().unwrap())
        .unwrap_err();
    insta::assert_snapshot!(manifests[0].locate(error).to_string());
}

/// Would fail if one key of a mebibyte that hundreds of variables name were copied for each of them.
#[test]
fn values_that_no_replica_can_be_told_are_not_copied() {
    let text = |length: usize| {
        let variable = |index: usize| {
            format!(
                "  - {{name: A{index}, valueFrom: {{secretKeyRef: {{name: large, key: a}}}}}}\n"
            )
        };
        let variables: String = (0..256).map(variable).collect();
        let value = "x".repeat(length);
        format!(
            "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {{name: f}}\nspec:\n  env:\n{variables}---\napiVersion: v1\nkind: Secret\nmetadata: {{name: large}}\nstringData: {{a: {value}}}\n"
        )
    };
    let values = |length: usize| {
        let manifests = parse_manifests(&text(length)).unwrap();
        Objects::new(&manifests).values(manifests[0].function().unwrap())
    };
    assert_eq!(values(1000).unwrap().env.0.len(), 256);
    let error = values(100_000).unwrap_err();
    let [mistake] = error.mistakes() else {
        panic!("one mistake is told once: {error}");
    };
    assert_eq!(
        mistake.to_string(),
        "spec.env[2].valueFrom.secretKeyRef.key: `a` in the Secret `large` has 100000 bytes, which are too many: a replica is told 131072 at most, of all values and of what else it needs"
    );
}

/// Would fail if an authority's certificate were taken that no client can trust, or the way to it weren't told.
#[test]
fn authorities_are_certificates() {
    let function = |key: &str| {
        format!(
            "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {{name: f}}\nspec:\n  outbound:\n    certificateAuthorities:\n    - configMapKeyRef: {{name: company, key: {key}}}\n"
        )
    };
    let map = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: company}\ndata:\n  none: hello\n  torn: |\n    -----BEGIN CERTIFICATE-----\n    AAAA\n  other: |\n    -----BEGIN CERTIFICATE-----\n    AAAA\n    -----END CERTIFICATE-----\n";
    let told = ["missing", "none", "torn", "other"].map(|key| {
        let manifests = parse_manifests(&(function(key) + map)).unwrap();
        let function = manifests[0].function().unwrap();
        let error = Objects::new(&manifests).values(function).unwrap_err();
        format!("{}\n", manifests[0].locate(error))
    });
    insta::assert_snapshot!(told.concat());
}

/// Reads a text, wherever what it says may be meant for: what is wrong gets a sentence.
fn withstands(text: &str) {
    let check = |read: Result<(), ManifestError>| {
        if let Err(error) = read {
            assert!(!error.mistakes().is_empty(), "{error:?}");
        }
    };
    let read = parse_manifests(text);
    for manifest in read.iter().flatten() {
        check(manifest.validate_for(Place::Cluster));
        for project in [false, true] {
            check(manifest.validate_for(Place::Local { project }));
        }
    }
    check(read.map(drop));
}

/// Would fail if a text that a fuzzer found (`cargo xtask fuzz manifest`) ended the process, or got no sentence.
#[test]
fn no_text_harms_its_reader() {
    bolero::check!().for_each(|bytes: &[u8]| withstands(&String::from_utf8_lossy(bytes)));
}

proptest::proptest! {
    #[test]
    fn no_spec_harms_its_reader(spec in "(\\{|\\}|\\[|\\]|,|: |component|models|name|source|file|limits|memory|-1|1e400|64Mi|'x'|null|env|valueFrom|hosts|pod|gpu){0,40}") {
        withstands(&format!("apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {{name: f}}\nspec: {spec}\n"));
    }
}

/// Would fail if whoever applies a manifest came to own fields that its author left to others.
#[test]
fn what_is_applied_is_what_was_written() {
    let manifests = parse_manifests(
        "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {name: a}\nspec:\n  component: {image: r.io/a:1}\n  limits: {memory: 64Mi, queue: null}\n",
    )
    .unwrap();
    assert_eq!(
        manifests[0].as_written(),
        serde_json::json!({
            "apiVersion": "wisp.dev/v1alpha1",
            "kind": "Function",
            "metadata": {"name": "a"},
            "spec": {"component": {"image": "r.io/a:1"}, "limits": {"memory": "64Mi"}},
        })
    );
}

/// Would fail if a mistake in a Secret printed what is secret, as into the log of a CI.
#[test]
fn what_is_secret_is_not_told() {
    let said = |data: &str| {
        let text = format!("kind: Secret\napiVersion: v1\nmetadata: {{name: a}}\n{data}\n");
        parse_manifests(&text).unwrap_err().to_string()
    };
    for (data, expected) in [
        (
            "stringData: {pin: 4711}",
            "line 4: stringData.pin: expected text, found a number; put it in quotes",
        ),
        (
            "data: s3cret",
            "line 4: data: expected a mapping, found a text",
        ),
        (
            "stringData: {a: [s3cret]}",
            "line 4: stringData.a: expected text, found a list",
        ),
    ] {
        assert_eq!(said(data), expected);
    }
}

use k8s_openapi::api::core::v1::PodSpec;
use serde_json::json;
use wisp_api::{REQUESTED_AT, Values};
use wisp_contract::config::Env;

use wisp_contract::assignment::{Facts, Wasi};

use super::*;
use crate::artifacts::{Code, Stored};

fn settings() -> Settings {
    Settings {
        runtime_image: "ghcr.io/wisp-dev/wisp-runtime:1".into(),
        runtime_cuda_image: "ghcr.io/wisp-dev/wisp-runtime-cuda:1".into(),
        runtime_pull_policy: "IfNotPresent".into(),
        runtime_pull_secrets: Vec::new(),
        operator: "http://wisp-operator.wisp-system.svc.cluster.local.:8090".into(),
        direct: "http://10.0.0.9:8090".into(),
        gateway: "wisp-gateway.wisp-system.svc.cluster.local".into(),
        network: Some(network::Peers {
            namespace: "wisp-system".into(),
        }),
        root: Root::new(&"k".repeat(64)).unwrap(),
    }
}

fn function(spec: serde_json::Value) -> Function {
    serde_json::from_value(json!({
        "apiVersion": "wisp.dev/v1alpha1", "kind": "Function",
        "metadata": {"name": "digits", "namespace": "vision", "uid": "11111111-2222-3333-4444-555555555555"},
        "spec": spec,
    }))
    .unwrap()
}

fn stored(digit: &str, size: u64) -> Stored {
    Stored {
        source: digit.repeat(64),
        size,
        sha256: digit.repeat(64),
        pinned: None,
        compiled: Vec::new(),
        memory: 0,
    }
}

fn resolved() -> Resolved {
    Resolved {
        component: Bytes::Stored(Stored {
            sha256: "b".repeat(64),
            pinned: Some(format!(
                "registry.example.com/vision/digits@sha256:{}",
                "d".repeat(64)
            )),
            compiled: vec![Code {
                engine: "wasmtime-48".into(),
                sha256: "c".repeat(64),
                facts: Facts {
                    wasi: Wasi::P2,
                    core_instances: 3,
                    memories: 1,
                    tables: 1,
                    asks_models: true,
                },
            }],
            ..stored("a", 1 << 20)
        }),
        models: vec![("mnist".into(), Bytes::Stored(stored("e", 5 << 20)))],
        values: Values {
            env: Env([("LEVEL".to_owned(), "info".to_owned())].into()),
            ..Values::default()
        },
    }
}

fn digits() -> Function {
    function(json!({
        "component": {"image": "registry.example.com/vision/digits:1.4", "sha256": "a".repeat(64)},
        "models": [{"name": "mnist", "source": {"image": "registry.example.com/models/mnist:1"}}],
        "env": [{"name": "LEVEL", "value": "info"}],
    }))
}

/// What users see of a Function: any change of it is to be looked at.
#[test]
fn the_objects_of_a_function() {
    let desired = desired(&digits(), &resolved(), &settings()).unwrap();
    let secret = desired.secret.data.clone().unwrap();
    let assignment: serde_json::Value =
        serde_json::from_slice(&secret[names::ASSIGNMENT_KEY].0).unwrap();
    let yaml = |value: &dyn erased::Yaml| value.yaml();
    let all = [
        yaml(&desired.record),
        yaml(&desired.deployment),
        yaml(&desired.service),
        yaml(&desired.policy),
        yaml(&assignment),
    ];
    insta::assert_snapshot!(all.join("---\n"));
}

mod erased {
    pub(super) trait Yaml {
        fn yaml(&self) -> String;
    }

    impl<T: serde::Serialize> Yaml for T {
        fn yaml(&self) -> String {
            serde_yaml_ng::to_string(self).unwrap()
        }
    }
}

/// Would fail if pods were replaced for what doesn't concern them, or not for what does.
#[test]
fn a_revision_is_everything_that_alters_pods() {
    let (function, resolved) = (digits(), resolved());
    let name = |function: &Function, resolved: &Resolved| {
        desired(function, resolved, &settings()).unwrap().revision
    };
    let base = name(&function, &resolved);
    assert!(base.starts_with("digits-") && base.len() == "digits-".len() + 10);

    let mut scaled = function.clone();
    scaled.spec.scaling.min_replicas = 4;
    scaled.spec.hosts = vec!["a.example.com".into()];
    assert_eq!(name(&scaled, &resolved), base);

    let mut asking = function.clone();
    asking.metadata.annotations = Some([(REQUESTED_AT.to_owned(), "1".to_owned())].into());
    let digest_of =
        |function| super::super::digest(&desired(function, &resolved, &settings()).unwrap());
    assert_eq!(digest_of(&asking), digest_of(&function));

    // The same component, initialised and compiled anew.
    let mut anew = resolved.clone();
    if let Bytes::Stored(stored) = &mut anew.component {
        stored.sha256 = "f".repeat(64);
        stored.compiled.clear();
    }
    assert_eq!(name(&function, &anew), base);

    let mut secret = resolved.clone();
    secret.values.env.0.insert("LEVEL".into(), "debug".into());
    let mut component = resolved.clone();
    component.component = Bytes::Stored(stored("9", 1 << 20));
    let mut limits = function.clone();
    limits.spec.limits.concurrency = 3;
    let mut pod = function.clone();
    pod.spec.pod = Some(serde_json::from_value(json!({"nodeSelector": {"disk": "ssd"}})).unwrap());
    let renewed = Settings {
        root: Root::new(&"n".repeat(64)).unwrap(),
        ..settings()
    };
    let names = [
        // Pods that have keys of a secret that is lost answer nobody.
        desired(&function, &resolved, &renewed).unwrap().revision,
        base,
        name(&function, &secret),
        name(&function, &component),
        name(&limits, &resolved),
        name(&pod, &resolved),
    ];
    for (index, revision) in names.iter().enumerate() {
        assert!(!names[..index].contains(revision), "{index}");
    }
}

/// Would fail if a replica mounted anything that its spec doesn't ask for: any volume costs a third of a second.
#[test]
fn only_what_the_spec_asks_for_is_mounted() {
    let pod = |function: &Function, resolved: &Resolved| {
        desired(function, resolved, &settings())
            .unwrap()
            .deployment
            .spec
            .template
            .spec
            .unwrap()
    };
    assert_eq!(pod(&digits(), &resolved()).volumes, None);

    let function = function(json!({
        "component": {"persistentVolumeClaim": {"claimName": "code", "path": "a/b.wasm"}, "pullSecrets": [{"name": "regcred"}]},
        "models": [
            {"name": "m", "source": {"persistentVolumeClaim": {"claimName": "models", "path": "m.onnx"}}},
            {"name": "n", "source": {"imageVolume": {"reference": "r/llama:1", "path": "llama.onnx"}}},
        ],
        "keyValue": [{"name": "default", "maxSize": "10Mi"}],
    }));
    let claim = |name: &str, path: &str| {
        Bytes::Volume(resolve::Volume::Claim(
            wisp_api::PersistentVolumeClaimSource {
                claim_name: name.into(),
                path: path.into(),
            },
        ))
    };
    let image = Bytes::Volume(resolve::Volume::Image(wisp_api::ImageVolumeSource {
        reference: "r/llama:1".into(),
        path: "llama.onnx".into(),
    }));
    let resolved = Resolved {
        component: claim("code", "a/b.wasm"),
        models: vec![("m".into(), claim("models", "m.onnx")), ("n".into(), image)],
        values: Values::default(),
    };
    let spec = pod(&function, &resolved);
    let mounted = spec.volumes.as_ref().unwrap()[2].image.as_ref().unwrap();
    assert_eq!(mounted.reference.as_deref(), Some("r/llama:1"));
    // The kubelet pulls it; and the runtime's image, where that takes a Secret.
    let secrets = |spec: &PodSpec| {
        let secrets = spec.image_pull_secrets.iter().flatten();
        secrets
            .map(|secret| secret.name.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(secrets(&spec), ["regcred"]);
    let with_secrets = Settings {
        runtime_pull_secrets: vec!["runtime".into(), "regcred".into()],
        ..settings()
    };
    let template = super::pod::template(&function, &resolved, "r", &with_secrets);
    assert_eq!(secrets(&template.spec.unwrap()), ["runtime", "regcred"]);
    let volumes: Vec<_> = spec
        .volumes
        .unwrap()
        .into_iter()
        .map(|volume| volume.name)
        .collect();
    assert_eq!(volumes, ["component", "model-0", "model-1", "key-value"]);
    let config = assignment::config(&function, &resolved).unwrap();
    assert_eq!(
        config.component.file.to_str(),
        Some("/mnt/component/a/b.wasm")
    );
    let files: Vec<_> = config
        .models
        .iter()
        .map(|model| model.file.to_str())
        .collect();
    assert_eq!(
        files,
        [
            Some("/mnt/models/0/m.onnx"),
            Some("/mnt/models/1/llama.onnx")
        ]
    );
}

#[test]
fn what_the_spec_says_of_pods_is_passed_through() {
    let mut function = digits();
    let pod = json!({
        "resources": {"requests": {"cpu": "2"}}, "gpu": 1, "nodeSelector": {"gpu": "h200"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}], "serviceAccountName": "sa", "priorityClassName": "high",
        "runtimeClassName": "kata",
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
        "affinity": {"nodeAffinity": {}}, "labels": {"team": "vision"},
        "annotations": {"sidecar.istio.io/inject": "false", "prometheus.io/scrape": "false"},
    });
    function.spec.pod = Some(serde_json::from_value(pod).unwrap());
    let template = desired(&function, &resolved(), &settings())
        .unwrap()
        .deployment
        .spec
        .template;
    let metadata = template.metadata.unwrap();
    let (labels, annotations) = (metadata.labels.unwrap(), metadata.annotations.unwrap());
    assert_eq!(labels["team"], "vision");
    assert_eq!(labels["wisp.dev/function"], "digits");
    assert_eq!(annotations["sidecar.istio.io/inject"], "false");
    assert_eq!(annotations["prometheus.io/scrape"], "false");
    assert_eq!(annotations["prometheus.io/port"], "8081");
    assert_eq!(annotations["wisp.dev/concurrency"], "64");
    let spec = template.spec.unwrap();
    let resources = spec.containers[0].resources.clone().unwrap();
    assert_eq!(resources.requests.unwrap()["cpu"].0, "2");
    assert_eq!(resources.limits.unwrap()["nvidia.com/gpu"].0, "1");
    let image = spec.containers[0].image.as_deref();
    assert_eq!(image, Some("ghcr.io/wisp-dev/wisp-runtime-cuda:1"));
    assert_eq!(spec.service_account_name.as_deref(), Some("sa"));
    assert_eq!(spec.priority_class_name.as_deref(), Some("high"));
    assert_eq!(spec.runtime_class_name.as_deref(), Some("kata"));
    assert!(
        spec.affinity.is_some()
            && spec.tolerations.is_some()
            && spec.topology_spread_constraints.is_some()
    );
    assert_eq!(spec.automount_service_account_token, Some(false));
}

/// Would fail if replicas that compile their component were ended for what compiling takes, or others might have as much.
#[test]
fn who_compiles_may_have_what_compiling_takes() {
    let limit = |limits: serde_json::Value, component: Bytes| {
        let function = function(json!({"component": {"image": "r/x:1"}, "limits": limits}));
        let resolved = Resolved {
            component,
            models: Vec::new(),
            values: Values::default(),
        };
        let limits = resources::resources(&function, &resolved).limits.unwrap();
        limits["memory"].0.clone()
    };
    let claim = || {
        Bytes::Volume(resolve::Volume::Claim(
            wisp_api::PersistentVolumeClaimSource {
                claim_name: "code".into(),
                path: "a.wasm".into(),
            },
        ))
    };
    let little = || json!({"memory": "4Mi"});
    assert_eq!(limit(little(), claim()), "640Mi");
    assert_eq!(
        limit(little(), Bytes::Stored(stored("a", 16 << 20))),
        "160Mi"
    );
    // What instances may take is no more at once with it.
    assert_eq!(limit(json!({"memory": "128Mi"}), claim()), "1152Mi");
}

/// Would fail if a pod that stood by split its models over processors that its function's pods may not use.
#[test]
fn an_assignment_says_how_many_processors_there_will_be() {
    let cpus = |limit: Option<&str>| {
        let mut function = digits();
        let limits = limit.map(|limit| json!({"cpu": limit, "memory": "1Gi"}));
        let pod = json!({"resources": {"limits": limits}});
        function.spec.pod = Some(serde_json::from_value(pod).unwrap());
        let assignment = desired(&function, &resolved(), &settings())
            .unwrap()
            .assignment;
        assignment.cpus.map(std::num::NonZeroUsize::get)
    };
    assert_eq!(cpus(None), None);
    assert_eq!(cpus(Some("2")), Some(2));
    // As the host counts what its cgroup says.
    assert_eq!(cpus(Some("1500m")), Some(1));
    assert_eq!(cpus(Some("100m")), Some(1));
}

/// Would fail if a revision were made whose own pods can't be started, while those that stood by can become it.
#[test]
fn variables_that_no_process_can_be_given_make_no_revision() {
    let mut resolved = resolved();
    let mut make = |length: usize| {
        let env = &mut resolved.values.env.0;
        env.insert("RULES".to_owned(), "x".repeat(length));
        desired(&digits(), &resolved, &settings())
    };
    assert!(make(120_000).is_ok());
    let error = make(200_000).unwrap_err();
    assert!(matches!(error, DesiredError::TooLarge(_)), "{error}");
    assert!(error.to_string().contains("`RULES`"), "{error}");
}

#[test]
fn pins_are_those_of_the_newest_revision_with_the_same_spec() {
    let function = digits();
    let record = |function: &Function, number: i64, image: &str| {
        let mut resolved = resolved();
        if let Bytes::Stored(stored) = &mut resolved.component {
            stored.pinned = Some(image.to_owned());
        }
        let mut record = desired(function, &resolved, &settings()).unwrap().record;
        record.revision = Some(number);
        record
    };
    let mut other = function.clone();
    other.spec.limits.concurrency = 1;
    let records = [
        record(&function, 1, "old"),
        record(&function, 2, "new"),
        record(&other, 3, "other"),
    ];
    let image = |function: &Function| {
        pins::pins_of(function, &records, &settings().root)
            .component
            .and_then(|pin| pin.image)
    };
    assert_eq!(image(&function).as_deref(), Some("new"));
    assert_eq!(image(&other).as_deref(), Some("other"));
    other.spec.limits.concurrency = 2;
    assert_eq!(image(&other), None);
}

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use wisp_artifacts::Cpu;

use super::*;
use crate::artifacts::{ArtifactError, Artifacts, Figures, Origin, Source, Trials};

/// A store that has what it is told, and remembers what it was asked for.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) asked: Mutex<Vec<(String, Option<String>)>>,
    /// What each answer takes a permit of, where there is one.
    pub(crate) gate: Option<Arc<Semaphore>>,
    pub(crate) held: Mutex<BTreeMap<String, Vec<String>>>,
    /// The digests that it opens.
    pub(crate) here: Mutex<Vec<String>>,
    /// The processors that it was told of.
    pub(crate) learned: Mutex<Vec<Cpu>>,
}

impl Store {
    /// What it was asked for.
    pub(crate) fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|(name, _)| name.clone()).collect()
    }

    /// What those hold whose name ends so, in order.
    pub(crate) fn held_by(&self, owners: &str) -> Vec<String> {
        let held = self.held.lock().unwrap();
        let theirs = held.iter().filter(|(owner, _)| owner.ends_with(owners));
        let mut all: Vec<_> = theirs.flat_map(|(_, digests)| digests).cloned().collect();
        all.sort();
        all.dedup();
        all
    }

    /// What `owner` holds, in order.
    pub(crate) fn held(&self, owner: &str) -> Vec<String> {
        let mut held = self.held.lock().unwrap()[owner].clone();
        held.sort();
        held
    }
}

impl Artifacts for Store {
    fn admit<'a>(
        &'a self,
        namespace: &'a str,
        origin: Origin<'a>,
    ) -> BoxFuture<'a, Result<Option<String>, ArtifactError>> {
        let refused = |reason, message: &str| ArtifactError {
            reason,
            message: message.to_owned(),
            is_transient: false,
            retry_after: None,
        };
        Box::pin(async move {
            match origin {
                Origin::Other(what) if namespace == "strict" => Err(refused("PolicyDenied", what)),
                Origin::Image { reference, .. } if reference.starts_with("r/unsigned") => {
                    Err(refused("NotSigned", reference))
                }
                Origin::Image { reference, .. } if reference.starts_with("r/signed") => {
                    let name = reference
                        .split_once('@')
                        .map_or(reference, |(name, _)| name);
                    Ok(Some(format!("{name}@sha256:s")))
                }
                _ => Ok(None),
            }
        })
    }

    fn component<'a>(
        &'a self,
        whom: Whom<'a>,
        source: Source,
        known: Option<String>,
    ) -> BoxFuture<'a, Result<Stored, ArtifactError>> {
        Box::pin(async move {
            (whom.told)(Stage::Preparing);
            let (name, digest) = match source {
                Source::Image { reference, .. } => (reference, "aa".to_owned()),
                Source::Url { url, sha256 } => (url, sha256),
                Source::Bytes { what, bytes, .. } => (what, hex::encode(Sha256::digest(&bytes))),
            };
            self.asked
                .lock()
                .unwrap()
                .push((name.clone(), known.clone()));
            (whom.came)(&digest);
            if let Some(gate) = &self.gate {
                gate.acquire().await.unwrap().forget();
            }
            if name.contains("missing") {
                return Err(ArtifactError {
                    reason: "NotFound",
                    message: format!("{name} doesn't exist"),
                    is_transient: false,
                    retry_after: None,
                });
            }
            let source = known.clone().unwrap_or(digest);
            Ok(Stored {
                pinned: known.is_none().then(|| format!("{name}@sha256:m")),
                size: 1,
                sha256: source.clone(),
                source,
                compiled: Vec::new(),
                memory: if name.contains("large") { 3 << 20 } else { 0 },
            })
        })
    }

    fn model<'a>(
        &'a self,
        namespace: &'a str,
        source: Source,
        known: Option<String>,
    ) -> BoxFuture<'a, Result<Stored, ArtifactError>> {
        let whom = Whom {
            namespace,
            told: &|_| {},
            came: &|_| {},
        };
        self.component(whom, source, known)
    }

    fn open<'a>(
        &'a self,
        sha256: &'a str,
    ) -> BoxFuture<'a, Result<Option<(std::fs::File, u64)>, ArtifactError>> {
        let is_here = self.here.lock().unwrap().iter().any(|here| here == sha256);
        let opened = is_here.then(|| (tempfile::tempfile().unwrap(), 0));
        Box::pin(async { Ok(opened) })
    }

    fn trials(&self) -> BoxFuture<'_, Trials> {
        Box::pin(async { Trials::new() })
    }

    fn note_trials(&self, _: Trials) -> BoxFuture<'_, Result<(), ArtifactError>> {
        Box::pin(async { Ok(()) })
    }

    fn learn(&self, cpu: Cpu) -> bool {
        self.learned.lock().unwrap().push(cpu);
        false
    }

    fn knows(&self, _: Cpu) -> bool {
        false
    }

    fn more(&self) -> BoxFuture<'_, String> {
        Box::pin(std::future::pending())
    }

    fn hurry(&self, _: &str) {}

    fn figures(&self) -> BoxFuture<'_, Result<Figures, ArtifactError>> {
        Box::pin(async { Ok(Figures::default()) })
    }

    fn hold(&self, owner: &str, digests: Vec<String>) {
        let mut held = self.held.lock().unwrap();
        held.insert(owner.to_owned(), digests);
    }

    fn release(&self, owner: &str) {
        self.held.lock().unwrap().remove(owner);
    }
}

fn function(spec: Value) -> Function {
    serde_json::from_value(json!({
        "apiVersion": "wisp.dev/v1alpha1", "kind": "Function",
        "metadata": {"name": "f", "namespace": "n"}, "spec": spec,
    }))
    .unwrap()
}

fn coming(store: &Store) -> Coming<'_> {
    Coming::new(store, &"n/f".parse().unwrap())
}

async fn failure(spec: Value) -> ResolveError {
    let mut gathered = Gathered::default();
    let function = function(spec);
    for secret in function
        .spec
        .component
        .iter()
        .flat_map(|component| &component.pull_secrets)
    {
        gathered.add_pull_secret(&secret.name);
    }
    resolve(
        &function,
        &gathered,
        &Pins::default(),
        &coming(&Store::default()),
        &|_| {},
    )
    .await
    .unwrap_err()
}

/// Would fail if a tag that moved changed a revision that is there already.
#[tokio::test]
async fn a_tag_means_what_it_meant_as_long_as_the_spec_is_the_same() {
    let function = function(json!({"component": {"image": "r/c:1"}}));
    let store = Store::default();
    let first = resolve(
        &function,
        &Gathered::default(),
        &Pins::default(),
        &coming(&store),
        &|_| {},
    )
    .await
    .unwrap();
    let pins = first.pins();
    assert_eq!(
        pins.component.as_ref().unwrap().image.as_deref(),
        Some("r/c:1@sha256:m")
    );
    let again = resolve(
        &function,
        &Gathered::default(),
        &pins,
        &coming(&store),
        &|_| {},
    )
    .await
    .unwrap();
    assert_eq!(again, first);
    let asked = store.asked.lock().unwrap().clone();
    assert_eq!(
        asked[1],
        ("r/c:1@sha256:m".to_owned(), Some("aa".to_owned()))
    );
}

/// Would fail if who named a tag were told for ever that a digest isn't there which they never named; or if what they did name were
/// taken for something else, or a registry that doesn't answer for one that has it no more.
#[test]
fn what_a_tag_meant_is_forgotten_where_it_is_gone() {
    let pin = |image: &str| Pin {
        image: Some(image.to_owned()),
        sha256: "aa".to_owned(),
    };
    let source = |name: &str, image: &str| json!({"name": name, "source": {"image": image}});
    let function = function(json!({
        "component": {"image": "r/c:1"},
        "models": [source("a", "r/a:1"), source("b", "r/b@sha256:m")],
    }));
    let pins = Pins {
        component: Some(pin("r/c@sha256:m")),
        models: ["a", "b"]
            .map(|name| (name.to_owned(), pin(&format!("r/{name}@sha256:m"))))
            .into(),
    };
    let error = |part, model: Option<&str>, reason| ResolveError {
        part,
        reason,
        message: "m".to_owned(),
        is_transient: false,
        retry_after: None,
        model: model.map(str::to_owned),
    };
    let lost = |part, model, reason| {
        let mut left = pins.clone();
        let lost = left.lose(&function, &error(part, model, reason));
        assert_eq!(lost.is_none(), left == pins, "{lost:?}");
        (lost, left)
    };
    let (image, left) = lost(Part::Component, None, "NotFound");
    assert_eq!(image.as_deref(), Some("r/c@sha256:m"));
    assert_eq!((left.component, left.models.len()), (None, 2));
    let (image, left) = lost(Part::Models, Some("a"), "NotFound");
    assert_eq!(image.as_deref(), Some("r/a@sha256:m"));
    assert!(left.models.keys().eq(["b"]) && left.component.is_some());
    for (part, model, reason) in [
        (Part::Models, Some("b"), "NotFound"),
        (Part::Models, Some("other"), "NotFound"),
        (Part::Models, None, "NotFound"),
        (Part::Function, None, "NotFound"),
        (Part::Component, None, "RegistryUnavailable"),
        (Part::Component, None, "Unauthorized"),
    ] {
        assert_eq!(lost(part, model, reason).0, None, "{part:?} {model:?}");
    }
}

/// Would fail if what came, which may be all of the namespace's share, could go or didn't count while the rest is fetched; or if
/// it stayed for nobody.
#[tokio::test]
async fn what_came_stays_while_the_rest_comes() {
    let gate = Arc::new(Semaphore::new(0));
    let store = Store {
        gate: Some(Arc::clone(&gate)),
        ..Store::default()
    };
    let model = |digit: &str| {
        let source = json!({"url": "https://a.example/m", "sha256": digit.repeat(64)});
        json!({"name": digit, "source": source})
    };
    let function =
        function(json!({"component": {"image": "r/c:1"}, "models": [model("b"), model("c")]}));
    let (gathered, pins) = (Gathered::default(), Pins::default());
    let coming = coming(&store);
    let mut resolved = Box::pin(resolve(&function, &gathered, &pins, &coming, &|_| {}));
    assert!(futures::poll!(&mut resolved).is_pending());
    assert_eq!(store.held_by("/n/f"), ["aa"], "it is yet to be prepared");
    gate.add_permits(2);
    assert!(futures::poll!(&mut resolved).is_pending());
    assert_eq!(store.held_by("/n/f"), ["aa".to_owned(), "b".repeat(64)]);
    drop(resolved);
    drop(coming);
    assert!(store.held_by("/n/f").is_empty());
}

/// Would fail if a ConfigMap that changed weren't rolled out: its revision would be the one before.
#[tokio::test]
async fn a_config_map_is_what_it_is_by_now() {
    let function = function(json!({
        "component": {"configMap": {"name": "code", "key": "a.wasm"}},
        "models": [{"name": "m", "source": {"configMap": {"name": "code", "key": "m.onnx"}}}],
    }));
    let (store, mut pins) = (Store::default(), Pins::default());
    for content in ["first", "second"] {
        let mut gathered = Gathered::default();
        let map =
            json!({"metadata": {"name": "code"}, "data": {"a.wasm": content, "m.onnx": content}});
        gathered.add_config_map(serde_json::from_value(map).unwrap());
        let resolved = resolve(&function, &gathered, &pins, &coming(&store), &|_| {})
            .await
            .unwrap();
        assert_eq!(
            resolved.digests(),
            [hex::encode(Sha256::digest(content))],
            "of both"
        );
        pins = resolved.pins();
    }
}

/// Would fail if what nobody signed were fetched or mounted, or what was signed weren't what is.
#[tokio::test]
async fn only_what_the_policy_lets_pass_is_fetched_and_mounted() {
    let mounted = |name: &str| json!([{"name": "m", "source": {"imageVolume": {"reference": name, "path": "m.onnx"}}}]);
    let signed = function(
        json!({"component": {"image": "r/signed:1"}, "models": mounted("r/signed-model:1")}),
    );
    let store = Store::default();
    let resolved = resolve(
        &signed,
        &Gathered::default(),
        &Pins::default(),
        &coming(&store),
        &|_| {},
    )
    .await
    .unwrap();
    let asked = store.asked.lock().unwrap().clone();
    assert_eq!(asked, [("r/signed:1@sha256:s".to_owned(), None)]);
    let Some((_, Bytes::Volume(volume))) = resolved.models.first() else {
        panic!("a volume");
    };
    assert_eq!(volume.origin(), "r/signed-model:1@sha256:s");
    // The tag means what it meant, also for a policy that no longer asks.
    let pins = resolved.pins();
    let pin = pins.models.get("m").unwrap();
    assert_eq!(pin.image.as_deref(), Some("r/signed-model:1@sha256:s"));
    let json = serde_json::to_string(&pins).unwrap();
    assert_eq!(serde_json::from_str::<Pins>(&json).unwrap(), pins);
    let again = resolve(
        &signed,
        &Gathered::default(),
        &pins,
        &coming(&store),
        &|_| {},
    )
    .await;
    assert_eq!(again.unwrap(), resolved);

    let map = json!({"configMap": {"name": "code", "key": "a.wasm"}});
    let url = json!({"url": "https://a/b", "sha256": "0".repeat(64)});
    for (spec, part, reason, text) in [
        (
            json!({"component": {"image": "r/unsigned:1"}}),
            Part::Component,
            "NotSigned",
            "r/unsigned:1",
        ),
        (
            json!({"component": {"image": "r/c:1"}, "models": [{"name": "m", "source": {"image": "r/unsigned:2"}}]}),
            Part::Models,
            "NotSigned",
            "spec.models[0] `m`: r/unsigned:2",
        ),
        (
            json!({"component": {"image": "r/c:1"}, "models": mounted("r/unsigned:3")}),
            Part::Models,
            "NotSigned",
            "spec.models[0] `m`: r/unsigned:3",
        ),
        (
            json!({"component": map}),
            Part::Component,
            "PolicyDenied",
            "a ConfigMap",
        ),
        (
            json!({"component": url}),
            Part::Component,
            "PolicyDenied",
            "a URL",
        ),
        (
            json!({"component": {"persistentVolumeClaim": {"claimName": "c", "path": "a.wasm"}}}),
            Part::Component,
            "PolicyDenied",
            "a volume claim",
        ),
    ] {
        let mut gathered = Gathered::default();
        gathered.namespace = "strict".to_owned();
        gathered.add_config_map(
            serde_json::from_value(json!({"metadata": {"name": "code"}, "data": {"a.wasm": "x"}}))
                .unwrap(),
        );
        let store = Store::default();
        let error = resolve(
            &function(spec),
            &gathered,
            &Pins::default(),
            &coming(&store),
            &|_| {},
        )
        .await
        .unwrap_err();
        assert_eq!((error.part, error.reason), (part, reason), "{error}");
        assert_eq!(error.message, text);
        let asked = store.asked.lock().unwrap().clone();
        assert!(asked.iter().all(|(name, _)| name == "r/c:1"), "{asked:?}");
    }
}

/// Would fail if scaling or hosts made a new revision, or anything else did not.
#[test]
fn the_specs_digest_is_of_what_alters_pods() {
    let base = json!({"component": {"image": "r/c:1"}});
    let digest = |change: Value| {
        let mut spec = base.clone();
        spec.as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        spec_digest(&function(spec))
    };
    let same = digest(json!({}));
    assert_eq!(
        digest(json!({"scaling": {"minReplicas": 3}, "hosts": ["a.example"]})),
        same
    );
    for change in [
        json!({"env": [{"name": "A", "value": "b"}]}),
        json!({"limits": {"timeout": "1s"}}),
    ] {
        assert_ne!(digest(change), same);
    }
}

#[tokio::test]
async fn what_is_wrong_is_named_with_its_part() {
    let cases = [
        (
            json!({"component": {"image": "large:1"}, "limits": {"memory": "2Mi"}}),
            Part::Component,
            "MemoryTooSmall",
            "begins with 3Mi of memory, and spec.limits.memory is 2Mi",
        ),
        (
            json!({"component": {"image": "missing:1"}}),
            Part::Component,
            "NotFound",
            "missing:1",
        ),
        (
            json!({"component": {"image": "c:1"}, "models": [{"name": "m", "source": {"image": "missing:2"}}]}),
            Part::Models,
            "NotFound",
            "spec.models[0] `m`: missing:2",
        ),
        (
            json!({"component": {"configMap": {"name": "code", "key": "a.wasm"}}}),
            Part::Component,
            "ConfigMapNotFound",
            "`code`",
        ),
        (
            json!({"component": {"image": "c:1", "pullSecrets": [{"name": "login"}]}}),
            Part::Component,
            "PullSecretNotFound",
            "`login`",
        ),
        (
            json!({"component": {"image": "c:1"}, "env": [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
            Part::Function,
            "EnvNotFound",
            "`s`",
        ),
        (
            json!({"component": {"image": "c:1"}, "outbound": {"certificateAuthorities": [{"configMapKeyRef": {"name": "company", "key": "k"}}]}}),
            Part::Function,
            "CertificateAuthorityNotFound",
            "`company`",
        ),
        (json!({}), Part::Function, "Invalid", "component"),
    ];
    for (spec, part, reason, text) in cases {
        let error = failure(spec).await;
        assert_eq!((error.part, error.reason), (part, reason), "{error}");
        assert!(
            error.message.contains(text) && !error.is_transient,
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_pull_secret_of_another_type_is_none() {
    let mut gathered = Gathered::default();
    let function =
        function(json!({"component": {"image": "c:1", "pullSecrets": [{"name": "login"}]}}));
    gathered.add_pull_secret("login");
    gathered.add_secret(Secret {
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            name: Some("login".into()),
            ..Default::default()
        },
        type_: Some("Opaque".into()),
        data: Some(BTreeMap::new()),
        ..Secret::default()
    });
    let error = resolve(
        &function,
        &gathered,
        &Pins::default(),
        &coming(&Store::default()),
        &|_| {},
    )
    .await
    .unwrap_err();
    assert!(
        error.message.contains("Opaque")
            && error.message.contains("kubernetes.io/dockerconfigjson"),
        "{error}"
    );
}

/// Would fail if what serves couldn't be fetched anew without the spec that it was made of, or something else were.
#[tokio::test]
async fn what_a_revision_was_made_of_is_fetched_by_its_record() {
    let pin = |image: Option<&str>, sha256: &str| Pin {
        image: image.map(str::to_owned),
        sha256: sha256.to_owned(),
    };
    let pins = Pins {
        component: Some(pin(Some("r/x@sha256:m"), "c")),
        models: BTreeMap::from([
            ("a".to_owned(), pin(Some("r/m@sha256:n"), "d")),
            // From a URL, and on a volume.
            ("b".to_owned(), pin(None, "e")),
            ("c".to_owned(), pin(Some("r/v@sha256:o"), "")),
        ]),
    };
    let store = Store::default();
    let digests = refetch(&pins, &Gathered::default(), &coming(&store))
        .await
        .unwrap();
    let digests: std::collections::BTreeSet<_> = digests.into_iter().collect();
    assert_eq!(digests, ["c", "d", "e"].map(str::to_owned).into());
    let asked = store.asked.into_inner().unwrap();
    let fetched = |image: &str, known: &str| (image.to_owned(), Some(known.to_owned()));
    let expected = [fetched("r/x@sha256:m", "c"), fetched("r/m@sha256:n", "d")];
    assert_eq!(asked, expected);
}

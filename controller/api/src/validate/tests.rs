use super::*;
use crate::parse_manifests;

/// A Function named `f` with this spec, written in YAML's flow style.
fn check(spec: &str, place: Option<Place>) -> String {
    let text = format!(
        "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {{name: f}}\nspec: {spec}\n"
    );
    let result = parse_manifests(&text)
        .and_then(|manifests| place.map_or(Ok(()), |place| manifests[0].validate_for(place)));
    result
        .err()
        .map_or_else(|| "valid".to_owned(), |error| error.to_string())
}

fn all(cases: &[&str]) -> String {
    cases
        .iter()
        .map(|spec| format!("{spec}\n  {}\n", check(spec, None).replace('\n', "\n  ")))
        .collect()
}

#[test]
fn sources() {
    let digest = "0".repeat(64);
    insta::assert_snapshot!(all(&[
        "{component: {}}",
        "{component: {image: r.example/x:1, file: a.wasm}}",
        "{component: {image: 'https://r.example/x'}}",
        "{component: {image: 'r.example/x y'}}",
        "{component: {url: 'https://x.example/a.wasm'}}",
        "{component: {url: 'ftp://x', sha256: abc}}",
        &format!("{{component: {{url: 'https://x.example/a.wasm', sha256: 'sha256:{digest}'}}}}"),
        &format!("{{component: {{url: 'https://x.example/a.wasm', sha256: '{digest}'}}}}"),
        "{component: {file: a.wasm, pullSecrets: [{name: Reg_Cred}]}}",
        "{component: {persistentVolumeClaim: {claimName: c, path: ../x}}}",
        "{component: {configMap: {name: c, key: ''}}}",
        "{models: [{name: m, source: {}}]}",
        "{models: [{name: '-m', source: {file: m.onnx}}, {name: a, source: {file: m}}, {name: a, source: {file: m}}]}",
    ]));
}

#[test]
fn numbers() {
    insta::assert_snapshot!(all(&[
        "{scaling: {minReplicas: 3, maxReplicas: 2}}",
        "{scaling: {maxReplicas: 0, idleTimeout: 10ms}}",
        "{scaling: {target: {concurrency: 65}}}",
        "{limits: {concurrency: 100}, scaling: {target: {concurrency: 100}}}",
        "{limits: {timeout: 2h, memory: 8Gi, queueBytes: 1Ti, requestBody: 65Gi, logRate: 1, tensors: 0}}",
        "{limits: {timeout: 10}}",
        "{limits: {timeout: 10 s, memory: 64MB, concurrency: 0, handles: 3, queue: -1}}",
        "{limits: {memory: 65536, concurrency: '4'}}",
        "{models: [{name: m, source: {file: m}, batching: {maxSize: 0, maxDelay: 2s}}]}",
        "{keyValue: [{name: Default, maxSize: 10}]}",
        "{instances: {maxRequests: 3}}",
        "{instances: {mode: reuse, maxRequests: 3, idleTimeout: 48h}}",
        "{pod: {gpu: 17}}",
        "{pod: {gpu: 2, resources: {limits: {nvidia.com/gpu: 1}}}}",
        "{pod: {gpu: 2, resources: {limits: {nvidia.com/gpu: '2', nvidia.com/mig-1g.5gb: 1}}}}",
    ]));
}

#[test]
fn names() {
    insta::assert_snapshot!(all(&[
        "{hosts: [a.example.com, A.example.com, 'x:80', 'https://x', '*.x', 10.0.0.1, a.example.com, 'a..b']}",
        "{outbound: {allow: ['https://api.example.com', 'https://*.example.com', 'http://10.0.0.7:8080', 'http://[::1]:8080', 'http://localhost:3000']}}",
        "{outbound: {allow: ['api.example.com', 'https://x/path', 'https://u:p@x', 'https://*', 'https://x:0', 'https://x:99999', 'https://[zz]', 'https://*.com']}}",
        "{outbound: {allow: ['http://10.0.0.256:8080', 'http://10.0.1', 'http://010.0.0.1', 'http://*.example.5', 'http://a.0x1F', 'http://[::ffff:10.0.0.1]', 'http://a.0x1g']}}",
        "{outbound: {certificateAuthorities: [{configMapKeyRef: {name: c, key: ca.crt}}, {}, {secretKeyRef: {name: S_, key: ''}}]}}",
        "{env: [{name: 1A, value: x}, {name: A}, {name: B, value: x, valueFrom: {}}, {name: C, valueFrom: {}}, {name: D, value: x}, {name: D, value: z}]}",
        "{env: [{name: A, valueFrom: {secretKeyRef: {name: S_, key: k}, configMapKeyRef: {name: c, key: k}}}, {name: B, valueFrom: {secretKeyRef: {name: S_, key: k}}}]}",
    ]));
}

#[test]
fn labels_and_annotations() {
    let long = "a".repeat(64);
    let many: Vec<String> = (0..33).map(|number| format!("a{number}: b")).collect();
    insta::assert_snapshot!(all(&[
        "{pod: {labels: {team: vision, example.com/cost-center: '42', app.kubernetes.io/part-of: shop, kueue.x-k8s.io/queue-name: gpus, empty: ''}}}",
        "{pod: {annotations: {sidecar.istio.io/inject: 'false', prometheus.io/scrape: 'false', notes: 'any text: at all'}}}",
        "{pod: {labels: {sidecar.istio.io/inject: false}}}",
        "{pod: {labels: {team: 'a b', -a: b, 'a b': c, Example.com/a: b, a/b/c: d, '': e}}}",
        &format!("{{pod: {{labels: {{{long}: b}}}}}}"),
        &format!("{{pod: {{labels: {{a: {long}}}}}}}"),
        "{pod: {labels: {wisp.dev/function: other, kubernetes.io/arch: arm64, topology.kubernetes.io/zone: a, node.k8s.io/x: z, notwisp.dev/a: b}}}",
        "{pod: {labels: {app.kubernetes.io/name: a, app.kubernetes.io/managed-by: helm, pod-template-hash: x}}}",
        "{pod: {annotations: {'a b': c, wisp.dev/concurrency: '1', cluster-autoscaler.kubernetes.io/safe-to-evict: 'false', app.kubernetes.io/part-of: a}}}",
        &format!("{{pod: {{annotations: {{{}}}}}}}", many.join(", ")),
    ]));
}

#[test]
fn places() {
    let cases = [
        "{}",
        "{component: {image: r.example/x:1}, models: [{name: m, source: {image: r.example/m:1}}]}",
        "{component: {file: a.wasm}, models: [{name: m, source: {file: m.onnx}}]}",
    ];
    let places = [
        Place::Local { project: false },
        Place::Local { project: true },
        Place::Cluster,
    ];
    let text: String = cases
        .iter()
        .flat_map(|spec| {
            places.map(|place| {
                format!(
                    "{place:?} {spec}\n  {}\n",
                    check(spec, Some(place)).replace('\n', "\n  ")
                )
            })
        })
        .collect();
    insta::assert_snapshot!(text);
}

#[test]
fn metadata() {
    let named = |metadata: &str| {
        let text = format!(
            "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {metadata}\nspec: {{}}\n"
        );
        format!(
            "{metadata}\n  {}\n",
            parse_manifests(&text).err().map_or_else(
                || "valid".to_owned(),
                |error| error.to_string().replace('\n', "\n  ")
            )
        )
    };
    let long = format!("{{name: {}}}", "x".repeat(53));
    let cases = [
        "{}",
        "{name: ''}",
        "{name: Digits}",
        "{name: 1st}",
        "{name: a-}",
        "{name: a, namespace: No_Way}",
        "{generateName: a-}",
        "{name: 12}",
        &long,
    ];
    insta::assert_snapshot!(cases.map(named).concat());
}

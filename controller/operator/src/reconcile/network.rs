//! Who may reach a function's replicas, as far as the cluster's network enforces it. The replicas themselves refuse
//! whoever has no key; this keeps others from even trying.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use wisp_api::{Function, RuntimePool};
use wisp_contract::FunctionId;
use wisp_contract::operator::pod::{CONTROL_PORT, DATA_PORT, FUNCTION, POOL};

use crate::names;

/// The label that every namespace has of itself.
const NAMESPACE: &str = "kubernetes.io/metadata.name";

/// Who reaches replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peers {
    /// The namespace that wisp is installed in.
    pub namespace: String,
}

/// The policy of a function: requests come from the gateways. The control port is everybody's: without its key it tells
/// health and metrics alone, which Prometheus asks from wherever it is.
#[must_use]
pub fn policy(function: &Function, id: &FunctionId, peers: &Peers) -> NetworkPolicy {
    let metadata = names::owned(
        function,
        &names::policy(id.name()),
        names::labels(id.name()),
    );
    ingress(metadata, (FUNCTION, id.name()), peers)
}

/// The policy of a pool's pods, which is a function's: it is asked for by the operator, and by gateways a moment before it has
/// the function's labels.
#[must_use]
pub fn pool_policy(pool: &RuntimePool, peers: &Peers) -> NetworkPolicy {
    let name = pool.name_any();
    let metadata = names::owned(pool, &names::pool_policy(&name), names::pool_labels(&name));
    ingress(metadata, (POOL, &name), peers)
}

/// Lets gateways reach the data port of the pods that have this label, and everybody their control port.
fn ingress(metadata: ObjectMeta, (key, value): (&str, &str), peers: &Peers) -> NetworkPolicy {
    let port = |port: u16| NetworkPolicyPort {
        port: Some(IntOrString::Int(port.into())),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    };
    let selector = |labels: &[(&str, &str)]| LabelSelector {
        match_labels: Some(
            labels
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        ),
        match_expressions: None,
    };
    let gateways = NetworkPolicyPeer {
        namespace_selector: Some(selector(&[(NAMESPACE, &peers.namespace)])),
        pod_selector: Some(selector(&[
            ("app.kubernetes.io/name", "wisp"),
            ("app.kubernetes.io/component", "gateway"),
        ])),
        ip_block: None,
    };
    NetworkPolicy {
        metadata,
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(&[(key, value)])),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule {
                    from: Some(vec![gateways]),
                    ports: Some(vec![port(DATA_PORT)]),
                },
                NetworkPolicyIngressRule {
                    from: None,
                    ports: Some(vec![port(CONTROL_PORT)]),
                },
            ]),
            egress: None,
        }),
    }
}

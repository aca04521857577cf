//! Who may reach a function's replicas, as far as the cluster's network enforces it. The replicas themselves refuse
//! whoever has no key; this keeps others from even trying.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use wisp_api::Function;
use wisp_contract::FunctionId;
use wisp_contract::operator::pod::{CONTROL_PORT, DATA_PORT, FUNCTION};

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
        metadata: names::owned(
            function,
            &names::policy(id.name()),
            names::labels(id.name()),
        ),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(BTreeMap::from([(
                    FUNCTION.to_owned(),
                    id.name().to_owned(),
                )])),
                match_expressions: None,
            }),
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

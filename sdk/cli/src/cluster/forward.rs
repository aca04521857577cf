//! How is a gateway asked that has no address here? Over a port of one of its pods, forwarded by the API server.

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

use super::{Cluster, ClusterError, within};

/// What the chart labels the gateways' Service with.
const LABELS: &str = "app.kubernetes.io/name=wisp,app.kubernetes.io/component=gateway";
/// Where the chart is installed unless told otherwise, and what it calls the Service.
const NAMESPACE: &str = "wisp-system";
const SERVICE: &str = "wisp-gateway";

/// A pod of the gateways and its port for HTTP.
pub(crate) struct Gateway {
    pods: Api<Pod>,
    /// Its pod.
    pub(crate) pod: String,
    port: u16,
}

impl Gateway {
    /// A ready gateway of the cluster.
    ///
    /// # Errors
    /// When there is none, or this user may not look for it.
    pub(crate) async fn find(cluster: &Cluster) -> Result<Self, ClusterError> {
        let service = service(cluster).await?;
        let namespace = service.namespace().unwrap_or_default();
        let spec = service.spec.unwrap_or_default();
        let target = spec
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_deref() == Some("http") || port.port == 80)
            .and_then(|port| port.target_port.clone())
            .unwrap_or(IntOrString::Int(80));
        let selector = spec
            .selector
            .unwrap_or_default()
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<_>>()
            .join(",");
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &namespace);
        let found = within(pods.list(&ListParams::default().labels(&selector)))
            .await
            .map_err(|error| cluster.refused(format!("list the pods of {namespace}"), error))?;
        let pod = found.items.into_iter().find(is_ready).ok_or_else(|| {
            ClusterError::NoGateway(format!("no pod of {namespace} with {selector} is ready"))
        })?;
        let port = container_port(&pod, &target).ok_or_else(|| {
            ClusterError::NoGateway(format!("the pod {} has no port {target:?}", pod.name_any()))
        })?;
        Ok(Self {
            pod: pod.name_any(),
            pods,
            port,
        })
    }

    /// Sends one request, addressed to `url`, over a connection of its own.
    ///
    /// # Errors
    /// When the port can't be forwarded, or the connection breaks.
    pub(crate) async fn send(
        &self,
        cluster: &Cluster,
        mut request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, ClusterError> {
        let what = || format!("forward a port to {}", self.pod);
        let mut forwarder = within(self.pods.portforward(&self.pod, &[self.port]))
            .await
            .map_err(|error| cluster.refused(what(), error))?;
        let stream = forwarder
            .take_stream(self.port)
            .ok_or_else(|| ClusterError::NoGateway("the port is not forwarded".to_owned()))?;
        let broken = |source: hyper::Error| ClusterError::Unreachable {
            what: what(),
            server: cluster.server.clone(),
            source: source.into(),
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        tokio::spawn(async move {
            // What breaks here breaks the answer, which tells.
            let _ = connection.await;
            drop(forwarder);
        });
        address(&mut request);
        sender.send_request(request).await.map_err(broken)
    }
}

/// Moves the authority from the URI, where a proxy would want it, to the header where a server does.
fn address(request: &mut Request<Full<Bytes>>) {
    if let Some(host) = request
        .uri()
        .authority()
        .and_then(|authority| HeaderValue::from_str(authority.as_str()).ok())
    {
        request.headers_mut().entry(HOST).or_insert(host);
    }
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    *request.uri_mut() = Uri::try_from(path).unwrap_or_default();
}

/// The gateways' Service: where the chart puts it unless told otherwise, else the only one that looks like it. Labels are
/// anybody's, and what is sent may be secret.
async fn service(cluster: &Cluster) -> Result<Service, ClusterError> {
    let own = Api::<Service>::namespaced(cluster.client.clone(), NAMESPACE);
    let error = match within(own.get(SERVICE)).await {
        Ok(service) => return Ok(service),
        Err(error) => error,
    };
    let everywhere: Api<Service> = Api::all(cluster.client.clone());
    let labelled = ListParams::default().labels(LABELS);
    // Few may list Services everywhere.
    let found = match &error {
        kube::Error::Api(_) => within(everywhere.list(&labelled)).await.ok(),
        _ => None,
    };
    match only(found.map(|found| found.items).unwrap_or_default())? {
        Some(service) => Ok(service),
        None => Err(cluster.refused(format!("get the Service {NAMESPACE}/{SERVICE}"), error)),
    }
}

/// The one that there is, if there is.
fn only(mut found: Vec<Service>) -> Result<Option<Service>, ClusterError> {
    if found.len() > 1 {
        let name = |service: &Service| {
            let namespace = service.namespace().unwrap_or_default();
            format!("{namespace}/{}", service.name_any())
        };
        return Err(ClusterError::Gateways(found.iter().map(name).collect()));
    }
    Ok(found.pop())
}

fn is_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn container_port(pod: &Pod, target: &IntOrString) -> Option<u16> {
    let number = match target {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            pod.spec
                .iter()
                .flat_map(|spec| &spec.containers)
                .flat_map(|container| container.ports.iter().flatten())
                .find(|port| port.name.as_ref() == Some(name))?
                .container_port
        }
    };
    u16::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_named_port_is_the_containers() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {"containers": [
                {"name": "mesh", "ports": [{"containerPort": 15090}]},
                {"name": "gateway", "ports": [{"name": "http", "containerPort": 8080}]},
            ]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap();
        assert!(is_ready(&pod));
        let named = |name: &str| IntOrString::String(name.to_owned());
        assert_eq!(container_port(&pod, &named("http")), Some(8080));
        assert_eq!(container_port(&pod, &named("https")), None);
        assert_eq!(container_port(&pod, &IntOrString::Int(80)), Some(80));
    }

    /// Would fail if requests went to whoever made a Service with the gateways' labels, in whichever namespace.
    #[test]
    fn of_several_gateways_none_is_picked() {
        let services = |names: &[&str]| -> Vec<Service> {
            let service = |name: &&str| json!({"metadata": {"namespace": name, "name": SERVICE}});
            let services = names.iter().map(service);
            services
                .map(|service| serde_json::from_value(service).unwrap())
                .collect()
        };
        assert_eq!(only(services(&[])).unwrap(), None);
        let one = only(services(&["platform"])).unwrap().unwrap();
        assert_eq!(one.namespace().as_deref(), Some("platform"));
        let error = only(services(&["mallory", "platform"])).unwrap_err();
        let text = crate::failure::Failure::from(error).text();
        assert!(
            text.contains("mallory/wisp-gateway, platform/wisp-gateway"),
            "{text}"
        );
        assert!(text.contains("kubectl port-forward"), "{text}");
    }

    #[test]
    fn the_gateway_sees_the_host_that_was_asked_for() {
        let mut request = Request::new(Full::<Bytes>::default());
        *request.uri_mut() = "http://digits.vision.example.com/x?y=1".parse().unwrap();
        address(&mut request);
        assert_eq!(request.uri(), "/x?y=1");
        assert_eq!(request.headers()[HOST], "digits.vision.example.com");
    }
}

//! A test's namespace and its functions.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use serde_json::Value;
use wisp_artifacts::{Credentials, FetchOptions, Fetcher, Package, Reference};
use wisp_cluster::{Forward, Namespace, Objects};
use wisp_integration::{Answer, Client, component, request};

use crate::install::Installation;

/// Longer than anything takes on an idle machine; on a busy one, patience costs nothing.
pub const PATIENCE: Duration = Duration::from_secs(180);
/// What may be answered before a change has reached all: what was so before, no such function, or not yet.
const MEANWHILE: [StatusCode; 3] = [
    StatusCode::OK,
    StatusCode::NOT_FOUND,
    StatusCode::SERVICE_UNAVAILABLE,
];

/// A test's namespace.
pub struct Space {
    installation: &'static Installation,
    namespace: Namespace<'static>,
}

impl Space {
    pub(crate) fn new(installation: &'static Installation, namespace: Namespace<'static>) -> Self {
        Self {
            installation,
            namespace,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.namespace.name()
    }

    /// kubectl in it.
    ///
    /// # Errors
    /// With what kubectl said.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.namespace.kubectl(arguments)
    }

    /// Applies manifests.
    ///
    /// # Errors
    /// With the API server's reason.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        self.namespace.apply(manifests)
    }

    /// Speaks to the gateway.
    #[must_use]
    pub fn client(&self) -> Client {
        self.installation.client()
    }

    /// The path of a function on the gateway.
    #[must_use]
    pub fn path(&self, function: &str, rest: &str) -> String {
        format!("/{}/{function}/{rest}", self.name())
    }

    /// Asks a function.
    ///
    /// # Errors
    /// When nothing is answered.
    pub async fn get(&self, function: &str, rest: &str) -> Result<Answer> {
        self.client().get(&self.path(function, rest)).await
    }

    /// Pushes a component to the cluster's registry and gives its reference.
    ///
    /// # Errors
    /// When the registry doesn't take it.
    pub async fn push_component(&self, name: &str, file: &Path) -> Result<String> {
        let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
        self.push(name, Package::Component(bytes.into())).await
    }

    /// Pushes a model, likewise.
    ///
    /// # Errors
    /// As [`Space::push_component`].
    pub async fn push_model(&self, name: &str, file: PathBuf) -> Result<String> {
        self.push(name, Package::Model(file)).await
    }

    async fn push(&self, name: &str, package: Package) -> Result<String> {
        let registry = self.installation.cluster().registry()?;
        let options = FetchOptions {
            plain_http: vec![registry.to_owned()],
            ..FetchOptions::default()
        };
        let image: Reference = format!("{registry}/{}/{name}:1", self.name()).parse()?;
        let fetcher = Fetcher::new(options)?;
        fetcher
            .push(&image, package, &Credentials::default())
            .await?;
        Ok(image.to_string())
    }

    /// Pushes the test component and applies a Function of it, with `rest` in its spec.
    ///
    /// # Errors
    /// When it isn't taken.
    pub async fn add(&self, name: &str, rest: &str) -> Result<()> {
        let image = self.push_component(name, &component("fixture-p2")).await?;
        self.apply(&Self::function(name, &image, rest))?;
        Ok(())
    }

    /// A Function of a component that was pushed, with `rest` in its spec, each line indented by two spaces.
    #[must_use]
    pub fn function(name: &str, image: &str, rest: &str) -> String {
        format!(
            "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {{name: {name}}}\nspec:\n  component: {{image: {image}}}\n{rest}"
        )
    }

    /// Waits until `seen` gives something for the functions of the namespace.
    ///
    /// # Errors
    /// When it never does, with what there was.
    pub fn wait<T>(
        &self,
        what: &str,
        query: &[&str],
        seen: impl FnMut(&Objects) -> Option<T>,
    ) -> Result<T> {
        self.namespace.wait(what, query, PATIENCE, seen)
    }

    /// Waits until a function's condition has a status, and gives its reason and message.
    ///
    /// # Errors
    /// When it never has.
    pub fn condition(&self, function: &str, kind: &str, status: &str) -> Result<(String, String)> {
        self.condition_where(function, kind, |condition| condition["status"] == status)
    }

    /// Waits until a function's condition is as wanted, and gives its reason and message.
    ///
    /// # Errors
    /// When it never is.
    pub fn condition_where(
        &self,
        function: &str,
        kind: &str,
        is: impl Fn(&Value) -> bool,
    ) -> Result<(String, String)> {
        let what = format!("the condition {kind} of {function}");
        self.wait(&what, &["functions.wisp.dev"], |functions| {
            let object = functions.get(function)?;
            let generation = object.pointer("/metadata/generation")?;
            let conditions = object.pointer("/status/conditions")?.as_array()?;
            let condition = conditions
                .iter()
                .find(|condition| condition["type"] == kind)?;
            let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
            let current = condition["observedGeneration"] == *generation;
            (current && is(condition)).then(|| (text("reason"), text("message")))
        })
    }

    /// Waits until a function has so many pods, ready or not.
    ///
    /// # Errors
    /// When it never has.
    pub fn pods(&self, function: &str, count: usize) -> Result<()> {
        let selector = format!("--selector=wisp.dev/function={function}");
        let what = format!("{count} pods of {function}");
        self.wait(&what, &["pods", &selector], |pods| {
            (pods.len() == count).then_some(())
        })
    }

    /// Looks once whether a function has no pod.
    ///
    /// # Errors
    /// When it has one; with what there is.
    pub fn has_no_pod(&self, function: &str) -> Result<()> {
        let selector = format!("--selector=wisp.dev/function={function}");
        let found = self.kubectl(&["get", "pods", &selector, "--output=name"])?;
        ensure!(found.is_empty(), "{function} has {found}");
        Ok(())
    }

    /// A port of this machine that leads to one of a pod or Service.
    ///
    /// # Errors
    /// When there is none.
    pub fn forward(&self, target: &str, port: u16) -> Result<Forward> {
        self.namespace.forward(target, port)
    }

    /// Asks until the answer is as wanted: what was changed reaches the gateways a moment later. Meanwhile the function may
    /// answer as it did before, be unknown, or not be there yet.
    ///
    /// # Errors
    /// At once with any other answer, and when it never is as wanted, with the last one.
    pub async fn until(
        &self,
        function: &str,
        rest: &str,
        is: impl Fn(&Answer) -> bool,
    ) -> Result<Answer> {
        self.until_asked(|| self.get(function, rest), is).await
    }

    /// The same, of whichever function has the host.
    ///
    /// # Errors
    /// As [`Space::until`].
    pub async fn until_at(
        &self,
        host: &str,
        path: &str,
        is: impl Fn(&Answer) -> bool,
    ) -> Result<Answer> {
        let ask = async || {
            let mut request = request(http::Method::GET, path, "")?;
            request.headers_mut().insert("host", host.parse()?);
            self.client().fetch(request).await
        };
        self.until_asked(ask, is).await
    }

    async fn until_asked(
        &self,
        ask: impl AsyncFn() -> Result<Answer>,
        is: impl Fn(&Answer) -> bool,
    ) -> Result<Answer> {
        let began = std::time::Instant::now();
        loop {
            let answer = ask().await;
            if let Ok(answer) = &answer {
                if is(answer) {
                    return Ok(answer.clone());
                }
                ensure!(
                    MEANWHILE.contains(&answer.status),
                    "{}, which no wait mends: {}",
                    answer.status,
                    answer.text()
                );
            }
            ensure!(
                began.elapsed() <= PATIENCE,
                "the last answer was {answer:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

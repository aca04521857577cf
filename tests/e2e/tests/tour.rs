//! The README's way on Kubernetes, typed line by line: its commands are read from there, and one that nothing here knows
//! is a failure. It has a cluster of its own, because it installs wisp and removes it, with Helm and without.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use wisp_cluster::{Cluster, Owned};
use wisp_integration::{Job, Readme, Terminal, binary, repository, target_folder};

/// The section that is gone through here; `tests/integration/tests/it/tour.rs` goes through the others.
const SECTION: &str = "On Kubernetes";
/// Longer than anything takes on an idle machine; on a busy one, patience costs nothing.
const PATIENCE: Duration = Duration::from_secs(300);

/// Would fail if the commands didn't do, in this order, what the README says they do, or left anything behind that it
/// doesn't name.
#[test]
fn the_way_on_kubernetes_goes_as_the_readme_says() -> Result<()> {
    let Some(cluster) = Cluster::own("tour", 1) else {
        return Ok(());
    };
    let mut tour = Tour::prepare(cluster)?;
    let commands = tour.readme.commands(SECTION);
    ensure!(!commands.is_empty(), "README.md has no way on Kubernetes");
    for command in commands {
        if let Err(error) = tour.go(&command) {
            let seen = tour
                .cluster
                .kubectl(&["get", "fn,pods,events", "--all-namespaces"]);
            panic!("README.md: `{command}`: {error:#}\n{seen:?}");
        }
    }
    Ok(())
}

struct Tour {
    terminal: Terminal,
    /// "It goes on": what is ended before the next line.
    other: Terminal,
    forward: Option<Job>,
    /// What stands in the README, and what is typed here instead.
    substitutes: Vec<(&'static str, String)>,
    /// All objects of the cluster before wisp came.
    before: BTreeSet<String>,
    readme: Readme,
    folder: tempfile::TempDir,
    // The last to go.
    cluster: Owned,
}

impl Tour {
    fn prepare(cluster: Owned) -> Result<Self> {
        let registry = cluster.registry()?.to_owned();
        let folder = tempfile::tempdir()?;
        let here = folder.path();
        // What the tour uses of the checkout. `wisp new` must not write there.
        symlink(repository().join("deploy"), here.join("deploy"))?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        // In the checkout, with its own target folder.
        let target = match std::env::var("CARGO_TARGET_DIR") {
            Ok(folder) => format!("CARGO_TARGET_DIR='{folder}'"),
            Err(_) => "--unset=CARGO_TARGET_DIR".to_owned(),
        };
        let images = format!(
            "env --chdir='{}' {target} cargo xtask images --profile dev --output '{}'",
            repository().display(),
            here.join("images").display(),
        );
        let substitutes = vec![
            // A port that nobody has.
            ("8080", port.to_string()),
            // The cluster's own registry, which has no TLS.
            ("registry.example.com", registry.clone()),
            ("ghcr.io", registry.clone()),
            (
                "helm install",
                format!(
                    "helm install --timeout 5m --set 'operator.insecureRegistries={{{registry}}}'"
                ),
            ),
            (
                "wisp deploy greeter",
                "wisp deploy --plain-http --timeout 5m greeter".to_owned(),
            ),
            ("wisp push", "wisp push --plain-http".to_owned()),
            // Of what the tests have built: optimizing it over the whole program takes longer than all of them.
            ("cargo xtask images", images),
            // Patience with a busy machine.
            ("kubectl wait", "kubectl wait --timeout=5m".to_owned()),
        ];
        let mut tour = Self {
            terminal: open(&cluster, here)?,
            other: open(&cluster, here)?,
            forward: None,
            substitutes,
            before: objects(&cluster)?,
            readme: Readme::read()?,
            folder,
            cluster,
        };
        // The section goes on where the tour of five minutes was.
        tour.terminal.run("wisp new greeter")?;
        Ok(tour)
    }

    fn substituted(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (written, typed) in &self.substitutes {
            text = text.replace(written, typed);
        }
        text
    }

    /// Does what the README says at one of its lines.
    fn go(&mut self, command: &str) -> Result<()> {
        let typed = self.substituted(command);
        match command {
            "cargo xtask images --tag 0.1.0 --push registry.example.com/wisp" => self.says(
                &typed,
                &[
                    "wisp-gateway:0.1.0",
                    "wisp-operator:0.1.0",
                    "wisp-runtime:0.1.0",
                ],
            ),
            "helm install wisp deploy/chart --namespace wisp-system --create-namespace --set image.registry=registry.example.com/wisp --wait" => {
                self.says(&typed, &["STATUS: deployed"])
            }
            "wisp deploy greeter --registry ghcr.io/ada" => self.says(
                &typed,
                &[
                    "built greeter",
                    "pushed",
                    "created default/greeter",
                    "ready http",
                ],
            ),
            "wisp get greeter" => {
                self.says(&typed, &["default/greeter True (", "url"])?;
                self.says("wisp get", &["NAME", "greeter"])
            }
            "wisp invoke --cluster greeter --path hello/Ada" => {
                self.says(&typed, &[r#"{"message":"Hello, Ada!"}"#])
            }
            "wisp logs --follow greeter" => self.logs(&typed),
            "wisp delete greeter" => {
                self.says(
                    &typed,
                    &[
                        "deleted default/greeter",
                        "gone all replicas of default/greeter",
                    ],
                )?;
                self.pods(|pods| pods == 0)
            }
            r#"mkdir -p ~/.local/bin && ln -s "$(command -v wisp)" ~/.local/bin/kubectl-wisp"# => {
                self.says(&typed, &[])?;
                self.says(
                    "kubectl wisp get",
                    &["there is no function in the namespace `default`"],
                )
            }
            "wisp push greeter ghcr.io/ada/greeter:1.0" => {
                self.says(&typed, &["pushed", "ada/greeter:1.0"])
            }
            "kubectl apply -f function.yaml" => {
                self.write("Function", "function.yaml")?;
                self.says(&typed, &["function.wisp.dev/greeter created"])
            }
            "kubectl wait --for=condition=Ready fn/greeter" => {
                self.says(&typed, &["condition met"])
            }
            "kubectl get fn" => {
                self.says(&typed, &["URL", "READY", "REPLICAS", "DEVICE", "REVISION"])?;
                // "Idle functions have no pods."
                self.pods(|pods| pods == 0)
            }
            "kubectl -n wisp-system port-forward service/wisp-gateway 8080:80 &" => {
                // A person types the next line when this one has said so.
                let job = self.terminal.go_on(&typed, "Forwarding from 127.0.0.1")?;
                self.forward = Some(job);
                Ok(())
            }
            "curl --retry 5 --retry-connrefused http://127.0.0.1:8080/default/greeter/" => {
                self.says(&typed, &["Try /hello/YOUR-NAME"])?;
                self.pods(|pods| pods > 0)
            }
            "kubectl scale fn/greeter --replicas=2" => {
                self.says(&typed, &["scaled"])?;
                self.pods(|pods| pods == 2)?;
                self.pool()?;
                let forward = self.forward.take().context("no port is forwarded")?;
                self.terminal.end(forward).map(drop)
            }
            "kubectl delete fn --all --all-namespaces" => {
                self.says(&typed, &["\"greeter\" deleted"])?;
                self.pods(|pods| pods == 0)?;
                // The pool that stood by for it goes, too, while there is an operator.
                let query = ["runtimepools", "--all-namespaces"];
                self.cluster.wait("no pools", &query, PATIENCE, |pools| {
                    pools.is_empty().then_some(())
                })
            }
            // Those of one's own, of which there are none here.
            "kubectl delete rp --all --all-namespaces" => self.says(&typed, &[]),
            "helm uninstall wisp --namespace wisp-system" => {
                self.says(&typed, &["release \"wisp\" uninstalled"])?;
                let mut left = definitions()?;
                left.extend(
                    [
                        // What the README names beside them,
                        "Lease/wisp-system/wisp-operator",
                        "Secret/wisp-system/wisp-gateway",
                        "Secret/wisp-system/wisp-keys",
                        // and what Kubernetes adds to it.
                        "APIService//v1alpha1.wisp.dev",
                        "ConfigMap/wisp-system/kube-root-ca.crt",
                        "Namespace//wisp-system",
                        "ServiceAccount/wisp-system/default",
                    ]
                    .map(str::to_owned),
                );
                self.left(&left)
            }
            "kubectl delete crd functions.wisp.dev runtimepools.wisp.dev"
            | "kubectl -n wisp-system delete secret/wisp-keys secret/wisp-gateway lease/wisp-operator" => {
                self.says(&typed, &["deleted"])
            }
            "kubectl delete namespace wisp-system" => {
                self.says(&typed, &["deleted"])?;
                self.left(&BTreeSet::new())
            }
            "sed 's,wisp.dev/wisp-,registry.example.com/wisp/wisp-,' deploy/install.yaml | kubectl apply --server-side -f -" =>
            {
                self.says(&typed, &["deployment.apps/wisp-gateway serverside-applied"])?;
                self.answers()
            }
            "kubectl delete --ignore-not-found -f deploy/install.yaml" => {
                self.says(&typed, &["namespace \"wisp-system\" deleted"])?;
                self.left(&BTreeSet::new())
            }
            _ => bail!("no test knows it: say in tests/e2e/tests/tour.rs what must come of it"),
        }
    }

    /// Writes the README's one manifest of a kind.
    fn write(&self, kind: &str, file: &str) -> Result<()> {
        let blocks = self.readme.blocks(SECTION, "yaml");
        let line = format!("kind: {kind}\n");
        let of_kind: Vec<&&str> = blocks
            .iter()
            .filter(|block| block.contains(&line))
            .collect();
        let [manifest] = of_kind.as_slice() else {
            bail!("the README shows {} manifests of a {kind}", of_kind.len())
        };
        let manifest = self.substituted(manifest);
        Ok(std::fs::write(self.folder.path().join(file), manifest)?)
    }

    /// "A `RuntimePool` of your own takes the place of the one that nobody asked for."
    fn pool(&mut self) -> Result<()> {
        self.write("RuntimePool", "pool.yaml")?;
        self.says(
            "kubectl apply -f pool.yaml",
            &["runtimepool.wisp.dev/warm created"],
        )?;
        let query = ["runtimepools", "--namespace=default"];
        self.cluster
            .wait("the pool of one's own alone", &query, PATIENCE, |pools| {
                let ready = pools.get("warm")?.pointer("/status/readyReplicas")?;
                (pools.len() == 1 && ready.as_i64() >= Some(2)).then_some(())
            })?;
        self.says("kubectl delete -f pool.yaml", &["deleted"])
    }

    /// Types a line, which must succeed and print all of this.
    fn says(&mut self, typed: &str, words: &[&str]) -> Result<()> {
        let text = self.terminal.run(typed)?;
        for word in words {
            ensure!(
                text.contains(word),
                "`{typed}` doesn't say {word:?}:\n{text}"
            );
        }
        Ok(())
    }

    /// What is logged while it is followed comes, from a replica that may have come meanwhile, too.
    fn logs(&mut self, typed: &str) -> Result<()> {
        let job = self.other.go_on(typed, "")?;
        until("the log of a request", || {
            self.says(
                "wisp invoke --cluster greeter --path hello/Grace",
                &["Grace"],
            )?;
            let said = self.other.said_since(job);
            ensure!(said.contains("greeting Grace"), "{said}");
            Ok(())
        })?;
        self.other.end(job).map(drop)
    }

    /// The installation without Helm serves.
    fn answers(&mut self) -> Result<()> {
        // The chart's default values know no registry without TLS.
        let registry = self.cluster.registry()?.to_owned();
        self.says(
            &format!("kubectl -n wisp-system set env deployment/wisp-operator WISP_INSECURE_REGISTRIES={registry}"),
            &[],
        )?;
        for deployment in ["wisp-operator", "wisp-gateway"] {
            self.says(
                &format!(
                    "kubectl -n wisp-system rollout status deployment/{deployment} --timeout=5m"
                ),
                &["successfully rolled out"],
            )?;
        }
        self.says("kubectl apply -f function.yaml", &["created"])?;
        self.says(
            "kubectl wait --for=condition=Ready fn/greeter --timeout=5m",
            &[],
        )?;
        self.says("wisp invoke --cluster greeter", &["Try /hello/YOUR-NAME"])
    }

    /// Waits until so many pods of greeter are there, and ready.
    fn pods(&self, is: impl Fn(usize) -> bool) -> Result<()> {
        let query = [
            "pods",
            "--selector=wisp.dev/function=greeter",
            "--namespace=default",
        ];
        self.cluster
            .wait("greeter's pods", &query, PATIENCE, |pods| {
                let ready = |pod: &serde_json::Value| {
                    pod.pointer("/status/conditions")
                        .and_then(|conditions| conditions.as_array())
                        .is_some_and(|all| {
                            all.iter()
                                .any(|one| one["type"] == "Ready" && one["status"] == "True")
                        })
                };
                (is(pods.len()) && pods.values().all(ready)).then_some(())
            })
    }

    /// Waits until exactly this is left of wisp.
    fn left(&self, expected: &BTreeSet<String>) -> Result<()> {
        until("the cluster to be as it was", || {
            let now = objects(&self.cluster)?;
            let left: BTreeSet<String> = now.difference(&self.before).cloned().collect();
            let lost: Vec<&String> = self.before.difference(&now).collect();
            ensure!(
                left == *expected && lost.is_empty(),
                "left are {left:#?}; lost are {lost:?}"
            );
            Ok(())
        })
    }
}

/// A terminal as a reader's, whose home is empty and whose cluster is this one.
fn open(cluster: &Cluster, folder: &Path) -> Result<Terminal> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = PathBuf::from(variable("HOME").context("no HOME")?);
    let tools = folder.join("tools");
    let kubectl = cluster.kubectl_command();
    if !tools.is_dir() {
        std::fs::create_dir(&tools)?;
        std::fs::create_dir(folder.join("home"))?;
        symlink(kubectl.get_program(), tools.join("kubectl"))?;
        symlink(wisp_cluster::helm()?, tools.join("helm"))?;
    }
    let programs = binary("wisp").with_file_name("");
    let mut path = vec![folder.join("home/.local/bin"), tools, programs];
    path.extend(std::env::split_paths(&variable("PATH").unwrap_or_default()));
    let kept = |name, default: &str| -> OsString {
        variable(name).unwrap_or_else(|| home.join(default).into_os_string())
    };
    let mut bash = Command::new("bash");
    bash.current_dir(folder)
        .env("HOME", folder.join("home"))
        .env("PATH", std::env::join_paths(path)?)
        .env("CARGO_HOME", kept("CARGO_HOME", ".cargo"))
        .env("RUSTUP_HOME", kept("RUSTUP_HOME", ".rustup"))
        .env("WISP_CACHE", wisp_cluster::cache()?)
        // Its own: to cargo, a project of this name in another folder would be the same, and `target/projects` has some.
        .env("CARGO_TARGET_DIR", target_folder().join("tour"));
    // Which cluster it is.
    for (name, value) in kubectl.get_envs() {
        if let Some(value) = value {
            bash.env(name, value);
        }
    }
    Terminal::open(bash)
}

/// The CustomResourceDefinitions of the chart.
fn definitions() -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for file in std::fs::read_dir(repository().join("deploy/chart/crds"))? {
        let text = std::fs::read_to_string(file?.path())?;
        let name = text.lines().find_map(|line| line.strip_prefix("  name: "));
        let name = name.context("a CustomResourceDefinition has no name")?;
        names.insert(format!("CustomResourceDefinition//{name}"));
    }
    Ok(names)
}

/// Every object of the cluster, as `KIND/NAMESPACE/NAME`, but events and what is Kubernetes' own.
fn objects(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list,get", "--output=name"])?;
    let kinds: Vec<&str> = kinds
        .lines()
        .filter(|kind| !kind.starts_with("events") && *kind != "componentstatuses")
        .collect();
    let text = cluster.kubectl(&[
        "get",
        &kinds.join(","),
        "--all-namespaces",
        "--output=jsonpath={range .items[*]}{.kind}/{.metadata.namespace}/{.metadata.name}{\"\\n\"}{end}",
    ])?;
    Ok(text
        .lines()
        .filter(|line| !line.contains("/kube-system/") && !line.contains("/kube-node-lease/"))
        .map(str::to_owned)
        .collect())
}

/// Waits until `seen` has no objection.
fn until(what: &str, mut seen: impl FnMut() -> Result<()>) -> Result<()> {
    let began = Instant::now();
    loop {
        match seen() {
            Ok(()) => return Ok(()),
            Err(error) if began.elapsed() > PATIENCE => {
                return Err(error.context(format!("waited for {what}")));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

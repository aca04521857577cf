//! `wisp delete`: functions go from a cluster, and their replicas with them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Preconditions};
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use wisp_api::Object;
use wisp_contract::FunctionId;
use wisp_contract::operator::pod;

use crate::args::Delete;
use crate::cluster::{self, Cluster, ClusterError, Watch, within};
use crate::deploy::{id_of, namespace_of};
use crate::dev::manifests::{discover, note, of_functions};
use crate::failure::{Explain, Failure};
use crate::terminal::{self, OutputError, Terminal};

/// Why a function isn't deleted, or not gone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeleteError {
    #[error("there is no function {id} in the cluster at {server}")]
    NotFound {
        id: FunctionId,
        server: String,
        /// What was typed, where that is a path, too.
        path: Option<PathBuf>,
    },
    #[error("{0} is deleted, but whether its replicas are gone can't be told")]
    Unwatched(FunctionId, #[source] Box<ClusterError>),
    #[error("{id} is deleted, but whether its replicas are gone can't be told: {} passed before the cluster listed them", terminal::duration(*patience))]
    Unlisted { id: FunctionId, patience: Duration },
    #[error("{0} isn't deleted: it is another than a moment ago")]
    Replaced(FunctionId),
    #[error("{id} is deleted, but not all of its replicas are gone after {}: {}", terminal::duration(*patience), left.join(", "))]
    Left {
        id: FunctionId,
        patience: Duration,
        left: Vec<String>,
    },
}

impl Explain for DeleteError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotFound {
                path: Some(path), ..
            } => format!(
                "what {path} declares is deleted by its path: wisp delete ./{path}",
                path = path.display()
            ),
            Self::NotFound { .. } => "`wisp get --all-namespaces` lists all functions".to_owned(),
            Self::Replaced(..) => {
                "somebody made it anew: run it again to delete that one".to_owned()
            }
            Self::Unwatched(..) | Self::Unlisted { .. } => {
                "--no-wait doesn't ask; `kubectl get pods` may tell more".to_owned()
            }
            Self::Left { id, left, .. } => format!(
                "they go on ending without you: `kubectl describe pod {} -n {}` tells why it takes so long",
                left.first().map_or("", String::as_str),
                id.namespace()
            ),
        })
    }
}

/// A function of the cluster that is to be deleted.
struct Doomed {
    id: FunctionId,
    uid: String,
}

/// Deletes, and waits.
pub(crate) fn run(args: &Delete, terminal: &Terminal) -> Result<ExitCode, Failure> {
    cluster::run(async {
        let cluster = Cluster::connect(&args.cluster).await?;
        // A name that is wrong deletes nothing.
        let (mut doomed, mut missing) = (Vec::new(), Vec::new());
        for (id, typed) in named(args, &cluster, terminal)? {
            if let Some(uid) = find(&cluster, &id).await? {
                doomed.push(Doomed { id, uid });
                continue;
            }
            let error = DeleteError::NotFound {
                id: id.clone(),
                server: cluster.server.clone(),
                path: typed.map(PathBuf::from).filter(|path| path.exists()),
            };
            if !args.ignore_not_found {
                return Err(error.into());
            }
            terminal.note(&format!("{} {error}", terminal.err.yellow("note:")));
            missing.push(id);
        }
        for id in &missing {
            terminal.json(&json!({"function": id.to_string(), "result": "notFound"}))?;
        }
        // What becomes of one is told, whatever becomes of the others.
        let mut code = ExitCode::SUCCESS;
        let mut deleted = Vec::new();
        for function in &doomed {
            if let Err(failure) = delete(&cluster, function).await {
                let told = json!({"function": function.id.to_string(), "result": "failed"});
                code = fail(&failure, told, terminal)?;
                continue;
            }
            let paint = terminal.out;
            terminal.say(&format!(
                "{} {} {}",
                paint.green("deleted"),
                paint.bold(&function.id.to_string()),
                paint.dim(&format!("(in {})", cluster.server))
            ))?;
            deleted.push(&function.id);
        }
        for id in deleted {
            let began = Instant::now();
            let gone = if args.no_wait {
                None
            } else {
                Some(until_gone(&cluster, id, args.timeout, terminal).await)
            };
            let told = json!({
                "function": id.to_string(),
                "result": "deleted",
                "gone": matches!(gone, Some(Ok(()))),
                "seconds": began.elapsed().as_secs_f64(),
            });
            if let Some(Err(error)) = gone {
                code = fail(&error.into(), told, terminal)?;
                continue;
            }
            if gone.is_some() {
                let took = terminal::duration(began.elapsed());
                terminal.say(&format!(
                    "{} all replicas of {id} in {took}",
                    terminal.out.green("gone")
                ))?;
            }
            terminal.json(&told)?;
        }
        Ok::<_, Failure>(code)
    })
}

/// Says why one function isn't deleted, or not gone: to scripts in what is `told` of it.
fn fail(failure: &Failure, mut told: Value, terminal: &Terminal) -> Result<ExitCode, OutputError> {
    if !terminal.is_json() {
        return Ok(failure.print(terminal));
    }
    if let (Value::Object(told), Value::Object(why)) = (&mut told, failure.told()) {
        told.extend(why);
    }
    terminal.json(&told)?;
    Ok(ExitCode::FAILURE)
}

/// The functions that were named, each once, by themselves or by files that declare them; with a name, what was typed.
fn named(
    args: &Delete,
    cluster: &Cluster,
    terminal: &Terminal,
) -> Result<Vec<(FunctionId, Option<String>)>, Failure> {
    let mut named: Vec<(FunctionId, Option<String>)> = Vec::new();
    for target in &args.targets {
        let found = if is_path(target) {
            let declared = declared(Path::new(target), cluster, args, terminal)?;
            declared.into_iter().map(|id| (id, None)).collect()
        } else {
            vec![(cluster.id(target)?, Some(target.clone()))]
        };
        for (id, typed) in found {
            if !named.iter().any(|(known, _)| *known == id) {
                named.push((id, typed));
            }
        }
    }
    Ok(named)
}

/// Whether it is a path, and not a name or `namespace/name`: it begins or ends as only paths do.
fn is_path(target: &str) -> bool {
    let begins = ["/", "./", "../"]
        .iter()
        .any(|start| target.starts_with(start));
    let ends = ["/", ".yaml", ".yml"]
        .iter()
        .any(|end| target.ends_with(end));
    begins || ends || target == "." || target == ".."
}

/// The functions that the manifests at `path` declare, in the namespace that `wisp deploy` gives them.
fn declared(
    path: &Path,
    cluster: &Cluster,
    args: &Delete,
    terminal: &Terminal,
) -> Result<Vec<FunctionId>, Failure> {
    let mut ids = Vec::new();
    for folder in discover(&[path.to_owned()], note(terminal))? {
        let manifests = of_functions(&folder)?;
        for manifest in manifests.iter().flat_map(|(_, manifests)| manifests) {
            let metadata = match &manifest.object {
                Object::Function(function) => &function.metadata,
                Object::Secret(secret) => {
                    note_left("Secret", &secret.metadata, terminal);
                    continue;
                }
                Object::ConfigMap(map) => {
                    note_left("ConfigMap", &map.metadata, terminal);
                    continue;
                }
                Object::Other(_) => continue,
            };
            let name = metadata.name.clone().unwrap_or_default();
            let is_fixed = args.cluster.namespace.is_some();
            let namespace = namespace_of("Function", metadata, &cluster.namespace, is_fixed)?;
            ids.push(id_of(namespace, name)?);
        }
    }
    Ok(ids)
}

fn note_left(kind: &str, metadata: &ObjectMeta, terminal: &Terminal) {
    let name = metadata.name.as_deref().unwrap_or_default();
    terminal.note(&format!(
        "{} the {kind} `{name}` stays: others may use it",
        terminal.err.yellow("note:")
    ));
}

/// The function's UID; `None` where it isn't there.
async fn find(cluster: &Cluster, id: &FunctionId) -> Result<Option<String>, ClusterError> {
    match cluster.function(id).await {
        Ok(function) => Ok(Some(function.uid().unwrap_or_default())),
        Err(ClusterError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Deletes the function that was found, and none that has its name meanwhile. That it has gone by itself is well, too.
async fn delete(cluster: &Cluster, function: &Doomed) -> Result<(), Failure> {
    let id = &function.id;
    let parameters = DeleteParams::default().preconditions(Preconditions {
        uid: Some(function.uid.clone()),
        resource_version: None,
    });
    let api = cluster.functions(id.namespace());
    match within(api.delete(id.name(), &parameters)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            Err(DeleteError::Replaced(id.clone()).into())
        }
        Err(error) => {
            let what = format!("delete the function {id}");
            Err(cluster.refused(what, error).into())
        }
    }
}

/// Waits until no pod is the function's.
///
/// # Errors
/// When some are there still after `patience`, or this user may not see pods.
async fn until_gone(
    cluster: &Cluster,
    id: &FunctionId,
    patience: Duration,
    terminal: &Terminal,
) -> Result<(), DeleteError> {
    let api: Api<Pod> = Api::namespaced(cluster.client.clone(), id.namespace());
    let config = watcher::Config::default().labels(&format!("{}={}", pod::FUNCTION, id.name()));
    let mut events = Watch::new(api, config, terminal);
    let (mut left, mut is_listed) = (BTreeSet::<String>::new(), false);
    let watching = async {
        let mut is_told = false;
        while !(is_listed && left.is_empty()) {
            let event = events.next().await.map_err(|error| {
                let error = cluster.refused(format!("watch the replicas of {id}"), error);
                DeleteError::Unwatched(id.clone(), Box::new(error))
            })?;
            match event {
                // Where the watch begins anew, none is known until all are listed.
                Some(Event::Init) => {
                    left.clear();
                    is_listed = false;
                }
                Some(Event::InitApply(pod) | Event::Apply(pod)) => {
                    left.insert(pod.name_any());
                }
                Some(Event::Delete(pod)) => {
                    left.remove(&pod.name_any());
                }
                Some(Event::InitDone) => is_listed = true,
                None => break,
            }
            if is_listed && !left.is_empty() && !std::mem::replace(&mut is_told, true) {
                let text = match left.len() {
                    1 => "its replica ends".to_owned(),
                    count => format!("its {count} replicas end"),
                };
                terminal.note(&format!("  {} {text}", terminal.err.dim(&format!("{id}:"))));
            }
        }
        Ok(())
    };
    let watched = tokio::time::timeout(patience, watching).await;
    watched.unwrap_or_else(|_| {
        let id = id.clone();
        Err(if is_listed {
            DeleteError::Left {
                id,
                patience,
                left: left.into_iter().collect(),
            }
        } else {
            DeleteError::Unlisted { id, patience }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if a folder were taken for a function in a namespace that has its name, or the other way around.
    #[test]
    fn paths_are_told_from_names() {
        for path in [
            ".",
            "..",
            "./greeter",
            "../greeter",
            "/srv/greeter",
            "greeter/",
            "vision/digits/",
            "function.yaml",
            "vision/digits.yml",
        ] {
            assert!(is_path(path), "{path}");
        }
        for name in ["greeter", "vision/digits", "", "Greeter"] {
            assert!(!is_path(name), "{name}");
        }
    }
}

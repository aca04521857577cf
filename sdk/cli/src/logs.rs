//! `wisp logs`: what all replicas of a function say, as one stream.

use std::collections::BTreeMap;
use std::process::ExitCode;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::runtime::watcher::{self, Event};
use kube::{Api, ResourceExt as _};
use tokio::sync::mpsc;
use wisp_contract::FunctionId;
use wisp_contract::operator::pod;

use crate::args::Logs;
use crate::cluster::{self, Cluster, Watch, within};
use crate::failure::{Failure, chain};
use crate::terminal::{Terminal, harmless};

mod line;
mod replica;

use line::{Entry, Printer};
use replica::{Replica, Said, Wanted, is_forbidden};

/// Lines of each replica, where it isn't said how many.
const TAIL: u32 = 200;
/// Lines that wait to be printed.
const BACKLOG: usize = 1024;

/// Prints what there is, and with `--follow` what comes.
pub(crate) fn run(args: &Logs, terminal: &Terminal) -> Result<ExitCode, Failure> {
    cluster::run(async {
        let cluster = Cluster::connect(&args.cluster).await?;
        let id = cluster.id(&args.function)?;
        // A name that is wrong shall not look like a function that sleeps.
        cluster.function(&id).await?;
        let api: Api<Pod> = Api::namespaced(cluster.client.clone(), id.namespace());
        let wanted = Wanted {
            since: args.since,
            tail: args
                .tail
                .or_else(|| (args.since.is_none() && args.request.is_none()).then_some(TAIL)),
            follow: args.follow,
            previous: args.previous,
        };
        let printer = Printer::new(args.request.clone(), terminal);
        if args.follow {
            follow(&cluster, &api, &id, &wanted, printer, terminal).await?;
            Ok::<_, Failure>(ExitCode::SUCCESS)
        } else {
            print(&cluster, &api, &id, &wanted, printer, terminal).await
        }
    })
}

fn selector(id: &FunctionId) -> String {
    format!("{}={}", pod::FUNCTION, id.name())
}

/// What the replicas have said so far, in the order in which they said it. Where a replica's is missing in it, or a part
/// of it, that is no success.
async fn print(
    cluster: &Cluster,
    api: &Api<Pod>,
    id: &FunctionId,
    wanted: &Wanted,
    mut printer: Printer,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    let pods = within(api.list(&ListParams::default().labels(&selector(id))))
        .await
        .map_err(|error| cluster.refused(format!("list the replicas of {id}"), error))?;
    let has_log = |pod: &&Pod| has_started(pod) && (!wanted.previous || has_restarted(pod));
    let started: Vec<&Pod> = pods.items.iter().filter(has_log).collect();
    if started.is_empty() {
        terminal.note(&if wanted.previous {
            format!("no replica of {id} was started before")
        } else {
            format!("{id} has no replica now")
        });
        return Ok(ExitCode::SUCCESS);
    }
    let mut entries: Vec<Entry> = Vec::new();
    let (count, mut unread) = (started.len(), 0_usize);
    for pod in started {
        let replica = Replica::new(api, &pod.name_any());
        let mut lines = Box::pin(replica.lines(wanted));
        while let Some(line) = lines.next().await {
            match line {
                Ok(entry) => entries.push(entry),
                // It may have gone meanwhile; what the others say is worth printing still.
                Err(error) => {
                    unread += 1;
                    if is_forbidden(&error) || unread == count && entries.is_empty() {
                        let what = format!("read the log of {}", replica.name);
                        return Err(cluster.refused(what, error).into());
                    }
                    note_unread(&replica.name, &error, terminal);
                    break;
                }
            }
        }
    }
    entries.sort_by_key(|entry| entry.written);
    let mut has_printed = false;
    for entry in &entries {
        has_printed |= printer.print(entry)?;
    }
    if !has_printed {
        terminal.note("none of its replicas has said anything that was asked for");
    }
    Ok(if unread == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What the replicas say, those that come later too, as it comes; until Ctrl-C.
async fn follow(
    cluster: &Cluster,
    api: &Api<Pod>,
    id: &FunctionId,
    wanted: &Wanted,
    mut printer: Printer,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let (sender, mut said) = mpsc::channel::<Said>(BACKLOG);
    let config = watcher::Config::default().labels(&selector(id));
    let mut events = Watch::new(api.clone(), config, terminal);
    let mut followed: BTreeMap<String, tokio::task::JoinHandle<()>> = BTreeMap::new();
    let mut is_first = true;
    loop {
        tokio::select! {
            // `sender` lives as long as this loop.
            said = said.recv() => match said {
                Some(Said::Line(entry)) => {
                    printer.print(&entry)?;
                }
                Some(Said::Unread(replica, error)) if is_forbidden(&error) => {
                    return Err(cluster.refused(format!("read the log of {replica}"), error).into());
                }
                Some(Said::Unread(replica, error)) => note_unread(&replica, &error, terminal),
                None => {}
            },
            event = events.next() => match event.map_err(|error| cluster.refused(format!("watch the replicas of {id}"), error))? {
                Some(Event::Apply(pod) | Event::InitApply(pod)) => {
                    let uid = pod.uid().unwrap_or_default();
                    if !has_started(&pod) || followed.contains_key(&uid) {
                        continue;
                    }
                    // What a replica says that came while we watched is wanted from its beginning.
                    let wanted = if is_first { wanted.clone() } else { wanted.of_newcomer() };
                    let replica = Replica::new(api, &pod.name_any());
                    followed.insert(uid, tokio::spawn(replica.follow(wanted, sender.clone())));
                }
                Some(Event::Delete(pod)) => {
                    // Its task ends with its log.
                    followed.remove(&pod.uid().unwrap_or_default());
                }
                Some(Event::InitDone) => {
                    if is_first && followed.is_empty() {
                        terminal.note(&format!("{id} has no replica now; its lines come when it wakes"));
                    }
                    is_first = false;
                }
                Some(Event::Init) => {}
                None => return Ok(()),
            },
        }
    }
}

fn note_unread(replica: &str, error: &kube::Error, terminal: &Terminal) {
    let paint = terminal.err;
    terminal.warn(&format!(
        "{} the log of {replica} can't be read: {}",
        paint.yellow("note:"),
        harmless(&chain(error))
    ));
}

/// Whether there can be a log of the container before.
fn has_restarted(pod: &Pod) -> bool {
    pod.status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .filter(|status| status.name == replica::CONTAINER)
        .any(|status| status.restart_count > 0)
}

/// Whether there can be a log: the container runs, or ran.
fn has_started(pod: &Pod) -> bool {
    pod.status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .filter(|status| status.name == replica::CONTAINER)
        .any(|status| {
            let state = status.state.as_ref();
            let last = status.last_state.as_ref();
            state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
                // Between two starts of one that crashes, the kubelet serves the log of the start before.
                || last.is_some_and(|state| state.terminated.is_some())
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Would fail if the log of a function that crashes again and again, whose log is wanted most, weren't read.
    #[test]
    fn there_is_a_log_once_the_container_ran() {
        let started = |state: Value, last: Value| {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "d-a"},
                "status": {"containerStatuses": [{
                    "name": replica::CONTAINER, "image": "x", "imageID": "x", "ready": false, "restartCount": 3,
                    "state": state, "lastState": last,
                }]},
            }))
            .unwrap();
            has_started(&pod)
        };
        let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let ended = json!({"terminated": {"exitCode": 1}});
        assert!(started(json!({"running": {}}), json!({})));
        assert!(started(ended.clone(), json!({})));
        assert!(started(waiting.clone(), ended));
        assert!(!started(waiting, json!({})));
    }
}

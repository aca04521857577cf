//! The watches of functions and pods: Kubernetes' events into the table's, for ever.
//!
//! While the API server is away, everything that is known stays as it is.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::Pod as KubePod;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Config};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use wisp_api::Function;
use wisp_contract::FunctionId;
use wisp_contract::log::chain;
use wisp_contract::operator::pod;

use crate::counts::{Count, Counts};
use crate::directory::{Event, Known, Pod, PodName};
use crate::read;
use crate::table::Table;

/// How long one watch request lasts, in seconds; one whose connection died silently is noticed a little later.
const WATCH: u32 = 60;
/// How often endpoints are looked through that no pod stands behind.
const TICK: Duration = Duration::from_secs(5);

/// Watches everything that a gateway follows.
pub(crate) async fn run(client: Client, table: Arc<Table>, counts: Arc<Counts>) {
    let functions = Api::<DeserializeGuard<Function>>::all(client.clone());
    let pods = Api::<KubePod>::all(client);
    let of_functions = Config::default().timeout(WATCH);
    let of_pods = Config::default().timeout(WATCH).labels(pod::FUNCTION);
    let mut ticks = tokio::time::interval(TICK);
    tokio::join!(
        follow(
            watch(functions, of_functions),
            "functions",
            || counts.functions_watch.add(),
            |event| table.function(function_event(event, &counts.unreadable)),
        ),
        follow(
            watch(pods, of_pods),
            "pods",
            || {
                counts.pods_watch.add();
                table.pods_failed();
            },
            |event| table.pod(pod_event(event)),
        ),
        async {
            loop {
                ticks.tick().await;
                table.tick();
            }
        },
    );
}

/// Events of all objects, with a growing pause after each error.
pub(crate) fn watch<K>(
    api: Api<K>,
    config: Config,
) -> impl Stream<Item = watcher::Result<watcher::Event<K>>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher::watcher(api, config).backoff(Pauses::default())
}

/// Hands every event on; logs every error, and says that there is one.
pub(crate) async fn follow<K>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
    what: &str,
    mut failed: impl FnMut(),
    mut take: impl FnMut(watcher::Event<K>),
) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => take(event),
            Err(error) => {
                failed();
                tracing::warn!(
                    watch = what,
                    error = chain(&error),
                    "a watch failed: it is taken up again"
                );
            }
        }
    }
}

fn function_event(
    event: watcher::Event<DeserializeGuard<Function>>,
    unreadable: &Count,
) -> Event<Known, FunctionId> {
    let applied = |guard: DeserializeGuard<Function>,
                   apply: fn(Known) -> Event<Known, FunctionId>| {
        let id = match read::id(guard.meta()) {
            Ok(id) => id,
            Err(error) => {
                tracing::warn!(%error, "a Function has a name that none can have");
                return Event::Nothing;
            }
        };
        match guard.0 {
            Ok(function) => read::function(&function, &id).map_or(Event::Delete(id), apply),
            Err(invalid) => {
                unreadable.add();
                tracing::warn!(
                    function = %id,
                    error = invalid.error,
                    "the Function cannot be read: what was known of it stays"
                );
                Event::Keep(id)
            }
        }
    };
    match event {
        watcher::Event::Init => Event::Init,
        watcher::Event::InitApply(guard) => applied(guard, Event::InitApply),
        watcher::Event::InitDone => Event::InitDone,
        watcher::Event::Apply(guard) => applied(guard, Event::Apply),
        watcher::Event::Delete(guard) => {
            read::id(guard.meta()).map_or(Event::Nothing, Event::Delete)
        }
    }
}

fn pod_event(event: watcher::Event<KubePod>) -> Event<Pod, PodName> {
    let applied = |pod: KubePod, apply: fn(Pod) -> Event<Pod, PodName>| match read::replica(&pod) {
        Some(pod) => apply(pod),
        None => Event::Delete(read::name(&pod.metadata)),
    };
    match event {
        watcher::Event::Init => Event::Init,
        watcher::Event::InitApply(pod) => applied(pod, Event::InitApply),
        watcher::Event::InitDone => Event::InitDone,
        watcher::Event::Apply(pod) => applied(pod, Event::Apply),
        watcher::Event::Delete(pod) => Event::Delete(read::name(&pod.metadata)),
    }
}

/// How long to wait after the first error in a row, the second, and so on.
#[derive(Debug, Default)]
pub(crate) struct Pauses {
    errors: u32,
}

impl Pauses {
    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(10);
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = Self::FIRST * 2_u32.saturating_pow(self.errors.min(16));
        self.errors = self.errors.saturating_add(1);
        // Gateways that lost the API server together don't come back together: up to a quarter less.
        let less = u32::from(uuid::Uuid::new_v4().as_bytes()[0] >> 2);
        let pause = pause.min(Self::LONGEST);
        Some(pause - pause * less / 256)
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.errors = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew() {
        let mut pauses = Pauses::default();
        let mut all: Vec<_> = pauses.by_ref().take(100).collect();
        assert!(all.iter().all(|pause| *pause <= Pauses::LONGEST), "{all:?}");
        assert!(
            all[0] >= Pauses::FIRST * 3 / 4 && all[0] <= Pauses::FIRST,
            "{all:?}"
        );
        assert!(all.pop().unwrap() >= Pauses::LONGEST * 3 / 4);
        pauses.reset();
        assert!(pauses.next().unwrap() <= Pauses::FIRST);
    }
}

//! An operator that dies while it wakes functions.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::task::JoinHandle;
use wisp_e2e::{Operator, Space, installed};
use wisp_integration::{Answer, component};

use crate::pools::{FUNCTION, POOL, pool, stands_by, text};

/// What each function asks for, other than the pool: little, since more than thirty may be awake at once.
const LITTLE: &str =
    "  pod: {resources: {requests: {cpu: 20m, memory: 96Mi}, limits: {memory: 300Mi}}}\n";

/// When the operator dies.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So many milliseconds after the request.
    After(u64),
    /// When the cluster shows that a pod is the function's.
    Adopted,
    /// When it shows that such a pod has what the function asks for.
    Resized,
}

impl Moment {
    /// Every few milliseconds while a pod is taken and assigned, and around the time at which that is written down; and
    /// after each of the writes.
    const ALL: [Self; 16] = [
        Self::After(0),
        Self::After(2),
        Self::After(4),
        Self::After(6),
        Self::After(8),
        Self::After(11),
        Self::After(15),
        Self::After(20),
        Self::After(30),
        Self::After(70),
        Self::After(105),
        Self::After(110),
        Self::After(115),
        Self::After(125),
        Self::Adopted,
        Self::Resized,
    ];

    async fn come(self, space: &Space, function: &str) -> Result<()> {
        let shows = |what: &str, pointer: &str, wanted: &str| {
            space.wait(what, &["pods"], |pods| {
                let mut ours = pods.values().filter(|pod| text(pod, FUNCTION) == function);
                ours.any(|pod| text(pod, pointer) == wanted).then_some(())
            })
        };
        match self {
            Self::After(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
            // It may be its Deployment's: an operator that begins doesn't know yet what pods of pools can become.
            Self::Adopted => shows("a pod of the function's", FUNCTION, function)?,
            Self::Resized => {
                let asked = "/spec/containers/0/resources/requests/cpu";
                shows("a pod with the function's resources", asked, "20m")?;
            }
        }
        Ok(())
    }
}

/// Has the functions be there.
fn deploy(space: &Space, image: &str, functions: &[String]) -> Result<()> {
    for name in functions {
        space.apply(&Space::function(name, image, LITTLE))?;
    }
    for name in functions {
        space.condition(name, "Ready", "True")?;
    }
    Ok(())
}

/// Asks each of the functions, all at once.
fn ask(space: &Space, functions: &[String]) -> Vec<JoinHandle<Result<Answer>>> {
    let ask = |name: &String| {
        let (client, path) = (space.client(), space.path(name, "hello"));
        tokio::spawn(async move { client.get(&path).await })
    };
    functions.iter().map(ask).collect()
}

/// Wakes as many functions at once as pods stand by, and waits until just those pods are theirs.
async fn take_all_that_stand_by(space: &Space, functions: &[String]) -> Result<()> {
    let standing = space.wait("the pods that stand by", &["pods"], |pods| {
        let mut of_pool = pods.iter().filter(|(_, pod)| text(pod, POOL) == "warm");
        let is_ready = |pod: &Value| {
            pod.pointer("/metadata/deletionTimestamp").is_none()
                && pod.pointer("/status/containerStatuses/0/ready") == Some(&true.into())
        };
        let names = of_pool.clone().map(|(name, _)| name.clone());
        let names: Vec<String> = names.collect();
        (names.len() == functions.len() && of_pool.all(|(_, pod)| is_ready(pod))).then_some(names)
    })?;
    for (name, asked) in functions.iter().zip(ask(space, functions)) {
        let answer = asked.await??;
        ensure!(answer.status == 200, "{name}: {answer:?}");
    }
    let what = format!("{standing:?} to be the pods of {functions:?}");
    space.wait(&what, &["pods"], |pods| {
        let owners = standing
            .iter()
            .map(|name| Some(text(pods.get(name)?, FUNCTION)));
        let owners = owners.collect::<Option<BTreeSet<&str>>>()?;
        let mut functions = functions.iter();
        functions
            .all(|name| owners.contains(name.as_str()))
            .then_some(())
    })
}

/// Waits until each pod is one of the two that stand by, or the only one of one of the functions.
fn each_is_somebodys(space: &Space, functions: &[String]) -> Result<()> {
    space.wait("no pod that nobody needs", &["pods"], |pods| {
        let (standing, others): (Vec<&Value>, Vec<&Value>) =
            pods.values().partition(|pod| text(pod, POOL) == "warm");
        let mut owners = BTreeSet::new();
        let are_needed = others.iter().all(|pod| {
            let owner = text(pod, FUNCTION);
            functions.iter().any(|name| name == owner) && owners.insert(owner)
        });
        (standing.len() == 2 && are_needed).then_some(())
    })
}

/// Kills the operator at many moments of two wake-ups at once: before a pod is taken, while it is assigned, before the
/// cluster knows, and between the writes by which it does. Would fail if a request were not answered, a function had pods
/// that it doesn't need, or a pod were lost to all: one that stands by and isn't given to who needs it, or one that is neither
/// a function's nor the pool's.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_dies_while_it_wakes_loses_no_pod_and_no_request() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let _goes = wisp.without_operator().await;
    let space = wisp.space("killed")?;
    let image = space
        .push_component("hello", &component("fixture-p2"))
        .await?;
    space.apply(&pool("warm", 2, 2))?;
    // Two for each moment, and two for the end.
    let of_moments = 2 * Moment::ALL.len();
    let functions: Vec<String> = (0..of_moments + 2)
        .map(|index| format!("hello-{index}"))
        .collect();
    let (first, last) = functions.split_at(of_moments);
    deploy(&space, &image, first)?;
    for (moment, pair) in Moment::ALL.into_iter().zip(first.chunks(2)) {
        stands_by(&space, "warm", 2)?;
        let operator = Operator::find(wisp)?;
        let asked = ask(&space, pair);
        moment.come(&space, &pair[0]).await?;
        operator.kill()?;
        for (name, asked) in pair.iter().zip(asked) {
            let answer = asked.await??;
            // Who waits for longer than a client is kept waiting is told so, and may ask again.
            let is_told = answer.status == 503 && answer.problem().reason == "operator-unavailable";
            ensure!(
                answer.status == 200 || is_told,
                "{name}, killed {moment:?}: {answer:?}"
            );
        }
        for name in pair {
            space
                .until(name, "hello", |answer| answer.status == 200)
                .await?;
        }
    }
    for name in first {
        let answer = space.get(name, "hello").await?;
        ensure!(answer.status == 200, "{name}: {answer:?}");
        space
            .pods(name, 1)
            .with_context(|| format!("{name} has more than it needs"))?;
    }
    deploy(&space, &image, last)?;
    // The operator that leads by now knows what pods of the pool can become: no other knew of the last two.
    let query = ["runtimepools.wisp.dev"];
    space.wait("a pool that all functions take pods of", &query, |pools| {
        let count = pools.get("warm")?.pointer("/status/functions")?;
        (*count == functions.len()).then_some(())
    })?;
    stands_by(&space, "warm", 2)?;
    take_all_that_stand_by(&space, last).await?;
    stands_by(&space, "warm", 2)?;
    each_is_somebodys(&space, &functions)
}

//! What all cases need: pools, functions that sleep, and rows.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use wisp_e2e::{Api, Installation, NAMESPACE, PATIENCE, Space};
use wisp_load::{Row, Sample};

use crate::Options;
use crate::ask::{Found, Question};

const BENCH: &str = "cold";
/// How soon functions fall asleep.
pub(crate) const IDLE: &str = "1s";
/// Functions that take turns.
const TURNS: usize = 8;
/// How often a function that is awake is asked.
const AWAKE: usize = 20;
/// Before each wake-up nothing happens for so long: containers of pods that are gone are cleared away meanwhile.
pub(crate) const QUIET: Duration = Duration::from_millis(500);

/// The label of a function's pods.
const FUNCTION: &str = "wisp.dev/function";
/// How often the pods are looked at.
const LOOKED_AFTER: Duration = Duration::from_millis(100);

/// A run.
pub(crate) struct Bench<'a> {
    pub(crate) wisp: &'static Installation,
    pub(crate) space: Space,
    pub(crate) api: Api,
    pub(crate) options: &'a Options,
}

impl Bench<'_> {
    pub(crate) fn row(case: &str, metric: &str, sample: &Sample, unit: &str) -> Row {
        Row::new(BENCH, case, metric, sample, unit)
    }

    /// The value that so many percent are below or at, in milliseconds.
    pub(crate) fn percentile(case: &str, sample: &Sample, percent: f64) -> Row {
        let value = Sample(vec![percentile(sample, percent)]);
        Self::row(case, &metric(percent, sample.0.len()), &value, "ms")
    }

    /// Makes the only pool of the namespace.
    pub(crate) async fn pool(&self, name: &str, spec: Value) -> Result<()> {
        let ready = spec["minReplicas"].as_u64().unwrap_or(0);
        let manifest = json!({
            "apiVersion": "wisp.dev/v1alpha1", "kind": "RuntimePool", "metadata": {"name": name},
            "spec": spec,
        });
        self.space
            .kubectl(&["delete", "runtimepool", "--all", "--wait"])?;
        self.space.apply(&manifest.to_string())?;
        self.asleep(&[], usize::try_from(ready)?).await.map(drop)
    }

    /// Applies so many functions of `image` that fall asleep after `idle`, and waits until they are Ready.
    pub(crate) fn functions(
        &self,
        name: &str,
        count: usize,
        image: &str,
        idle: &str,
        rest: &str,
    ) -> Result<Vec<String>> {
        let names: Vec<String> = (0..count).map(|turn| format!("{name}-{turn}")).collect();
        let rest = format!("  scaling: {{idleTimeout: {idle}}}\n{rest}");
        let manifests = names.iter().map(|name| Space::function(name, image, &rest));
        self.space
            .apply(&manifests.collect::<Vec<_>>().join("\n---\n"))?;
        for name in &names {
            self.space.condition(name, "Ready", "True")?;
        }
        Ok(names)
    }

    /// As many as take turns.
    pub(crate) fn turns(&self, name: &str, image: &str, rest: &str) -> Result<Vec<String>> {
        self.functions(name, TURNS, image, IDLE, rest)
    }

    /// Wakes functions in turns, each when all of them sleep and `standing` pods stand by, and a plain Deployment of what they
    /// are between them. Asks one of them the same again and again.
    pub(crate) async fn wake(
        &self,
        functions: &[String],
        question: Question,
        standing: usize,
    ) -> Result<Found> {
        let mut found = Found::default();
        let plain = self.make_plain(&functions[0]).await?;
        let (wakes, of_plain) = (self.options.wakes.get(), self.options.plain.get());
        for (turn, name) in functions.iter().cycle().take(wakes).enumerate() {
            let before = self.asleep(functions, standing).await?;
            found.add(self.ask(name, question).await?);
            self.taken(name, &before).await?;
            // As many as are due by then, so that they lie evenly between the others.
            while found.plain.0.len() * wakes < (turn + 1) * of_plain {
                self.asleep(functions, standing).await?;
                found
                    .plain
                    .0
                    .extend(self.wake_plain(&plain, question).await?);
            }
        }
        self.remove_plain()?;
        for turn in 0..AWAKE {
            tokio::time::sleep(QUIET).await;
            let asked = self.ask(&functions[0], question).await?;
            // At first it may sleep, and a pod in the place of the one that it takes is made.
            if turn > AWAKE / 2 {
                found.awake.0.push(asked.millis);
            }
        }
        Ok(found)
    }

    /// Tells the operator that leads to end, as an upgrade does; another takes its place. Returns at once.
    pub(crate) fn end_operator(&self) -> Result<()> {
        let leader = self.wisp.leader(|_| true)?;
        let name = leader["metadata"]["name"].as_str().unwrap_or_default();
        let delete = [
            "delete",
            "pod",
            "--wait=false",
            "--namespace",
            NAMESPACE,
            name,
        ];
        self.wisp.cluster().kubectl(&delete).map(drop)
    }

    /// Waits until none of the functions has a pod, and so many stand by; and then for the machine to be quiet.
    /// Returns the names of those that stand by.
    pub(crate) async fn asleep(
        &self,
        functions: &[String],
        standing: usize,
    ) -> Result<BTreeSet<String>> {
        let began = Instant::now();
        loop {
            let all = self.pods().await?;
            let awake = all.iter().any(|pod| {
                let of = label(pod, FUNCTION);
                functions.iter().any(|name| of == name.as_str())
            });
            let ready = all.iter().filter(|pod| stands_by(pod) && is_ready(pod));
            if !awake && ready.count() >= standing {
                tokio::time::sleep(QUIET).await;
                return Ok(names(&all));
            }
            ensure!(
                began.elapsed() < PATIENCE,
                "functions don't fall asleep, or no pods stand by"
            );
            tokio::time::sleep(LOOKED_AFTER).await;
        }
    }

    /// Waits until `function`, which has answered, is seen to have a pod, or that one of those that stood by `before` is
    /// gone: a pod is marked as a function's a moment after it answered for it.
    pub(crate) async fn taken(&self, function: &str, before: &BTreeSet<String>) -> Result<()> {
        let began = Instant::now();
        loop {
            let all = self.pods().await?;
            let standing = names(&all);
            let has_one = all.iter().any(|pod| label(pod, FUNCTION) == function);
            if has_one || !standing.is_superset(before) {
                return Ok(());
            }
            ensure!(
                began.elapsed() < PATIENCE,
                "{function} answers, but no pod is its own"
            );
            tokio::time::sleep(LOOKED_AFTER).await;
        }
    }

    /// The uids of the pods that stand by.
    pub(crate) async fn standing(&self) -> Result<BTreeSet<String>> {
        let all = self.pods().await?;
        let standing = all.iter().filter(|pod| stands_by(pod));
        Ok(standing
            .filter_map(|pod| pod["metadata"]["uid"].as_str().map(str::to_owned))
            .collect())
    }

    async fn pods(&self) -> Result<Vec<Value>> {
        let path = format!("/api/v1/namespaces/{}/pods", self.space.name());
        let all = self.api.get(&path).await?;
        Ok(all["items"].as_array().cloned().unwrap_or_default())
    }
}

fn label<'a>(pod: &'a Value, key: &str) -> &'a Value {
    &pod["metadata"]["labels"][key]
}

/// The names of those that stand by.
fn names(pods: &[Value]) -> BTreeSet<String> {
    let standing = pods.iter().filter(|pod| stands_by(pod));
    standing
        .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
        .collect()
}

/// Whether a pool has it, ready or not.
fn stands_by(pod: &Value) -> bool {
    label(pod, "wisp.dev/pool").is_string() && pod["metadata"]["deletionTimestamp"].is_null()
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// What the value of so many is called that so many percent are below or at: it is the greatest where none is above it.
fn metric(percent: f64, count: usize) -> String {
    if percent > 50.0 && index(percent, count) + 1 >= count {
        format!("max of {count}")
    } else {
        format!("p{percent:.0} of {count}")
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "an index below some hundreds"
)]
fn index(percent: f64, count: usize) -> usize {
    ((percent / 100.0 * count as f64).ceil() as usize).saturating_sub(1)
}

/// The value that so many percent are below or at.
pub(crate) fn percentile(sample: &Sample, percent: f64) -> f64 {
    let mut sorted = sample.0.clone();
    sorted.sort_by(f64::total_cmp);
    let index = index(percent, sorted.len());
    sorted.get(index).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if the greatest of a few values passed for a percentile, or another one were taken than is said.
    #[test]
    fn a_value_is_called_what_it_is() {
        for (percent, count, name, value) in [
            (99.0, 200, "p99 of 200", 198.0),
            (99.0, 100, "p99 of 100", 99.0),
            (99.0, 99, "max of 99", 99.0),
            (99.0, 40, "max of 40", 40.0),
            (100.0, 8, "max of 8", 8.0),
            (50.0, 1, "p50 of 1", 1.0),
            (50.0, 40, "p50 of 40", 20.0),
        ] {
            let sample = Sample((1..=count).map(f64::from).collect());
            assert_eq!(metric(percent, sample.0.len()), name);
            assert_eq!(percentile(&sample, percent), value, "{name}");
        }
    }
}

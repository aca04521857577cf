//! What Prometheus reads. Labels are functions that there are, and words of our own.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use wisp_contract::FunctionId;

use crate::artifacts::Figures;

/// The media type of [`Metrics::text`].
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bounds of durations, in seconds.
const BOUNDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0,
];

/// Bounds of what may take minutes, in seconds.
const LONG_BOUNDS: [f64; 13] = [
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 1800.0,
];

/// All counts.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    wanted: Family<OfFunction, Gauge>,
    ready: Family<OfFunction, Gauge>,
    wakes: Family<Outcome, Counter>,
    cold_start_seconds: Family<OfPhase, Histogram>,
    claims: Family<Outcome, Counter>,
    pool_ready: Family<OfPool, Gauge>,
    pool_wanted: Family<OfPool, Gauge>,
    scalings: Family<Scaling, Counter>,
    reconciles: Family<Outcome, Counter>,
    resolves: Family<Outcome, Counter>,
    reports: Counter,
    gateways: Family<OfState, Gauge>,
    leader: Gauge,
    watch_errors: Gauge,
    functions: Gauge,
    store_bytes: Family<OfState, Gauge>,
    store_capacity_bytes: Gauge,
    prepare_queue: Gauge,
    fetch_seconds: Histogram,
    prepare_seconds: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFunction {
    namespace: String,
    function: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPool {
    namespace: String,
    pool: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPhase {
    phase: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Scaling {
    direction: &'static str,
    reason: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut all = Registry::default();
        let registry = all.sub_registry_with_prefix("wisp_operator");
        let durations: fn() -> Histogram = || Histogram::new(BOUNDS);
        let metrics = Self {
            wanted: Family::default(),
            ready: Family::default(),
            wakes: Family::default(),
            cold_start_seconds: Family::new_with_constructor(durations),
            claims: Family::default(),
            pool_ready: Family::default(),
            pool_wanted: Family::default(),
            scalings: Family::default(),
            reconciles: Family::default(),
            resolves: Family::default(),
            reports: Counter::default(),
            gateways: Family::default(),
            leader: Gauge::default(),
            watch_errors: Gauge::default(),
            functions: Gauge::default(),
            store_bytes: Family::default(),
            store_capacity_bytes: Gauge::default(),
            prepare_queue: Gauge::default(),
            fetch_seconds: Histogram::new(LONG_BOUNDS),
            prepare_seconds: Histogram::new(LONG_BOUNDS),
            registry: Registry::default(),
        };
        registry.register(
            "replicas_wanted",
            "Replicas that a function should have",
            metrics.wanted.clone(),
        );
        registry.register(
            "replicas_ready",
            "Replicas of a function that are ready",
            metrics.ready.clone(),
        );
        registry.register(
            "wakes",
            "Wake-ups of functions, by outcome",
            metrics.wakes.clone(),
        );
        registry.register(
            "claims",
            "Attempts to make a pod of a pool a function's, by outcome",
            metrics.claims.clone(),
        );
        registry.register(
            "pool_pods_ready",
            "Pods that stand by in a pool",
            metrics.pool_ready.clone(),
        );
        registry.register(
            "pool_pods_wanted",
            "Pods that should stand by in a pool",
            metrics.pool_wanted.clone(),
        );
        registry.register(
            "scalings",
            "Changes of the number of replicas",
            metrics.scalings.clone(),
        );
        registry.register(
            "reconciles",
            "Reconciliations, by outcome",
            metrics.reconciles.clone(),
        );
        registry.register(
            "resolves",
            "Times that sources were fetched, by outcome",
            metrics.resolves.clone(),
        );
        registry.register("reports", "Reports of gateways", metrics.reports.clone());
        registry.register(
            "gateways",
            "Gateways that are heard, and those that fell silent without a farewell (missed): functions that these told of keep their replicas",
            metrics.gateways.clone(),
        );
        registry.register(
            "leader",
            "1 where this process leads",
            metrics.leader.clone(),
        );
        registry.register(
            "watch_errors",
            "Watches that broke",
            metrics.watch_errors.clone(),
        );
        registry.register(
            "functions",
            "Functions that there are",
            metrics.functions.clone(),
        );
        registry.register_with_unit(
            "store",
            "What the store has: whole and in use (held), whole and not (idle), and not whole yet (partial)",
            Unit::Bytes,
            metrics.store_bytes.clone(),
        );
        registry.register_with_unit(
            "store_capacity",
            "The most that the store may have",
            Unit::Bytes,
            metrics.store_capacity_bytes.clone(),
        );
        registry.register(
            "prepare_queue",
            "Components that wait to be initialised and compiled",
            metrics.prepare_queue.clone(),
        );
        registry.register_with_unit(
            "fetch",
            "How long it took to fetch a component or model, to find out that the store has what its tag means, or to store what a ConfigMap has",
            Unit::Seconds,
            metrics.fetch_seconds.clone(),
        );
        registry.register_with_unit(
            "prepare",
            "How long it took to initialise and compile a component, with its wait for others",
            Unit::Seconds,
            metrics.prepare_seconds.clone(),
        );
        // Named for what people look for, beside the gateways' requests and the hosts' instances.
        all.register_with_unit(
            "wisp_cold_start",
            "How long cold starts took, by phase: with a pod of a pool until it served (claimed), of that the Assignment (assigned), and of that fetching and loading (fetched, loaded); else until scaled, until a pod had an address (addressed); and in all (served)",
            Unit::Seconds,
            metrics.cold_start_seconds.clone(),
        );
        Self {
            registry: all,
            ..metrics
        }
    }
}

impl Metrics {
    /// All of it, in OpenMetrics' text format.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    fn of(id: &FunctionId) -> OfFunction {
        OfFunction {
            namespace: id.namespace().to_owned(),
            function: id.name().to_owned(),
        }
    }

    /// A function should have so many replicas.
    pub fn wanted(&self, id: &FunctionId, replicas: u32) {
        self.wanted
            .get_or_create(&Self::of(id))
            .set(replicas.into());
    }

    /// So many replicas of a function are ready.
    pub fn ready(&self, id: &FunctionId, replicas: i32) {
        self.ready.get_or_create(&Self::of(id)).set(replicas.into());
    }

    /// A function is no more.
    pub fn forget(&self, id: &FunctionId) {
        self.wanted.remove(&Self::of(id));
        self.ready.remove(&Self::of(id));
    }

    /// A wake-up is over.
    pub fn woke(&self, outcome: &'static str) {
        self.wakes.get_or_create(&Outcome { outcome }).inc();
    }

    /// A wake-up got so far.
    pub fn wake_phase(&self, phase: &'static str, since_began: Duration) {
        self.cold_start_seconds
            .get_or_create(&OfPhase { phase })
            .observe(since_began.as_secs_f64());
    }

    /// It was tried to make a pod of a pool a function's.
    pub fn claimed(&self, outcome: &'static str) {
        self.claims.get_or_create(&Outcome { outcome }).inc();
    }

    /// So many pods stand by in a pool, and should.
    pub fn pool(&self, id: &FunctionId, ready: i32, wanted: i32) {
        let pool = OfPool {
            namespace: id.namespace().to_owned(),
            pool: id.name().to_owned(),
        };
        self.pool_ready.get_or_create(&pool).set(ready.into());
        self.pool_wanted.get_or_create(&pool).set(wanted.into());
    }

    /// A pool is no more.
    pub fn forget_pool(&self, id: &FunctionId) {
        let pool = OfPool {
            namespace: id.namespace().to_owned(),
            pool: id.name().to_owned(),
        };
        self.pool_ready.remove(&pool);
        self.pool_wanted.remove(&pool);
    }

    /// The number of replicas was changed.
    pub fn scaled(&self, reason: &'static str, is_up: bool) {
        let direction = if is_up { "up" } else { "down" };
        self.scalings
            .get_or_create(&Scaling { direction, reason })
            .inc();
    }

    /// A function was reconciled.
    pub fn reconciled(&self, outcome: &'static str) {
        self.reconciles.get_or_create(&Outcome { outcome }).inc();
    }

    /// Sources were fetched.
    pub fn resolved(&self, outcome: &'static str) {
        self.resolves.get_or_create(&Outcome { outcome }).inc();
    }

    /// A gateway reported.
    pub fn reported(&self) {
        self.reports.inc();
    }

    /// So many gateways are heard, and missed.
    pub fn gateways(&self, heard: usize, missed: usize) {
        for (state, count) in [("heard", heard), ("missed", missed)] {
            let gauge = self.gateways.get_or_create(&OfState { state });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Whether this process leads.
    pub fn leads(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// What there is of artifacts.
    pub fn artifacts(&self, figures: &Figures) {
        let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let usage = &figures.usage;
        for (state, bytes) in [
            ("held", usage.held),
            ("idle", usage.kept.saturating_sub(usage.held)),
            ("partial", usage.partial),
        ] {
            let gauge = self.store_bytes.get_or_create(&OfState { state });
            gauge.set(number(bytes));
        }
        self.store_capacity_bytes.set(number(usage.capacity));
        self.prepare_queue
            .set(i64::try_from(figures.waiting).unwrap_or(i64::MAX));
    }

    /// A component or model was fetched, or asked for and found to be in the store.
    pub fn fetched(&self, took: Duration) {
        self.fetch_seconds.observe(took.as_secs_f64());
    }

    /// A component was prepared.
    pub fn prepared(&self, took: Duration) {
        self.prepare_seconds.observe(took.as_secs_f64());
    }

    /// What is known of the cluster.
    pub fn cluster(&self, functions: usize, watch_errors: u64) {
        self.functions
            .set(i64::try_from(functions).unwrap_or(i64::MAX));
        self.watch_errors
            .set(i64::try_from(watch_errors).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use wisp_artifacts::Usage;

    use super::*;

    #[test]
    fn a_function_that_is_no_more_leaves_no_label_behind() {
        let metrics = Metrics::default();
        let id: FunctionId = "n/f".parse().unwrap();
        metrics.wanted(&id, 3);
        metrics.wake_phase("served", Duration::from_millis(300));
        let text = metrics.text();
        assert!(
            text.contains(r#"wisp_operator_replicas_wanted{namespace="n",function="f"} 3"#),
            "{text}"
        );
        assert!(
            text.contains(r#"wisp_cold_start_seconds_bucket{le="0.5",phase="served"} 1"#),
            "{text}"
        );
        metrics.forget(&id);
        assert!(!metrics.text().contains(r#"function="f""#));
    }

    /// Would fail if who watches the disk were told something else than what is on it.
    #[test]
    fn the_parts_of_a_store_make_up_what_it_has() {
        let metrics = Metrics::default();
        metrics.artifacts(&Figures {
            usage: Usage {
                capacity: 100,
                held: 20,
                kept: 50,
                partial: 7,
            },
            waiting: 3,
        });
        metrics.prepared(Duration::from_secs(250));
        let text = metrics.text();
        for line in [
            r#"wisp_operator_store_bytes{state="held"} 20"#,
            r#"wisp_operator_store_bytes{state="idle"} 30"#,
            r#"wisp_operator_store_bytes{state="partial"} 7"#,
            "wisp_operator_store_capacity_bytes 100",
            "wisp_operator_prepare_queue 3",
            r#"wisp_operator_prepare_seconds_bucket{le="300.0"} 1"#,
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }

    /// Would fail if the page on what to watch named a metric that isn't, or lacked one.
    #[test]
    fn every_metric_is_told() {
        let page = include_str!("../docs/watching.md");
        let (metrics, id) = (Metrics::default(), "n/f".parse().unwrap());
        metrics.wanted(&id, 1);
        metrics.ready(&id, 1);
        metrics.pool(&id, 1, 1);
        metrics.wake_phase("served", Duration::ZERO);
        metrics.scaled("load", true);
        metrics.gateways(1, 0);
        metrics.artifacts(&Figures::default());
        for count in [
            Metrics::woke,
            Metrics::claimed,
            Metrics::reconciled,
            Metrics::resolved,
        ] {
            count(&metrics, "succeeded");
        }
        let text = metrics.text();
        let names = text.lines().filter_map(|line| {
            let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
            let end = if kind == "counter" { "_total" } else { "" };
            Some(format!("`{name}{end}`"))
        });
        let names: Vec<String> = names.collect();
        assert!(
            names.contains(&"`wisp_operator_resolves_total`".to_owned()),
            "{text}"
        );
        for name in &names {
            assert!(page.contains(name), "{name}");
        }
        let told = page
            .split('`')
            .filter(|word| word.starts_with("wisp_operator_"));
        for word in told {
            assert!(names.contains(&format!("`{word}`")), "{word}");
        }
    }
}

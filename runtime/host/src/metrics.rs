//! Prometheus metrics. Labels come from closed sets, so their number is bounded.

use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeMetric as _, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use wisp_admit::Load;

/// The media type of what [`Metrics::encode`] writes.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bounds of what takes longer than most, up to the longest that a function may take, in seconds.
const LONG: [f64; 4] = [30.0, 120.0, 600.0, 3600.0];

/// Everything that is counted.
pub(crate) struct Metrics {
    requests: Family<Answer, Counter>,
    /// The one of `requests` that nearly all requests are counted by, without looking it up.
    answered_well: Counter,
    latency: Histogram,
    instance: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    /// `2xx`.
    class: &'static str,
    /// A problem's reason; empty where the function answered itself.
    reason: &'static str,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let requests = Family::default();
        let well = Answer {
            class: "2xx",
            reason: "",
        };
        Self {
            answered_well: requests.get_or_create_owned(&well),
            requests,
            latency: Histogram::new(exponential_buckets(0.000_1, 2.0, 18).chain(LONG)),
            instance: Histogram::new(exponential_buckets(0.000_001, 2.0, 18)),
        }
    }

    pub(crate) fn request(&self, status: u16, reason: &'static str, took: Duration) {
        match (class(status), reason) {
            ("2xx", "") => self.answered_well.inc(),
            (class, reason) => self.requests.get_or_create(&Answer { class, reason }).inc(),
        };
        self.latency.observe(took.as_secs_f64());
    }

    pub(crate) fn instance_started(&self, took: Duration) {
        self.instance.observe(took.as_secs_f64());
    }

    /// All of it as OpenMetrics text, with what the function's parts count themselves.
    pub(crate) fn encode(&self, reading: Option<Reading>) -> String {
        let mut registry = Registry::default();
        registry.register(
            "wisp_host_requests",
            "Requests by the class of their status and the reason of their problem",
            self.requests.clone(),
        );
        registry.register(
            "wisp_host_request_seconds",
            "From a request's head to its response's last byte",
            self.latency.clone(),
        );
        registry.register(
            "wisp_host_instance_start_seconds",
            "The time to make a fresh instance",
            self.instance.clone(),
        );
        if let Some(reading) = reading {
            registry.register_collector(Box::new(reading));
        }
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = encode(&mut text, &registry);
        text
    }
}

fn class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

/// What a function's parts count themselves, at one moment.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) load: Load,
    pub(crate) dropped_log_bytes: u64,
    /// By name.
    pub(crate) models: Vec<(String, wisp_nn::Snapshot)>,
}

impl Collector for Reading {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let gauges = [
            (
                "wisp_host_in_flight",
                "Requests that run",
                self.load.in_flight,
            ),
            (
                "wisp_host_queued",
                "Requests that wait for a place",
                self.load.queued,
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::from(value));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let dropped = ConstCounter::new(self.dropped_log_bytes);
        let help = "Bytes of guest output dropped because they came faster than limits.logRate";
        dropped.encode(encoder.encode_descriptor(
            "wisp_host_dropped_log_bytes",
            help,
            None,
            dropped.metric_type(),
        )?)?;
        self.encode_models(&mut encoder)
    }
}

impl Reading {
    fn encode_models(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        type Count = fn(&wisp_nn::Snapshot) -> f64;
        let counters: [(&str, &str, Count); 8] = [
            (
                "items",
                "Calls of a model that were computed, failed ones included",
                |model| model.items as f64,
            ),
            (
                "batches",
                "Batches that were computed, parts of those that failed included",
                |model| model.batches as f64,
            ),
            (
                "reruns",
                "Calls that were computed again, because their batch failed",
                |model| model.reruns as f64,
            ),
            ("failed", "Calls that failed", |model| model.failed as f64),
            (
                "cancelled",
                "Calls whose caller went before they were computed, or while they were",
                |model| model.cancelled as f64,
            ),
            (
                "rejected",
                "Calls that found the model's queue full",
                |model| model.rejected as f64,
            ),
            (
                "queue_seconds",
                "Time that calls waited, all together",
                |model| model.queue_time.as_secs_f64(),
            ),
            (
                "compute_seconds",
                "Time that batches took, all together",
                |model| model.compute_time.as_secs_f64(),
            ),
        ];
        if self.models.is_empty() {
            return Ok(());
        }
        for (name, help, count) in counters {
            let name = format!("wisp_nn_{name}");
            let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
            for (model, snapshot) in &self.models {
                let counter = ConstCounter::new(count(snapshot));
                counter.encode(family.encode_family(&[("model", model.as_str())])?)?;
            }
        }
        let help = "Batches by how many calls were computed in one";
        let mut family =
            encoder.encode_descriptor("wisp_nn_batch_size", help, None, MetricType::Histogram)?;
        for (model, snapshot) in &self.models {
            let bounds = wisp_nn::BATCH_SIZE_BUCKETS
                .iter()
                .map(|bound| *bound as f64)
                .chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(snapshot.batch_sizes).collect();
            let batches = snapshot.batch_sizes.iter().sum();
            let labels = [("model", model.as_str())];
            family
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(
                    snapshot.batch_items as f64,
                    batches,
                    &buckets,
                    None,
                )?;
        }
        let help = "Calls that wait for a model now";
        let mut family =
            encoder.encode_descriptor("wisp_nn_queued", help, None, MetricType::Gauge)?;
        for (model, snapshot) in &self.models {
            let gauge = ConstGauge::new(i64::try_from(snapshot.queued).unwrap_or(i64::MAX));
            gauge.encode(family.encode_family(&[("model", model.as_str())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_class_and_reason() {
        let metrics = Metrics::new();
        metrics.request(200, "", Duration::from_millis(1));
        metrics.request(204, "", Duration::from_millis(1));
        metrics.request(502, "trapped", Duration::from_secs(40));
        let load = Load {
            in_flight: 3,
            queued: 2,
        };
        let models = vec![(
            "mnist".to_owned(),
            wisp_nn::Snapshot {
                items: 5,
                batches: 3,
                // Three of them failed together: the one by itself, and then the other two.
                batch_items: 8,
                batch_sizes: [1, 1, 1, 0, 0, 0, 0, 0, 0],
                reruns: 3,
                queued: 1,
                ..Default::default()
            },
        )];
        let text = metrics.encode(Some(Reading {
            load,
            dropped_log_bytes: 7,
            models,
        }));
        for line in [
            "wisp_host_requests_total{class=\"2xx\",reason=\"\"} 2",
            "wisp_host_requests_total{class=\"5xx\",reason=\"trapped\"} 1",
            "wisp_host_request_seconds_count 3",
            "wisp_host_request_seconds_bucket{le=\"30.0\"} 2",
            "wisp_host_request_seconds_bucket{le=\"120.0\"} 3",
            "wisp_host_request_seconds_bucket{le=\"3600.0\"} 3",
            "wisp_host_in_flight 3",
            "wisp_host_queued 2",
            "wisp_host_dropped_log_bytes_total 7",
            "wisp_nn_items_total{model=\"mnist\"} 5.0",
            "wisp_nn_batches_total{model=\"mnist\"} 3.0",
            "wisp_nn_reruns_total{model=\"mnist\"} 3.0",
            "wisp_nn_batch_size_sum{model=\"mnist\"} 8.0",
            "wisp_nn_batch_size_count{model=\"mnist\"} 3",
            "wisp_nn_queued{model=\"mnist\"} 1",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is missing in\n{text}"
            );
        }
    }
}

//! What all gateways together see of a function.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use wisp_autoscale::Load;
use wisp_contract::FunctionId;
use wisp_contract::operator::Report;
use wisp_contract::stats::FunctionStats;

/// A gateway that is silent for so long has nothing in flight any more.
const SILENCE: Duration = Duration::from_secs(5);

/// The last word of every gateway.
#[derive(Debug, Default)]
pub(super) struct Collector {
    gateways: BTreeMap<String, Gateway>,
    requests: BTreeMap<FunctionId, u64>,
}

#[derive(Debug)]
struct Gateway {
    at: Instant,
    functions: BTreeMap<FunctionId, FunctionStats>,
}

impl Collector {
    /// Takes a report; a function that it doesn't tell of has no requests there any more.
    pub(super) fn take(&mut self, now: Instant, report: Report) {
        for stats in &report.functions {
            let requests = self.requests.entry(stats.function.clone()).or_default();
            *requests = requests.saturating_add(stats.requests);
        }
        let functions = report
            .functions
            .into_iter()
            .map(|stats| (stats.function.clone(), stats));
        let gateway = Gateway {
            at: now,
            functions: functions.collect(),
        };
        self.gateways.insert(report.gateway, gateway);
    }

    /// Forgets gateways that no more report.
    pub(super) fn forget_silent(&mut self, now: Instant) {
        self.gateways
            .retain(|_, gateway| now.saturating_duration_since(gateway.at) < SILENCE);
    }

    /// The load of a function, with the requests that came since this was last asked.
    pub(super) fn load(&mut self, function: &FunctionId) -> Load {
        let requests = self.requests.remove(function).unwrap_or(0);
        let seen = self
            .gateways
            .values()
            .filter_map(|gateway| gateway.functions.get(function));
        seen.fold(
            Load {
                requests,
                ..Load::default()
            },
            |sum, stats| Load {
                in_flight: sum.in_flight + stats.concurrency,
                queued: sum.queued + stats.queue.max(f64::from(stats.queued)),
                ..sum
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(gateway: &str, function: &str, concurrency: f64, queued: u32) -> Report {
        let stats = FunctionStats {
            function: function.parse().unwrap(),
            seconds: 1.0,
            concurrency,
            queue: 0.5,
            in_flight: 0,
            queued,
            requests: 7,
            answers: [0; 5],
            latency: Default::default(),
        };
        Report {
            gateway: gateway.into(),
            urgent: false,
            functions: vec![stats],
        }
    }

    /// Would fail if one gateway's word hid another's, or a dead gateway's requests kept a function awake for ever.
    #[test]
    fn gateways_add_up_until_they_are_silent() {
        let (mut collector, start) = (Collector::default(), Instant::now());
        let f: FunctionId = "n/f".parse().unwrap();
        collector.take(start, report("a", "n/f", 2.0, 3));
        collector.take(start + Duration::from_secs(3), report("b", "n/f", 1.0, 0));
        let load = collector.load(&f);
        assert_eq!((load.in_flight, load.queued, load.requests), (3.0, 3.5, 14));
        assert_eq!(collector.load(&f).requests, 0);
        collector.forget_silent(start + Duration::from_secs(5));
        assert_eq!(collector.load(&f).in_flight, 1.0);
        collector.take(
            start + Duration::from_secs(6),
            report("b", "n/other", 1.0, 0),
        );
        assert_eq!(collector.load(&f).total(), 0.0);
    }
}

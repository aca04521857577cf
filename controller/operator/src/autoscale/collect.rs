//! What all gateways together see of a function.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use wisp_autoscale::Load;
use wisp_contract::FunctionId;
use wisp_contract::operator::Report;
use wisp_contract::stats::FunctionStats;

/// A gateway that is silent for so long has nothing in flight any more, as far as is known.
const SILENCE: Duration = Duration::from_secs(5);
/// So long one that said no farewell may yet be there, and not be heard: what it told of last keeps what it has.
const MISSED: Duration = Duration::from_secs(300);

/// The last word of every gateway.
#[derive(Debug, Default)]
pub(super) struct Collector {
    gateways: BTreeMap<String, Gateway>,
    requests: BTreeMap<FunctionId, u64>,
    /// What requests wait for of which was told ahead of time.
    waiting: BTreeSet<FunctionId>,
}

#[derive(Debug)]
struct Gateway {
    at: Instant,
    functions: BTreeMap<FunctionId, FunctionStats>,
    /// When it told of a function, for as long as that may be missed.
    told: BTreeMap<FunctionId, Instant>,
}

impl Gateway {
    fn is_silent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= SILENCE
    }
}

impl Collector {
    /// Takes a report; a function that it doesn't tell of has no requests there any more.
    pub(super) fn take(&mut self, now: Instant, report: Report) {
        for stats in &report.functions {
            let requests = self.requests.entry(stats.function.clone()).or_default();
            *requests = requests.saturating_add(stats.requests);
            if report.urgent && (stats.queued > 0 || stats.queue > 0.0) {
                self.waiting.insert(stats.function.clone());
            }
        }
        let functions = report
            .functions
            .into_iter()
            .map(|stats| (stats.function.clone(), stats));
        if report.is_last {
            self.gateways.remove(&report.gateway);
            return;
        }
        let functions: BTreeMap<_, _> = functions.collect();
        let before = self.gateways.remove(&report.gateway);
        let mut told = before.map(|gateway| gateway.told).unwrap_or_default();
        told.retain(|_, at| now.saturating_duration_since(*at) < MISSED);
        told.extend(functions.keys().map(|id| (id.clone(), now)));
        let gateway = Gateway {
            at: now,
            functions,
            told,
        };
        self.gateways.insert(report.gateway, gateway);
    }

    /// Forgets gateways that were silent for so long that they must be gone.
    pub(super) fn forget_silent(&mut self, now: Instant) {
        self.gateways
            .retain(|_, gateway| now.saturating_duration_since(gateway.at) < MISSED);
    }

    /// Forgets requests for functions that there aren't: one that is made later under the same name has had none.
    pub(super) fn forget_others(&mut self, is_there: impl Fn(&FunctionId) -> bool) {
        self.requests.retain(|id, _| is_there(id));
    }

    /// The functions that requests had to wait for, as gateways told ahead of time since this was last asked.
    pub(super) fn take_waiting(&mut self) -> BTreeSet<FunctionId> {
        std::mem::take(&mut self.waiting)
    }

    /// How many gateways are heard, and how many are silent that said no farewell.
    pub(super) fn gateways(&self, now: Instant) -> (usize, usize) {
        let gateways = self.gateways.values();
        let missed = gateways.filter(|gateway| gateway.is_silent(now)).count();
        (self.gateways.len().saturating_sub(missed), missed)
    }

    /// Whether a gateway that isn't heard any more had requests for the function not long before.
    pub(super) fn is_missed(&self, now: Instant, function: &FunctionId) -> bool {
        self.gateways
            .values()
            .any(|gateway| gateway.is_silent(now) && gateway.told.contains_key(function))
    }

    /// The load of a function, with the requests that came since this was last asked.
    pub(super) fn load(&mut self, now: Instant, function: &FunctionId) -> Load {
        let requests = self.requests.remove(function).unwrap_or(0);
        let seen = self
            .gateways
            .values()
            .filter(|gateway| !gateway.is_silent(now))
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
            is_last: false,
            functions: vec![stats],
        }
    }

    /// Would fail if one gateway's word hid another's, or a dead gateway's requests kept a function awake for ever.
    #[test]
    fn gateways_add_up_until_they_are_silent() {
        let (mut collector, start) = (Collector::default(), Instant::now());
        let f: FunctionId = "n/f".parse().unwrap();
        let at = |seconds| start + Duration::from_secs(seconds);
        collector.take(start, report("a", "n/f", 2.0, 3));
        collector.take(at(3), report("b", "n/f", 1.0, 0));
        let load = collector.load(at(4), &f);
        assert_eq!((load.in_flight, load.queued, load.requests), (3.0, 3.5, 14));
        assert_eq!(collector.load(at(4), &f).requests, 0);
        assert_eq!(collector.load(at(5), &f).in_flight, 1.0);
        collector.take(at(6), report("b", "n/other", 1.0, 0));
        assert_eq!(collector.load(at(6), &f).total(), 0.0);
    }

    /// Would fail if functions lost the replicas that a gateway serves them by which is only cut off, or kept them for
    /// one that has ended.
    #[test]
    fn what_a_silent_gateway_told_of_last_is_missed_for_a_while() {
        let (mut collector, start) = (Collector::default(), Instant::now());
        let (f, g): (FunctionId, FunctionId) = ("n/f".parse().unwrap(), "n/g".parse().unwrap());
        let at = |seconds| start + Duration::from_secs(seconds);
        collector.take(start, report("a", "n/f", 2.0, 0));
        // It has a request now and then.
        let nothing = Report {
            functions: Vec::new(),
            ..report("a", "n/f", 0.0, 0)
        };
        collector.take(start, nothing);
        collector.take(start, report("b", "n/g", 2.0, 0));
        assert!(!collector.is_missed(at(4), &f));
        let farewell = Report {
            is_last: true,
            ..report("b", "n/g", 2.0, 0)
        };
        collector.take(at(4), farewell);
        assert_eq!(collector.load(at(4), &g).requests, 14);
        assert!(collector.is_missed(at(6), &f) && !collector.is_missed(at(6), &g));
        assert_eq!(collector.gateways(at(4)), (1, 0));
        assert_eq!(collector.gateways(at(6)), (0, 1));
        collector.forget_silent(at(299));
        assert!(collector.is_missed(at(299), &f));
        collector.forget_silent(at(300));
        assert!(!collector.is_missed(at(300), &f));
        assert_eq!(collector.gateways(at(300)), (0, 0));
    }
}

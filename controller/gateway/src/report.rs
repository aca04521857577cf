//! What is counted, per function and second.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::Method;
use wisp_contract::FunctionId;
use wisp_contract::stats::FunctionStats;

/// Upper bounds of the latency counts, in seconds, up to the longest that a function may take. With one more a stripe would take
/// half as many bytes again.
pub(crate) const LATENCY_BOUNDS: [f64; 18] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    120.0, 600.0, 3600.0,
];

/// One request that is over.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestReport {
    /// The function that it was for, where it was for one.
    pub function: Option<FunctionId>,
    /// Its id, as in `x-request-id`.
    pub request_id: String,
    /// Who asked.
    pub client: IpAddr,
    /// How.
    pub method: Method,
    /// For what: path and query as the client wrote them.
    pub path: String,
    /// What it was told.
    pub status: u16,
    /// Why it wasn't answered by its function, where it wasn't: the problem's `reason`, or `broke-off` where the
    /// response ended before its last byte, or the client left.
    pub reason: Option<&'static str>,
    /// From its head to the response's last byte.
    pub elapsed: Duration,
    /// How long it waited for a place.
    pub queue: Duration,
    /// How long it waited for a replica to be started.
    pub activate: Duration,
}

/// Takes note of requests that are over. Called on the thread that serves: it must not block.
pub trait RequestReporter: Send + Sync + 'static {
    /// One request is over.
    fn report(&self, request: RequestReport);
}

/// A number of things at a time, and its integral over time: read as one, as half of a change would be off by the age of
/// all there is. Nearly nobody ever waits for the lock: a thread has a stripe of its own, which is read once a second.
#[derive(Debug, Default)]
struct Level(Mutex<Sums>);

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    now: i64,
    /// The sum of all moments at which one ended, less those at which one began, in nanoseconds of the epoch. With
    /// `now` times the present moment it is the integral.
    moments: i64,
}

impl Level {
    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, at: i64) {
        let mut sums = self.sums();
        sums.now = sums.now.wrapping_add(1);
        sums.moments = sums.moments.wrapping_sub(at);
    }

    fn end(&self, at: i64) {
        let mut sums = self.sums();
        sums.now = sums.now.wrapping_sub(1);
        sums.moments = sums.moments.wrapping_add(at);
    }

    fn now(&self) -> i64 {
        self.sums().now
    }

    fn integral(&self, at: i64) -> i64 {
        let sums = *self.sums();
        sums.now.wrapping_mul(at).wrapping_add(sums.moments)
    }
}

/// How many threads count without sharing a cache line; more of them share.
const STRIPES: usize = 16;

thread_local! {
    /// Which stripe this thread counts in.
    static STRIPE: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES
    };
}

/// The counts of one function: one stripe per thread, summed when they are read.
#[derive(Debug)]
pub(crate) struct Stats {
    epoch: Instant,
    stripes: [Stripe; STRIPES],
    activations: [AtomicU64; 2],
    /// Whether anything happened since the last sample, or still happens: of thousands of functions most are quiet, and are
    /// sampled as often as the busiest.
    is_busy: AtomicBool,
    last: Mutex<Snapshot>,
}

/// What some threads counted. What began on one thread may end on another: only sums mean something.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    flying: Level,
    waiting: Level,
    requests: AtomicU64,
    answers: [AtomicU64; 5],
    latency: [AtomicU64; LATENCY_BOUNDS.len() + 1],
    latency_micros: AtomicU64,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Snapshot {
    at: i64,
    flying: i64,
    waiting: i64,
    totals: Totals,
}

/// Everything that only grows.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Totals {
    pub(crate) requests: u64,
    pub(crate) answers: [u64; 5],
    pub(crate) latency: [u64; LATENCY_BOUNDS.len() + 1],
    pub(crate) latency_seconds: f64,
    /// Wake-ups that succeeded, and that failed.
    pub(crate) activations: [u64; 2],
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            stripes: Default::default(),
            activations: Default::default(),
            is_busy: AtomicBool::default(),
            last: Mutex::default(),
        }
    }
}

impl Stats {
    fn at(&self, now: Instant) -> i64 {
        i64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(i64::MAX)
    }

    /// This thread's.
    fn stripe(&self) -> &Stripe {
        let index = STRIPE.try_with(|stripe| *stripe).unwrap_or(0);
        let [first, ..] = &self.stripes;
        self.stripes.get(index).unwrap_or(first)
    }

    /// Something happened, and is counted already.
    fn busy(&self) {
        // It is read by all threads, and written by one.
        if !self.is_busy.load(Ordering::SeqCst) {
            self.is_busy.store(true, Ordering::SeqCst);
        }
    }

    pub(crate) fn came(&self) {
        self.stripe().requests.fetch_add(1, Ordering::Relaxed);
        self.busy();
    }

    pub(crate) fn begin_flight(&self, now: Instant) {
        self.stripe().flying.begin(self.at(now));
        self.busy();
    }

    pub(crate) fn end_flight(&self, now: Instant) {
        self.stripe().flying.end(self.at(now));
    }

    pub(crate) fn begin_wait(&self, now: Instant) {
        self.stripe().waiting.begin(self.at(now));
        self.busy();
    }

    pub(crate) fn end_wait(&self, now: Instant) {
        self.stripe().waiting.end(self.at(now));
    }

    pub(crate) fn answered(&self, status: u16, elapsed: Duration) {
        let class = usize::from(status / 100).saturating_sub(1).min(4);
        let stripe = self.stripe();
        if let Some(count) = stripe.answers.get(class) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let seconds = elapsed.as_secs_f64();
        let bucket = LATENCY_BOUNDS
            .iter()
            .position(|bound| seconds <= *bound)
            .unwrap_or(LATENCY_BOUNDS.len());
        if let Some(count) = stripe.latency.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        stripe.latency_micros.fetch_add(
            u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
        self.busy();
    }

    pub(crate) fn activated(&self, succeeded: bool) {
        if let Some(count) = self.activations.get(usize::from(!succeeded)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn in_flight(&self) -> u32 {
        self.sum(|stripe| stripe.flying.now())
            .try_into()
            .unwrap_or(0)
    }

    pub(crate) fn queued(&self) -> u32 {
        self.sum(|stripe| stripe.waiting.now())
            .try_into()
            .unwrap_or(0)
    }

    fn sum(&self, of: impl Fn(&Stripe) -> i64) -> i64 {
        let values = self.stripes.iter().map(of);
        values.fold(0, i64::wrapping_add)
    }

    pub(crate) fn totals(&self) -> Totals {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let mut totals = Totals {
            activations: self.activations.each_ref().map(load),
            ..Totals::default()
        };
        let mut micros = 0_u64;
        for stripe in &self.stripes {
            totals.requests = totals.requests.wrapping_add(load(&stripe.requests));
            micros = micros.wrapping_add(load(&stripe.latency_micros));
            for (sum, count) in totals.answers.iter_mut().zip(&stripe.answers) {
                *sum = sum.wrapping_add(load(count));
            }
            for (sum, count) in totals.latency.iter_mut().zip(&stripe.latency) {
                *sum = sum.wrapping_add(load(count));
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "microseconds of centuries fit")]
        let seconds = micros as f64 / 1e6;
        totals.latency_seconds = seconds;
        totals
    }

    /// What happened since the last call.
    pub(crate) fn sample(&self, function: &FunctionId, now: Instant) -> FunctionStats {
        let at = self.at(now);
        if !self.is_busy.swap(false, Ordering::SeqCst) {
            return self.quiet(function, at);
        }
        let next = Snapshot {
            at,
            flying: self.sum(|stripe| stripe.flying.integral(at)),
            waiting: self.sum(|stripe| stripe.waiting.integral(at)),
            totals: self.totals(),
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let previous = std::mem::replace(&mut *last, next.clone());
        drop(last);
        let nanos = at.saturating_sub(previous.at).max(1);
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a second fit")]
        let mean = |integral: i64| (integral as f64 / nanos as f64).max(0.0);
        let (totals, before) = (next.totals, previous.totals);
        let (in_flight, queued) = (self.in_flight(), self.queued());
        if in_flight > 0 || queued > 0 {
            self.busy();
        }
        FunctionStats {
            function: function.clone(),
            seconds: Duration::from_nanos(nanos.unsigned_abs()).as_secs_f64(),
            concurrency: mean(next.flying.wrapping_sub(previous.flying)),
            queue: mean(next.waiting.wrapping_sub(previous.waiting)),
            in_flight,
            queued,
            requests: totals.requests.saturating_sub(before.requests),
            answers: less(totals.answers, before.answers),
            latency: Default::default(),
        }
    }
}

impl Stats {
    /// Nothing happened since the last call, nor does it.
    fn quiet(&self, function: &FunctionId, at: i64) -> FunctionStats {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let nanos = at.saturating_sub(last.at).max(1);
        last.at = at;
        drop(last);
        FunctionStats {
            function: function.clone(),
            seconds: Duration::from_nanos(nanos.unsigned_abs()).as_secs_f64(),
            concurrency: 0.0,
            queue: 0.0,
            in_flight: 0,
            queued: 0,
            requests: 0,
            answers: [0; 5],
            latency: Default::default(),
        }
    }
}

fn less<const N: usize>(mut now: [u64; N], before: [u64; N]) -> [u64; N] {
    for (now, before) in now.iter_mut().zip(before) {
        *now = now.saturating_sub(before);
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn concurrency_is_averaged_by_time() {
        let stats = Stats::default();
        let id: FunctionId = "a/b".parse().unwrap();
        let at = |millis: u64| stats.epoch + Duration::from_millis(millis);
        stats.begin_flight(at(0));
        stats.begin_flight(at(500));
        stats.begin_wait(at(900));
        stats.came();
        stats.answered(200, Duration::from_millis(3));
        let first = stats.sample(&id, at(1000));
        assert!(
            (first.concurrency - 1.5).abs() < 1e-9 && (first.queue - 0.1).abs() < 1e-9,
            "{first:?}"
        );
        assert_eq!(
            (
                first.in_flight,
                first.queued,
                first.requests,
                first.answers,
                stats.totals().latency[3]
            ),
            (2, 1, 1, [0, 1, 0, 0, 0], 1)
        );
        stats.end_flight(at(1250));
        stats.end_wait(at(1250));
        let second = stats.sample(&id, at(2000));
        assert!(
            (second.concurrency - 1.25).abs() < 1e-9 && (second.queue - 0.25).abs() < 1e-9,
            "{second:?}"
        );
        assert_eq!(
            (
                second.in_flight,
                second.queued,
                second.requests,
                second.answers
            ),
            (1, 0, 0, [0; 5])
        );
    }

    /// Would fail if functions that take minutes couldn't be told from those that take hours, or from those that time out.
    #[test]
    fn latencies_are_told_apart_up_to_the_longest_that_a_function_may_take() {
        let stats = Stats::default();
        let latencies = [9, 11, 40, 400, 3599];
        for seconds in latencies {
            stats.answered(200, Duration::from_secs(seconds));
        }
        let totals = stats.totals();
        let told = totals.latency.iter().filter(|count| **count == 1).count();
        assert_eq!((told, totals.latency[18]), (latencies.len(), 0));
        assert_eq!(size_of::<Stripe>(), 256);
    }

    /// Would fail if what happens after a quiet time were averaged over that, too, or not told.
    #[test]
    fn a_quiet_time_is_over_when_something_happens() {
        let stats = Stats::default();
        let id: FunctionId = "a/b".parse().unwrap();
        let at = |millis: u64| stats.epoch + Duration::from_millis(millis);
        let sampled = |millis| {
            let sample = stats.sample(&id, at(millis));
            (sample.seconds, sample.concurrency, sample.in_flight)
        };
        assert_eq!(sampled(1000), (1.0, 0.0, 0));
        assert_eq!(sampled(5000), (4.0, 0.0, 0));
        stats.begin_flight(at(5500));
        assert_eq!(sampled(6000), (1.0, 0.5, 1));
        assert_eq!(sampled(7000), (1.0, 1.0, 1));
        stats.end_flight(at(7500));
        assert_eq!(sampled(8000), (1.0, 0.5, 0));
        assert_eq!(sampled(9000), (1.0, 0.0, 0));
    }

    /// Would fail if a change could be read in half: the integral would be off by an hour.
    #[test]
    fn a_level_is_read_whole_while_it_changes() {
        const HOUR: i64 = 3_600_000_000_000;
        let (level, is_over) = (Level::default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    level.begin(HOUR);
                    level.end(HOUR);
                }
            });
            // What begins, and ends, at the moment that is looked at has taken no time.
            let wrong = (0..200_000)
                .map(|_| level.integral(HOUR))
                .find(|integral| *integral != 0);
            is_over.store(true, Ordering::Relaxed);
            assert_eq!(wrong, None);
        });
    }
}

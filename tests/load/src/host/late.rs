//! How late are answers that are asked for by the clock, and not by when the last one came?

use anyhow::{Context as _, Result, bail};

use super::{BENCH, CEILING, CONNECTIONS, FRESH, NATIVE, Options, PATH};
use crate::cores::Cores;
use crate::pace::{self, Paced};
use crate::report::{Aim, Row, Sample};
use crate::turns::Case;

/// The part that is asked for of what a server can do, where the generator can ask for so much: by the clock it asks from one
/// thread.
const LOAD: f64 = 0.8;

/// How often the rate is lowered by a tenth: to a fifth of what it was.
const STEPS: i32 = 16;

/// How often a rate is tried: the machine may have been busy with something else.
const TRIES: u32 = 3;

/// The generator's own p99 that leaves a server's to be seen, in microseconds.
const OWN_P99: f64 = 1000.0;

/// A server that is asked.
struct Server<'a> {
    case: &'a Case,
    /// The cores that it is asked from, where these are not all.
    from: Option<&'a Cores>,
    /// What the rows say behind the numbers of connections.
    so: &'a str,
}

impl<'a> Server<'a> {
    fn run(&self, seconds: u32, rate: Option<f64>) -> Result<Paced> {
        let asks = || {
            if let Some(cores) = self.from {
                cores.keep_this_thread()?;
            }
            pace::run(self.case.target.address, PATH, connections(), seconds, rate)
        };
        std::thread::scope(|scope| match scope.spawn(asks).join() {
            Ok(paced) => paced,
            Err(_) => bail!("the load generator panicked"),
        })
    }

    /// The rate that is [`LOAD`] of what wrk was answered, or as much below as `generator`, which does nothing else, needs to
    /// ask by the clock without a backlog of its own. Asked for less, a server is faster: wisp is held against that. None where
    /// the machine is too busy for any.
    fn rate(&self, generator: &Self, seconds: u32) -> Result<Option<f64>> {
        let found = self.case.last().context("wrk was there before")?;
        let most = found.per_second.median() * LOAD;
        for tenths in 0..STEPS {
            let rate = most * 0.9_f64.powi(tenths);
            for _ in 0..TRIES {
                let is_in_time = generator.run(seconds, Some(rate))?.p99 < OWN_P99;
                if is_in_time && self.run(seconds, Some(rate))?.per_second >= rate * 0.97 {
                    return Ok(Some(rate));
                }
            }
        }
        eprintln!(
            "not measured: {} is not asked by the clock even {:.0} times a second, as the machine is busy",
            self.case.name,
            most * 0.9_f64.powi(STEPS - 1)
        );
        Ok(None)
    }

    fn row(&self, metric: &str, sample: &Sample, unit: &str) -> Row {
        let case = format!(
            "{} at {}{}, by the clock",
            self.case.name,
            connections(),
            self.so
        );
        Row::new(BENCH, &case, metric, sample, unit)
    }
}

/// How late answers of a fresh instance are, at a part of what it can do; beside those of native hyper at the same rate, and at
/// that part of what native hyper can do. The server that reads no HTTP has the generator's own time. No rows where the machine
/// is too busy.
pub(super) fn rows(
    cases: &[Case],
    from: Option<&Cores>,
    so: &str,
    options: &Options,
) -> Result<Vec<Row>> {
    let find = |name: &str| -> Result<Server<'_>> {
        let case = cases.iter().find(|case| case.name == name);
        let case = case.context("a case")?;
        Ok(Server { case, from, so })
    };
    let (fresh, native, generator) = (find(FRESH)?, find(NATIVE)?, find(CEILING)?);
    let Some(rate) = fresh.rate(&generator, options.seconds)? else {
        return Ok(Vec::new());
    };
    let Some(more) = native.rate(&generator, options.seconds)? else {
        return Ok(Vec::new());
    };
    let asked = [
        (&fresh, rate),
        (&native, rate),
        (&generator, rate),
        (&native, more),
        (&generator, more),
    ];
    let mut p99s = asked.map(|_| Sample::default());
    for _ in 0..options.rounds {
        for ((server, rate), p99) in asked.iter().zip(&mut p99s) {
            p99.0.push(server.run(options.seconds, Some(*rate))?.p99);
        }
    }
    let [own, native_same, _, native_own, _] = &p99s;
    let mut rows: Vec<Row> = asked
        .iter()
        .zip(&p99s)
        .map(|((server, rate), p99)| server.row(&format!("p99 at {rate:.0}/s"), p99, "µs"))
        .collect();
    rows.push(fresh.row(
        "p99, times native's at the same rate",
        &own.over(native_same),
        "x",
    ));
    let own = fresh.row(
        "p99, times native's at as much load",
        &own.over(native_own),
        "x",
    );
    rows.push(own.aiming(Aim::Below(2.0)));
    Ok(rows)
}

fn connections() -> u32 {
    CONNECTIONS.last().copied().unwrap_or_default()
}

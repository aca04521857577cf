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

    /// The rate that is [`LOAD`] of what wrk was answered, or as much below as the generator needs to ask by the clock.
    fn rate(&self, seconds: u32) -> Result<f64> {
        let found = self.case.last().context("wrk was there before")?;
        let mut rate = found.per_second.median() * LOAD;
        while self.run(seconds, Some(rate))?.per_second < rate * 0.97 {
            rate *= 0.9;
        }
        Ok(rate)
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
/// that part of what native hyper can do. The server that reads no HTTP has the generator's own time.
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
    let rate = fresh.rate(options.seconds)?;
    let more = native.rate(options.seconds)?;
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

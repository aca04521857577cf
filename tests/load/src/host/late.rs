//! How late are answers while a server has a part of what it can do to do?

use std::net::SocketAddr;

use anyhow::{Context as _, Result};

use super::{BENCH, CONNECTIONS, FRESH, NATIVE, Options, PATH};
use crate::pace::{self, Paced};
use crate::report::{Aim, Row, Sample};
use crate::turns::Case;

/// That part, where the generator can ask for so much: by the clock it asks from one thread.
const LOAD: f64 = 0.8;

/// What was found of one server.
struct Late<'a> {
    case: &'a Case,
    /// What wrk was answered per second.
    most: f64,
    /// What was asked for per second.
    rate: Sample,
    p99: Sample,
}

impl<'a> Late<'a> {
    fn of(cases: &'a [Case], name: &str) -> Result<Self> {
        let case = cases.iter().find(|case| case.name == name);
        let case = case.context("a case")?;
        let at_most = case.found(CONNECTIONS.len() - 1);
        Ok(Self {
            case,
            most: at_most.context("wrk was there before")?.per_second.median(),
            rate: Sample::default(),
            p99: Sample::default(),
        })
    }

    fn row(&self, metric: &str, sample: &Sample, unit: &str) -> Row {
        let case = format!("{} at {}, by the clock", self.case.name, connections());
        Row::new(BENCH, &case, metric, sample, unit)
    }
}

/// How late answers are at a part of what each server can do, asked by the clock and not by when it answered last. The
/// rates' rows tell by their ratios which part it was.
pub(super) fn rows(cases: &[Case], options: &Options) -> Result<Vec<Row>> {
    let mut native = Late::of(cases, NATIVE)?;
    let mut fresh = Late::of(cases, FRESH)?;
    for _ in 0..options.rounds {
        for late in [&mut native, &mut fresh] {
            let (rate, paced) = keeping_up(late.case.target.address, late.most, options.seconds)?;
            late.rate.0.push(rate);
            late.p99.0.push(paced.p99);
        }
    }
    let rate = |late: &Late<'_>| {
        late.row("requests/s asked for, of its most", &late.rate, "1/s")
            .against(late.most)
    };
    let times = fresh.p99.over(&native.p99);
    Ok(vec![
        rate(&native),
        native.row("p99", &native.p99, "µs"),
        rate(&fresh),
        fresh
            .row("p99", &fresh.p99, "µs")
            .against(native.p99.median()),
        fresh
            .row("p99, times native's at native's rate", &times, "x")
            .aiming(Aim::Below(2.0)),
    ])
}

fn connections() -> u32 {
    CONNECTIONS.last().copied().unwrap_or_default()
}

/// A run at [`LOAD`] of the `most` that the server answers, or as much below as the generator needs to ask by the clock; and
/// the rate of that.
fn keeping_up(address: SocketAddr, most: f64, seconds: u32) -> Result<(f64, Paced)> {
    let run = |rate| pace::run(address, PATH, connections(), seconds, rate);
    // What the generator can ask for is often less, and found at once where it doesn't go by the clock.
    let mut rate = run(None)?.per_second.min(most) * LOAD;
    loop {
        let paced = run(Some(rate))?;
        if paced.per_second > rate * 0.97 {
            return Ok((rate, paced));
        }
        rate *= LOAD;
    }
}

//! How late are answers while a fresh instance has a part of what it can do to do, and how late are others at the same rate?

use std::net::SocketAddr;

use anyhow::{Context as _, Result};

use super::{BENCH, CEILING, CONNECTIONS, FRESH, NATIVE, Options, PATH};
use crate::pace::{self, Paced};
use crate::report::{Aim, Row, Sample};
use crate::turns::Case;

/// That part, where the generator can ask for so much: by the clock it asks from one thread.
const LOAD: f64 = 0.8;

/// What was found of one server.
struct Late<'a> {
    case: &'a Case,
    p99: Sample,
}

impl<'a> Late<'a> {
    fn of(cases: &'a [Case], name: &str) -> Result<Self> {
        let case = cases.iter().find(|case| case.name == name);
        Ok(Self {
            case: case.context("a case")?,
            p99: Sample::default(),
        })
    }

    fn address(&self) -> SocketAddr {
        self.case.target.address
    }

    fn row(&self, metric: &str, sample: &Sample, unit: &str) -> Row {
        let case = format!("{} at {}, by the clock", self.case.name, connections());
        Row::new(BENCH, &case, metric, sample, unit)
    }
}

/// How late answers are that are asked for by the clock and not by when the last one came. The rate is a part of what a fresh
/// instance can do, which its row tells by its ratio, and the same for native hyper, and for the server that reads no HTTP,
/// whose p99 is what the generator itself takes.
pub(super) fn rows(cases: &[Case], options: &Options) -> Result<Vec<Row>> {
    let mut generator = Late::of(cases, CEILING)?;
    let mut native = Late::of(cases, NATIVE)?;
    let mut fresh = Late::of(cases, FRESH)?;
    let most = fresh.case.found(CONNECTIONS.len() - 1);
    let most = most.context("wrk was there before")?.per_second.median();
    let mut rates = Sample::default();
    for _ in 0..options.rounds {
        let (rate, paced) = keeping_up(fresh.address(), most, options.seconds)?;
        rates.0.push(rate);
        fresh.p99.0.push(paced.p99);
        for late in [&mut generator, &mut native] {
            let paced = run(late.address(), options.seconds, Some(rate))?;
            late.p99.0.push(paced.p99);
        }
    }
    let times = fresh.p99.over(&native.p99);
    Ok(vec![
        fresh
            .row("requests/s asked for, of its most", &rates, "1/s")
            .against(most),
        generator.row("p99", &generator.p99, "µs"),
        native.row("p99", &native.p99, "µs"),
        fresh
            .row("p99", &fresh.p99, "µs")
            .against(native.p99.median()),
        fresh
            .row("p99, times native's at the same rate", &times, "x")
            .aiming(Aim::Below(2.0)),
    ])
}

fn connections() -> u32 {
    CONNECTIONS.last().copied().unwrap_or_default()
}

fn run(address: SocketAddr, seconds: u32, rate: Option<f64>) -> Result<Paced> {
    pace::run(address, PATH, connections(), seconds, rate)
}

/// A run at [`LOAD`] of the `most` that the server answers, or as much below as the generator needs to ask by the clock; and
/// the rate of that.
fn keeping_up(address: SocketAddr, most: f64, seconds: u32) -> Result<(f64, Paced)> {
    // What the generator can ask for is often less, and found at once where it doesn't go by the clock.
    let mut rate = run(address, seconds, None)?.per_second.min(most) * LOAD;
    loop {
        let paced = run(address, seconds, Some(rate))?;
        if paced.per_second > rate * 0.97 {
            return Ok((rate, paced));
        }
        rate *= LOAD;
    }
}

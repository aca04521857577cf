//! How late are answers while a server has a part of what it can do to do?

use std::net::SocketAddr;

use anyhow::{Context as _, Result};

use super::{BENCH, FRESH, NATIVE, Options, PATH};
use crate::pace::{self, Paced};
use crate::report::{Aim, Row, Sample};
use crate::turns::Case;

/// That part.
const LOAD: f64 = 0.8;

/// How late answers are at a part of what each server can do, asked by the clock and not by when it answered last.
pub(super) fn rows(cases: &[Case], options: &Options) -> Result<Vec<Row>> {
    let mut found: Vec<(&str, Sample)> = Vec::new();
    for _ in 0..options.rounds {
        for name in [NATIVE, FRESH] {
            let case = cases
                .iter()
                .find(|case| case.name == name)
                .context("a case")?;
            let paced = keeping_up(case.target.address, options.seconds)?;
            match found.iter_mut().find(|(known, _)| *known == name) {
                Some((_, sample)) => sample.0.push(paced.p99),
                None => found.push((name, Sample(vec![paced.p99]))),
            }
        }
    }
    let [(_, native), (_, fresh)] = &found[..] else {
        return Ok(Vec::new());
    };
    let row = |name: &str, sample: &Sample| {
        Row::new(
            BENCH,
            &format!("{name} at 64, 80 % of its most"),
            "p99",
            sample,
            "µs",
        )
    };
    let times = Row::new(
        BENCH,
        &format!("{FRESH} at 64, 80 % of its most"),
        "p99, times native's",
        &fresh.over(native),
        "x",
    );
    Ok(vec![
        row(NATIVE, native),
        row(FRESH, fresh).against(native.median()),
        times.aiming(Aim::Below(2.0)),
    ])
}

/// A run at [`LOAD`] of the most that the server answers, or as much below as the generator needs to ask by the clock.
fn keeping_up(address: SocketAddr, seconds: u32) -> Result<Paced> {
    let mut rate = pace::run(address, PATH, 64, seconds, None)?.per_second * LOAD;
    loop {
        let paced = pace::run(address, PATH, 64, seconds, Some(rate))?;
        if paced.per_second > rate * 0.97 {
            return Ok(paced);
        }
        rate *= LOAD;
    }
}

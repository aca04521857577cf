//! Servers that are loaded in turns, so that whatever else the machine does meets all of them.

use anyhow::{Context as _, Result, bail};

use crate::child::{Child, Used};
use crate::report::Sample;
use crate::wrk::{self, Target};

/// Who is measured.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) target: Target,
    /// The process that answers, where its processor time matters.
    pub(crate) child: Option<Child>,
    /// By the place of the number of connections.
    found: Vec<Found>,
}

/// What was found at one number of connections, a value per round.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) per_second: Sample,
    pub(crate) p50: Sample,
    pub(crate) p99: Sample,
    /// Microseconds of processor time per request.
    pub(crate) cost: Sample,
    /// Those of it that the kernel used.
    pub(crate) kernel: Sample,
}

impl Case {
    pub(crate) fn new(name: &'static str, target: Target, child: Option<Child>) -> Self {
        Self {
            name,
            target,
            child,
            found: Vec::new(),
        }
    }

    pub(crate) fn found(&self, index: usize) -> Option<&Found> {
        self.found.get(index)
    }

    /// At the last number of connections.
    pub(crate) fn last(&self) -> Option<&Found> {
        self.found.last()
    }

    fn measure(&mut self, index: usize, connections: u32, seconds: u32) -> Result<()> {
        let time = |child: &Option<Child>| child.as_ref().map(Child::processor_time).transpose();
        let before = time(&self.child)?;
        let load = wrk::run(&self.target, connections, seconds)
            .with_context(|| format!("{} at {connections} connections", self.name))?;
        let after = time(&self.child)?;
        if load.requests == 0.0 {
            bail!("{} answered nothing within {seconds} s", self.name);
        }
        while self.found.len() <= index {
            self.found.push(Found::default());
        }
        let found = self.found.get_mut(index).context("just made")?;
        found.per_second.0.push(load.per_second);
        found.p50.0.push(load.p50);
        found.p99.0.push(load.p99);
        if let (Some(before), Some(after)) = (before, after) {
            let micros = |part: fn(&Used) -> std::time::Duration| {
                part(&after).saturating_sub(part(&before)).as_secs_f64() * 1e6 / load.requests
            };
            found.cost.0.push(micros(|used| used.all()));
            found.kernel.0.push(micros(|used| used.system));
        }
        Ok(())
    }
}

/// Loads all cases, one after another, at each number of connections; and all that so many times.
pub(crate) fn take_turns(
    cases: &mut [Case],
    connections: &[u32],
    rounds: u32,
    seconds: u32,
) -> Result<()> {
    for round in 0..rounds {
        for (index, connections) in connections.iter().copied().enumerate() {
            for case in &mut *cases {
                case.measure(index, connections, seconds)?;
            }
            eprintln!(
                "round {} of {rounds}: {connections} connections done",
                round + 1
            );
        }
    }
    Ok(())
}

//! May a model's calls be joined?
//!
//! A dynamic dimension 0 is most often a batch, but not always: it may be time, or points of a cloud, and joining
//! callers along it would mix their numbers. So a model that looks joinable is tried with made-up numbers while it is
//! loaded, or beside its first calls where that takes long: two items computed together must give what they give alone, and
//! what one gives must not change with the other's numbers, however far those are from its own. That warms it up, too.
//! `survey.rs` knows what no numbers show.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::lane::OnnxLane;
use crate::backend::{Abort, BackendError, Item};
use crate::{Tensor, shown};

mod alike;
mod made_up;

pub(super) use alike::alike;
pub(super) use made_up::made_up;

use alike::{ROUNDED, SAME, Within, are_alike, is_telling};
use made_up::{FAR, Far, Inputs, Numbers, single};

/// Sizes to try for dimensions that each call chooses: sentences, small images, images.
const SIZES: [u64; 3] = [8, 64, 224];
/// A single item that takes longer ends the trial: loading must end, too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// So long times are taken again, where they are short: who disturbs a trial may go on for a while.
const AT_LEAST: Duration = Duration::from_millis(50);

/// A model of which a single item takes longer isn't tried while somebody waits for it: a trial computes a hundred.
const SOON: Duration = Duration::from_millis(2);

/// What takes longer than this is broken off: it may never end.
const LONGEST: Duration = Duration::from_secs(10);
/// The same of what only shows whether a trial would take long.
const LONGEST_LOOK: Duration = Duration::from_millis(50);

/// What the trial showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Items don't see each other. How long they take is measured where it was asked for.
    Independent(Option<Pace>),
    /// They do, or the model is random.
    Dependent(String),
    /// It couldn't be tried, and why.
    Unknown(String),
}

/// How long rows take, at best of a few times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) one_row: Duration,
    pub(crate) eight_rows: Duration,
}

/// Runs a lane for a trial, and breaks off what has no end.
struct Trial<'a> {
    lane: &'a mut OnnxLane,
    abort: Abort,
    ended: Sender<()>,
}

impl<'a> Trial<'a> {
    /// What takes longer than `longest` is broken off; `stop` breaks it off at once. `None` where the system has no thread
    /// left to watch it.
    fn of(lane: &'a mut OnnxLane, longest: Duration, stop: &Abort) -> Option<Self> {
        let abort = Abort::new(1);
        let stopped = abort.clone();
        stop.on_abort(move || stopped.leave());
        let (ended, end) = mpsc::channel();
        let watched = abort.clone();
        let watch = move || {
            loop {
                match end.recv_timeout(longest) {
                    Ok(()) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                    // From now on everything is broken off at once.
                    Err(RecvTimeoutError::Timeout) => return watched.leave(),
                }
            }
        };
        thread::Builder::new()
            .name("nn-trial".to_owned())
            .spawn(watch)
            .ok()?;
        Some(Self { lane, abort, ended })
    }

    fn run(&mut self, items: &[Item]) -> Result<Vec<Vec<Tensor>>, BackendError> {
        let outputs = self.lane.compute(items, &self.abort);
        // Who watches may have broken it off.
        let _ = self.ended.send(());
        outputs
    }
}

/// Tries whether items see each other; and how long they take, where that `is_timed`. It ends as if it took too long once it
/// is to `stop`.
pub(crate) fn probe(lane: &mut OnnxLane, is_timed: bool, stop: &Abort) -> Verdict {
    let Some(mut trial) = Trial::of(lane, LONGEST, stop) else {
        return Verdict::Unknown("the system has no thread left".to_owned());
    };
    let dynamic = trial
        .lane
        .inputs
        .iter()
        .any(|info| info.dims.iter().skip(1).any(Option::is_none));
    let mut refused = String::new();
    for size in SIZES.iter().take(if dynamic { SIZES.len() } else { 1 }) {
        match try_size(&mut trial, *size, is_timed) {
            Ok(_) if trial.abort.is_aborted() => return endless(),
            Ok(verdict) => return verdict,
            Err(_) if trial.abort.is_aborted() => return endless(),
            Err(why) => refused = why,
        }
    }
    Verdict::Unknown(refused)
}

fn endless() -> Verdict {
    Verdict::Unknown(format!("made-up inputs take it longer than {LONGEST:?}"))
}

/// Whether to try it takes longer than somebody should wait. The first of a session's items takes longer than those after
/// it, and short ones may be disturbed. Of what doesn't take made-up numbers that is soon known.
pub(crate) fn takes_long(lane: &mut OnnxLane) -> bool {
    let infos = Arc::clone(&lane.inputs);
    let takes = SIZES.iter().find_map(|size| {
        let item = single(&infos, *size)?;
        // Its time begins with the item.
        let mut trial = Trial::of(lane, LONGEST_LOOK, &Abort::new(1))?;
        let mut once = || {
            let started = Instant::now();
            let outputs = trial.run(std::slice::from_ref(&item));
            if trial.abort.is_aborted() {
                return Some(LONGEST_LOOK);
            }
            outputs.ok().map(|_| started.elapsed())
        };
        let mut takes = once()?;
        for _ in 0..2 {
            if takes > SOON && takes < LONGEST_LOOK {
                takes = once()?;
            }
        }
        Some(takes)
    });
    takes.is_some_and(|takes| takes > SOON)
}

/// How long a lane takes for one row, at least; `None` where it doesn't take made-up numbers.
pub(crate) fn one_row(lane: &mut OnnxLane, stop: &Abort) -> Option<Duration> {
    let mut trial = Trial::of(lane, LONGEST, stop)?;
    let infos = Arc::clone(&trial.lane.inputs);
    SIZES.iter().find_map(|size| {
        let item = single(&infos, *size)?;
        let started = Instant::now();
        let outputs = trial.run(std::slice::from_ref(&item));
        let first = started.elapsed();
        // Also where it was one of an earlier size.
        if trial.abort.is_aborted() {
            return Some(LONGEST);
        }
        outputs.ok()?;
        if first > PATIENCE {
            return Some(first);
        }
        let [best] = best(&mut trial, [&item])?;
        Some(best)
    })
}

/// Tries one size, or says why the model doesn't take inputs of it.
fn try_size(trial: &mut Trial<'_>, size: u64, is_timed: bool) -> Result<Verdict, String> {
    let mut inputs = Inputs {
        infos: Arc::clone(&trial.lane.inputs),
        size,
        is_positive: false,
    };
    let mut pair = inputs.pair()?;
    let mut time = || -> Result<Duration, String> {
        let started = Instant::now();
        trial.run(&pair[..1]).map_err(|error| shown(&error.0))?;
        Ok(started.elapsed())
    };
    if is_slow(time()?, time)? {
        return Ok(Verdict::Unknown(format!(
            "a row takes longer than {PATIENCE:?}, which others would have to wait for"
        )));
    }
    let mut alone = trial.alone(&pair)?;
    if !alone.iter().flatten().all(is_telling) {
        // Of negative numbers there may be no logarithm, and no root.
        inputs.is_positive = true;
        pair = inputs.pair()?;
        alone = trial.alone(&pair)?;
        if !alone.iter().flatten().all(is_telling) {
            return Err("what it gives for made-up inputs are no numbers".to_owned());
        }
    }
    let together = match trial.run(&pair) {
        Ok(together) => together,
        Err(error) => return Ok(Verdict::Dependent(shown(&error.0))),
    };
    for (alone, together) in alone.iter().zip(&together) {
        if let Some(verdict) = trial.changes(alone, together, &ROUNDED) {
            return Ok(verdict);
        }
    }
    for index in [0, 1] {
        let numbers = if index == 0 {
            Numbers::High
        } else {
            Numbers::Low
        };
        let Some(beside) = trial.beside(&inputs, &pair, index, numbers)? else {
            continue;
        };
        let other = 1 - index;
        if let (Some(before), Some(now)) = (together.get(other), beside.get(other))
            && let Some(verdict) = trial.changes(before, now, &SAME)
        {
            return Ok(verdict);
        }
    }
    if !is_timed {
        return Ok(Verdict::Independent(None));
    }
    let (one, eight) = (
        inputs.item(1, 3, Numbers::Usual)?,
        inputs.item(8, 4, Numbers::Usual)?,
    );
    match best(trial, [&one, &eight]) {
        Some([one_row, eight_rows]) => Ok(Verdict::Independent(Some(Pace {
            one_row,
            eight_rows,
        }))),
        None => Err("it doesn't take eight rows".to_owned()),
    }
}

/// Whether a row takes longer than loading may. The first time may be long once: a GPU is prepared for it.
fn is_slow(
    first: Duration,
    again: impl FnOnce() -> Result<Duration, String>,
) -> Result<bool, String> {
    Ok(first > PATIENCE && again()? > PATIENCE)
}

impl Trial<'_> {
    /// What each item gives by itself.
    fn alone(&mut self, items: &[Item]) -> Result<Vec<Vec<Tensor>>, String> {
        let mut outputs = Vec::with_capacity(items.len());
        for item in items {
            let alone = self.run(std::slice::from_ref(item));
            outputs.extend(alone.map_err(|error| shown(&error.0))?);
        }
        Ok(outputs)
    }

    /// What the pair gives where the numbers of one are far from the other's. `None` where the model takes none that are:
    /// it may look something up by them.
    fn beside(
        &mut self,
        inputs: &Inputs,
        pair: &[Item; 2],
        index: usize,
        numbers: fn(Far) -> Numbers,
    ) -> Result<Option<Vec<Vec<Tensor>>>, String> {
        for far in FAR {
            let mut pair = pair.clone();
            if let Some(item) = pair.get_mut(index) {
                *item = inputs.item(item.rows, 5, numbers(far))?;
            }
            if let Ok(outputs) = self.run(&pair) {
                return Ok(Some(outputs));
            }
        }
        Ok(None)
    }

    /// The verdict if an item's outputs aren't the same now as before.
    fn changes(&self, before: &[Tensor], now: &[Tensor], within: &Within) -> Option<Verdict> {
        let mut outputs = self.lane.outputs.iter().zip(before.iter().zip(now));
        let (info, _) = outputs.find(|(_, (before, now))| !are_alike(before, now, within))?;
        Some(Verdict::Dependent(format!(
            "output `{}` of an item changes when others join",
            shown(&info.name)
        )))
    }
}

/// The shortest of three times each, or of up to twenty within [`AT_LEAST`]: the others were disturbed. They
/// take turns, so that what disturbs one for long disturbs them all. `None` where an item never succeeded, or the trial was
/// broken off.
fn best<const N: usize>(trial: &mut Trial<'_>, items: [&Item; N]) -> Option<[Duration; N]> {
    let mut best = [Duration::MAX; N];
    let began = Instant::now();
    for turn in 0..20 {
        if turn >= 3 && began.elapsed() > AT_LEAST {
            break;
        }
        for (best, item) in best.iter_mut().zip(items) {
            let started = Instant::now();
            if trial.run(std::slice::from_ref(item)).is_ok() {
                *best = started.elapsed().min(*best);
            }
        }
    }
    // What eight rows took may be more than calls ever will.
    if let Some(item) = items.first() {
        trial.lane.forget(item);
    }
    let is_whole = !trial.abort.is_aborted() && !best.contains(&Duration::MAX);
    is_whole.then_some(best)
}

#[cfg(test)]
mod tests;

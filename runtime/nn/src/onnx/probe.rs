//! May a model's calls be joined?
//!
//! A dynamic dimension 0 is most often a batch, but not always: it may be time, or points of a cloud, and joining
//! callers along it would mix their numbers. So a model that looks joinable is tried with made-up numbers while it is
//! loaded: two items computed together must give what they give alone, and what one gives must not change with the other's
//! numbers, however far those are from its own. That warms it up, too. `survey.rs` knows what no numbers show.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use half::{bf16, f16};

use super::lane::OnnxLane;
use crate::backend::{Abort, BackendError, Item};
use crate::{DType, Tensor, TensorInfo, byte_len, shown};

/// Sizes to try for dimensions that each call chooses: sentences, small images, images.
const SIZES: [u64; 3] = [8, 64, 224];
/// A single item that takes longer ends the trial: loading must end, too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);

/// So long times are taken again, where they are short: who disturbs a trial may go on for a while.
const AT_LEAST: Duration = Duration::from_millis(50);

/// What takes longer than this is broken off: it may never end.
const LONGEST: Duration = Duration::from_secs(10);

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
    /// `None` where the system has no thread left to watch it.
    fn of(lane: &'a mut OnnxLane) -> Option<Self> {
        let abort = Abort::new(1);
        let (ended, end) = mpsc::channel();
        let watched = abort.clone();
        let watch = move || {
            loop {
                match end.recv_timeout(LONGEST) {
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

/// Tries whether items see each other; and how long they take, where that `is_timed`.
pub(crate) fn probe(lane: &mut OnnxLane, is_timed: bool) -> Verdict {
    let Some(mut trial) = Trial::of(lane) else {
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

/// How long a lane takes for one row, at least; `None` where it doesn't take made-up numbers.
pub(crate) fn one_row(lane: &mut OnnxLane) -> Option<Duration> {
    let mut trial = Trial::of(lane)?;
    let infos = std::sync::Arc::clone(&trial.lane.inputs);
    SIZES.iter().find_map(|size| {
        let of_one = |info: &TensorInfo| {
            let rows = info.dims.first().copied().flatten().unwrap_or(1);
            made_up(info, rows, *size, 3)
        };
        let item = Item {
            inputs: infos.iter().map(of_one).collect::<Option<_>>()?,
            rows: 1,
        };
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
        infos: std::sync::Arc::clone(&trial.lane.inputs),
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

/// How far numbers are from the usual ones: by which factor, and how much is added.
#[derive(Debug, Clone, Copy)]
struct Far(f32, f32);

/// The farthest is tried first. Whatever is normalised or quantised by it has nothing left of numbers up to 1, and 16-bit
/// floats still hold it.
const FAR: [Far; 2] = [Far(1000.0, 100.0), Far(10.0, 1.0)];

/// Which numbers are made up.
#[derive(Debug, Clone, Copy)]
enum Numbers {
    /// Floats between -1 and 1, or 0 and 1; whole numbers 0 and 1, which most indices and masks may be.
    Usual,
    /// Floats mostly above; whole numbers are all 1.
    High(Far),
    /// Floats mostly below, or close to 0 where they mustn't be; whole numbers are all 0.
    Low(Far),
}

impl Numbers {
    fn float(self, usual: f32, is_positive: bool) -> f32 {
        // None is 0, where positive ones are asked for.
        let usual = if is_positive {
            usual.abs() + f32::EPSILON
        } else {
            usual
        };
        match self {
            Self::Usual => usual,
            Self::High(Far(factor, more)) => usual * factor + more,
            Self::Low(Far(factor, _)) if is_positive => usual / factor,
            Self::Low(Far(factor, more)) => -(usual * factor) - more,
        }
    }

    fn bit(self, usual: bool) -> bool {
        match self {
            Self::Usual => usual,
            Self::High(_) => true,
            Self::Low(_) => false,
        }
    }
}

/// Makes inputs up.
struct Inputs {
    infos: std::sync::Arc<[TensorInfo]>,
    size: u64,
    is_positive: bool,
}

impl Inputs {
    fn item(&self, rows: u64, seed: u64, numbers: Numbers) -> Result<Item, String> {
        let tensor = |info: &TensorInfo| {
            let float = |usual| numbers.float(usual, self.is_positive);
            fill(info, rows, self.size, seed, float, |usual| {
                numbers.bit(usual)
            })
        };
        let inputs: Option<Vec<Tensor>> = self.infos.iter().map(tensor).collect();
        let inputs = inputs.ok_or_else(|| "its inputs are too large".to_owned())?;
        Ok(Item { inputs, rows })
    }

    /// One row, and two.
    fn pair(&self) -> Result<[Item; 2], String> {
        Ok([
            self.item(1, 1, Numbers::Usual)?,
            self.item(2, 2, Numbers::Usual)?,
        ])
    }
}

/// Floats between -1 and 1; whole numbers 0 and 1.
pub(super) fn made_up(info: &TensorInfo, rows: u64, size: u64, seed: u64) -> Option<Tensor> {
    fill(info, rows, size, seed, |float| float, |bit| bit)
}

fn fill(
    info: &TensorInfo,
    rows: u64,
    size: u64,
    seed: u64,
    float: impl Fn(f32) -> f32,
    bit: impl Fn(bool) -> bool,
) -> Option<Tensor> {
    let shape: Vec<u64> = info
        .dims
        .iter()
        .enumerate()
        .map(|(index, dim)| {
            if index == 0 {
                rows
            } else {
                dim.unwrap_or(size)
            }
        })
        .collect();
    let count = byte_len(info.dtype, &shape).ok()? / info.dtype.size();
    // A model whose made-up input alone takes this much is no candidate for batches.
    if count > 1 << 24 {
        return None;
    }
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut data = Vec::new();
    for _ in 0..count {
        // xorshift64, https://www.jstatsoft.org/article/view/v008i14
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let float = float(((state >> 40) as f32 / (1_u32 << 23) as f32) - 1.0);
        let bit = u8::from(bit((state >> 33) & 1 == 1));
        match info.dtype {
            DType::F16 => data.extend(f16::from_f32(float).to_ne_bytes()),
            DType::Bf16 => data.extend(bf16::from_f32(float).to_ne_bytes()),
            DType::F32 => data.extend(float.to_ne_bytes()),
            DType::F64 => data.extend(f64::from(float).to_ne_bytes()),
            DType::Bool | DType::U8 | DType::I8 => data.push(bit),
            DType::U16 | DType::I16 => data.extend(u16::from(bit).to_ne_bytes()),
            DType::U32 | DType::I32 => data.extend(u32::from(bit).to_ne_bytes()),
            DType::U64 | DType::I64 => data.extend(u64::from(bit).to_ne_bytes()),
        }
    }
    Tensor::new(info.dtype, shape, Bytes::from(data)).ok()
}

/// By how much floats may differ: a share of the largest, of all or in their own row, and a little more.
struct Within {
    share: f64,
    of_row: bool,
    least: f64,
}

/// What another order of additions does, and other sizes of what is computed at once: 16-bit floats have three digits, and
/// what is close to 0 may be the difference of what isn't.
const ROUNDED: Within = Within {
    share: 0.01,
    of_row: false,
    least: 1e-5,
};

/// What is left where sizes are the same: the same is added in the same order, but for GPUs, which may take turns.
const SAME: Within = Within {
    share: 1e-3,
    of_row: true,
    least: 1e-6,
};

/// Equal but for what another order of additions does to floats.
pub(super) fn alike(one: &Tensor, other: &Tensor) -> bool {
    are_alike(one, other, &ROUNDED)
}

fn are_alike(one: &Tensor, other: &Tensor, within: &Within) -> bool {
    if one.shape() != other.shape() || one.dtype() != other.dtype() {
        return false;
    }
    let (Some(ones), Some(others)) = (floats(one), floats(other)) else {
        return one.data() == other.data();
    };
    let rows = match one.shape().first() {
        Some(rows) if within.of_row => usize::try_from(*rows).unwrap_or(usize::MAX),
        _ => 1,
    };
    let measured = ones.len().checked_div(rows).unwrap_or(0).max(1);
    let mut both = ones.chunks(measured).zip(others.chunks(measured));
    both.all(|(one, other)| are_floats_alike(one, other, within))
}

fn are_floats_alike(one: &[f64], other: &[f64], within: &Within) -> bool {
    let largest = one
        .iter()
        .copied()
        .filter(|x| x.is_finite())
        .fold(0.0_f64, |max, x| max.max(x.abs()));
    let bound = within.share * largest + within.least;
    one.iter()
        .zip(other)
        .all(|(a, b)| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= bound)
}

/// Whether a change would be seen in it: what isn't a number stays so, whoever joins.
fn is_telling(tensor: &Tensor) -> bool {
    let Some(floats) = floats(tensor) else {
        return true;
    };
    let finite = floats.iter().filter(|float| float.is_finite()).count();
    finite * 2 >= floats.len()
}

/// A float tensor's numbers.
fn floats(tensor: &Tensor) -> Option<Vec<f64>> {
    let data = tensor.data();
    Some(match tensor.dtype() {
        DType::F16 => data
            .as_chunks()
            .0
            .iter()
            .map(|chunk| f16::from_ne_bytes(*chunk).to_f64())
            .collect(),
        DType::Bf16 => data
            .as_chunks()
            .0
            .iter()
            .map(|chunk| bf16::from_ne_bytes(*chunk).to_f64())
            .collect(),
        DType::F32 => data
            .as_chunks()
            .0
            .iter()
            .map(|chunk| f64::from(f32::from_ne_bytes(*chunk)))
            .collect(),
        DType::F64 => data
            .as_chunks()
            .0
            .iter()
            .map(|chunk| f64::from_ne_bytes(*chunk))
            .collect(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;

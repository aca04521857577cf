//! May a model's calls be joined?
//!
//! A dynamic dimension 0 is most often a batch, but not always: it may be time, or points of a cloud, and joining
//! callers along it would mix their numbers. So a model that looks joinable is tried with made-up numbers while it is
//! loaded: two items computed together must give what they give alone. That warms it up, too.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use half::{bf16, f16};

use super::lane::OnnxLane;
use crate::backend::{Abort, BackendError, Item};
use crate::{DType, Tensor, TensorInfo, byte_len};

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
    /// It didn't take made-up numbers.
    Unknown,
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
        return Verdict::Unknown;
    };
    let dynamic = trial
        .lane
        .inputs
        .iter()
        .any(|info| info.dims.iter().skip(1).any(Option::is_none));
    for size in SIZES.iter().take(if dynamic { SIZES.len() } else { 1 }) {
        match try_size(&mut trial, *size, is_timed) {
            Verdict::Unknown => {}
            verdict => return verdict,
        }
    }
    Verdict::Unknown
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

fn try_size(trial: &mut Trial<'_>, size: u64, is_timed: bool) -> Verdict {
    let infos = std::sync::Arc::clone(&trial.lane.inputs);
    let item = |rows: u64, seed: u64| {
        let tensors = infos.iter().map(|info| made_up(info, rows, size, seed));
        Some(Item {
            inputs: tensors.collect::<Option<_>>()?,
            rows,
        })
    };
    let (Some(one), Some(two)) = (item(1, 1), item(2, 2)) else {
        return Verdict::Unknown;
    };
    let outputs = std::sync::Arc::clone(&trial.lane.outputs);

    let started = Instant::now();
    let Ok(mut alone) = trial.run(std::slice::from_ref(&one)) else {
        return Verdict::Unknown;
    };
    if started.elapsed() > PATIENCE {
        return Verdict::Unknown;
    }
    let Ok(second) = trial.run(std::slice::from_ref(&two)) else {
        return Verdict::Unknown;
    };
    alone.extend(second);
    let together = match trial.run(&[one, two]) {
        Ok(together) => together,
        Err(error) => return Verdict::Dependent(error.0),
    };
    for (alone, together) in alone.iter().zip(&together) {
        for ((info, alone), together) in outputs.iter().zip(alone).zip(together) {
            if !alike(alone, together) {
                return Verdict::Dependent(format!(
                    "output `{}` of an item changes when others join",
                    info.name
                ));
            }
        }
    }
    if !is_timed {
        return Verdict::Independent(None);
    }
    let (Some(one), Some(eight)) = (item(1, 3), item(8, 4)) else {
        return Verdict::Unknown;
    };
    match best(trial, [&one, &eight]) {
        Some([one_row, eight_rows]) => Verdict::Independent(Some(Pace {
            one_row,
            eight_rows,
        })),
        None => Verdict::Unknown,
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

/// Floats between -1 and 1; whole numbers 0 and 1, which most indices and masks may be.
pub(super) fn made_up(info: &TensorInfo, rows: u64, size: u64, seed: u64) -> Option<Tensor> {
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
        let float = ((state >> 40) as f32 / (1_u32 << 23) as f32) - 1.0;
        let bit = (state >> 33) & 1;
        match info.dtype {
            DType::F16 => data.extend(f16::from_f32(float).to_ne_bytes()),
            DType::Bf16 => data.extend(bf16::from_f32(float).to_ne_bytes()),
            DType::F32 => data.extend(float.to_ne_bytes()),
            DType::F64 => data.extend(f64::from(float).to_ne_bytes()),
            DType::Bool | DType::U8 | DType::I8 => data.push(u8::from(bit == 1)),
            DType::U16 | DType::I16 => data.extend((u16::from(bit == 1)).to_ne_bytes()),
            DType::U32 | DType::I32 => data.extend((u32::from(bit == 1)).to_ne_bytes()),
            DType::U64 | DType::I64 => data.extend(bit.to_ne_bytes()),
        }
    }
    Tensor::new(info.dtype, shape, Bytes::from(data)).ok()
}

/// Equal but for what another order of additions does to floats.
pub(super) fn alike(one: &Tensor, other: &Tensor) -> bool {
    if one.shape() != other.shape() || one.dtype() != other.dtype() {
        return false;
    }
    match (floats(one), floats(other)) {
        (Some(one), Some(other)) => {
            let largest = one
                .iter()
                .copied()
                .filter(|x| x.is_finite())
                .fold(0.0_f64, |max, x| max.max(x.abs()));
            let bound = 0.01 * largest + 1e-5;
            one.iter()
                .zip(&other)
                .all(|(a, b)| a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= bound)
        }
        _ => one.data() == other.data(),
    }
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

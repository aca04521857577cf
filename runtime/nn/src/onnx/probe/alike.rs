//! Are outputs the same, but for how they were rounded?

use half::{bf16, f16};

use crate::{DType, Tensor};

/// By how much floats may differ: a share of the largest, of all or in their own row, and a little more.
pub(super) struct Within {
    share: f64,
    of_row: bool,
    least: f64,
}

/// What another order of additions does, and other sizes of what is computed at once: 16-bit floats have three digits, and
/// what is close to 0 may be the difference of what isn't.
pub(super) const ROUNDED: Within = Within {
    share: 0.01,
    of_row: false,
    least: 1e-5,
};

/// What is left where sizes are the same: the same is added in the same order, but for GPUs, which may take turns.
pub(super) const SAME: Within = Within {
    share: 1e-3,
    of_row: true,
    least: 1e-6,
};

/// Equal but for what another order of additions does to floats.
pub(in crate::onnx) fn alike(one: &Tensor, other: &Tensor) -> bool {
    are_alike(one, other, &ROUNDED)
}

pub(super) fn are_alike(one: &Tensor, other: &Tensor, within: &Within) -> bool {
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
pub(super) fn is_telling(tensor: &Tensor) -> bool {
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

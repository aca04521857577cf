//! With which numbers is a model tried?

use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};

use crate::backend::Item;
use crate::{DType, Tensor, TensorInfo, byte_len};

/// How far numbers are from the usual ones: by which factor, and how much is added.
#[derive(Debug, Clone, Copy)]
pub(super) struct Far(f32, f32);

/// The farthest is tried first. Whatever is normalised or quantised by it has nothing left of numbers up to 1, and 16-bit
/// floats still hold it.
pub(super) const FAR: [Far; 2] = [Far(1000.0, 100.0), Far(10.0, 1.0)];

/// Which numbers are made up.
#[derive(Debug, Clone, Copy)]
pub(super) enum Numbers {
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
pub(super) struct Inputs {
    pub(super) infos: Arc<[TensorInfo]>,
    pub(super) size: u64,
    pub(super) is_positive: bool,
}

impl Inputs {
    pub(super) fn item(&self, rows: u64, seed: u64, numbers: Numbers) -> Result<Item, String> {
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
    pub(super) fn pair(&self) -> Result<[Item; 2], String> {
        Ok([
            self.item(1, 1, Numbers::Usual)?,
            self.item(2, 2, Numbers::Usual)?,
        ])
    }
}

/// Floats between -1 and 1; whole numbers 0 and 1.
pub(in crate::onnx) fn made_up(
    info: &TensorInfo,
    rows: u64,
    size: u64,
    seed: u64,
) -> Option<Tensor> {
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

/// A row of made-up numbers.
pub(super) fn single(infos: &[TensorInfo], size: u64) -> Option<Item> {
    let of_one = |info: &TensorInfo| {
        let rows = info.dims.first().copied().flatten().unwrap_or(1);
        made_up(info, rows, size, 3)
    };
    Some(Item {
        inputs: infos.iter().map(of_one).collect::<Option<_>>()?,
        rows: 1,
    })
}

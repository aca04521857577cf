//! Element types of tensors.

use std::fmt;

/// The type of a tensor's elements.
///
/// ```
/// use wisp::nn::DType;
/// assert_eq!(DType::F32.to_string(), "f32");
/// assert_eq!(DType::I64.size(), 8);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE 754 half precision.
    F16,
    /// bfloat16.
    BF16,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
    /// Unsigned bytes.
    U8,
    /// Signed 32-bit integers.
    I32,
    /// Signed 64-bit integers.
    I64,
}

impl DType {
    /// Bytes of one element.
    ///
    /// ```
    /// assert_eq!(wisp::nn::DType::F16.size(), 2);
    /// ```
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::BF16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::U8 => "u8",
            Self::I32 => "i32",
            Self::I64 => "i64",
        })
    }
}

/// A Rust type that tensors hold: `f32`, `f64`, `u8`, `i32`, `i64`, and with the feature `half` its `f16` and `bf16`.
///
/// ```
/// use wisp::nn::{DType, Element};
/// assert_eq!(f32::DTYPE, DType::F32);
/// ```
pub trait Element: bytemuck::Pod {
    /// The type's name in `wasi:nn`.
    ///
    /// ```
    /// use wisp::nn::{DType, Element};
    /// assert_eq!(i64::DTYPE, DType::I64);
    /// ```
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for f64 {
    const DTYPE: DType = DType::F64;
}
impl Element for u8 {
    const DTYPE: DType = DType::U8;
}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
}
impl Element for i64 {
    const DTYPE: DType = DType::I64;
}
#[cfg(feature = "half")]
impl Element for half::f16 {
    const DTYPE: DType = DType::F16;
}
#[cfg(feature = "half")]
impl Element for half::bf16 {
    const DTYPE: DType = DType::BF16;
}

#[cfg(target_endian = "big")]
compile_error!("wasi:nn's tensors are little-endian, and so must be the machine that casts them");

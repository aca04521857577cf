//! What is a tensor, and when do its bytes fit its shape?

use std::fmt;

use bytes::Bytes;

use crate::DType;

/// The most dimensions a tensor may have.
pub const MAX_RANK: usize = 32;

/// Numbers in row-major order. The bytes always fit the shape.
#[derive(Clone, PartialEq, Eq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<u64>,
    data: Bytes,
}

/// Why a shape and bytes make no tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The data has another length than the shape asks for.
    #[error("{dtype}{} takes {expected} bytes, got {got}", Dims(shape))]
    WrongLength {
        /// The element type.
        dtype: DType,
        /// The shape.
        shape: Vec<u64>,
        /// Bytes that the shape asks for.
        expected: u64,
        /// Bytes that were given.
        got: u64,
    },
    /// The shape asks for more bytes than 64 bits can count.
    #[error("{dtype}{} is more bytes than there can be", Dims(shape))]
    Overflow {
        /// The element type.
        dtype: DType,
        /// The shape.
        shape: Vec<u64>,
    },
    /// The shape has too many dimensions.
    #[error("a tensor has at most {MAX_RANK} dimensions, got {0}")]
    Rank(usize),
}

impl Tensor {
    /// Checks that `data` is exactly as long as `shape` and `dtype` ask for. An empty shape is a scalar: one element.
    ///
    /// # Errors
    /// When it isn't, when the number of bytes exceeds 64 bits, or when there are more than [`MAX_RANK`] dimensions.
    pub fn new(
        dtype: DType,
        shape: impl Into<Vec<u64>>,
        data: impl Into<Bytes>,
    ) -> Result<Self, TensorError> {
        let (shape, data) = (shape.into(), data.into());
        let expected = byte_len(dtype, &shape)?;
        let got = data.len() as u64;
        if expected == got {
            Ok(Self { dtype, shape, data })
        } else {
            Err(TensorError::WrongLength {
                dtype,
                shape,
                expected,
                got,
            })
        }
    }

    /// The element type.
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dimensions.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// The elements' bytes.
    #[must_use]
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The parts it was made of.
    #[must_use]
    pub fn into_parts(self) -> (DType, Vec<u64>, Bytes) {
        (self.dtype, self.shape, self.data)
    }
}

/// Bytes that `shape` asks for.
///
/// # Errors
/// When they exceed 64 bits, or when there are more than [`MAX_RANK`] dimensions.
pub fn byte_len(dtype: DType, shape: &[u64]) -> Result<u64, TensorError> {
    if shape.len() > MAX_RANK {
        return Err(TensorError::Rank(shape.len()));
    }
    // A dimension of 0 makes the tensor empty, however large the others are.
    if shape.contains(&0) {
        return Ok(0);
    }
    shape
        .iter()
        .try_fold(dtype.size(), |bytes, dim| bytes.checked_mul(*dim))
        .ok_or_else(|| TensorError::Overflow {
            dtype,
            shape: shape.to_vec(),
        })
}

/// Type and shape, such as `f32[3,224,224]`: the data may be a person's, and is long.
impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.dtype, Dims(&self.shape))
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

struct Dims<'a>(&'a [u64]);

impl fmt::Display for Dims<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dims: Vec<String> = self.0.iter().map(u64::to_string).collect();
        write!(f, "[{}]", dims.join(","))
    }
}

/// A tensor and the name of the model's input or output that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedTensor {
    /// The input's or output's name.
    pub name: String,
    /// The numbers.
    pub tensor: Tensor,
}

impl NamedTensor {
    /// Puts the two together.
    #[must_use]
    pub fn new(name: impl Into<String>, tensor: Tensor) -> Self {
        Self {
            name: name.into(),
            tensor,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_must_fit_the_shape() {
        assert_eq!(
            Tensor::new(DType::F32, [2, 3], vec![0; 24])
                .unwrap()
                .to_string(),
            "f32[2,3]"
        );
        let error = Tensor::new(DType::F32, [2, 3], vec![0; 23]).unwrap_err();
        assert_eq!(error.to_string(), "f32[2,3] takes 24 bytes, got 23");
    }

    #[test]
    fn a_scalar_is_one_element_and_a_zero_makes_it_empty() {
        assert_eq!(byte_len(DType::I64, &[]), Ok(8));
        assert_eq!(byte_len(DType::I64, &[u64::MAX, 0, u64::MAX]), Ok(0));
    }

    #[test]
    fn no_shape_overflows() {
        for shape in [&[u64::MAX, 2][..], &[1 << 32, 1 << 32], &[u64::MAX]] {
            assert!(
                matches!(
                    byte_len(DType::F64, shape),
                    Err(TensorError::Overflow { .. })
                ),
                "{shape:?}"
            );
        }
        assert_eq!(byte_len(DType::U8, &[1; 33]), Err(TensorError::Rank(33)));
    }
}

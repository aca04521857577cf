//! Tensors: a shape, an element type and bytes.

use std::fmt;

use bytes::Bytes;

use super::{DType, Element, Error};

/// A dense tensor in row-major order.
///
/// ```
/// use wisp::nn::{DType, Tensor};
///
/// let tensor = Tensor::new([2, 3], &[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
/// assert_eq!((tensor.dtype(), tensor.shape()), (DType::F32, [2, 3].as_slice()));
/// assert_eq!(format!("{tensor:?}"), "f32[2, 3]");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Bytes,
}

impl Tensor {
    /// A tensor of `elements`. A scalar has the shape `[]`, which `wasi:nn` passes as it is.
    ///
    /// ```
    /// use wisp::nn::Tensor;
    ///
    /// let error = Tensor::new([1, 28, 28], &[0.0_f32; 700]).unwrap_err();
    /// assert_eq!(error.to_string(), "a tensor f32[1, 28, 28] has 784 elements, but 700 were given");
    /// ```
    ///
    /// # Errors
    /// When the shape has more or fewer elements than were given.
    pub fn new<T: Element>(shape: impl AsRef<[usize]>, elements: &[T]) -> Result<Self, Error> {
        let shape = shape.as_ref().to_vec();
        if count(&shape) != Some(elements.len()) {
            return Err(Error::Shape {
                dtype: T::DTYPE,
                shape,
                given: elements.len(),
            });
        }
        Ok(Self {
            dtype: T::DTYPE,
            shape,
            bytes: Bytes::copy_from_slice(bytemuck::cast_slice(elements)),
        })
    }

    /// A tensor of elements that are bytes already, little-endian. [`Bytes`], such as a request's body, and a
    /// `Vec<u8>` aren't copied.
    ///
    /// ```
    /// use wisp::nn::{DType, Tensor};
    ///
    /// let halves = Tensor::from_bytes(DType::F16, [2], vec![0x00, 0x3c, 0x00, 0x40]).unwrap();
    /// let error = Tensor::from_bytes(DType::F16, [2], vec![0; 3]).unwrap_err();
    /// assert_eq!(error.to_string(), "a tensor f16[2] has 4 bytes, but 3 were given");
    /// ```
    ///
    /// # Errors
    /// When the shape has more or fewer bytes than were given.
    pub fn from_bytes(
        dtype: DType,
        shape: impl AsRef<[usize]>,
        bytes: impl Into<Bytes>,
    ) -> Result<Self, Error> {
        let (shape, bytes) = (shape.as_ref().to_vec(), bytes.into());
        if count(&shape).and_then(|count| count.checked_mul(dtype.size())) != Some(bytes.len()) {
            return Err(Error::Bytes {
                dtype,
                shape,
                given: bytes.len(),
            });
        }
        Ok(Self {
            dtype,
            shape,
            bytes,
        })
    }

    /// The type of its elements.
    ///
    /// ```
    /// # use wisp::nn::{DType, Tensor};
    /// assert_eq!(Tensor::new([1], &[7_i64]).unwrap().dtype(), DType::I64);
    /// ```
    #[must_use]
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Its dimensions.
    ///
    /// ```
    /// # use wisp::nn::Tensor;
    /// assert_eq!(Tensor::new([1, 2], &[1_u8, 2]).unwrap().shape(), [1, 2]);
    /// ```
    #[must_use]
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its elements as bytes, little-endian.
    ///
    /// ```
    /// # use wisp::nn::Tensor;
    /// assert_eq!(Tensor::new([1], &[258_i32]).unwrap().bytes(), [2, 1, 0, 0]);
    /// ```
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its elements.
    ///
    /// ```
    /// # use wisp::nn::Tensor;
    /// let tensor = Tensor::new([2], &[1.5_f32, 2.5]).unwrap();
    /// assert_eq!(tensor.to_vec::<f32>().unwrap(), [1.5, 2.5]);
    /// let error = tensor.to_vec::<i64>().unwrap_err();
    /// assert_eq!(error.to_string(), "the tensor is f32[2], and no i64");
    /// ```
    ///
    /// # Errors
    /// When its elements are of another type.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>, Error> {
        if T::DTYPE != self.dtype {
            return Err(Error::Type {
                dtype: self.dtype,
                shape: self.shape.clone(),
                asked: T::DTYPE,
            });
        }
        let mut elements = vec![T::zeroed(); self.bytes.len() / size_of::<T>()];
        // The bytes may lie at any address, so they are copied rather than cast.
        bytemuck::cast_slice_mut(&mut elements).copy_from_slice(&self.bytes);
        Ok(elements)
    }
}

/// The elements of a shape; `None` where there are more than an address can count.
fn count(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1_usize, |count, &dimension| count.checked_mul(dimension))
}

/// Type and shape, as in `f32[1, 10]`: the elements may be millions.
impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:?}", self.dtype, self.shape)
    }
}

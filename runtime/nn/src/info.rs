//! What does a model take and give?

use std::fmt;

use crate::{DType, Tensor, byte_len};

/// One input or output of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its dimensions; `None` is one that each call chooses. Empty is a scalar or, where the model doesn't say, any shape.
    pub dims: Vec<Option<u64>>,
}

impl TensorInfo {
    /// Whether `tensor` fits.
    #[must_use]
    pub fn accepts(&self, tensor: &Tensor) -> bool {
        let fits = |(want, got): (&Option<u64>, &u64)| want.is_none_or(|want| want == *got);
        self.dtype == tensor.dtype()
            && (self.dims.is_empty()
                || self.dims.len() == tensor.shape().len()
                    && self.dims.iter().zip(tensor.shape()).all(fits))
    }

    /// How many bytes such a tensor has, at most [`u64::MAX`]; `None` where a call chooses a dimension.
    #[must_use]
    pub fn byte_len(&self) -> Option<u64> {
        let dims: Vec<u64> = self.dims.iter().copied().collect::<Option<_>>()?;
        Some(byte_len(self.dtype, &dims).unwrap_or(u64::MAX))
    }

    /// Type and dimensions, such as `f32[?,3,224,224]`.
    #[must_use]
    pub fn layout(&self) -> String {
        let dims: Vec<String> = self
            .dims
            .iter()
            .map(|dim| dim.map_or_else(|| "?".to_owned(), |dim| dim.to_string()))
            .collect();
        format!("{}[{}]", self.dtype, dims.join(","))
    }
}

/// Such as `image: f32[?,3,224,224]`.
impl fmt::Display for TensorInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.layout())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_rank_and_fixed_dimensions_must_agree() {
        let info = TensorInfo {
            name: "image".into(),
            dtype: DType::U8,
            dims: vec![None, Some(2)],
        };
        let tensor = |dtype: DType, shape: &[u64]| {
            Tensor::new(
                dtype,
                shape,
                vec![0; (shape.iter().product::<u64>() * dtype.size()) as usize],
            )
            .unwrap()
        };
        assert!(info.accepts(&tensor(DType::U8, &[7, 2])));
        assert!(!info.accepts(&tensor(DType::I8, &[7, 2])));
        assert!(!info.accepts(&tensor(DType::U8, &[7, 3])));
        assert!(!info.accepts(&tensor(DType::U8, &[2])));
        assert!(!info.accepts(&tensor(DType::U8, &[1, 2, 1])));
        assert_eq!(info.to_string(), "image: u8[?,2]");
    }
}

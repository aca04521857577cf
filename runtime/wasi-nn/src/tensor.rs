//! What is a tensor to a guest?

use bytes::Bytes;
use wisp_nn::{DType, MAX_RANK, Tensor, TensorError, shown};

use crate::bindings::wasi::nn::tensor::TensorType;
use crate::budget::{Charge, Exceeded};
use crate::error::Error;

/// The resource behind a guest's tensor.
pub struct GuestTensor {
    dims: Vec<u32>,
    ty: TensorType,
    data: Result<Held, Unusable>,
}

/// Why a tensor that a guest made holds nothing.
enum Unusable {
    Exceeded(Exceeded),
    /// It has so many dimensions. They would count against no budget.
    Rank(usize),
}

struct Held {
    bytes: Bytes,
    charge: Charge,
}

/// What the model computes on, and what it costs.
pub(crate) struct Usable {
    pub(crate) tensor: Tensor,
    pub(crate) charge: Charge,
}

impl GuestTensor {
    /// As a guest makes it. Whether the data fits is told when it is used.
    pub(crate) fn given(
        dims: Vec<u32>,
        ty: TensorType,
        data: Vec<u8>,
        charge: Result<Charge, Exceeded>,
    ) -> Self {
        if dims.len() > MAX_RANK {
            return Self {
                data: Err(Unusable::Rank(dims.len())),
                dims: Vec::new(),
                ty,
            };
        }
        let data = charge
            .map(|charge| Held {
                bytes: Bytes::from(data),
                charge,
            })
            .map_err(Unusable::Exceeded);
        Self { dims, ty, data }
    }

    /// As a model made it.
    ///
    /// # Errors
    /// When its type has no name in wasi:nn, or a dimension exceeds 32 bits.
    pub(crate) fn computed(name: &str, tensor: Tensor, charge: Charge) -> Result<Self, Error> {
        let described = tensor.to_string();
        let (dtype, shape, bytes) = tensor.into_parts();
        let ty =
            named(dtype).ok_or_else(|| Error::unnamed_type(&format!("output `{name}`"), dtype))?;
        let dims = match shape.as_slice() {
            // The interface has no scalars: "To represent a tensor containing a single value, use `[1]`".
            [] => vec![1],
            shape => {
                let dims = shape
                    .iter()
                    .map(|dim| u32::try_from(*dim))
                    .collect::<Result<_, _>>();
                dims.map_err(|_| {
                    Error::unsupported(format!(
                        "output `{name}`, {described}, has a dimension above 2^32"
                    ))
                })?
            }
        };
        Ok(Self {
            dims,
            ty,
            data: Ok(Held { bytes, charge }),
        })
    }

    pub(crate) fn dims(&self) -> &[u32] {
        &self.dims
    }

    pub(crate) fn ty(&self) -> TensorType {
        self.ty
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.data
            .as_ref()
            .map(|held| held.bytes.as_ref())
            .unwrap_or_default()
    }

    /// # Errors
    /// When it exceeded the budget, has too many dimensions, or its data doesn't fit its shape.
    pub(crate) fn into_usable(self, input: &str) -> Result<Usable, Error> {
        let input = shown(input);
        let held = self.data.map_err(|unusable| match unusable {
            Unusable::Exceeded(exceeded) => {
                Error::too_large(format!("input `{input}`: {exceeded}"))
            }
            Unusable::Rank(rank) => {
                Error::invalid(format!("input `{input}`: {}", TensorError::Rank(rank)))
            }
        })?;
        let shape: Vec<u64> = self.dims.into_iter().map(u64::from).collect();
        let tensor = Tensor::new(dtype(self.ty), shape, held.bytes)
            .map_err(|error| Error::invalid(format!("input `{input}`: {error}")))?;
        Ok(Usable {
            tensor,
            charge: held.charge,
        })
    }
}

fn dtype(ty: TensorType) -> DType {
    match ty {
        TensorType::Fp16 => DType::F16,
        TensorType::Fp32 => DType::F32,
        TensorType::Fp64 => DType::F64,
        TensorType::Bf16 => DType::Bf16,
        TensorType::U8 => DType::U8,
        TensorType::I32 => DType::I32,
        TensorType::I64 => DType::I64,
    }
}

/// The type's name in wasi:nn, where it has one.
pub(crate) fn named(dtype: DType) -> Option<TensorType> {
    Some(match dtype {
        DType::F16 => TensorType::Fp16,
        DType::F32 => TensorType::Fp32,
        DType::F64 => TensorType::Fp64,
        DType::Bf16 => TensorType::Bf16,
        DType::U8 => TensorType::U8,
        DType::I32 => TensorType::I32,
        DType::I64 => TensorType::I64,
        DType::Bool | DType::I8 | DType::U16 | DType::I16 | DType::U32 | DType::U64 => return None,
    })
}

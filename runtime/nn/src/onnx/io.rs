//! How do tensors pass to ONNX Runtime and back?

use half::{bf16, f16};
use ort::memory::Allocator;
use ort::session::SessionInputValue;
use ort::value::{
    DynTensor, DynValue, Outlet, TensorElementType, TensorRef, TensorValueTypeMarker, Value,
    ValueType,
};

use crate::backend::BackendError;
use crate::{DType, MAX_RANK, TensorInfo, shown};

/// Calls `$body` with `$t` being the Rust type of a [`DType`].
macro_rules! with_type {
    ($dtype:expr, $t:ident => $body:expr) => {
        match $dtype {
            DType::Bool => {
                type $t = bool;
                $body
            }
            DType::U8 => {
                type $t = u8;
                $body
            }
            DType::I8 => {
                type $t = i8;
                $body
            }
            DType::U16 => {
                type $t = u16;
                $body
            }
            DType::I16 => {
                type $t = i16;
                $body
            }
            DType::U32 => {
                type $t = u32;
                $body
            }
            DType::I32 => {
                type $t = i32;
                $body
            }
            DType::U64 => {
                type $t = u64;
                $body
            }
            DType::I64 => {
                type $t = i64;
                $body
            }
            DType::F16 => {
                type $t = f16;
                $body
            }
            DType::Bf16 => {
                type $t = bf16;
                $body
            }
            DType::F32 => {
                type $t = f32;
                $body
            }
            DType::F64 => {
                type $t = f64;
                $body
            }
        }
    };
}

/// Whether the bytes lie where elements of this type may.
pub(crate) fn is_aligned(dtype: DType, bytes: &[u8]) -> bool {
    bytes
        .as_ptr()
        .addr()
        .is_multiple_of(usize::try_from(dtype.size()).unwrap_or(1))
}

/// Lends bytes to ONNX Runtime as a tensor. They must be aligned.
pub(crate) fn lend<'a>(
    dtype: DType,
    shape: &[i64],
    bytes: &'a [u8],
) -> Result<SessionInputValue<'a>, BackendError> {
    let fail = |error: &dyn std::fmt::Display| BackendError(error.to_string());
    with_type!(dtype, T => {
        let elements = bytemuck::checked::try_cast_slice::<u8, T>(bytes).map_err(|error| fail(&error))?;
        let tensor = TensorRef::from_array_view((shape.to_vec(), elements)).map_err(|error| fail(&error))?;
        Ok(tensor.into())
    })
}

/// The type, shape and bytes of a tensor that ONNX Runtime made.
pub(crate) fn read<'a>(
    name: &str,
    value: &'a DynValue,
) -> Result<(DType, Vec<u64>, &'a [u8]), BackendError> {
    let fail = |error: &dyn std::fmt::Display| BackendError(format!("output `{name}`: {error}"));
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(fail(&format_args!("is {}, not a tensor", value.dtype())));
    };
    let dtype = dtype(*ty).ok_or_else(|| fail(&format_args!("has elements of type {ty}")))?;
    let shape = shape
        .iter()
        .map(|dim| u64::try_from(*dim))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| fail(&error))?;
    let bytes = bytes(value, dtype).map_err(|error| fail(&error))?;
    Ok((dtype, shape, bytes))
}

/// A tensor whose numbers nobody has given yet.
pub(crate) fn allocate(
    allocator: &Allocator,
    dtype: DType,
    shape: &[i64],
) -> ort::Result<DynTensor> {
    with_type!(dtype, T => ort::value::Tensor::<T>::new(allocator, shape.to_vec()).map(ort::value::Tensor::upcast))
}

/// Writes the parts, one after another, and zeros behind them. Each is as aligned as [`is_aligned`] wants it.
pub(crate) fn fill<'a>(
    tensor: &mut DynTensor,
    dtype: DType,
    parts: impl Iterator<Item = &'a [u8]>,
) -> Result<(), BackendError> {
    let fail = |error: &dyn std::fmt::Display| BackendError(error.to_string());
    with_type!(dtype, T => {
        let (_, mut rest) = tensor.try_extract_tensor_mut::<T>().map_err(|error| fail(&error))?;
        for part in parts {
            let part = bytemuck::checked::try_cast_slice::<u8, T>(part).map_err(|error| fail(&error))?;
            let (place, after) = rest
                .split_at_mut_checked(part.len())
                .ok_or_else(|| fail(&"a batch is larger than its buffer"))?;
            place.copy_from_slice(part);
            rest = after;
        }
        rest.fill(T::default());
        Ok(())
    })
}

/// The bytes of a tensor in memory.
pub(crate) fn bytes<T: TensorValueTypeMarker + ?Sized>(
    tensor: &Value<T>,
    dtype: DType,
) -> Result<&[u8], BackendError> {
    with_type!(dtype, T => {
        let (_, elements) = tensor
            .try_extract_tensor::<T>()
            .map_err(|error| BackendError(error.to_string()))?;
        Ok(bytemuck::cast_slice::<T, u8>(elements))
    })
}

/// The longest name of an input or output, in bytes: messages repeat it.
const LONGEST_NAME: usize = 1024;

/// What a model says about one of its inputs or outputs.
pub(crate) fn describe(outlet: &Outlet) -> Result<TensorInfo, String> {
    let name = outlet.name();
    if name.len() > LONGEST_NAME {
        return Err(format!(
            "`{}` has a name of {} bytes, and may have {LONGEST_NAME}",
            shown(name),
            name.len()
        ));
    }
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(format!(
            "`{name}` is {}, and only tensors are supported{}",
            outlet.dtype(),
            advice(outlet.dtype())
        ));
    };
    let dtype = dtype(*ty)
        .ok_or_else(|| format!("`{name}` has elements of type {ty}, which is not supported"))?;
    if shape.len() > MAX_RANK {
        let rank = shape.len();
        return Err(format!(
            "`{name}` has {rank} dimensions, and may have {MAX_RANK}"
        ));
    }
    let dims = shape.iter().map(|dim| u64::try_from(*dim).ok()).collect();
    Ok(TensorInfo {
        name: name.to_owned(),
        dtype,
        dims,
    })
}

fn advice(found: &ValueType) -> &'static str {
    match found {
        ValueType::Sequence(inner) if inner.is_map() => {
            " (scikit-learn's converter: export with `zipmap=False`)"
        }
        _ => "",
    }
}

fn dtype(element: TensorElementType) -> Option<DType> {
    Some(match element {
        TensorElementType::Bool => DType::Bool,
        TensorElementType::Uint8 => DType::U8,
        TensorElementType::Int8 => DType::I8,
        TensorElementType::Uint16 => DType::U16,
        TensorElementType::Int16 => DType::I16,
        TensorElementType::Uint32 => DType::U32,
        TensorElementType::Int32 => DType::I32,
        TensorElementType::Uint64 => DType::U64,
        TensorElementType::Int64 => DType::I64,
        TensorElementType::Float16 => DType::F16,
        TensorElementType::Bfloat16 => DType::Bf16,
        TensorElementType::Float32 => DType::F32,
        TensorElementType::Float64 => DType::F64,
        _ => return None,
    })
}

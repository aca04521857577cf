//! Inference: `wasi:nn`.

use std::cell::OnceCell;

use crate::bindings::wasi::nn::errors::{Error as WasiError, ErrorCode};
use crate::bindings::wasi::nn::graph::{self, Graph};
use crate::bindings::wasi::nn::inference::GraphExecutionContext;
use crate::bindings::wasi::nn::tensor::{Tensor as WasiTensor, TensorType};
use crate::nn::{Cause, Code, DType, Tensor};

pub(crate) struct Model {
    context: OnceCell<GraphExecutionContext>,
    graph: Graph,
}

pub(crate) fn open(name: &str) -> Result<Model, Cause> {
    let graph = graph::load_by_name(name).map_err(cause)?;
    Ok(Model {
        context: OnceCell::new(),
        graph,
    })
}

impl Model {
    /// Computes. The host suspends the whole instance meanwhile, so there is nothing to await.
    #[expect(clippy::unused_async, reason = "the native side awaits its fakes")]
    pub(crate) async fn run(
        &self,
        inputs: Vec<(String, Tensor)>,
    ) -> Result<Vec<(String, Tensor)>, Cause> {
        let context = match self.context.get() {
            Some(context) => context,
            None => {
                let context = self.graph.init_execution_context().map_err(cause)?;
                self.context.get_or_init(|| context)
            }
        };
        let mut handles = Vec::with_capacity(inputs.len());
        for (name, tensor) in inputs {
            handles.push((name, to_host(&tensor)?));
        }
        let outputs = context.compute(handles).map_err(cause)?;
        outputs
            .into_iter()
            .map(|(name, tensor)| Ok((name, from_host(&tensor)?)))
            .collect()
    }
}

fn to_host(tensor: &Tensor) -> Result<WasiTensor, Cause> {
    let mut dimensions = Vec::with_capacity(tensor.shape().len());
    for &dimension in tensor.shape() {
        dimensions.push(u32::try_from(dimension).map_err(|_| {
            let detail = format!("dimension {dimension} is more than wasi:nn's {}", u32::MAX);
            Cause {
                code: Code::TooLarge,
                detail,
            }
        })?);
    }
    let dtype = match tensor.dtype() {
        DType::F16 => TensorType::Fp16,
        DType::BF16 => TensorType::Bf16,
        DType::F32 => TensorType::Fp32,
        DType::F64 => TensorType::Fp64,
        DType::U8 => TensorType::U8,
        DType::I32 => TensorType::I32,
        DType::I64 => TensorType::I64,
    };
    Ok(WasiTensor::new(&dimensions, dtype, tensor.bytes()))
}

fn from_host(tensor: &WasiTensor) -> Result<Tensor, Cause> {
    let shape: Vec<usize> = tensor
        .dimensions()
        .into_iter()
        .map(|dimension| dimension as usize)
        .collect();
    let dtype = match tensor.ty() {
        TensorType::Fp16 => DType::F16,
        TensorType::Bf16 => DType::BF16,
        TensorType::Fp32 => DType::F32,
        TensorType::Fp64 => DType::F64,
        TensorType::U8 => DType::U8,
        TensorType::I32 => DType::I32,
        TensorType::I64 => DType::I64,
    };
    Tensor::from_bytes(dtype, shape, tensor.data()).map_err(|error| Cause {
        code: Code::RuntimeError,
        detail: error.to_string(),
    })
}

fn cause(error: WasiError) -> Cause {
    let code = match error.code() {
        ErrorCode::InvalidArgument => Code::InvalidArgument,
        ErrorCode::InvalidEncoding => Code::InvalidEncoding,
        ErrorCode::Timeout => Code::Timeout,
        ErrorCode::RuntimeError => Code::RuntimeError,
        ErrorCode::UnsupportedOperation => Code::UnsupportedOperation,
        ErrorCode::TooLarge => Code::TooLarge,
        ErrorCode::NotFound => Code::NotFound,
        ErrorCode::Security => Code::Security,
        ErrorCode::Unknown => Code::Unknown,
    };
    Cause {
        code,
        detail: error.data(),
    }
}

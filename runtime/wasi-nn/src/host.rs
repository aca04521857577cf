//! What does each function of wasi:nn do?

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use wasmtime::Result;
use wasmtime::component::{Linker, Resource};
use wisp_contract::config::Device;
use wisp_nn::{Model, NamedTensor};

use crate::bindings::wasi::nn::graph::{ExecutionTarget, GraphEncoding};
use crate::bindings::wasi::nn::tensor::TensorType;
use crate::bindings::wasi::nn::{errors, graph, inference, tensor};
use crate::budget::Charge;
use crate::ctx::{HasNn, WasiNn};
use crate::error::Error;
use crate::tensor::{GuestTensor, named};

/// The resource behind a guest's graph.
pub struct Graph {
    model: Arc<Model>,
    /// What the guest's own bytes cost.
    charge: Option<Arc<Charge>>,
}

/// The resource behind a guest's execution context. The model keeps no state between calls.
pub struct GraphExecutionContext {
    model: Arc<Model>,
    /// The graph's: a context keeps the model in memory where the graph was dropped.
    _charge: Option<Arc<Charge>>,
}

/// Offers all interfaces of `wasi:nn@0.2.0-rc-2024-10-28` to guests.
///
/// # Errors
/// When the linker has one of them already.
pub fn add_to_linker<T: Send + 'static>(
    linker: &mut Linker<T>,
    view: fn(&mut T) -> WasiNn<'_>,
) -> Result<()> {
    tensor::add_to_linker::<T, HasNn>(linker, view)?;
    errors::add_to_linker::<T, HasNn>(linker, view)?;
    graph::add_to_linker::<T, HasNn>(linker, view)?;
    inference::add_to_linker::<T, HasNn>(linker, view)
}

impl WasiNn<'_> {
    /// Hands a guest's mistake back to it. That only fails, as a trap, where the guest holds too many handles.
    fn told<R>(
        &mut self,
        result: std::result::Result<R, Error>,
    ) -> Result<std::result::Result<R, Resource<Error>>> {
        match result {
            Ok(value) => Ok(Ok(value)),
            Err(error) => Ok(Err(self.table.push(error)?)),
        }
    }

    fn open(
        &mut self,
        model: Arc<Model>,
        charge: Option<Charge>,
    ) -> Result<std::result::Result<Resource<Graph>, Error>> {
        let unnamed = model
            .inputs()
            .iter()
            .map(|info| ("input", info))
            .chain(model.outputs().iter().map(|info| ("output", info)));
        for (what, info) in unnamed {
            if named(info.dtype).is_none() {
                let what = format!("{what} `{}` of model `{}`", info.name, model.name());
                return Ok(Err(Error::unnamed_type(&what, info.dtype)));
            }
        }
        Ok(Ok(self.table.push(Graph {
            model,
            charge: charge.map(Arc::new),
        })?))
    }

    async fn load_bytes(
        &mut self,
        mut builder: Vec<Vec<u8>>,
        encoding: GraphEncoding,
        target: ExecutionTarget,
    ) -> std::result::Result<(Arc<Model>, Charge), Error> {
        if !self.ctx.guest_models {
            return Err(Error::new(
                errors::ErrorCode::Security,
                "this host loads no models from a guest's bytes: list the model in spec.models, and open it by name",
            ));
        }
        if !matches!(encoding, GraphEncoding::Onnx | GraphEncoding::Autodetect) {
            let message = format!(
                "models in the encoding `{}` can't be loaded: this host takes onnx",
                name(encoding)
            );
            return Err(Error::new(errors::ErrorCode::InvalidEncoding, message));
        }
        let device = match target {
            ExecutionTarget::Cpu => Device::Cpu,
            ExecutionTarget::Gpu => Device::Gpu,
            ExecutionTarget::Tpu => {
                return Err(Error::unsupported(
                    "this host has no TPU: it offers cpu and gpu".to_owned(),
                ));
            }
        };
        let (Some(bytes), true) = (builder.pop(), builder.is_empty()) else {
            return Err(Error::invalid(
                "an ONNX model is one buffer, got none or several".to_owned(),
            ));
        };
        let charge = self
            .ctx
            .budget
            .charge(bytes.len() as u64)
            .map_err(|exceeded| Error::too_large(format!("the model doesn't fit: {exceeded}")))?;
        let model = self
            .ctx
            .models
            .load_bytes(Bytes::from(bytes), device)
            .await?;
        Ok((model, charge))
    }

    async fn run(
        &mut self,
        model: &Model,
        inputs: Vec<(String, GuestTensor)>,
    ) -> std::result::Result<Vec<(String, GuestTensor)>, Error> {
        let mut charges = Vec::with_capacity(inputs.len());
        let mut tensors = Vec::with_capacity(inputs.len());
        for (name, tensor) in inputs {
            let usable = tensor.into_usable(&name)?;
            charges.push(usable.charge);
            tensors.push(NamedTensor::new(name, usable.tensor));
        }
        // Nothing is computed of which it is known that it can't be held.
        let freed = tensors.iter().map(|named| named.tensor.data().len() as u64);
        let (freed, mut before) = (freed.sum(), 0_u64);
        for output in model.outputs_of(&tensors) {
            let bytes = output.byte_len().unwrap_or_default();
            let fits = self.ctx.budget.will_fit(bytes, freed, before);
            fits.map_err(|exceeded| {
                let (name, layout) = (&output.name, output.layout());
                Error::too_large(format!("output `{name}`, {layout}: {exceeded}"))
            })?;
            before = before.saturating_add(bytes);
        }
        let outputs = model.run(tensors).await?;
        drop(charges);
        let charged = outputs.into_iter().map(|NamedTensor { name, tensor }| {
            let charge =
                self.ctx
                    .budget
                    .charge(tensor.data().len() as u64)
                    .map_err(|exceeded| {
                        Error::too_large(format!("output `{name}`, {tensor}: {exceeded}"))
                    })?;
            let tensor = GuestTensor::computed(&name, tensor, charge)?;
            Ok((name, tensor))
        });
        charged.collect()
    }
}

fn name(encoding: GraphEncoding) -> &'static str {
    match encoding {
        GraphEncoding::Openvino => "openvino",
        GraphEncoding::Onnx => "onnx",
        GraphEncoding::Tensorflow => "tensorflow",
        GraphEncoding::Pytorch => "pytorch",
        GraphEncoding::Tensorflowlite => "tensorflowlite",
        GraphEncoding::Ggml => "ggml",
        GraphEncoding::Autodetect => "autodetect",
    }
}

impl tensor::Host for WasiNn<'_> {}

impl tensor::HostTensor for WasiNn<'_> {
    fn new(
        &mut self,
        dimensions: Vec<u32>,
        ty: TensorType,
        data: Vec<u8>,
    ) -> Result<Resource<GuestTensor>> {
        let charge = self.ctx.budget.charge(data.len() as u64);
        Ok(self
            .table
            .push(GuestTensor::given(dimensions, ty, data, charge))?)
    }

    fn dimensions(&mut self, this: Resource<GuestTensor>) -> Result<Vec<u32>> {
        Ok(self.table.get(&this)?.dims().to_vec())
    }

    fn ty(&mut self, this: Resource<GuestTensor>) -> Result<TensorType> {
        Ok(self.table.get(&this)?.ty())
    }

    fn data(&mut self, this: Resource<GuestTensor>) -> Result<Vec<u8>> {
        Ok(self.table.get(&this)?.bytes().to_vec())
    }

    fn drop(&mut self, this: Resource<GuestTensor>) -> Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl errors::Host for WasiNn<'_> {}

impl errors::HostError for WasiNn<'_> {
    fn code(&mut self, this: Resource<Error>) -> Result<errors::ErrorCode> {
        Ok(self.table.get(&this)?.code)
    }

    fn data(&mut self, this: Resource<Error>) -> Result<String> {
        Ok(self.table.get(&this)?.data.clone())
    }

    fn drop(&mut self, this: Resource<Error>) -> Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl graph::Host for WasiNn<'_> {
    async fn load(
        &mut self,
        builder: Vec<Vec<u8>>,
        encoding: GraphEncoding,
        target: ExecutionTarget,
    ) -> Result<std::result::Result<Resource<Graph>, Resource<Error>>> {
        let started = Instant::now();
        let loaded = self.load_bytes(builder, encoding, target).await;
        self.ctx.usage.loaded(started.elapsed());
        let opened = match loaded {
            Ok((model, charge)) => self.open(model, Some(charge))?,
            Err(error) => Err(error),
        };
        self.told(opened)
    }

    fn load_by_name(
        &mut self,
        name: String,
    ) -> Result<std::result::Result<Resource<Graph>, Resource<Error>>> {
        let opened = match self.ctx.models.find(&name) {
            Ok(model) => self.open(model, None)?,
            Err(error) => Err(error.into()),
        };
        self.told(opened)
    }
}

impl graph::HostGraph for WasiNn<'_> {
    fn init_execution_context(
        &mut self,
        this: Resource<Graph>,
    ) -> Result<std::result::Result<Resource<GraphExecutionContext>, Resource<Error>>> {
        let graph = self.table.get(&this)?;
        let context = GraphExecutionContext {
            model: Arc::clone(&graph.model),
            _charge: graph.charge.clone(),
        };
        Ok(Ok(self.table.push(context)?))
    }

    fn drop(&mut self, this: Resource<Graph>) -> Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

impl inference::Host for WasiNn<'_> {}

impl inference::HostGraphExecutionContext for WasiNn<'_> {
    async fn compute(
        &mut self,
        this: Resource<GraphExecutionContext>,
        inputs: Vec<(String, Resource<GuestTensor>)>,
    ) -> Result<std::result::Result<Vec<(String, Resource<GuestTensor>)>, Resource<Error>>> {
        let model = Arc::clone(&self.table.get(&this)?.model);
        let mut tensors = Vec::with_capacity(inputs.len());
        for (name, tensor) in inputs {
            tensors.push((name, self.table.delete(tensor)?));
        }
        let started = Instant::now();
        let outputs = self.run(&model, tensors).await;
        self.ctx.usage.computed(started.elapsed());
        let outputs = match outputs {
            Ok(outputs) => outputs,
            Err(error) => return self.told(Err(error)),
        };
        let mut handles = Vec::with_capacity(outputs.len());
        for (name, tensor) in outputs {
            handles.push((name, self.table.push(tensor)?));
        }
        Ok(Ok(handles))
    }

    fn drop(&mut self, this: Resource<GraphExecutionContext>) -> Result<()> {
        self.table.delete(this)?;
        Ok(())
    }
}

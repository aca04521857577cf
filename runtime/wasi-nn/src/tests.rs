//! wasi:nn's functions on a real model. Where ONNX Runtime's library is missing these tests say so and pass; in
//! CI they fail instead.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use wasmtime::component::{Linker, Resource, ResourceTable};
use wasmtime::{Config, Engine};
use wisp_contract::config::{Batching, Device, Model, ModelFormat, Trial, Tried};
use wisp_nn::{LoadError, ModelStore, Options};

use crate::bindings::wasi::nn::errors::{ErrorCode, HostError};
use crate::bindings::wasi::nn::graph::{ExecutionTarget, GraphEncoding, Host as _, HostGraph};
use crate::bindings::wasi::nn::inference::HostGraphExecutionContext;
use crate::bindings::wasi::nn::tensor::{HostTensor, TensorType};
use crate::{Error, Graph, GraphExecutionContext, GuestTensor, WasiNn, WasiNnCtx, add_to_linker};

mod arbitrary;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../nn/tests/data")
        .join(name)
}

fn options() -> Options {
    Options {
        onnxruntime: std::env::var_os("WISP_ONNXRUNTIME")
            .filter(|value| !value.is_empty())
            .map(PathBuf::from),
        cache: wisp_skip::cache(),
        ..Options::default()
    }
}

struct Store {
    ctx: WasiNnCtx,
    table: ResourceTable,
}

impl Store {
    /// A store with some models, where ONNX Runtime is here. Says so where it isn't.
    async fn new(models: &[&str], tensors: u64) -> Option<Self> {
        Self::with(models, tensors, |_| {}).await
    }

    /// The same of models that are to be loaded otherwise.
    async fn with(models: &[&str], tensors: u64, change: impl Fn(&mut Model)) -> Option<Self> {
        let config = |name: &&str| Model {
            name: (*name).to_owned(),
            format: ModelFormat::Onnx,
            file: data(&format!("{name}.onnx")),
            sha256: None,
            device: Device::Cpu,
            batching: Batching::default(),
            trials: Vec::new(),
        };
        let mut configs: Vec<Model> = models.iter().map(config).collect();
        configs.iter_mut().for_each(change);
        match ModelStore::load(&configs, &options()).await {
            Ok(models) => {
                let ctx = WasiNnCtx::new(models, NonZeroU64::new(tensors).unwrap());
                Some(Self {
                    ctx,
                    table: ResourceTable::new(),
                })
            }
            Err(error @ LoadError::Library { .. }) => {
                wisp_skip::skip(error);
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn nn(&mut self) -> WasiNn<'_> {
        WasiNn::new(&mut self.ctx, &mut self.table)
    }

    fn open(&mut self, name: &str) -> Result<Resource<GraphExecutionContext>, (ErrorCode, String)> {
        let graph: Result<Resource<Graph>, _> = self.nn().load_by_name(name.to_owned()).unwrap();
        let graph = graph.map_err(|error| self.told(error))?;
        Ok(self
            .nn()
            .init_execution_context(graph)
            .unwrap()
            .ok()
            .unwrap())
    }

    fn tensor(&mut self, dims: &[u32], ty: TensorType, bytes: Vec<u8>) -> Resource<GuestTensor> {
        self.nn().new(dims.to_vec(), ty, bytes).unwrap()
    }

    fn f32s(&mut self, dims: &[u32], values: &[f32]) -> Resource<GuestTensor> {
        self.tensor(
            dims,
            TensorType::Fp32,
            values
                .iter()
                .flat_map(|value| value.to_ne_bytes())
                .collect(),
        )
    }

    async fn compute(
        &mut self,
        context: &Resource<GraphExecutionContext>,
        inputs: Vec<(&str, Resource<GuestTensor>)>,
    ) -> Result<Vec<(String, Resource<GuestTensor>)>, (ErrorCode, String)> {
        let inputs = inputs
            .into_iter()
            .map(|(name, tensor)| (name.to_owned(), tensor))
            .collect();
        let context = Resource::new_borrow(context.rep());
        self.nn()
            .compute(context, inputs)
            .await
            .unwrap()
            .map_err(|error| self.told(error))
    }

    fn told(&mut self, error: Resource<Error>) -> (ErrorCode, String) {
        let borrow = || Resource::new_borrow(error.rep());
        (
            self.nn().code(borrow()).unwrap(),
            HostError::data(&mut self.nn(), borrow()).unwrap(),
        )
    }
}

#[tokio::test]
async fn a_guest_computes_by_name() {
    let Some(mut store) = Store::new(&["add"], 1 << 20).await else {
        return;
    };
    let add = store.open("add").unwrap();
    let (a, b) = (
        store.f32s(&[1, 2], &[1., 2.]),
        store.f32s(&[1, 2], &[3., 4.]),
    );
    let mut outputs = store.compute(&add, vec![("a", a), ("b", b)]).await.unwrap();
    let (name, y) = outputs.remove(0);
    assert_eq!((name.as_str(), outputs.len()), ("y", 0));
    let borrow = || Resource::new_borrow(y.rep());
    assert_eq!(store.nn().dimensions(borrow()).unwrap(), [1, 2]);
    assert_eq!(store.nn().ty(borrow()).unwrap(), TensorType::Fp32);
    let expected: Vec<u8> = [4_f32, 6.]
        .iter()
        .flat_map(|value| value.to_ne_bytes())
        .collect();
    assert_eq!(
        HostTensor::data(&mut store.nn(), borrow()).unwrap(),
        expected
    );
    assert_eq!(store.ctx.usage().usage().computes, 1);
    assert!(!store.ctx.take_usage().time.is_zero());
    assert_eq!(store.ctx.usage().usage().computes, 0);
}

#[tokio::test]
async fn all_types_that_have_a_name_pass_and_others_are_told_at_opening() {
    let Some(mut store) = Store::new(&["named-types", "types"], 1 << 20).await else {
        return;
    };
    let model = store.open("named-types").unwrap();
    let types = [
        ("u8", TensorType::U8, 1),
        ("i32", TensorType::I32, 4),
        ("i64", TensorType::I64, 8),
        ("f16", TensorType::Fp16, 2),
        ("bf16", TensorType::Bf16, 2),
        ("f32", TensorType::Fp32, 4),
        ("f64", TensorType::Fp64, 8),
    ];
    let mut inputs = Vec::new();
    let names: Vec<String> = types
        .iter()
        .map(|(name, ..)| format!("{name}_in"))
        .collect();
    for ((_, ty, size), name) in types.iter().zip(&names) {
        inputs.push((
            name.as_str(),
            store.tensor(&[1, 3], *ty, (0..3 * size).collect()),
        ));
    }
    let outputs = store.compute(&model, inputs).await.unwrap();
    for ((_, ty, size), (name, output)) in types.iter().zip(&outputs) {
        assert_eq!(
            store.nn().ty(Resource::new_borrow(output.rep())).unwrap(),
            *ty,
            "{name}"
        );
        let data = HostTensor::data(&mut store.nn(), Resource::new_borrow(output.rep())).unwrap();
        assert_eq!(data, (0..3 * size).collect::<Vec<u8>>(), "{name}");
    }

    let (code, message) = store.open("types").unwrap_err();
    assert_eq!(code, ErrorCode::UnsupportedOperation);
    assert!(
        message
            .starts_with("input `bool_in` of model `types` is bool, which wasi:nn has no name for"),
        "{message}"
    );
}

#[tokio::test]
async fn mistakes_come_back_as_errors_that_name_them() {
    let Some(mut store) = Store::new(&["add", "lookup"], 1 << 20).await else {
        return;
    };
    assert_eq!(
        store.open("ad").unwrap_err(),
        (
            ErrorCode::NotFound,
            "there is no model `ad`: the function's models are `add`, `lookup`".to_owned()
        )
    );
    let add = store.open("add").unwrap();

    let short = store.tensor(&[1, 2], TensorType::Fp32, vec![0; 7]);
    let error = store.compute(&add, vec![("a", short)]).await.unwrap_err();
    assert_eq!(
        error,
        (
            ErrorCode::InvalidArgument,
            "input `a`: f32[1,2] takes 8 bytes, got 7".to_owned()
        )
    );

    let huge = store.tensor(&[u32::MAX; 8], TensorType::Fp64, vec![]);
    let (code, message) = store.compute(&add, vec![("a", huge)]).await.unwrap_err();
    assert_eq!(code, ErrorCode::InvalidArgument);
    assert!(
        message.ends_with("is more bytes than there can be"),
        "{message}"
    );

    let wrong = store.f32s(&[2], &[0., 0.]);
    let error = store.compute(&add, vec![("a", wrong)]).await.unwrap_err();
    assert_eq!(
        error,
        (
            ErrorCode::InvalidArgument,
            "input `a`: expected f32[?,2], got f32[2]".to_owned()
        )
    );

    let lookup = store.open("lookup").unwrap();
    let index = store.tensor(&[1], TensorType::I64, 9_i64.to_ne_bytes().to_vec());
    let (code, message) = store
        .compute(&lookup, vec![("index", index)])
        .await
        .unwrap_err();
    assert_eq!(code, ErrorCode::RuntimeError);
    assert!(
        message.starts_with("model `lookup` failed: ") && message.contains("Gather"),
        "{message}"
    );
}

#[tokio::test]
async fn tensors_are_held_within_the_budget() {
    let Some(mut store) = Store::new(&["add", "grow"], 20).await else {
        return;
    };
    let add = store.open("add").unwrap();
    let (a, b) = (
        store.f32s(&[1, 2], &[1., 2.]),
        store.f32s(&[1, 2], &[3., 4.]),
    );
    let much = store.f32s(&[1, 2], &[5., 6.]);
    assert!(
        HostTensor::data(&mut store.nn(), Resource::new_borrow(much.rep()))
            .unwrap()
            .is_empty()
    );
    let error = store.compute(&add, vec![("a", much)]).await.unwrap_err();
    let text = "input `a`: 8 bytes of tensors are too many: 16 of 20 are in use (limits.tensors)";
    assert_eq!(error, (ErrorCode::TooLarge, text.to_owned()));

    // Inputs are consumed, so that there is room for the output, and what is dropped gives its room back.
    for _ in 0..3 {
        let tensor = store.f32s(&[1], &[1.]);
        HostTensor::drop(&mut store.nn(), tensor).unwrap();
    }
    let outputs = store.compute(&add, vec![("a", a), ("b", b)]).await.unwrap();
    HostTensor::drop(&mut store.nn(), outputs.into_iter().next().unwrap().1).unwrap();

    // An output can be too large, too; its model goes on.
    let grow = store.open("grow").unwrap();
    for _ in 0..2 {
        let x = store.f32s(&[1, 1], &[1.]);
        let error = store.compute(&grow, vec![("x", x)]).await.unwrap_err();
        let text = "output `y`, f32[1,8]: 32 bytes of tensors are too many: 0 of 20 are in use (limits.tensors)";
        assert_eq!(error, (ErrorCode::TooLarge, text.to_owned()));
    }
}

/// Would fail if what can't be held were computed first, where the model says how large it will be.
#[tokio::test]
async fn what_cannot_be_held_is_not_computed() {
    let Some(store) = Store::new(&["vectors"], 1).await else {
        return;
    };
    let ours = store.ctx.models.get("vectors").unwrap().status().tried;
    let joined = Tried {
        trial: Trial::Joined,
        ..ours.unwrap()
    };
    let told = |model: &mut Model| model.trials = vec![joined.clone()];
    let mut store = Store::with(&["vectors"], 10_000, told).await.unwrap();
    let vectors = store.open("vectors").unwrap();
    for (rows, fits) in [(3, false), (2, true), (1000, false)] {
        let bytes = vec![0; usize::try_from(8 * rows).unwrap()];
        let index = HostTensor::new(&mut store.nn(), vec![rows], TensorType::I64, bytes).unwrap();
        let before = store.ctx.models.get("vectors").unwrap().metrics().items;
        let outputs = store.compute(&vectors, vec![("index", index)]).await;
        let after = store.ctx.models.get("vectors").unwrap().metrics().items;
        assert_eq!(after > before, fits, "{rows}");
        match outputs {
            Ok(outputs) => {
                assert!(fits, "{rows}");
                for (_, output) in outputs {
                    HostTensor::drop(&mut store.nn(), output).unwrap();
                }
            }
            Err((code, text)) => {
                let wanted = rows * 4096;
                let said = format!(
                    "output `y`, f32[{rows},1024]: {wanted} bytes of tensors are too many: 0 of 10000 are in use (limits.tensors)"
                );
                assert_eq!((code, text), (ErrorCode::TooLarge, said), "{rows}");
            }
        }
    }
}

#[tokio::test]
async fn a_scalar_output_has_one_dimension() {
    let Some(mut store) = Store::new(&["scalar"], 1 << 20).await else {
        return;
    };
    let scalar = store.open("scalar").unwrap();
    let x = store.f32s(&[], &[21.]);
    let outputs = store.compute(&scalar, vec![("x", x)]).await.unwrap();
    assert_eq!(
        store
            .nn()
            .dimensions(Resource::new_borrow(outputs[0].1.rep()))
            .unwrap(),
        [1]
    );
}

#[tokio::test]
async fn a_guest_may_bring_a_model_of_its_own() {
    let Some(mut store) = Store::new(&["add"], 300).await else {
        return;
    };
    let bytes = std::fs::read(data("add.onnx")).unwrap();
    let load = |builder: Vec<Vec<u8>>, encoding, target| (builder, encoding, target);
    let good = load(
        vec![bytes.clone()],
        GraphEncoding::Onnx,
        ExecutionTarget::Cpu,
    );
    let graph = store
        .nn()
        .load(good.0, good.1, good.2)
        .await
        .unwrap()
        .ok()
        .unwrap();
    let context = store
        .nn()
        .init_execution_context(Resource::new_borrow(graph.rep()))
        .unwrap()
        .ok()
        .unwrap();
    let (a, b) = (
        store.f32s(&[1, 2], &[1., 2.]),
        store.f32s(&[1, 2], &[3., 4.]),
    );
    store
        .compute(&context, vec![("a", a), ("b", b)])
        .await
        .unwrap();

    // Would fail if a guest got its budget back while a context keeps the model in memory.
    let held = store.ctx.budget.used();
    assert!(held >= bytes.len() as u64, "{held}");
    store.table.delete(graph).unwrap();
    assert_eq!(store.ctx.budget.used(), held);
    store.table.delete(context).unwrap();
    assert_eq!(store.ctx.budget.used(), held - bytes.len() as u64);

    for (what, code, word) in [
        (
            load(vec![], GraphEncoding::Onnx, ExecutionTarget::Cpu),
            ErrorCode::InvalidArgument,
            "one buffer",
        ),
        (
            load(
                vec![bytes.clone()],
                GraphEncoding::Pytorch,
                ExecutionTarget::Cpu,
            ),
            ErrorCode::InvalidEncoding,
            "`pytorch`",
        ),
        (
            load(
                vec![bytes.clone()],
                GraphEncoding::Onnx,
                ExecutionTarget::Tpu,
            ),
            ErrorCode::UnsupportedOperation,
            "no TPU",
        ),
        (
            load(
                vec![vec![0; 301]],
                GraphEncoding::Onnx,
                ExecutionTarget::Cpu,
            ),
            ErrorCode::TooLarge,
            "(limits.tensors)",
        ),
        (
            load(
                vec![bytes[..50].to_vec()],
                GraphEncoding::Onnx,
                ExecutionTarget::Cpu,
            ),
            ErrorCode::InvalidEncoding,
            "truncated",
        ),
    ] {
        let error = store
            .nn()
            .load(what.0, what.1, what.2)
            .await
            .unwrap()
            .map(|_| ())
            .unwrap_err();
        let (got, message) = store.told(error);
        assert_eq!(got, code, "{message}");
        assert!(message.contains(word), "{message}");
    }

    let mut closed = Store::new(&[], 1000).await.unwrap();
    closed.ctx = closed.ctx.with_guest_models(false);
    let error = closed
        .nn()
        .load(vec![bytes], GraphEncoding::Onnx, ExecutionTarget::Cpu)
        .await
        .unwrap()
        .map(|_| ());
    let (code, message) = closed.told(error.unwrap_err());
    assert_eq!(code, ErrorCode::Security);
    assert!(message.contains("spec.models"), "{message}");
}

/// A component that imports wasi:nn, as small as it gets: linking it checks every name and type that it mentions.
const GUEST: &str = r#"(component
    (import "wasi:nn/errors@0.2.0-rc-2024-10-28" (instance $errors
        (export "error" (type (sub resource)))))
    (alias export $errors "error" (type $error))
    (import "wasi:nn/tensor@0.2.0-rc-2024-10-28" (instance $tensor
        (export "tensor" (type $tensor (sub resource)))
        (export "[method]tensor.dimensions" (func (param "self" (borrow $tensor)) (result (list u32))))
        (export "[method]tensor.data" (func (param "self" (borrow $tensor)) (result (list u8))))))
    (alias export $tensor "tensor" (type $tensor-type))
    (import "wasi:nn/inference@0.2.0-rc-2024-10-28" (instance
        (alias outer 1 $tensor-type (type $outer-tensor))
        (alias outer 1 $error (type $outer-error))
        (export "tensor" (type $t (eq $outer-tensor)))
        (export "error" (type $e (eq $outer-error)))
        (export "graph-execution-context" (type $context (sub resource)))
        (export "[method]graph-execution-context.compute" (func
            (param "self" (borrow $context)) (param "inputs" (list (tuple string (own $t))))
            (result (result (list (tuple string (own $t))) (error (own $e)))))))))"#;

#[test]
fn it_links_on_engines_with_and_without_concurrency() {
    for concurrency in [false, true] {
        let mut config = Config::new();
        config.concurrency_support(concurrency);
        let engine = Engine::new(&config).unwrap();
        let mut linker = Linker::<Store>::new(&engine);
        add_to_linker(&mut linker, Store::nn).unwrap();
        let component =
            wasmtime::component::Component::new(&engine, wat::parse_str(GUEST).unwrap()).unwrap();
        linker.instantiate_pre(&component).unwrap();
    }
}

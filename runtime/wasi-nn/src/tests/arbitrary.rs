//! Whatever a guest does, in whatever order: no panic, no more bytes than its budget, no error without a sentence of
//! bounded length, and models that compute as before.

use std::panic::AssertUnwindSafe;

use proptest::prelude::*;
use tokio::runtime::Runtime;
use wisp_nn::MAX_RANK;

use super::*;

const BUDGET: u64 = 4096;
/// The longest sentence that a guest is told.
const SENTENCE: usize = 4096;
const MODELS: [&str; 7] = [
    "add",
    "fixed",
    "grow",
    "lookup",
    "mean",
    "named-types",
    "scalar",
];

/// One call of a guest. Where it names a handle, it is one of those it holds, counted round.
#[derive(Debug, Clone)]
enum Call {
    Tensor(Vec<u32>, TensorType, Vec<u8>),
    /// A tensor as a model takes it, but for one thing perhaps.
    Plausible(Vec<u32>, TensorType, i8),
    Look(usize),
    Drop(usize),
    Open(String),
    Compute(usize, Vec<(String, usize)>),
    Load(Vec<Vec<u8>>, GraphEncoding, ExecutionTarget),
}

/// What a guest holds.
#[derive(Default)]
struct Guest {
    tensors: Vec<Resource<GuestTensor>>,
    contexts: Vec<Resource<GraphExecutionContext>>,
}

fn dimension() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => 0_u32..5,
        1 => Just(u32::MAX),
        1 => Just(1 << 31),
        1 => Just(f32::NAN.to_bits()),
        1 => any::<u32>(),
    ]
}

fn dimensions() -> impl Strategy<Value = Vec<u32>> {
    prop_oneof![
        4 => prop::collection::vec(dimension(), 0..4),
        1 => prop::collection::vec(dimension(), 0..2 * MAX_RANK),
    ]
}

fn tensor_type() -> impl Strategy<Value = TensorType> {
    prop::sample::select(TYPES.to_vec())
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned),
        1 => ".{0,8}",
        1 => "\\PC{0,2000}",
    ]
}

fn model() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop::sample::select(MODELS.to_vec()).prop_map(str::to_owned),
        1 => "\\PC{0,2000}",
    ]
}

/// Bytes that are no model, or one with some of its bytes changed or its end missing.
fn model_bytes() -> impl Strategy<Value = Vec<u8>> {
    let add = std::fs::read(data("add.onnx")).unwrap();
    let cut = add.clone();
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        (0..add.len()).prop_map(move |end| cut[..end].to_vec()),
        prop::collection::vec((0..add.len(), any::<u8>()), 0..4).prop_map(move |changes| {
            let mut bytes = add.clone();
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            bytes
        }),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let encoding = prop::sample::select(vec![
        GraphEncoding::Onnx,
        GraphEncoding::Autodetect,
        GraphEncoding::Ggml,
    ]);
    let target = prop::sample::select(vec![ExecutionTarget::Cpu, ExecutionTarget::Tpu]);
    let inputs = prop::collection::vec((name(), any::<usize>()), 0..4);
    prop_oneof![
        3 => (dimensions(), tensor_type(), prop::collection::vec(any::<u8>(), 0..64))
            .prop_map(|(dimensions, ty, bytes)| Call::Tensor(dimensions, ty, bytes)),
        6 => (prop::collection::vec(0_u32..4, 0..3), tensor_type(), -1_i8..2)
            .prop_map(|(dimensions, ty, off)| Call::Plausible(dimensions, ty, off)),
        2 => any::<usize>().prop_map(Call::Look),
        2 => any::<usize>().prop_map(Call::Drop),
        3 => model().prop_map(Call::Open),
        6 => (any::<usize>(), inputs).prop_map(|(context, inputs)| Call::Compute(context, inputs)),
        1 => (prop::collection::vec(model_bytes(), 0..3), encoding, target)
            .prop_map(|(builder, encoding, target)| Call::Load(builder, encoding, target)),
    ]
}

fn size(ty: TensorType) -> usize {
    match ty {
        TensorType::U8 => 1,
        TensorType::Fp16 | TensorType::Bf16 => 2,
        TensorType::Fp32 | TensorType::I32 => 4,
        TensorType::Fp64 | TensorType::I64 => 8,
    }
}

fn round<T>(held: &mut Vec<T>, index: usize) -> Option<T> {
    (!held.is_empty()).then(|| held.swap_remove(index % held.len()))
}

impl Guest {
    async fn call(&mut self, store: &mut Store, call: Call) {
        match call {
            Call::Tensor(dimensions, ty, bytes) => {
                let tensor = store.tensor(&dimensions, ty, bytes);
                let told = store.nn().dimensions(Resource::new_borrow(tensor.rep()));
                let wanted = if dimensions.len() > MAX_RANK {
                    Vec::new()
                } else {
                    dimensions
                };
                assert_eq!(told.unwrap(), wanted);
                self.tensors.push(tensor);
            }
            Call::Plausible(dimensions, ty, off) => {
                let elements: u32 = dimensions.iter().product();
                let bytes = elements as usize * size(ty);
                let bytes = bytes.saturating_add_signed(off.into());
                let tensor = store.tensor(&dimensions, ty, vec![1; bytes]);
                self.tensors.push(tensor);
            }
            Call::Look(index) => {
                if let Some(tensor) = round(&mut self.tensors, index) {
                    let borrow = || Resource::new_borrow(tensor.rep());
                    let bytes = HostTensor::data(&mut store.nn(), borrow()).unwrap();
                    assert!(bytes.len() as u64 <= BUDGET);
                    store.nn().ty(borrow()).unwrap();
                    self.tensors.push(tensor);
                }
            }
            Call::Drop(index) => {
                if let Some(tensor) = round(&mut self.tensors, index) {
                    HostTensor::drop(&mut store.nn(), tensor).unwrap();
                }
            }
            Call::Open(name) => match store.open(&name) {
                Ok(context) => self.contexts.push(context),
                Err(error) => sensible(&error),
            },
            Call::Compute(context, inputs) => {
                let Some(context) = round(&mut self.contexts, context) else {
                    return;
                };
                let mut named = Vec::new();
                for (name, index) in &inputs {
                    if let Some(tensor) = round(&mut self.tensors, *index) {
                        named.push((name.as_str(), tensor));
                    }
                }
                match store.compute(&context, named).await {
                    Ok(outputs) => self
                        .tensors
                        .extend(outputs.into_iter().map(|(_, tensor)| tensor)),
                    Err(error) => sensible(&error),
                }
                self.contexts.push(context);
            }
            Call::Load(builder, encoding, target) => {
                match store.nn().load(builder, encoding, target).await.unwrap() {
                    Ok(graph) => HostGraph::drop(&mut store.nn(), graph).unwrap(),
                    Err(error) => sensible(&store.told(error)),
                }
            }
        }
        let used = store.ctx.budget.used();
        assert!(used <= BUDGET, "{used} bytes are in use");
    }

    fn end(self, store: &mut Store) {
        for tensor in self.tensors {
            HostTensor::drop(&mut store.nn(), tensor).unwrap();
        }
        assert_eq!(store.ctx.budget.used(), 0, "everything is given back");
    }
}

fn sensible((_, sentence): &(ErrorCode, String)) {
    assert!(
        !sentence.is_empty() && sentence.len() <= SENTENCE,
        "{sentence}"
    );
    assert!(!sentence.contains("panicked"), "{sentence}");
}

/// What calls are made on.
struct Host {
    runtime: Runtime,
    models: ModelStore,
}

impl Host {
    /// `None` where there is no ONNX Runtime.
    fn new() -> Option<Self> {
        let runtime = Runtime::new().unwrap();
        let first = runtime.block_on(Store::new(&MODELS, BUDGET))?;
        let models = first.ctx.models;
        Some(Self { runtime, models })
    }

    fn withstands(&self, calls: Vec<Call>) {
        let mut store = Store {
            ctx: WasiNnCtx::new(self.models.clone(), NonZeroU64::new(BUDGET).unwrap()),
            table: ResourceTable::new(),
        };
        self.runtime.block_on(async {
            let mut guest = Guest::default();
            for call in calls {
                guest.call(&mut store, call).await;
            }
            guest.end(&mut store);

            let add = store.open("add").unwrap();
            let (a, b) = (
                store.f32s(&[1, 2], &[1., 2.]),
                store.f32s(&[1, 2], &[3., 4.]),
            );
            let outputs = store.compute(&add, vec![("a", a), ("b", b)]).await.unwrap();
            let sum = HostTensor::data(&mut store.nn(), Resource::new_borrow(outputs[0].1.rep()))
                .unwrap();
            assert_eq!(sum, [4_f32.to_ne_bytes(), 6_f32.to_ne_bytes()].concat());
        });
    }
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    prop::collection::vec(call(), 0..40)
}

/// What a fuzzer makes up for one call: which, dimensions, a type, bytes, a name, inputs.
type Raw = (u8, Vec<u32>, u8, Vec<u8>, String, Vec<(u8, usize)>);

const TYPES: [TensorType; 7] = [
    TensorType::Fp16,
    TensorType::Fp32,
    TensorType::Fp64,
    TensorType::Bf16,
    TensorType::U8,
    TensorType::I32,
    TensorType::I64,
];
const NAMES: [&str; 6] = ["a", "b", "x", "index", "u8_in", "f32_in"];

/// The call that it stands for. Most are nearly right: others don't get far.
fn call_of((which, dimensions, ty, bytes, name, inputs): &Raw) -> Call {
    let pick = |index: usize, all: &[&str]| match all.get(index % (all.len() + 1)) {
        Some(known) => (*known).to_owned(),
        None => name.clone(),
    };
    let small = || dimensions.iter().take(3).map(|size| size % 4).collect();
    let ty = TYPES[usize::from(*ty) % TYPES.len()];
    let index = dimensions.first().map_or(0, |first| *first as usize);
    match which % 8 {
        0 => Call::Tensor(dimensions.clone(), ty, bytes.clone()),
        1 | 2 => Call::Plausible(small(), ty, (bytes.len() % 3) as i8 - 1),
        3 => Call::Look(index),
        4 => Call::Drop(index),
        5 => Call::Open(pick(index, &MODELS)),
        6 => {
            let named = |(which, tensor): &(u8, usize)| (pick((*which).into(), &NAMES), *tensor);
            Call::Compute(index, inputs.iter().take(4).map(named).collect())
        }
        _ => {
            let mut model = std::fs::read(data("add.onnx")).unwrap();
            for (byte, at) in inputs {
                let at = at % model.len();
                model[at] = *byte;
            }
            model.truncate(model.len().saturating_sub(index));
            Call::Load(vec![model], GraphEncoding::Onnx, ExecutionTarget::Cpu)
        }
    }
}

#[test]
fn no_sequence_of_calls_harms_the_host() {
    let Some(host) = Host::new() else { return };
    proptest!(|(calls in calls())| host.withstands(calls));
}

/// Would fail if calls that a fuzzer found (`cargo xtask fuzz wasi-nn`) harmed the host.
#[test]
fn no_calls_of_a_fuzzer_harm_the_host() {
    let Some(host) = Host::new() else { return };
    let host = AssertUnwindSafe(host);
    bolero::check!()
        .with_type::<Vec<Raw>>()
        .for_each(|calls| host.withstands(calls.iter().map(call_of).collect()));
}

//! Real models on the real ONNX Runtime. Where its library is missing these tests say so and pass; in CI they fail
//! instead. `tests/data/make.py` writes the models.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "what fails here is a failed test"
)]

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::join_all;
use sha2::Digest;
use wisp_contract::config::{Batching, Device, Model as Config, ModelFormat, Trial, Tried};
use wisp_nn::{DType, LoadError, Model, ModelStore, NamedTensor, Options, RunError, Tensor};

/// What a slow machine takes is waited for as long.
const PATIENCE: Duration = Duration::from_mins(1);

fn options() -> Options {
    Options {
        onnxruntime: std::env::var_os("WISP_ONNXRUNTIME").map(PathBuf::from),
        cache: wisp_skip::cache(),
        ..Options::default()
    }
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

fn config(name: &str) -> Config {
    Config {
        name: name.to_owned(),
        format: ModelFormat::Autodetect,
        file: data(&format!("{name}.onnx")),
        sha256: None,
        device: Device::Cpu,
        batching: Batching::default(),
        trials: Vec::new(),
    }
}

/// Whether ONNX Runtime is here. Says so where it isn't.
async fn available() -> bool {
    match ModelStore::load(&[config("add")], &options()).await {
        Err(error @ LoadError::Library { .. }) => {
            let why = std::error::Error::source(&error)
                .map(ToString::to_string)
                .unwrap_or_default();
            wisp_skip::skip(format!("{error}: {why}"));
            false
        }
        Err(error) => panic!("{error}"),
        Ok(_) => true,
    }
}

async fn load(name: &str) -> Result<Arc<Model>, LoadError> {
    let store = ModelStore::load(&[config(name)], &options()).await?;
    Ok(store.get(name).unwrap())
}

/// The model as on a host that found that joining pays: what trying it shows here depends on what else the machine does.
async fn load_joined(name: &str) -> Arc<Model> {
    let ours = load(name).await.unwrap().status().tried.unwrap();
    let config = Config {
        trials: vec![Tried {
            trial: Trial::Joined,
            ..ours
        }],
        ..config(name)
    };
    let store = ModelStore::load(&[config], &options()).await.unwrap();
    store.get(name).unwrap()
}

fn f32s(shape: &[u64], values: &[f32]) -> Tensor {
    Tensor::new(
        DType::F32,
        shape,
        values
            .iter()
            .flat_map(|value| value.to_ne_bytes())
            .collect::<Vec<u8>>(),
    )
    .unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.dtype(), DType::F32);
    tensor
        .data()
        .chunks(4)
        .map(|chunk| f32::from_ne_bytes(chunk.try_into().unwrap()))
        .collect()
}

fn named(name: &str, tensor: Tensor) -> NamedTensor {
    NamedTensor::new(name, tensor)
}

macro_rules! need_onnxruntime {
    () => {
        if !available().await {
            return;
        }
    };
}

#[tokio::test]
async fn a_model_computes_and_says_what_it_is() {
    need_onnxruntime!();
    let store = ModelStore::load(&[config("add")], &options())
        .await
        .unwrap();
    let add = store.get("add").unwrap();
    let outputs = add
        .run(vec![
            named("b", f32s(&[1, 2], &[10., 20.])),
            named("a", f32s(&[1, 2], &[1., 2.])),
        ])
        .await
        .unwrap();
    assert_eq!(outputs.len(), 1);
    assert_eq!(outputs[0].name, "y");
    assert_eq!(outputs[0].tensor.shape(), [1, 2]);
    assert_eq!(values(&outputs[0].tensor), [11., 22.]);

    let status = store.status().remove(0);
    assert!(
        status.backend.starts_with("onnxruntime 1."),
        "{}",
        status.backend
    );
    assert_eq!(
        (status.device.as_str(), status.device_reason, status.batched),
        ("cpu", None, true)
    );
    assert_eq!(status.inputs, ["a: f32[?,2]", "b: f32[?,2]"]);
    assert_eq!(status.outputs, ["y: f32[?,2]"]);
}

#[tokio::test]
async fn calls_at_once_share_batches_and_get_their_own_rows() {
    need_onnxruntime!();
    let network = load_joined("network").await;
    let input = |seed: usize, rows: u64| {
        let numbers: Vec<f32> = (0..rows as usize * 256)
            .map(|i| ((i * 31 + seed * 7) % 97) as f32 / 97.)
            .collect();
        f32s(&[rows, 256], &numbers)
    };
    let mut alone = Vec::new();
    for seed in 0..24 {
        alone.push(
            network
                .run(vec![named("x", input(seed, 1 + seed as u64 % 3))])
                .await
                .unwrap()
                .remove(0)
                .tensor,
        );
    }
    // On a busy machine each call may be computed before the next one is made.
    for _ in 0..100 {
        let before = network.metrics();
        let calls =
            (0..24).map(|seed| network.run(vec![named("x", input(seed, 1 + seed as u64 % 3))]));
        let together = join_all(calls).await;
        for (alone, together) in alone.iter().zip(together) {
            let together = together.unwrap().remove(0).tensor;
            assert_eq!(alone.shape(), together.shape());
            for (a, b) in values(alone).iter().zip(values(&together)) {
                assert!((a - b).abs() < 1e-3, "{a} and {b}");
            }
        }
        let after = network.metrics();
        assert_eq!(after.items - before.items, 24);
        if after.batches - before.batches < 12 {
            return;
        }
    }
    panic!("none were joined: {:?}", network.metrics());
}

#[tokio::test]
async fn one_bad_index_fails_alone() {
    need_onnxruntime!();
    let lookup = load_joined("lookup").await;
    assert!(lookup.batching().is_ok(), "{:?}", lookup.batching());
    let call = |index: i64| {
        let tensor = Tensor::new(DType::I64, [1], index.to_ne_bytes().to_vec()).unwrap();
        lookup.run(vec![named("index", tensor)])
    };
    let replies = join_all([0, 3, 99, 1, 2].map(call)).await;
    for (reply, value) in replies
        .iter()
        .zip([Some(0.5), Some(3.5), None, Some(1.5), Some(2.5)])
    {
        match (reply, value) {
            (Ok(outputs), Some(value)) => assert_eq!(values(&outputs[0].tensor), [value]),
            (Err(RunError::Failed { message, .. }), None) => {
                assert!(message.contains("Gather"), "{message}")
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Would fail if an output's size were known only once it is there where the model says how large a row is, or were told of one whose
/// rows nobody knows.
#[tokio::test]
async fn how_large_outputs_will_be_is_known_of_independent_rows() {
    need_onnxruntime!();
    let indices = |rows: u64| {
        let zeros = vec![0; usize::try_from(8 * rows).unwrap()];
        named("index", Tensor::new(DType::I64, [rows], zeros).unwrap())
    };
    let vectors = load_joined("vectors").await;
    assert!(vectors.batching().is_ok(), "{:?}", vectors.batching());
    let known = vectors.outputs_of(&[indices(3)]);
    assert_eq!(known[0].to_string(), "y: f32[3,1024]");
    assert_eq!(known[0].byte_len(), Some(3 * 4096));
    let outputs = vectors.run(vec![indices(3)]).await.unwrap();
    assert_eq!(outputs[0].tensor.data().len(), 3 * 4096);
    // It takes none of these.
    let number = named("index", f32s(&[1], &[1.0]));
    let other = named("other", indices(3).tensor);
    for inputs in [vec![], vec![number], vec![other]] {
        assert_eq!(vectors.outputs_of(&inputs), []);
    }
    let unknown = load("any-rank").await.unwrap();
    let x = named("x", f32s(&[1, 1], &[1.0]));
    assert_eq!(unknown.outputs_of(&[x]), []);
}

/// Would fail if each call that a guest gets wrong were a line of the host's log.
#[tokio::test]
async fn what_guests_get_wrong_again_and_again_is_told_a_few_times() {
    need_onnxruntime!();
    let lookup = load("lookup").await.unwrap();
    let _ = wisp_nn::onnx::left_out();
    let began = Instant::now();
    for _ in 0..200 {
        let tensor = Tensor::new(DType::I64, [1], 99_i64.to_ne_bytes().to_vec()).unwrap();
        let reply = lookup.run(vec![named("index", tensor)]).await;
        assert!(matches!(reply, Err(RunError::Failed { .. })), "{reply:?}");
    }
    let told = 200_u64.saturating_sub(wisp_nn::onnx::left_out());
    assert!(told <= 17 + began.elapsed().as_secs(), "{told} of 200");
}

#[tokio::test]
async fn every_type_goes_in_and_comes_out() {
    need_onnxruntime!();
    let types = load("types").await.unwrap();
    let tensor = |dtype: DType, rows: u64| {
        let len = (rows * 3 * dtype.size()) as usize;
        let bytes: Vec<u8> = (0..len)
            .map(|i| {
                if dtype == DType::Bool {
                    i as u8 % 2
                } else {
                    i as u8 + 1
                }
            })
            .collect();
        Tensor::new(dtype, [rows, 3], bytes).unwrap()
    };
    let inputs = |rows| {
        types
            .inputs()
            .iter()
            .map(|info| named(&info.name, tensor(info.dtype, rows)))
            .collect()
    };
    let replies = join_all([
        types.run(inputs(1)),
        types.run(inputs(2)),
        types.run(inputs(0)),
    ])
    .await;
    for (rows, reply) in [1, 2, 0].into_iter().zip(replies) {
        let outputs = reply.unwrap();
        assert_eq!(outputs.len(), 13);
        for (output, info) in outputs.iter().zip(types.outputs()) {
            assert_eq!(output.tensor, tensor(info.dtype, rows), "{info}");
        }
    }
}

#[tokio::test]
async fn bytes_that_lie_oddly_are_copied() {
    need_onnxruntime!();
    let add = load("add").await.unwrap();
    let bytes = bytes::Bytes::from([&[0_u8][..], f32s(&[1, 2], &[1., 2.]).data()].concat());
    let odd = (0..2)
        .map(|at| bytes.slice(at..at + 8))
        .find(|slice| slice.as_ptr().align_offset(4) != 0)
        .unwrap();
    let a = Tensor::new(DType::F32, [1, 2], odd.clone()).unwrap();
    let b = f32s(&[1, 2], &[0., 0.]);
    let outputs = add.run(vec![named("a", a), named("b", b)]).await.unwrap();
    assert_eq!(outputs[0].tensor.data(), &odd);
}

#[tokio::test]
async fn wrong_inputs_are_told_apart() {
    need_onnxruntime!();
    let add = load("add").await.unwrap();
    let good = || f32s(&[1, 2], &[0., 0.]);
    let run = |inputs: Vec<NamedTensor>| {
        let add = Arc::clone(&add);
        async move { add.run(inputs).await.unwrap_err().to_string() }
    };
    assert_eq!(
        run(vec![named("c", good())]).await,
        "model `add` has no input `c`: its inputs are `a: f32[?,2]`, `b: f32[?,2]`"
    );
    assert_eq!(
        run(vec![named("a", good())]).await,
        "input `b` of model `add` is missing: expected f32[?,2]"
    );
    assert_eq!(
        run(vec![named("a", good()), named("a", good())]).await,
        "input `a` of model `add` was given twice"
    );
    assert_eq!(
        run(vec![named("a", f32s(&[2], &[0., 0.]))]).await,
        "input `a`: expected f32[?,2], got f32[2]"
    );
    assert_eq!(
        run(vec![named("a", f32s(&[2, 1], &[0., 0.]))]).await,
        "input `a`: expected f32[?,2], got f32[2,1]"
    );
    let bytes = Tensor::new(DType::I32, [1, 2], vec![0; 8]).unwrap();
    assert_eq!(
        run(vec![named("a", bytes)]).await,
        "input `a`: expected f32[?,2], got i32[1,2]"
    );
    // Both are what the model takes, but they don't go together: that is for ONNX Runtime to tell.
    let error = run(vec![
        named("a", f32s(&[2, 2], &[0.; 4])),
        named("b", f32s(&[3, 2], &[0.; 6])),
    ])
    .await;
    assert!(
        error.starts_with("model `add` failed: ") && error.contains("Add"),
        "{error}"
    );
}

#[tokio::test]
async fn shapes_that_no_memory_holds_are_refused_and_not_computed() {
    need_onnxruntime!();
    let add = load("add").await.unwrap();
    // No bytes at all, but rows beyond counting.
    let empty = Tensor::new(DType::F32, [u64::MAX, 0], Vec::new()).unwrap();
    let error = add
        .run(vec![named("a", empty.clone()), named("b", empty)])
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "input `a`: expected f32[?,2], got f32[18446744073709551615,0]"
    );
}

#[tokio::test]
async fn joining_is_off_where_it_would_be_wrong() {
    need_onnxruntime!();
    let mean = load("mean").await.unwrap();
    let why = mean.batching().unwrap_err();
    assert!(why.contains("`y`"), "{why}");
    let outputs = mean
        .run(vec![named("x", f32s(&[2, 2], &[1., 2., 3., 6.]))])
        .await
        .unwrap();
    assert_eq!(values(&outputs[0].tensor), [-1., -2., 1., 2.]);

    let quantised = load("quantised").await.unwrap();
    let why = quantised.batching().unwrap_err();
    assert!(why.contains("DynamicQuantizeLinear"), "{why}");

    assert_eq!(
        load("fixed").await.unwrap().batching(),
        Err("dimension 0 of `a: f32[1,2]` is not dynamic".to_owned())
    );

    let single = Config {
        batching: Batching {
            max_size: 1.try_into().unwrap(),
            ..Batching::default()
        },
        ..config("add")
    };
    let store = ModelStore::load(&[single], &options()).await.unwrap();
    assert_eq!(
        store.get("add").unwrap().batching(),
        Err("batching.maxSize is 1".to_owned())
    );
}

/// The threads of a model in this process, by what its lanes are called.
fn lanes(model: &str) -> BTreeSet<String> {
    let threads = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
    names
        .filter_map(|name| {
            let lane = name.trim().strip_prefix("nn-")?;
            Some(lane.strip_suffix(model)?.trim_end_matches('-').to_owned())
        })
        .collect()
}

/// Would fail if a model that is said to gain by all cores got no lane for that, or the lanes that are made while it
/// computes already were missing, or computed something else.
#[tokio::test]
async fn lanes_are_made_as_the_trial_says_while_the_model_computes() {
    need_onnxruntime!();
    let options = Options {
        cores: NonZeroUsize::new(3).unwrap(),
        ..options()
    };
    let store = ModelStore::load(&[config("add")], &options).await.unwrap();
    let ours = store.get("add").unwrap().status().tried.unwrap();
    let why = || "it was tried".to_owned();
    for (name, trial, expected) in [
        ("s", Trial::Spread(why()), &["0", "1", "2", "solo"][..]),
        ("a", Trial::Alone(why()), &["0", "1", "2"]),
        ("j", Trial::Joined, &["0"]),
    ] {
        let config = Config {
            name: name.to_owned(),
            trials: vec![Tried {
                trial: trial.clone(),
                ..ours.clone()
            }],
            ..config("add")
        };
        let store = ModelStore::load(&[config], &options).await.unwrap();
        let model = store.get(name).unwrap();
        assert_eq!(model.status().tried.map(|tried| tried.trial), Some(trial));
        let mut rounds = 0;
        while lanes(name) != expected.iter().map(|lane| (*lane).to_owned()).collect() {
            rounds += 1;
            assert!(rounds < 10_000, "{name} has the lanes {:?}", lanes(name));
            let calls = (0..8_u8).map(|number| {
                let model = Arc::clone(&model);
                async move {
                    let value = f32::from(number);
                    let inputs = vec![
                        named("a", f32s(&[1, 2], &[value, 1.0])),
                        named("b", f32s(&[1, 2], &[value, 2.0])),
                    ];
                    let outputs = model.run(inputs).await.unwrap();
                    assert_eq!(values(&outputs[0].tensor), [2.0 * value, 3.0]);
                }
            });
            join_all(calls).await;
        }
    }
}

/// Would fail if a call of a small model were handed to another thread, or a large call computed in place of one.
#[tokio::test]
async fn a_call_that_takes_microseconds_is_computed_where_it_is_made() {
    need_onnxruntime!();
    let model = load("add").await.unwrap();
    let call = |rows: u64| {
        let ones = vec![1.0; 2 * rows as usize];
        let inputs = vec![
            named("a", f32s(&[rows, 2], &ones)),
            named("b", f32s(&[rows, 2], &ones)),
        ];
        model.run(inputs)
    };
    // It is made after the model is ready, and the other thread may answer before this one looks, but not every time.
    let (mut calls, mut in_a_row) = (0, 0);
    while in_a_row < 10 {
        calls += 1;
        assert!(calls < 1000, "it goes to another thread");
        match call(1).now_or_never() {
            Some(outputs) => {
                assert_eq!(values(&outputs.unwrap()[0].tensor), [2.0, 2.0]);
                in_a_row += 1;
            }
            None => {
                in_a_row = 0;
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
    }
    // The other thread may answer before this one looks, but not every time.
    let mut calls = 0;
    while call(2).now_or_never().is_some() {
        calls += 1;
        assert!(calls < 1000, "it never goes to another thread");
    }
    assert_eq!(call(2).await.unwrap()[0].tensor.shape(), [2, 2]);
}

/// Would fail if a call whose number says how long it takes kept the thread that makes it from all others.
#[tokio::test]
async fn a_call_that_says_how_long_it_takes_is_computed_elsewhere() {
    need_onnxruntime!();
    let model = load("lengths").await.unwrap();
    let call = |steps: i32| {
        let steps = Tensor::new(DType::I32, [1], steps.to_ne_bytes().to_vec()).unwrap();
        model.run(vec![named("lengths", steps)])
    };
    // What would compute it here is made after the model is ready.
    for _ in 0..40 {
        call(1).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    // The other thread may answer before this one looks, but not every time.
    let mut calls = 0;
    while call(2000).now_or_never().is_some() {
        calls += 1;
        assert!(calls < 1000, "it never goes to another thread");
    }
    assert_eq!(call(2000).await.unwrap()[0].tensor.shape(), [1, 1, 32]);
}

/// Would fail if what pays on another processor were believed here.
#[tokio::test]
async fn what_another_kind_of_host_found_is_tried_again() {
    need_onnxruntime!();
    let theirs = Tried {
        processor: "another".to_owned(),
        cores: options().cores,
        trial: Trial::Alone("it doesn't pay there".to_owned()),
    };
    let config = Config {
        trials: vec![theirs.clone()],
        ..config("add")
    };
    let store = ModelStore::load(&[config], &options()).await.unwrap();
    let ours = store.get("add").unwrap().status().tried.unwrap();
    assert!(!ours.is_of_the_kind_of(&theirs), "{ours:?}");
    assert_ne!(ours.trial, theirs.trial);
}

/// Would fail if a model that computes without end were tried without end: it would never be ready.
#[tokio::test]
async fn a_trial_without_end_is_broken_off() {
    need_onnxruntime!();
    let two = Options {
        cores: 2.try_into().unwrap(),
        ..options()
    };
    let store = ModelStore::load(&[config("endless")], &two).await.unwrap();
    let tried = store.get("endless").unwrap().status().tried;
    let trial = tried.map(|tried| tried.trial);
    assert!(matches!(trial, Some(Trial::Spread(_))), "{trial:?}");
}

/// Would fail if the first call waited for a trial that takes long, if a call were lost or computed otherwise when the trial
/// is over, or if nothing came of it.
#[tokio::test]
async fn a_model_computes_while_it_is_tried() {
    need_onnxruntime!();
    let later = Options {
        tries_later: true,
        cores: 2.try_into().unwrap(),
        ..options()
    };
    let store = ModelStore::load(&[config("wide")], &later).await.unwrap();
    let model = store.get("wide").unwrap();
    let status = model.status();
    assert!(status.trying && !status.batched, "{status:?}");
    assert_eq!(status.tried, None);
    assert_eq!(model.batching(), Err("it isn't tried yet".to_owned()));
    let row: Vec<f32> = (0..16_u16).map(|x| f32::from(x) / 16.0).collect();
    let call = || async {
        let inputs = vec![named("x", f32s(&[1, 16], &row))];
        values(&model.run(inputs).await.unwrap()[0].tensor)
    };
    let first = call().await;
    let began = Instant::now();
    let untried = Err("it isn't tried yet".to_owned());
    let mut is_last = false;
    while !is_last {
        assert!(began.elapsed() < PATIENCE, "{:?}", model.status());
        // Also once by what the trial gave.
        is_last = model.batching() != untried;
        for outputs in join_all((0..4).map(|_| call())).await {
            let mut pairs = outputs.iter().zip(&first);
            assert!(pairs.all(|(now, before)| (now - before).abs() < 1e-5));
        }
    }
    // What was found beside calls isn't for others. It is tried again, now that there are none.
    let status = model.status();
    assert!(status.trying, "{status:?}");
    assert_eq!(status.tried, None);
    while model.status().trying {
        assert!(began.elapsed() < PATIENCE, "{:?}", model.status());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let status = model.status();
    let trial = status.tried.map(|tried| tried.trial);
    assert!(trial.is_some());
    assert_eq!(status.batched, trial == Some(Trial::Joined), "{trial:?}");
    assert_eq!(call().await.len(), first.len());
}

#[tokio::test]
async fn a_scalar_has_no_dimensions() {
    need_onnxruntime!();
    let scalar = load("scalar").await.unwrap();
    let outputs = scalar
        .run(vec![named("x", f32s(&[], &[21.]))])
        .await
        .unwrap();
    assert_eq!(outputs[0].tensor, f32s(&[], &[42.]));
}

/// Would fail if a session kept for good what one large call took, or one that was broken off.
#[tokio::test]
async fn what_a_large_call_took_is_given_back() {
    need_onnxruntime!();
    // One session computes all of it.
    let one = Options {
        cores: 1.try_into().unwrap(),
        ..options()
    };
    // The first computes as much as it takes, the second gives as much.
    let (shrink, add) = (("shrink", &["x"][..], 256), ("add", &["a", "b"][..], 2));
    for ((name, names, width), is_broken_off) in [(shrink, false), (add, false), (shrink, true)] {
        let store = ModelStore::load(&[config(name)], &one).await.unwrap();
        let model = store.get(name).unwrap();
        let inputs = |rows: u64| -> Vec<_> {
            let zeros = vec![0; (rows * width * 4) as usize];
            let tensor = Tensor::new(DType::F32, [rows, width], zeros).unwrap();
            names.iter().map(|it| named(it, tensor.clone())).collect()
        };
        for _ in 0..3 {
            model.run(inputs(1)).await.unwrap();
        }
        let (before, batches) = (resident(), model.metrics().batches);
        let more = || resident().saturating_sub(before) >> 20;
        // 256 MiB, and as much within the session.
        let rows = (256 << 18) / width;
        let call = {
            let (model, inputs) = (Arc::clone(&model), inputs(rows));
            tokio::spawn(async move { model.run(inputs).await })
        };
        if is_broken_off {
            // Zeros that are only read take no memory: it is the session's, which ends between two operators.
            while more() < 128 && !call.is_finished() {
                tokio::task::yield_now().await;
            }
            call.abort();
            let _ = call.await;
            while model.metrics().batches == batches {
                tokio::task::yield_now().await;
            }
            // It gives it back before it computes another.
            model.run(inputs(1)).await.unwrap();
        } else {
            let outputs = call.await.unwrap().unwrap();
            assert_eq!(outputs[0].tensor.shape()[0], rows);
        }
        assert!(more() < 128, "{name}: {} MiB more than before", more());
    }
}

/// Bytes of memory that the process has.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"));
    line.unwrap().trim().parse::<u64>().unwrap() << 10
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_ends() {
    need_onnxruntime!();
    let one = Options {
        cores: 1.try_into().unwrap(),
        ..options()
    };
    let store = ModelStore::load(&[config("endless")], &one).await.unwrap();
    let endless = store.get("endless").unwrap();
    // With one core there is one session: the second call only begins when the first one ended.
    for _ in 0..2 {
        let before = endless.metrics();
        let call = {
            let endless = Arc::clone(&endless);
            tokio::spawn(async move { endless.run(vec![named("x", f32s(&[1], &[1.]))]).await })
        };
        while endless.metrics().queue_time == before.queue_time {
            tokio::task::yield_now().await;
        }
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
        while endless.metrics().batches == before.batches {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn refusals_name_the_model_and_the_reason() {
    need_onnxruntime!();
    let refused =
        |name: &'static str| async move { load(name).await.map(|_| ()).unwrap_err().to_string() };
    let error = refused("unknown-operator").await;
    assert!(
        error.starts_with("model `unknown-operator` was refused: ") && error.contains("Frobnicate"),
        "{error}"
    );
    let error = refused("text").await;
    assert!(
        error.contains("its input `x` has elements of type String"),
        "{error}"
    );
    let error = refused("absent").await;
    assert!(
        error.starts_with("model `absent`: ") && error.ends_with("absent.onnx can't be read"),
        "{error}"
    );

    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        Config {
            name: name.to_owned(),
            file,
            ..config("add")
        }
    };
    let network = std::fs::read(data("network.onnx")).unwrap();
    for (name, bytes, word) in [
        ("truncated", &network[..network.len() / 2], "was refused"),
        ("noise", &[0x5a; 100][..], "was refused"),
        ("zip", b"PK\x03\x04", "PyTorch"),
        ("empty", b"", "it is empty"),
    ] {
        let error = ModelStore::load(&[write(name, bytes)], &options())
            .await
            .map(|_| ())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(&format!("model `{name}`")) && error.contains(word),
            "{error}"
        );
    }
}

#[tokio::test]
async fn the_digest_is_checked() {
    need_onnxruntime!();
    let digest = hex::encode(sha2::Sha256::digest(
        std::fs::read(data("add.onnx")).unwrap(),
    ));
    let good = Config {
        sha256: Some(digest.to_uppercase()),
        ..config("add")
    };
    ModelStore::load(&[good], &options()).await.unwrap();
    let bad = Config {
        sha256: Some("00".repeat(32)),
        ..config("add")
    };
    let error = ModelStore::load(&[bad], &options())
        .await
        .map(|_| ())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&digest) && error.contains(&"00".repeat(32)),
        "{error}"
    );
}

#[tokio::test]
async fn names_are_found_or_listed() {
    need_onnxruntime!();
    let store = ModelStore::load(&[config("add"), config("fixed")], &options())
        .await
        .unwrap();
    let error = store.find("ad").map(|_| ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no model `ad`: the function's models are `add`, `fixed`"
    );
    let error = ModelStore::empty(&options())
        .find("x")
        .map(|_| ())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no model `x`: the function has no models (spec.models is empty)"
    );
    let error = ModelStore::load(&[config("add"), config("add")], &options())
        .await
        .map(|_| ())
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "there are two models named `add`: each needs a name of its own"
    );
}

/// On a machine with a GPU and a CUDA build this shows the opposite, so it says which it saw.
#[tokio::test]
async fn a_gpu_is_had_or_refused_with_a_reason_and_never_replaced() {
    need_onnxruntime!();
    let gpu = Config {
        device: Device::Gpu,
        ..config("add")
    };
    match ModelStore::load(&[gpu], &options()).await {
        Ok(store) => {
            let device = store.status().remove(0).device;
            eprintln!("a GPU is here: {device}");
            assert!(device.starts_with("gpu"), "{device}");
        }
        Err(error) => {
            eprintln!("skipped: computing on a GPU ({error})");
            let start = "model `add` asks for a GPU (device: gpu), and none can be had: ";
            let error = error.to_string();
            assert!(
                error.starts_with(start) && error.len() > start.len(),
                "{error}"
            );
            let auto = Config {
                device: Device::Auto,
                ..config("add")
            };
            let status = ModelStore::load(&[auto], &options())
                .await
                .unwrap()
                .status()
                .remove(0);
            assert_eq!(status.device, "cpu");
            assert!(error.ends_with(&status.device_reason.unwrap()), "{error}");
        }
    }
}

/// Would fail if a guest could have as many sessions, with threads of their own, as it has tiny files.
#[tokio::test]
async fn guests_have_so_many_models_at_once_and_no_more() {
    need_onnxruntime!();
    let store = ModelStore::empty(&options());
    let add = std::fs::read(data("add.onnx")).unwrap();
    let load = |number: u8| {
        // `ModelProto.doc_string`: another file, the same model.
        let bytes = [&*add, &[0x32, 1, number]].concat();
        store.load_bytes(bytes.into(), Device::Cpu)
    };
    let mut held = Vec::new();
    let refused = loop {
        match load(b'0' + u8::try_from(held.len()).unwrap()).await {
            Ok(model) => held.push(model),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(refused, LoadError::TooMany { allowed, .. } if allowed == held.len()),
        "{refused}"
    );
    held.truncate(held.len() / 2);
    // Their threads end after them.
    while let Err(error) = load(b'z').await {
        assert!(matches!(error, LoadError::TooMany { .. }), "{error}");
        tokio::task::yield_now().await;
    }
}

/// Would fail if a guest's model could have names so long that the messages which repeat them fill the host's memory.
#[tokio::test]
async fn names_are_as_long_as_names_are() {
    need_onnxruntime!();
    let store = ModelStore::empty(&options());
    // A model that gives back what it takes, under names of its own.
    let named_model = |input: &str, operator: &str| {
        let field = |number: u8, inner: &[u8]| {
            let mut bytes = vec![number << 3 | 2];
            let mut len = inner.len();
            while len >= 0x80 {
                bytes.push(len as u8 | 0x80);
                len >>= 7;
            }
            bytes.push(len as u8);
            bytes.extend(inner);
            bytes
        };
        let text = |number, text: &str| field(number, text.as_bytes());
        let dims = field(2, &field(1, &[0x08, 1]));
        let info = |name: &str| {
            let tensor = field(1, &[&[0x08, 1][..], &dims].concat());
            [text(1, name), field(2, &tensor)].concat()
        };
        let node = [text(1, input), text(2, "y"), text(4, operator)].concat();
        let (x, y) = (field(11, &info(input)), field(12, &info("y")));
        let graph = [field(1, &node), text(2, "g"), x, y].concat();
        let opset = field(8, &[0x10, 18]);
        [&[0x08, 9][..], &opset, &field(7, &graph)].concat()
    };
    let load = async |input: &str, operator: &str| {
        let bytes = named_model(input, operator);
        store.load_bytes(bytes.into(), Device::Cpu).await
    };
    let model = load(&"x".repeat(1024), "Identity").await.unwrap();
    let error = model.run(Vec::new()).await.unwrap_err().to_string();
    assert!(error.contains("xxx"), "{error}");
    for (input, operator) in [(1025, "Identity".to_owned()), (1, "x".repeat(1 << 20))] {
        let error = load(&"x".repeat(input), &operator).await;
        let error = error.map(|_| ()).unwrap_err().to_string();
        assert!(
            error.contains("was refused") && error.len() < 20_000,
            "{} bytes",
            error.len()
        );
    }
}

#[tokio::test]
async fn a_guests_bytes_are_loaded_once_and_never_read_other_files() {
    need_onnxruntime!();
    let store = ModelStore::empty(&options());
    let read = |name: &str| bytes::Bytes::from(std::fs::read(data(name)).unwrap());
    let (one, two) = tokio::join!(
        store.load_bytes(read("add.onnx"), Device::Cpu),
        store.load_bytes(read("add.onnx"), Device::Cpu)
    );
    assert!(Arc::ptr_eq(&one.unwrap(), &two.unwrap()));

    let error = store
        .load_bytes(read("outside.onnx"), Device::Cpu)
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(matches!(error, LoadError::ExternalData { .. }), "{error}");
    let error = store
        .load_bytes(read("network.onnx").slice(..2000), Device::Cpu)
        .await
        .map(|_| ())
        .unwrap_err();
    assert!(error.to_string().contains("truncated"), "{error}");
    // ONNX Runtime takes this for the model's graph once more: it looks at 32 bits of the field's tag.
    let hidden = [&read("add.onnx")[..], &[0xba, 0x80, 0x80, 0x80, 0x10, 0]].concat();
    let error = store.load_bytes(hidden.into(), Device::Cpu).await;
    let error = error.map(|_| ()).unwrap_err();
    assert!(matches!(error, LoadError::Format { .. }), "{error}");

    // A function's own model may keep its numbers beside it.
    let outside = load("outside").await.unwrap();
    let outputs = outside
        .run(vec![named("x", f32s(&[1, 2], &[10., 10.]))])
        .await
        .unwrap();
    assert_eq!(values(&outputs[0].tensor), [11., 12.]);
}

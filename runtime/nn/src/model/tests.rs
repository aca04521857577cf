//! How a model begins, with lanes that compute nothing.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, ThreadId};

use futures::FutureExt;
use futures::future::{BoxFuture, ready};
use futures::stream::{FuturesUnordered, StreamExt};
use wisp_contract::config::Batching;

use super::*;
use crate::backend::{Abort, BackendError, Lane};
use crate::{DType, TensorInfo};

/// Gives back what it is given, and remembers where it was prepared and where it computed.
struct Echo {
    prepared: Option<ThreadId>,
    begun: Arc<AtomicUsize>,
    ready: Arc<AtomicUsize>,
    elsewhere: Arc<AtomicUsize>,
}

impl Lane for Echo {
    fn prepares(&self) -> bool {
        true
    }

    fn prepare(&mut self) {
        self.begun.fetch_add(1, Ordering::SeqCst);
        // Whoever didn't wait for it would be gone by then.
        thread::sleep(Duration::from_millis(20));
        self.prepared = Some(thread::current().id());
        self.ready.fetch_add(1, Ordering::SeqCst);
    }

    fn run<'a>(
        &'a mut self,
        items: &'a [Item],
        _abort: &'a Abort,
    ) -> BoxFuture<'a, Result<Vec<Vec<Tensor>>, BackendError>> {
        if self.prepared != Some(thread::current().id()) {
            self.elsewhere.fetch_add(1, Ordering::SeqCst);
        }
        ready(Ok(items.iter().map(|item| item.inputs.clone()).collect())).boxed()
    }
}

/// Would fail if a model were ready before its first lanes are, or if a lane were prepared on another thread than it
/// computes on: CUDA's graphs are kept by thread.
#[test]
fn a_model_is_ready_once_its_first_lanes_are_prepared() {
    begins(false);
    begins(true);
}

/// A model of these lanes, which takes a byte and gives one.
fn loaded(lanes: Vec<Box<dyn Lane>>) -> Loaded {
    let info = TensorInfo {
        name: "x".to_owned(),
        dtype: DType::U8,
        dims: vec![Some(1)],
    };
    Loaded {
        backend: "test".to_owned(),
        device: "here".to_owned(),
        device_reason: None,
        inputs: vec![info.clone()],
        outputs: vec![info],
        joinable: Err("it is one item".to_owned()),
        tried: None,
        lanes,
        solo: None,
        more: Box::new(std::iter::empty()),
        inline: None,
        later: None,
    }
}

/// Computes until it is told to end, whoever waits.
struct Stubborn(Option<mpsc::Receiver<()>>, mpsc::Sender<()>);

impl Lane for Stubborn {
    fn run<'a>(
        &'a mut self,
        items: &'a [Item],
        _abort: &'a Abort,
    ) -> BoxFuture<'a, Result<Vec<Vec<Tensor>>, BackendError>> {
        self.1.send(()).unwrap();
        if let Some(end) = self.0.take() {
            end.recv().unwrap();
        }
        ready(Ok(items.iter().map(|item| item.inputs.clone()).collect())).boxed()
    }
}

/// Would fail if a model gave its place away while a thread of it computes: there could be any number of such threads.
#[test]
fn a_place_is_kept_until_the_last_thread_ends() {
    let ((end, ended), (begin, begun)) = (mpsc::channel(), mpsc::channel());
    let loaded = loaded(vec![Box::new(Stubborn(Some(ended), begin))]);
    let places = Arc::new(tokio::sync::Semaphore::new(1));
    let place = Arc::clone(&places).try_acquire_owned().unwrap();
    let around = Around {
        place: Some(Arc::new(place)),
        ..around("stubborn")
    };
    let model = Model::start(around, loaded, Vec::new(), Instant::now()).unwrap();
    let mut call = Box::pin(call(&model));
    assert!(call.as_mut().now_or_never().is_none());
    begun.recv().unwrap();
    drop(call);
    drop(model);
    assert_eq!(places.available_permits(), 0);
    end.send(()).unwrap();
    // Ends where the thread does.
    let _ = crate::batch::block_on(places.acquire());
}

/// Would fail if a call were lost whose engine is replaced meanwhile, if what comes then went to the engine of before, or if
/// that one stayed.
#[test]
fn calls_go_on_while_another_engine_takes_over() {
    let ((end, ended), (begin, begun)) = (mpsc::channel(), mpsc::channel());
    let (begin_next, next_begun) = mpsc::channel();
    let (load, loading) = mpsc::channel::<()>();
    let mut first = loaded(vec![Box::new(Stubborn(Some(ended), begin))]);
    let is_tried = || Err("it was tried".to_owned());
    first.later = Some(Box::new(move |_stop| {
        // Another attempt waits for nobody.
        let _ = loading.recv();
        let next = loaded(vec![Box::new(Stubborn(None, begin_next.clone()))]);
        Ok(Loaded {
            joinable: is_tried(),
            ..next
        })
    }));
    let model = start(first);
    let mut before = Box::pin(call(&model));
    assert!(before.as_mut().now_or_never().is_none());
    begun.recv().unwrap();
    assert!(model.status().trying);
    drop(load);
    while model.batching() != is_tried().map(|()| NonZeroU32::MIN) {
        thread::yield_now();
    }
    crate::batch::block_on(call(&model)).unwrap();
    next_begun.recv().unwrap();
    let nothing_else = begun.try_recv().unwrap_err();
    assert_eq!(nothing_else, mpsc::TryRecvError::Empty, "it still computes");
    end.send(()).unwrap();
    crate::batch::block_on(before).unwrap();
    // Ends where the lane does.
    begun.recv().unwrap_err();
}

/// Would fail if a model that ends waited for a trial without telling it, or had another engine take calls thereafter.
#[test]
fn a_model_that_ends_is_not_tried_on() {
    let mut first = loaded(Vec::new());
    first.lanes = vec![Box::new(Stubborn(None, mpsc::channel().0))];
    first.later = Some(Box::new(|stop| {
        let (tell, told) = mpsc::channel();
        stop.on_abort(move || tell.send(()).unwrap());
        told.recv().unwrap();
        Ok(loaded(vec![Box::new(Stubborn(None, mpsc::channel().0))]))
    }));
    let model = start(first);
    model.stop();
    assert!(!model.status().trying);
    let error = crate::batch::block_on(call(&model)).unwrap_err();
    assert!(matches!(error, RunError::Stopped { .. }), "{error}");
}

fn around(name: &str) -> Around {
    Around {
        name: name.to_owned(),
        batching: Batching::default(),
        limit: NonZeroUsize::MIN.saturating_add(99),
        metrics: Arc::default(),
        activity: Arc::default(),
        place: None,
    }
}

fn start(loaded: Loaded) -> Model {
    Model::start(around("stubborn"), loaded, Vec::new(), Instant::now()).unwrap()
}

async fn call(model: &Model) -> Result<Vec<NamedTensor>, RunError> {
    let tensor = Tensor::new(DType::U8, [1], vec![7]).unwrap();
    model.run(vec![NamedTensor::new("x", tensor)]).await
}

fn begins(is_preloaded: bool) {
    let count = Arc::<AtomicUsize>::default;
    let (begun, ready, elsewhere) = (count(), count(), count());
    let lane = || -> Box<dyn Lane> {
        Box::new(Echo {
            prepared: None,
            begun: Arc::clone(&begun),
            ready: Arc::clone(&ready),
            elsewhere: Arc::clone(&elsewhere),
        })
    };
    let later = lane();
    let mut loaded = loaded(vec![lane(), lane()]);
    loaded.more = Box::new(std::iter::once(Ok(later)));
    let began = Instant::now();
    let name = "echo";
    let threads = if is_preloaded {
        loaded.complete();
        let threads = loaded.prepare(name).unwrap();
        assert_eq!((ready.load(Ordering::SeqCst), threads.len()), (3, 3));
        threads
    } else {
        Vec::new()
    };
    let model = Model::start(around(name), loaded, threads, began).unwrap();
    assert!(ready.load(Ordering::SeqCst) >= 2);
    assert!(model.status().load_millis >= 20);
    let calls: FuturesUnordered<_> = (0..100_u8)
        .map(|number| {
            let tensor = Tensor::new(DType::U8, [1], vec![number]).unwrap();
            model.run(vec![NamedTensor::new("x", tensor)])
        })
        .collect();
    let answers: Vec<_> = crate::batch::block_on(calls.collect());
    let mut numbers: Vec<u8> = answers
        .into_iter()
        .map(|answer| answer.unwrap()[0].tensor.data()[0])
        .collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..100));
    assert_eq!(elsewhere.load(Ordering::SeqCst), 0);
    // A process that ended while a lane is prepared would crash. The last needn't have begun.
    model.stop();
    let (begun, ready) = (begun.load(Ordering::SeqCst), ready.load(Ordering::SeqCst));
    assert!(
        ready >= 2 && begun == ready,
        "{ready} of {begun} lanes are ready"
    );
}

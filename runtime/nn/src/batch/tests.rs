//! The queue and its lanes, with a fake lane and a clock that tests move. What a real backend does is tried in
//! `tests/onnx.rs`.

use std::future::Future;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};

use super::clock::Clock;
use super::job::{Job, JobError, Key, Reply};
use super::queue::{Lanes, Queue, Role};
use super::worker::{Ended, work};
use crate::backend::{Abort, BackendError, Item, Lane};
use crate::metrics::Metrics;
use crate::{DType, Tensor};

const MS: Duration = Duration::from_millis(1);

/// tokio's clock, which tests pause.
struct TestClock;

impl Clock for TestClock {
    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn sleep_until(&self, deadline: Instant) -> impl Future<Output = ()> + Send {
        tokio::time::sleep_until(deadline.into())
    }
}

/// Takes a while, fails where an item's first byte is 255, gives each item back, and remembers the batches.
struct Fake {
    takes: Duration,
    batches: Arc<Mutex<Vec<Vec<u8>>>>,
    aborted: Arc<Mutex<u32>>,
}

impl Lane for Fake {
    fn run<'a>(
        &'a mut self,
        items: &'a [Item],
        abort: &'a Abort,
    ) -> BoxFuture<'a, Result<Vec<Vec<Tensor>>, BackendError>> {
        let aborted = Arc::clone(&self.aborted);
        abort.on_abort(move || *aborted.lock().unwrap() += 1);
        let firsts: Vec<u8> = items.iter().map(|item| item.inputs[0].data()[0]).collect();
        let failed = firsts.contains(&255);
        self.batches.lock().unwrap().push(firsts);
        let takes = self.takes;
        async move {
            tokio::time::sleep(takes).await;
            if failed {
                return Err(BackendError("255 is too much".into()));
            }
            Ok(items.iter().map(|item| item.inputs.clone()).collect())
        }
        .boxed()
    }
}

fn lanes(any: usize, has_solo: bool, growing: bool) -> Lanes {
    Lanes {
        any,
        has_solo,
        growing,
    }
}

struct Bench {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    batches: Arc<Mutex<Vec<Vec<u8>>>>,
    aborted: Arc<Mutex<u32>>,
}

impl Bench {
    fn new(lanes: usize, max_rows: u32, limit: usize) -> Self {
        Self::with(self::lanes(lanes, false, false), max_rows, limit)
    }

    /// The lane for items that are alone takes half as long as the others.
    fn with(lanes: Lanes, max_rows: u32, limit: usize) -> Self {
        let bench = Self::without_workers(lanes, max_rows, limit);
        if lanes.has_solo {
            bench.begin(Role::Solo, 16 * MS);
        }
        for _ in 0..lanes.any {
            bench.begin(Role::Any, 32 * MS);
        }
        bench
    }

    fn without_workers(lanes: Lanes, max_rows: u32, limit: usize) -> Self {
        let metrics = Arc::new(Metrics::default());
        let queue = Arc::new(Queue::new(
            NonZeroUsize::new(limit).unwrap(),
            NonZeroU32::new(max_rows).unwrap(),
            2 * MS,
            lanes,
            Arc::clone(&metrics),
        ));
        Self {
            queue,
            metrics,
            batches: Arc::default(),
            aborted: Arc::default(),
        }
    }

    fn begin(&self, role: Role, takes: Duration) {
        let lane = Fake {
            takes,
            batches: Arc::clone(&self.batches),
            aborted: Arc::clone(&self.aborted),
        };
        self.begin_with(role, lane);
    }

    fn begin_with(&self, role: Role, lane: impl Lane + 'static) {
        tokio::spawn(work(
            Arc::clone(&self.queue),
            Ended::new(&self.queue, role),
            Box::new(lane),
            Arc::clone(&self.metrics),
            TestClock,
        ));
    }

    /// One call of `rows` rows of bytes.
    fn call(&self, byte: u8, rows: u64) -> impl Future<Output = Reply> + Send + 'static {
        self.call_with(byte, rows, Key::Join(vec![1]))
    }

    fn call_with(
        &self,
        byte: u8,
        rows: u64,
        key: Key,
    ) -> impl Future<Output = Reply> + Send + 'static {
        self.call_of([rows, 1], byte, key)
    }

    /// One call of bytes of this shape.
    fn call_of(
        &self,
        shape: [u64; 2],
        byte: u8,
        key: Key,
    ) -> impl Future<Output = Reply> + Send + 'static {
        let [rows, row] = shape;
        let data = vec![byte; (rows * row) as usize];
        let tensor = Tensor::new(DType::U8, shape, data).unwrap();
        let (job, ticket) = Job::new(
            Item {
                inputs: vec![tensor],
                rows,
            },
            key,
            TestClock.now(),
        );
        let queue = Arc::clone(&self.queue);
        async move {
            queue.push(job)?;
            ticket.wait().await
        }
    }

    fn batches(&self) -> Vec<Vec<u8>> {
        self.batches.lock().unwrap().clone()
    }
}

fn byte(reply: &Reply) -> u8 {
    reply.as_ref().unwrap()[0].data()[0]
}

/// Lets every task run that can, without the clock moving.
async fn settle() {
    for _ in 0..32 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_arrives_during_a_batch_is_computed_together_and_everyone_gets_his_own() {
    let bench = Bench::new(1, 8, 64);
    let replies = join_all((0..5).map(|byte| bench.call(byte, 1))).await;
    assert_eq!(
        replies.iter().map(byte).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4]
    );
    assert_eq!(bench.batches().concat().len(), 5);
    assert!(bench.batches().len() <= 2, "{:?}", bench.batches());
}

#[tokio::test(start_paused = true)]
async fn a_batch_holds_no_more_rows_than_it_may_and_a_larger_call_goes_alone() {
    let bench = Bench::new(1, 4, 64);
    let calls = [(0, 1), (1, 3), (2, 2), (3, 9), (4, 1)];
    join_all(calls.map(|(byte, rows)| bench.call(byte, rows))).await;
    for batch in bench.batches() {
        let rows: u64 = batch.iter().map(|byte| calls[usize::from(*byte)].1).sum();
        assert!(rows <= 4 || batch == [3], "{batch:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn different_dimensions_are_never_joined() {
    let bench = Bench::new(1, 8, 64);
    let calls = (0..6).map(|byte| {
        let key = if byte % 3 == 2 {
            Key::Alone
        } else {
            Key::Join(vec![u64::from(byte % 3)])
        };
        bench.call_with(byte, 1, key)
    });
    join_all(calls).await;
    for batch in bench.batches() {
        assert!(
            batch.iter().all(|byte| byte % 3 == batch[0] % 3),
            "{batch:?}"
        );
        assert!(batch[0] % 3 != 2 || batch.len() == 1, "{batch:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lonely_caller_waits_for_nobody() {
    let bench = Bench::new(1, 8, 64);
    let started = tokio::time::Instant::now();
    for _ in 0..3 {
        bench.call(0, 1).await.unwrap();
    }
    assert_eq!(started.elapsed(), 3 * 32 * MS);
}

#[tokio::test(start_paused = true)]
async fn after_a_batch_of_several_the_lane_waits_a_thirty_second_for_those_who_come_back() {
    let bench = Bench::new(1, 8, 64);
    join_all((0..4).map(|byte| bench.call(byte, 1))).await;
    let before = bench.batches().len();
    let started = tokio::time::Instant::now();
    let first = tokio::spawn(bench.call(10, 1));
    settle().await;
    assert_eq!(bench.batches().len(), before, "it must wait for company");
    let second = tokio::spawn(bench.call(11, 1));
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    assert_eq!(bench.batches()[before..], [vec![10, 11]]);
    assert_eq!(started.elapsed(), 33 * MS);
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_waits_no_longer() {
    let bench = Bench::new(1, 2, 64);
    join_all((0..4).map(|byte| bench.call(byte, 1))).await;
    let started = tokio::time::Instant::now();
    join_all((0..2).map(|byte| bench.call(byte, 1))).await;
    assert_eq!(started.elapsed(), 32 * MS);
}

#[tokio::test(start_paused = true)]
async fn one_faulty_item_harms_no_other() {
    let bench = Bench::new(1, 8, 64);
    // The first keeps the lane busy, so that the others share a batch.
    let replies = join_all([0, 1, 255, 3].map(|byte| bench.call(byte, 1))).await;
    assert!(
        bench
            .batches()
            .iter()
            .any(|batch| batch.len() > 1 && batch.contains(&255)),
        "{:?}",
        bench.batches()
    );
    assert_eq!(
        replies[2],
        Err(JobError::Backend(BackendError("255 is too much".into())))
    );
    for index in [0, 1, 3] {
        assert_eq!(usize::from(byte(&replies[index])), index);
    }
    let seen = bench.metrics.snapshot();
    assert_eq!((seen.items, seen.failed), (4, 1));
    assert!(seen.reruns >= 2, "{seen:?}");
}

/// Would fail if all items of a batch were computed one by one because of one that is faulty, or batches were counted that
/// don't add up.
#[tokio::test(start_paused = true)]
async fn a_faulty_item_is_found_by_halves() {
    let bench = Bench::new(1, 8, 64);
    let busy = tokio::spawn(bench.call(0, 1));
    settle().await;
    let bytes = [1, 2, 255, 4, 5, 6, 7, 8];
    let replies = join_all(bytes.map(|byte| bench.call(byte, 1))).await;
    busy.await.unwrap().unwrap();
    for (sent, reply) in bytes.iter().zip(&replies) {
        assert_eq!(reply.is_err(), *sent == 255, "{sent}");
        assert!(reply.is_err() || byte(reply) == *sent, "{sent}");
    }
    let halves: [&[u8]; 8] = [
        &[0],
        &bytes,
        &bytes[..4],
        &bytes[..2],
        &bytes[2..4],
        &bytes[2..3],
        &bytes[3..4],
        &bytes[4..],
    ];
    assert_eq!(bench.batches(), halves);
    let seen = bench.metrics.snapshot();
    assert_eq!((seen.items, seen.failed, seen.reruns), (9, 1, 14));
    assert_eq!((seen.batches, seen.batch_items), (8, 23));
    assert_eq!(seen.batch_sizes, [3, 2, 2, 1, 0, 0, 0, 0, 0]);
}

/// Computes until nobody waits for it.
struct Patient;

impl Lane for Patient {
    fn run<'a>(
        &'a mut self,
        _: &'a [Item],
        abort: &'a Abort,
    ) -> BoxFuture<'a, Result<Vec<Vec<Tensor>>, BackendError>> {
        async {
            while !abort.is_aborted() {
                tokio::time::sleep(MS).await;
            }
            Err(BackendError("it was broken off".into()))
        }
        .boxed()
    }
}

/// Would fail if a call whose caller left while it was computed counted as one that the model failed.
#[tokio::test(start_paused = true)]
async fn what_is_broken_off_didnt_fail() {
    let bench = Bench::without_workers(lanes(1, false, false), 8, 8);
    bench.begin_with(Role::Any, Patient);
    for count in [1, 2] {
        let calls = (0..count).map(|byte| tokio::spawn(bench.call(byte, 1)));
        let calls: Vec<_> = calls.collect();
        settle().await;
        calls.iter().for_each(tokio::task::JoinHandle::abort);
        tokio::time::sleep(5 * MS).await;
    }
    let seen = bench.metrics.snapshot();
    assert_eq!((seen.items, seen.failed, seen.cancelled), (0, 0, 3));
}

/// Takes so long for each byte, or until nobody waits for it, and remembers how many items each batch had, of how many bytes.
struct Slow {
    byte_takes: Duration,
    batches: Arc<Mutex<Vec<(usize, usize)>>>,
}

impl Lane for Slow {
    fn run<'a>(
        &'a mut self,
        items: &'a [Item],
        abort: &'a Abort,
    ) -> BoxFuture<'a, Result<Vec<Vec<Tensor>>, BackendError>> {
        let bytes = items.iter().map(|item| item.inputs[0].data().len()).sum();
        self.batches.lock().unwrap().push((items.len(), bytes));
        let ends = TestClock.now() + self.byte_takes * u32::try_from(bytes).unwrap();
        async move {
            while TestClock.now() < ends {
                if abort.is_aborted() {
                    return Err(BackendError("it was broken off".into()));
                }
                tokio::time::sleep(MS).await;
            }
            Ok(items.iter().map(|item| item.inputs.clone()).collect())
        }
        .boxed()
    }
}

/// Gives the answers of calls at once, each of one row of so many bytes, those that came within `patience`.
async fn answered(bench: &Bench, calls: u8, row: u64, patience: Duration) -> usize {
    let calls = (0..calls).map(|byte| {
        let call = bench.call_of([1, row], byte, Key::Join(vec![row]));
        tokio::time::timeout(patience, call)
    });
    let replies = join_all(calls).await;
    let answered = |reply: &Result<Reply, _>| matches!(reply, Ok(Ok(_)));
    replies.iter().filter(|reply| answered(reply)).count()
}

/// Would fail if long rows were joined by what short ones take: all of their callers would wait in vain.
#[tokio::test(start_paused = true)]
async fn rows_are_joined_by_what_those_of_their_size_take() {
    let bench = Bench::without_workers(lanes(1, false, false), 32, 64);
    let batches = Arc::default();
    let lane = Slow {
        byte_takes: MS,
        batches: Arc::clone(&batches),
    };
    bench.begin_with(Role::Any, lane);
    let patience = Duration::from_secs(10);
    for _ in 0..2 {
        assert_eq!(answered(&bench, 1, 8, patience).await, 1);
        batches.lock().unwrap().clear();
        let long = answered(&bench, 32, 512, patience).await;
        let batches = batches.lock().unwrap();
        assert!(batches.iter().all(|(items, _)| *items <= 2), "{batches:?}");
        assert!(long >= 15, "{long}");
    }
}

/// Would fail if batches that take longer than anybody waits were made again and again.
#[tokio::test(start_paused = true)]
async fn a_batch_that_everybody_gave_up_on_is_not_made_as_large_again() {
    let bench = Bench::without_workers(lanes(1, false, false), 32, 64);
    let batches = Arc::default();
    let lane = Slow {
        byte_takes: Duration::from_secs(1),
        batches: Arc::clone(&batches),
    };
    bench.begin_with(Role::Any, lane);
    let mut rounds = Vec::new();
    for _ in 0..10 {
        rounds.push(answered(&bench, 32, 1, Duration::from_secs(5)).await);
    }
    let batches = batches.lock().unwrap();
    assert!(
        rounds[2..].iter().all(|count| *count >= 4),
        "{rounds:?} {batches:?}"
    );
}

/// Would fail if the numbers of a call that nobody waits for stayed in memory until a lane comes across it: whoever made it
/// no longer accounts for them.
#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_takes_its_numbers_along() {
    struct Held(#[expect(dead_code, reason = "it is counted")] Arc<()>);
    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &[7]
        }
    }
    let bench = Bench::without_workers(lanes(1, false, false), 8, 8);
    let (held, now) = (Arc::new(()), TestClock.now());
    let data = bytes::Bytes::from_owner(Held(Arc::clone(&held)));
    let item = Item {
        inputs: vec![Tensor::new(DType::U8, [1, 1], data).unwrap()],
        rows: 1,
    };
    let (job, ticket) = Job::new(item, Key::Join(vec![1]), now);
    bench.queue.push(job).unwrap();
    assert_eq!(Arc::strong_count(&held), 2);
    drop(ticket);
    assert_eq!(Arc::strong_count(&held), 1);
    bench.begin(Role::Any, 32 * MS);
    bench.call(1, 1).await.unwrap();
    assert_eq!(bench.batches(), [[1]]);
    assert_eq!(bench.metrics.snapshot().cancelled, 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_is_not_computed() {
    let bench = Bench::new(1, 8, 64);
    let busy = tokio::spawn(bench.call(0, 1));
    settle().await;
    let gone = tokio::spawn(bench.call(7, 1));
    settle().await;
    gone.abort();
    let stays = tokio::spawn(bench.call(1, 1));
    busy.await.unwrap().unwrap();
    stays.await.unwrap().unwrap();
    assert!(
        !bench.batches().concat().contains(&7),
        "{:?}",
        bench.batches()
    );
    assert_eq!(bench.metrics.snapshot().cancelled, 1);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_aborted_when_its_last_caller_goes_and_not_before() {
    let bench = Bench::new(1, 8, 64);
    let busy = tokio::spawn(bench.call(0, 1));
    settle().await;
    let calls = [1, 2].map(|byte| tokio::spawn(bench.call(byte, 1)));
    busy.await.unwrap().unwrap();
    tokio::time::sleep(5 * MS).await;
    assert_eq!(bench.batches().last().unwrap(), &[1, 2]);
    calls[0].abort();
    settle().await;
    assert_eq!(*bench.aborted.lock().unwrap(), 0);
    calls[1].abort();
    settle().await;
    assert_eq!(*bench.aborted.lock().unwrap(), 1);
}

/// Would fail if a call that was left counted as answered because others of its batch were.
#[tokio::test(start_paused = true)]
async fn who_goes_while_a_batch_is_computed_is_counted() {
    let bench = Bench::new(1, 8, 64);
    let busy = tokio::spawn(bench.call(0, 1));
    settle().await;
    let calls = [1, 2].map(|byte| tokio::spawn(bench.call(byte, 1)));
    busy.await.unwrap().unwrap();
    tokio::time::sleep(5 * MS).await;
    assert_eq!(bench.batches().last().unwrap(), &[1, 2]);
    let [gone, stays] = calls;
    gone.abort();
    stays.await.unwrap().unwrap();
    let seen = bench.metrics.snapshot();
    assert_eq!((seen.items, seen.failed, seen.cancelled), (2, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_and_callers_that_went_make_room() {
    let bench = Bench::new(1, 1, 2);
    let busy = tokio::spawn(bench.call(0, 1));
    settle().await;
    let waiting = [1, 2].map(|byte| tokio::spawn(bench.call(byte, 1)));
    settle().await;
    assert_eq!(
        bench.call(3, 1).await,
        Err(JobError::QueueFull { limit: 2 })
    );
    assert_eq!(bench.metrics.snapshot().rejected, 1);
    waiting[0].abort();
    settle().await;
    bench.call(4, 1).await.unwrap();
    busy.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn lanes_share_the_work_and_end_when_the_queue_is_closed() {
    let bench = Bench::new(3, 1, 64);
    let started = tokio::time::Instant::now();
    let calls = join_all((0..6).map(|byte| bench.call(byte, 1)));
    let replies = calls.await;
    assert!(replies.iter().all(Result::is_ok));
    assert_eq!(started.elapsed(), 2 * 32 * MS);
    bench.queue.close();
    settle().await;
    assert_eq!(
        Arc::strong_count(&bench.queue),
        1,
        "every lane must have let go of it"
    );
    assert_eq!(bench.call(0, 1).await, Err(JobError::Stopped));
}

/// Would fail if a call that is alone were left to one core, or calls that aren't had to share all of them.
#[tokio::test(start_paused = true)]
async fn an_item_that_is_alone_gets_all_cores_and_others_the_lanes() {
    let lanes = lanes(2, true, false);
    let bench = Bench::with(lanes, 1, 64);
    settle().await;
    let started = tokio::time::Instant::now();
    for byte in 0..3 {
        bench.call(byte, 1).await.unwrap();
    }
    assert_eq!(started.elapsed(), 3 * 16 * MS, "one after another");

    let started = tokio::time::Instant::now();
    let replies = join_all((0..4).map(|byte| bench.call(byte, 1))).await;
    assert!(replies.iter().all(Result::is_ok));
    assert_eq!(started.elapsed(), 2 * 32 * MS, "four at once, in two lanes");

    // One that comes while another is computed doesn't wait for it.
    let first = tokio::spawn(bench.call(1, 1));
    settle().await;
    let started = tokio::time::Instant::now();
    bench.call(2, 1).await.unwrap();
    assert_eq!(started.elapsed(), 32 * MS);
    first.await.unwrap().unwrap();

    // And again the next.
    let started = tokio::time::Instant::now();
    bench.call(3, 1).await.unwrap();
    assert_eq!(started.elapsed(), 16 * MS);
    bench.queue.close();
    settle().await;
    assert_eq!(
        Arc::strong_count(&bench.queue),
        1,
        "every lane must have let go of it"
    );
}

/// Would fail if the lane for what is alone waited for company, and then left two calls to nobody.
#[tokio::test(start_paused = true)]
async fn the_lane_for_what_is_alone_waits_for_no_company() {
    let bench = Bench::with(lanes(1, true, false), 8, 64);
    settle().await;
    assert!(
        join_all((0..4).map(|byte| bench.call(byte, 1)))
            .await
            .iter()
            .all(Result::is_ok)
    );
    let first = tokio::spawn(bench.call(4, 1));
    settle().await;
    let second = tokio::spawn(bench.call(5, 1));
    let both = tokio::time::timeout(1000 * MS, join_all([first, second]));
    assert!(both.await.is_ok(), "{:?}", bench.batches());
}

/// Would fail if a model whose lanes are still being made kept calls waiting, or lanes that came late had nothing to do.
#[tokio::test(start_paused = true)]
async fn until_there_are_lanes_one_computes_everything() {
    let lanes = lanes(0, true, true);
    let bench = Bench::with(lanes, 1, 64);
    let started = tokio::time::Instant::now();
    let replies = join_all((0..3).map(|byte| bench.call(byte, 1))).await;
    assert!(replies.iter().all(Result::is_ok));
    assert_eq!(started.elapsed(), 3 * 16 * MS);

    let calls = tokio::spawn(join_all((0..3).map(|byte| bench.call(byte, 1))));
    settle().await;
    let started = tokio::time::Instant::now();
    for _ in 0..2 {
        assert!(bench.queue.lane_begins());
        bench.begin(Role::Any, 32 * MS);
    }
    assert!(calls.await.unwrap().iter().all(Result::is_ok));
    assert_eq!(started.elapsed(), 32 * MS, "the two that waited, at once");

    // In a lane the fourth would wait for one of the others.
    let four = || join_all((0..4).map(|byte| bench.call(byte, 1)));
    let started = tokio::time::Instant::now();
    assert!(four().await.iter().all(Result::is_ok));
    assert_eq!(started.elapsed(), 32 * MS, "two in lanes, two by the first");
    bench.queue.grown();
    let started = tokio::time::Instant::now();
    assert!(four().await.iter().all(Result::is_ok));
    assert_eq!(started.elapsed(), 2 * 32 * MS, "all in lanes");
    bench.queue.close();
    assert!(!bench.queue.lane_begins(), "the model is gone");
}

/// Would fail if an item that is alone waited for a thread, or others for one who computes himself.
#[tokio::test(start_paused = true)]
async fn who_is_alone_computes_himself_where_that_takes_microseconds() {
    let bench = Bench::new(1, 8, 64);
    settle().await;
    let item = |byte: u8| Item {
        inputs: vec![Tensor::new(DType::U8, vec![1], vec![byte]).unwrap()],
        rows: 1,
    };
    assert!(bench.queue.take_inline().is_none(), "there is none yet");
    bench.queue.set_inline(Box::new(Fake {
        takes: MS,
        batches: Arc::clone(&bench.batches),
        aborted: Arc::clone(&bench.aborted),
    }));
    let inline = bench.queue.take_inline().unwrap();
    assert!(bench.queue.take_inline().is_none(), "it is taken");
    let started = tokio::time::Instant::now();
    let (alone, other) = futures::join!(
        inline.compute(item(1), &bench.metrics, &TestClock),
        bench.call(2, 1)
    );
    assert_eq!((byte(&alone), byte(&other)), (1, 2));
    assert_eq!(started.elapsed(), 32 * MS, "the lane's, at once");
    assert_eq!(bench.metrics.snapshot().items, 2);

    // It isn't to be had while others wait or are computed, and then again.
    let call = tokio::spawn(bench.call(3, 1));
    settle().await;
    assert!(bench.queue.take_inline().is_none());
    call.await.unwrap().unwrap();
    settle().await;
    let inline = bench.queue.take_inline().unwrap();
    let failed = inline.compute(item(255), &bench.metrics, &TestClock).await;
    assert!(matches!(failed, Err(JobError::Backend(_))));
    // Nor is it lost when nobody waits any more.
    let call = bench.queue.take_inline().unwrap();
    drop(call.compute(item(4), &bench.metrics, &TestClock));
    assert!(bench.queue.take_inline().is_some());
    bench.queue.close();
    assert!(bench.queue.take_inline().is_none());
}

struct Panics;

impl Lane for Panics {
    fn run<'a>(
        &'a mut self,
        _: &'a [Item],
        _: &'a Abort,
    ) -> BoxFuture<'a, Result<Vec<Vec<Tensor>>, BackendError>> {
        async { panic!("on purpose") }.boxed()
    }
}

/// Would fail if those who wait were forgotten, or refused while there are lanes to come.
#[tokio::test(start_paused = true)]
async fn when_the_last_lane_dies_nobody_waits_for_ever() {
    let of = |growing| {
        let lanes = lanes(1, false, growing);
        Bench::without_workers(lanes, 1, 8)
    };
    let bench = of(false);
    let calls = [0, 1].map(|byte| tokio::spawn(bench.call(byte, 1)));
    settle().await;
    bench.begin_with(Role::Any, Panics);
    for call in calls {
        assert_eq!(call.await.unwrap(), Err(JobError::Stopped));
    }

    let bench = of(true);
    let [first, second] = [0, 1].map(|byte| tokio::spawn(bench.call(byte, 1)));
    settle().await;
    bench.begin_with(Role::Any, Panics);
    assert_eq!(first.await.unwrap(), Err(JobError::Stopped));
    assert!(bench.queue.lane_begins());
    bench.begin(Role::Any, 32 * MS);
    bench.queue.grown();
    second.await.unwrap().unwrap();

    let bench = of(true);
    let calls = [0, 1].map(|byte| tokio::spawn(bench.call(byte, 1)));
    settle().await;
    bench.begin_with(Role::Any, Panics);
    settle().await;
    bench.queue.grown();
    for call in calls {
        assert_eq!(call.await.unwrap(), Err(JobError::Stopped));
    }
}

/// Would fail if a lane that died counted as one that computes, next to which nobody is alone.
#[tokio::test(start_paused = true)]
async fn what_a_lane_had_when_it_died_is_computed_no_longer() {
    let lanes = lanes(2, true, false);
    let bench = Bench::without_workers(lanes, 1, 8);
    bench.begin_with(Role::Any, Panics);
    settle().await;
    assert_eq!(bench.call(0, 1).await, Err(JobError::Stopped));
    bench.begin(Role::Any, 32 * MS);
    bench.begin(Role::Solo, 16 * MS);
    settle().await;
    let started = tokio::time::Instant::now();
    bench.call(1, 1).await.unwrap();
    assert_eq!(started.elapsed(), 16 * MS);
}

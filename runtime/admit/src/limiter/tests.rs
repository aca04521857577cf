use std::pin::pin;
use std::sync::atomic::AtomicUsize;

use super::*;

fn limiter(in_flight: u32, queue: u32, queue_bytes: u64) -> Limiter {
    Limiter::new(Limits {
        in_flight,
        queue,
        queue_bytes,
    })
}

fn later() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

macro_rules! waits {
    ($future:expr) => {
        assert!(futures_poll($future.as_mut()).is_none(), "it should wait")
    };
}

fn futures_poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match future.poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

#[tokio::test]
async fn places_go_out_in_the_order_of_arrival() {
    let limiter = limiter(1, 8, 0);
    let first = limiter.acquire(0, later()).await.unwrap();
    assert_eq!(first.waited(), Duration::ZERO);
    let mut second = pin!(limiter.acquire(0, later()));
    let mut third = pin!(limiter.acquire(0, later()));
    waits!(second);
    waits!(third);
    assert_eq!(
        limiter.load(),
        Load {
            in_flight: 1,
            queued: 2
        }
    );
    assert!(limiter.try_acquire().is_none());

    drop(first);
    waits!(third);
    assert!(
        limiter.try_acquire().is_none(),
        "nobody overtakes who waits"
    );
    let second = second.await.unwrap();
    assert!(second.waited() > Duration::ZERO);
    drop(second);
    drop(third.await.unwrap());
    assert_eq!(limiter.load(), Load::default());
}

#[tokio::test]
async fn the_queue_is_bounded_by_count_and_by_bytes() {
    let limiter = limiter(1, 2, 100);
    let _running = limiter.acquire(1_000, later()).await.unwrap();
    assert_eq!(
        limiter.acquire(101, later()).await.unwrap_err(),
        Refused::QueueBytesFull { allowed: 100 }
    );
    let mut one = pin!(limiter.acquire(60, later()));
    waits!(one);
    assert_eq!(
        limiter.acquire(41, later()).await.unwrap_err(),
        Refused::QueueBytesFull { allowed: 100 }
    );
    let mut two = pin!(limiter.acquire(40, later()));
    waits!(two);
    assert_eq!(
        limiter.acquire(0, later()).await.unwrap_err(),
        Refused::QueueFull { allowed: 2 }
    );
}

#[tokio::test]
async fn who_leaves_frees_its_room_in_the_queue() {
    let limiter = limiter(1, 1, 10);
    let running = limiter.acquire(0, later()).await.unwrap();
    {
        let mut leaves = pin!(limiter.acquire(10, later()));
        waits!(leaves);
    }
    let mut stays = pin!(limiter.acquire(10, later()));
    waits!(stays);
    drop(running);
    assert!(stays.await.is_ok());
}

#[tokio::test]
async fn who_leaves_after_it_was_granted_a_place_passes_it_on() {
    let limiter = limiter(1, 2, 0);
    let running = limiter.acquire(0, later()).await.unwrap();
    {
        let mut leaves = pin!(limiter.acquire(0, later()));
        waits!(leaves);
        drop(running);
        assert_eq!(
            limiter.load(),
            Load {
                in_flight: 1,
                queued: 0
            }
        );
    }
    assert_eq!(limiter.load(), Load::default());
}

#[tokio::test]
async fn the_deadline_ends_the_wait() {
    let limiter = limiter(1, 1, 0);
    let _running = limiter.acquire(0, later()).await.unwrap();
    assert_eq!(
        limiter.acquire(0, Instant::now()).await.unwrap_err(),
        Refused::DeadlinePassed
    );
    assert_eq!(
        limiter.load(),
        Load {
            in_flight: 1,
            queued: 0
        }
    );
}

#[tokio::test]
async fn more_places_let_those_who_wait_in_and_fewer_keep_those_who_run() {
    let limiter = limiter(0, 4, 0);
    let mut one = pin!(limiter.acquire(0, later()));
    let mut two = pin!(limiter.acquire(0, later()));
    let mut three = pin!(limiter.acquire(0, later()));
    waits!(one);
    waits!(two);
    waits!(three);
    limiter.set_in_flight(2);
    let one = one.await.unwrap();
    let two = two.await.unwrap();
    waits!(three);
    limiter.set_in_flight(1);
    drop(one);
    waits!(three);
    drop(two);
    assert!(three.await.is_ok());
}

#[tokio::test]
async fn a_closed_limiter_refuses_and_keeps_its_permits() {
    let limiter = limiter(1, 4, 0);
    let running = limiter.acquire(0, later()).await.unwrap();
    let mut waiting = pin!(limiter.acquire(0, later()));
    waits!(waiting);
    limiter.close();
    assert_eq!(waiting.await.unwrap_err(), Refused::Closed);
    assert_eq!(
        limiter.load(),
        Load {
            in_flight: 1,
            queued: 0
        }
    );
    drop(running);
    assert_eq!(
        limiter.acquire(0, later()).await.unwrap_err(),
        Refused::Closed
    );
    assert_eq!(limiter.load(), Load::default());
}

/// Many tasks on several threads take places, hold them across a yield, and a third of them leave early. A lost
/// wake-up would hang it, a place given out twice would exceed the limit, and one lost would leave a count behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_contention_the_bound_holds_and_no_place_is_lost() {
    const PLACES: usize = 3;
    let limiter = limiter(3, 10_000, 0);
    let running = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let (limiter, running) = (limiter.clone(), running.clone());
            tokio::spawn(async move {
                for round in 0..200 {
                    if (task + round) % 3 == 0 {
                        let _ = futures_poll(pin!(limiter.acquire(0, later())));
                        continue;
                    }
                    let permit = limiter.acquire(0, later()).await.unwrap();
                    assert!(running.fetch_add(1, Ordering::SeqCst) < PLACES);
                    tokio::task::yield_now().await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    drop(permit);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(limiter.load(), Load::default());
}

#[tokio::test]
async fn a_changed_queue_bounds_who_comes_and_keeps_who_waits() {
    let limiter = limiter(1, 2, 100);
    let running = limiter.acquire(0, later()).await.unwrap();
    let mut one = pin!(limiter.acquire(60, later()));
    let mut two = pin!(limiter.acquire(40, later()));
    waits!(one);
    waits!(two);
    limiter.set_queue(1, 10);
    assert_eq!(
        limiter.acquire(0, later()).await.unwrap_err(),
        Refused::QueueFull { allowed: 1 }
    );
    limiter.set_queue(3, 10);
    assert_eq!(
        limiter.acquire(1, later()).await.unwrap_err(),
        Refused::QueueBytesFull { allowed: 10 }
    );
    limiter.set_queue(3, 101);
    let mut three = pin!(limiter.acquire(1, later()));
    waits!(three);
    // Those that were there before the queue shrank get their places.
    limiter.set_queue(0, 0);
    drop(running);
    drop(one.await.unwrap());
    drop(two.await.unwrap());
    assert!(three.await.is_ok());
    assert_eq!(limiter.load(), Load::default());
}

/// Would panic, or wrap around, where the sum of what clients declare exceeds 64 bits.
#[tokio::test]
async fn no_sum_of_declared_bytes_overflows() {
    let limiter = limiter(1, 8, u64::MAX);
    let _running = limiter.acquire(0, later()).await.unwrap();
    let mut waiting = pin!(limiter.acquire(u64::MAX, later()));
    waits!(waiting);
    assert_eq!(
        limiter.acquire(1, later()).await.unwrap_err(),
        Refused::QueueBytesFull { allowed: u64::MAX }
    );
}

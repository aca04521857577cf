use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::oneshot;
use futures::future::join;
use futures::stream::FuturesUnordered;

use crate::time::{sleep, timeout};
use crate::{spawn, test};

#[test]
fn timers_fire_in_their_order_and_take_no_time() {
    let order = test::block_on(async {
        let sleeps: FuturesUnordered<_> = [3, 1, 2]
            .into_iter()
            .map(|hours| async move {
                sleep(Duration::from_secs(3600 * hours)).await;
                hours
            })
            .collect();
        sleeps.collect::<Vec<_>>().await
    });
    assert_eq!(order, [1, 2, 3]);
}

#[test]
fn a_task_runs_beside_the_handler_and_after_it() {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let log = Rc::clone(&seen);
    test::block_on(async move {
        let task_log = Rc::clone(&log);
        spawn(async move {
            task_log.borrow_mut().push("task begins");
            sleep(Duration::from_secs(2)).await;
            task_log.borrow_mut().push("task ends");
            spawn(async move { task_log.borrow_mut().push("a task's task") });
        });
        sleep(Duration::from_secs(1)).await;
        log.borrow_mut().push("handler ends");
    });
    assert_eq!(
        *seen.borrow(),
        ["task begins", "handler ends", "task ends", "a task's task"]
    );
}

#[test]
fn a_task_wakes_the_handler() {
    let answer = test::block_on(async {
        let (sender, receiver) = oneshot::channel();
        spawn(async move {
            let _ = sender.send(7);
        });
        receiver.await
    });
    assert_eq!(answer, Ok(7));
}

#[test]
fn another_thread_wakes_the_handler() {
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::spawn(move || sender.send(7));
    assert_eq!(test::block_on(receiver), Ok(7));
    thread.join().unwrap().unwrap();
}

#[test]
fn what_is_too_late_is_dropped() {
    let dropped = Rc::new(());
    let held = Rc::clone(&dropped);
    let result = test::block_on(timeout(Duration::from_secs(1), async move {
        sleep(Duration::from_secs(2)).await;
        drop(held);
    }));
    assert_eq!(result.unwrap_err().to_string(), "not done within 1s");
    assert_eq!(Rc::strong_count(&dropped), 1);
}

#[test]
fn two_limits_at_once_are_told_apart() {
    let (fast, slow) = test::block_on(join(
        timeout(Duration::from_secs(2), sleep(Duration::from_secs(1))),
        timeout(Duration::from_secs(2), sleep(Duration::from_secs(3))),
    ));
    assert!(fast.is_ok() && slow.is_err());
}

/// Would fail if a task vanished without a word, or an instance that serves again told of it with every request.
#[test]
fn a_task_that_can_not_go_on_is_told_once() {
    test::block_on(async {
        spawn(std::future::pending());
        spawn(std::future::pending());
    });
    test::block_on(async {});
    let told: Vec<_> = test::logs().into_iter().map(|line| line.message).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(
        told[0]
            .starts_with("2 of the tasks beside the handler, as `wisp::spawn` begins, didn't end: the function waits"),
        "{told:?}"
    );
}

/// Would fail if one that only yields kept others from what they wait for.
#[test]
fn who_only_yields_keeps_nobody_waiting() {
    let endless = || async {
        loop {
            yield_now().await;
        }
    };
    let late = test::block_on(timeout(Duration::from_secs(1), endless()));
    assert!(late.is_err());
    let slept = Rc::new(Cell::new(false));
    let told = Rc::clone(&slept);
    test::block_on(async move {
        let seen = Rc::clone(&told);
        spawn(async move {
            while !seen.get() {
                yield_now().await;
            }
        });
        sleep(Duration::from_secs(1)).await;
        told.set(true);
    });
    assert!(slept.get());
}

async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

//! What the executor sleeps on: the pollables that futures wait for, all in one `wasi:io/poll.poll`.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use wasip2::io::poll::{self, Pollable};

use crate::task::Stalled;

thread_local! {
    static WAITING: RefCell<Vec<(Rc<Pollable>, Waker)>> = const { RefCell::new(Vec::new()) };
}

/// A future that is ready when `pollable` is.
pub(crate) struct Ready {
    pollable: Rc<Pollable>,
    registered: bool,
}

impl Ready {
    pub(crate) fn new(pollable: Pollable) -> Self {
        Self {
            pollable: Rc::new(pollable),
            registered: false,
        }
    }
}

impl Future for Ready {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if !self.registered {
            let entry = (Rc::clone(&self.pollable), context.waker().clone());
            WAITING.with_borrow_mut(|waiting| waiting.push(entry));
            self.registered = true;
            return Poll::Pending;
        }
        WAITING.with_borrow_mut(|waiting| {
            match waiting
                .iter_mut()
                .find(|(pollable, _)| Rc::ptr_eq(pollable, &self.pollable))
            {
                Some((_, waker)) => {
                    waker.clone_from(context.waker());
                    Poll::Pending
                }
                // `park` took it out of the list, which it does when it is ready.
                None => Poll::Ready(()),
            }
        })
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        // The list's reference goes too: a pollable must be dropped before the stream that it is of.
        if self.registered {
            WAITING.with_borrow_mut(|waiting| {
                waiting.retain(|(pollable, _)| !Rc::ptr_eq(pollable, &self.pollable))
            });
        }
    }
}

/// How many turns futures may have that never wait until others are looked after: a look calls the host.
pub(crate) const TURNS: u32 = 4;

/// Wakes who waits for a pollable that is ready.
pub(crate) fn look() {
    wake(|_, pollable| pollable.ready());
}

/// Sleeps until one of the pollables is ready, and wakes those that are.
pub(crate) fn park() -> Result<(), Stalled> {
    let ready = WAITING.with_borrow(|waiting| {
        let pollables: Vec<&Pollable> = waiting.iter().map(|(pollable, _)| &**pollable).collect();
        (!pollables.is_empty()).then(|| poll::poll(&pollables))
    });
    let ready = ready.ok_or(Stalled)?;
    // Both lists are short: a request waits for a handful of things.
    wake(|index, _| ready.iter().any(|&number| number as usize == index));
    Ok(())
}

/// Wakes those whose pollable, the first of them being number 0, is ready.
fn wake(is_ready: impl Fn(usize, &Pollable) -> bool) {
    let waiting = WAITING.take();
    let mut wakers = Vec::new();
    let mut rest = Vec::with_capacity(waiting.len());
    for (index, entry) in waiting.into_iter().enumerate() {
        if is_ready(index, &entry.0) {
            wakers.push(entry.1)
        } else {
            rest.push(entry)
        }
    }
    WAITING.set(rest);
    wakers.into_iter().for_each(Waker::wake);
}

/// As [`park`]: on a host, whoever waits for nothing waits in vain.
pub(crate) fn park_if_waiting() -> Result<(), Stalled> {
    park()
}

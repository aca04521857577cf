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

/// Sleeps until one of the pollables is ready, and wakes those that are.
pub(crate) fn park() -> Result<(), Stalled> {
    let waiting = WAITING.take();
    if waiting.is_empty() {
        return Err(Stalled);
    }
    let pollables: Vec<&Pollable> = waiting.iter().map(|(pollable, _)| &**pollable).collect();
    let ready = poll::poll(&pollables);
    let mut wakers = Vec::with_capacity(ready.len());
    let mut rest = Vec::with_capacity(waiting.len());
    for (index, entry) in waiting.into_iter().enumerate() {
        // Both lists are short: a request waits for a handful of things.
        let is_ready = ready.iter().any(|&number| number as usize == index);
        if is_ready {
            wakers.push(entry.1)
        } else {
            rest.push(entry)
        }
    }
    WAITING.set(rest);
    wakers.into_iter().for_each(Waker::wake);
    Ok(())
}

/// As [`park`]: on a host, whoever waits for nothing waits in vain.
pub(crate) fn park_if_waiting() -> Result<(), Stalled> {
    park()
}

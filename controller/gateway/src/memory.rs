//! What the gateway's memory is held by, and how much of it may be. Requests that wait, those for all functions together: what
//! each function allows its own may be more than there is.

use std::sync::atomic::{AtomicU64, Ordering};

use http::request::Parts;

use crate::connection::STREAM_WINDOW;

/// What a request that waits takes beside its head and its body: its task, its stream, its place in the queue.
const REQUEST: u64 = 8 << 10;

/// What all who wait may hold, and hold.
#[derive(Debug)]
pub(crate) struct Memory {
    allowed: u64,
    held: AtomicU64,
}

/// What one of them holds, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Held<'a> {
    memory: &'a Memory,
    own: &'a AtomicU64,
    bytes: u64,
}

impl Memory {
    pub(crate) fn new(allowed: u64) -> Self {
        Self {
            allowed,
            held: AtomicU64::new(0),
        }
    }

    pub(crate) fn allowed(&self) -> u64 {
        self.allowed
    }

    /// Room for a request that waits for a function, whose others hold `own`, if there is some.
    pub(crate) fn hold<'a>(&'a self, own: &'a AtomicU64, bytes: u64) -> Option<Held<'a>> {
        self.take(own, bytes).then(|| Held {
            memory: self,
            own,
            bytes,
        })
    }

    /// Takes so much for what holds `own` already, if there is room. Together that may be as much as it leaves: what waits for
    /// one function alone keeps nobody from waiting for another.
    pub(crate) fn take(&self, own: &AtomicU64, bytes: u64) -> bool {
        let of_function = own.load(Ordering::Relaxed).saturating_add(bytes);
        let with_it = |held: u64| {
            let sum = held.saturating_add(bytes);
            (of_function <= self.allowed.saturating_sub(sum)).then_some(sum)
        };
        let taken = self
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, with_it)
            .is_ok();
        if taken {
            own.fetch_add(bytes, Ordering::Relaxed);
        }
        taken
    }

    /// Takes so much for what holds `own` already, whether there is room or not: it is here.
    pub(crate) fn add(&self, own: &AtomicU64, bytes: u64) {
        for held in [&self.held, own] {
            held.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Whether what holds `own` holds no more than it leaves.
    pub(crate) fn has_room(&self, own: &AtomicU64) -> bool {
        let left = self
            .allowed
            .saturating_sub(self.held.load(Ordering::Relaxed));
        own.load(Ordering::Relaxed) <= left
    }

    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Gives back so much of what holds `own`, or all of it where that is less.
    pub(crate) fn give_back(&self, own: &AtomicU64, bytes: u64) {
        let less = |held: u64| Some(held.saturating_sub(bytes));
        let (Ok(held) | Err(held)) = own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        self.held.fetch_sub(held.min(bytes), Ordering::Relaxed);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.memory.give_back(self.own, self.bytes);
    }
}

/// What a request with this head holds while it waits, whose body has this `length` if it says so: of that no more is here than
/// may come unread.
pub(crate) fn of_request(head: &Parts, length: Option<u64>) -> u64 {
    let window = u64::from(STREAM_WINDOW);
    let path = head.uri.path_and_query().map_or(0, |it| it.as_str().len());
    let fields = head.headers.iter();
    let fields = fields.map(|(name, value)| name.as_str().len() + value.len());
    let head = u64::try_from(path + fields.sum::<usize>()).unwrap_or(u64::MAX);
    let body = length.map_or(window, |length| length.min(window));
    head.saturating_add(REQUEST + body)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if all that there is could be taken by those who wait for one function, or by more than there is room for, or
    /// what one held weren't given back.
    #[test]
    fn what_waits_for_one_function_leaves_room_for_others() {
        let memory = Memory::new(100);
        let functions = [(); 3].map(|()| AtomicU64::new(0));
        let [one, two, three] = &functions;
        let most = |own| -> Vec<_> { std::iter::from_fn(|| memory.hold(own, 10)).collect() };
        let mut of_one = most(one);
        assert_eq!(of_one.len(), 5);
        let of_two = most(two);
        assert_eq!((of_two.len(), most(three).len()), (2, 1));
        of_one.pop();
        // What is left is the others' as well.
        assert_eq!((most(one).len(), most(two).len()), (0, 1));
        drop((of_one, of_two));
        for (bytes, has_room) in [(51, false), (u64::MAX, false), (50, true), (50, true)] {
            assert_eq!(memory.hold(one, bytes).is_some(), has_room, "{bytes}");
        }
    }

    /// Would fail if a large head, or a body that nobody reads, counted as nothing, or what can't have come yet as there.
    #[test]
    fn a_request_holds_its_head_and_what_may_come_of_its_body() {
        let request = http::Request::post("http://x/a?b").header("name", "value");
        let parts = request.body(()).unwrap().into_parts().0;
        for (length, body) in [
            (Some(0), 0),
            (Some(1000), 1000),
            (Some(1 << 40), 256 << 10),
            (None, 256 << 10),
        ] {
            assert_eq!(of_request(&parts, length), (8 << 10) + 4 + 9 + body);
        }
    }
}

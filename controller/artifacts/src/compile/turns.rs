//! Whose turn it is to be prepared: who came first, but before all others what somebody waits for.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// One turn at a time, for sources by their digests.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_taken: bool,
    waiting: VecDeque<(String, oneshot::Sender<Turn>)>,
    hurried: BTreeSet<String>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(Arc<Turns>);

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn of `source`.
    pub(super) async fn take(self: &Arc<Self>, source: &str) -> Turn {
        loop {
            let (sender, receiver) = oneshot::channel();
            {
                let mut state = self.state();
                if !state.is_taken {
                    state.is_taken = true;
                    return Turn(Arc::clone(self));
                }
                state.waiting.push_back((source.to_owned(), sender));
            }
            // Nobody drops the other end without giving it a turn.
            if let Ok(turn) = receiver.await {
                return turn;
            }
        }
    }

    /// From now on these come before all others that wait, until they had their turn.
    pub(super) fn hurry(&self, sources: impl IntoIterator<Item = String>) {
        let state = &mut *self.state();
        // What isn't waited for will not have a turn that ends this.
        let is_waiting = |source: &String| state.waiting.iter().any(|(waits, _)| waits == source);
        state.hurried.extend(sources.into_iter().filter(is_waiting));
    }

    /// The next of those that wait.
    fn next(&self) -> Option<oneshot::Sender<Turn>> {
        let mut state = self.state();
        state.waiting.retain(|(_, sender)| !sender.is_closed());
        let state = &mut *state;
        let first = |(source, _): &(String, _)| state.hurried.contains(source);
        let place = state.waiting.iter().position(first).unwrap_or(0);
        let Some((source, sender)) = state.waiting.remove(place) else {
            state.is_taken = false;
            return None;
        };
        if !state.waiting.iter().any(|(waits, _)| *waits == source) {
            state.hurried.remove(&source);
        }
        Some(sender)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Who waits no more gives it on as it is dropped unreceived.
        if let Some(next) = self.0.next() {
            let _ = next.send(Turn(Arc::clone(&self.0)));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    /// Would fail if what is waited for came after what isn't, if a turn were given to two, or if one that nobody waits for any
    /// more were never given on.
    #[test]
    fn what_is_waited_for_comes_first() {
        let turns = Arc::new(Turns::default());
        let first = turns.take("a").now_or_never().unwrap();
        let mut waiting: Vec<_> = ["b", "c", "d", "d"]
            .into_iter()
            .map(|source| (source, Box::pin(turns.take(source))))
            .collect();
        for (source, turn) in &mut waiting {
            assert!(turn.now_or_never().is_none(), "{source}");
        }
        turns.hurry(["d".to_owned(), "nobody".to_owned()]);
        // The first of both gives up.
        drop(waiting.remove(2));
        let mut holding = Some(first);
        let mut order = Vec::new();
        while !waiting.is_empty() {
            drop(holding.take());
            let mut had = Vec::new();
            for (place, (source, turn)) in waiting.iter_mut().enumerate() {
                if let Some(turn) = turn.now_or_never() {
                    had.push((place, *source, turn));
                }
            }
            let (place, source, turn) = had.pop().unwrap();
            assert!(had.is_empty(), "two had it");
            drop(waiting.remove(place));
            order.push(source);
            holding = Some(turn);
        }
        assert_eq!(order, ["d", "b", "c"]);
        drop(holding);
        assert!(turns.state().hurried.is_empty());
        assert!(turns.take("e").now_or_never().is_some());
    }
}

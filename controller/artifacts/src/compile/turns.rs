//! Whose turn it is to be prepared: everybody's in turn, so that who has many doesn't keep others waiting. But before all else
//! what somebody waits for; and of one's own, what came first.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// One turn at a time, for sources by their digests.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    is_taken: bool,
    waiting: VecDeque<Waiting>,
    hurried: BTreeSet<String>,
    /// Who had turns of late, the last at the end: all that wait, and who had it last.
    had: Vec<String>,
}

#[derive(Debug)]
struct Waiting {
    whom: String,
    source: String,
    sender: oneshot::Sender<Turn>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(Arc<Turns>);

impl Turns {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn of `source`, for `whom`.
    pub(super) async fn take(self: &Arc<Self>, whom: &str, source: &str) -> Turn {
        loop {
            let (sender, receiver) = oneshot::channel();
            {
                let mut state = self.state();
                if !state.is_taken {
                    state.is_taken = true;
                    state.has(whom);
                    return Turn(Arc::clone(self));
                }
                state.waiting.push_back(Waiting {
                    whom: whom.to_owned(),
                    source: source.to_owned(),
                    sender,
                });
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
        state.hurried.extend(sources);
        state.forget_idle();
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        let state = self.state();
        let waiting = state.waiting.iter();
        waiting
            .filter(|waiting| !waiting.sender.is_closed())
            .count()
    }

    /// The next of those that wait.
    fn next(&self) -> Option<oneshot::Sender<Turn>> {
        let mut state = self.state();
        let next = state.take_next();
        state.forget_idle();
        state.is_taken = next.is_some();
        Some(next?.sender)
    }
}

impl State {
    fn take_next(&mut self) -> Option<Waiting> {
        self.waiting.retain(|waiting| !waiting.sender.is_closed());
        let rank = |waiting: &Waiting| {
            // Who had none for the longest comes first, and who had none at all before.
            let had = self.had.iter().position(|whom| *whom == waiting.whom);
            (!self.hurried.contains(&waiting.source), had)
        };
        let ranks = self.waiting.iter().map(rank).enumerate();
        let (place, _) = ranks.min_by_key(|(place, rank)| (*rank, *place))?;
        let next = self.waiting.remove(place)?;
        self.has(&next.whom);
        Some(next)
    }

    /// `whom` has the turn.
    fn has(&mut self, whom: &str) {
        self.had.retain(|had| had != whom);
        self.had.push(whom.to_owned());
    }

    /// What isn't waited for has no turn that would end its hurry, and who doesn't wait none that comes too soon.
    fn forget_idle(&mut self) {
        let waiting = &self.waiting;
        self.hurried
            .retain(|source| waiting.iter().any(|waiting| waiting.source == *source));
        let last = self.had.pop();
        self.had
            .retain(|whom| waiting.iter().any(|waiting| waiting.whom == *whom));
        self.had.extend(last);
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

    type Taking<'a> = std::pin::Pin<Box<dyn Future<Output = Turn> + 'a>>;

    /// Those that wait, each for whom and with its source.
    struct Bench<'a> {
        turns: &'a Arc<Turns>,
        waiting: Vec<(&'static str, &'static str, Taking<'a>)>,
    }

    impl<'a> Bench<'a> {
        fn wait(&mut self, whom: &'static str, source: &'static str) {
            let mut turn: Taking<'a> = Box::pin(self.turns.take(whom, source));
            assert!((&mut turn).now_or_never().is_none(), "{source}");
            self.waiting.push((whom, source, turn));
        }

        /// Who has the turn now.
        fn next(&mut self) -> (&'static str, Turn) {
            let mut had = Vec::new();
            for (place, (_, source, turn)) in self.waiting.iter_mut().enumerate() {
                if let Some(turn) = turn.now_or_never() {
                    had.push((place, *source, turn));
                }
            }
            let (place, source, turn) = had.pop().unwrap();
            assert!(had.is_empty(), "two had it");
            drop(self.waiting.remove(place));
            (source, turn)
        }

        /// In which order they have it, once `first` is over.
        fn order(&mut self, first: Turn) -> Vec<&'static str> {
            let (mut order, mut holding) = (Vec::new(), Some(first));
            while !self.waiting.is_empty() {
                drop(holding.take());
                let (source, turn) = self.next();
                order.push(source);
                holding = Some(turn);
            }
            order
        }
    }

    /// Would fail if what is waited for came after what isn't, if a turn were given to two, or if one that nobody waits for any
    /// more were never given on, or hurried on.
    #[test]
    fn what_is_waited_for_comes_first() {
        let turns = Arc::new(Turns::default());
        let first = turns.take("n", "a").now_or_never().unwrap();
        let mut bench = Bench {
            turns: &turns,
            waiting: Vec::new(),
        };
        for source in ["b", "c", "d", "d", "e"] {
            bench.wait("n", source);
        }
        turns.hurry(["d", "e", "nobody"].map(str::to_owned));
        // The first of both gives up, and who alone waits for another.
        drop(bench.waiting.remove(2));
        drop(bench.waiting.pop());
        assert_eq!(turns.waiting(), 3);
        assert_eq!(bench.order(first), ["d", "b", "c"]);
        assert!(turns.state().hurried.is_empty());
        assert!(turns.take("n", "e").now_or_never().is_some());
    }

    /// Would fail if who has many kept others waiting for all of them, also where those come later, or one by one.
    #[test]
    fn everybody_has_a_turn() {
        let turns = Arc::new(Turns::default());
        let first = turns.take("many", "a").now_or_never().unwrap();
        let mut bench = Bench {
            turns: &turns,
            waiting: Vec::new(),
        };
        for (whom, source) in [
            ("many", "b"),
            ("many", "c"),
            ("many", "d"),
            ("few", "x"),
            ("few", "y"),
            ("one", "z"),
        ] {
            bench.wait(whom, source);
        }
        assert_eq!(bench.order(first), ["x", "z", "b", "y", "c", "d"]);

        // Who always has one more after the last doesn't come before all.
        let first = turns.take("many", "a").now_or_never().unwrap();
        bench.wait("many", "b");
        bench.wait("many", "c");
        bench.wait("few", "x");
        drop(first);
        let (source, turn) = bench.next();
        assert_eq!(source, "x");
        bench.wait("few", "y");
        assert_eq!(bench.order(turn), ["b", "y", "c"]);

        // Nor do all of one's own where somebody waits for them.
        let first = turns.take("many", "a").now_or_never().unwrap();
        for (whom, source) in [("many", "b"), ("many", "c"), ("few", "x"), ("few", "y")] {
            bench.wait(whom, source);
        }
        turns.hurry(["b", "c", "y"].map(str::to_owned));
        assert_eq!(bench.order(first), ["y", "b", "c", "x"]);
        assert_eq!(turns.state().had, ["few"]);
    }
}

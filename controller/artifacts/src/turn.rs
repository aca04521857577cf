//! Whose turn is it to fetch, and for how long? Who fetches has a slot, and a deadline; who brings next to nothing while others wait
//! for a slot loses it to one of them; and who waits for what another fetches has none meanwhile.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::Error;
use crate::fetch::Fetcher;
use crate::subject::Subject;

/// The bytes per second that a fetch brings at least where others wait: so few that sixteen at once do by a line of 2 Mbit/s.
const PACE: u64 = 16 << 10;
/// How often it is looked at how many came.
const LOOK: Duration = Duration::from_secs(5);

/// What only one at a time does: whether somebody does it.
#[derive(Debug, Default)]
pub(crate) struct Turn(watch::Sender<bool>);

/// The turn of one, until it is dropped.
struct Alone<'a>(&'a Turn);

impl Turn {
    /// Waits until nobody has it. All who wait are told at once, and none of them has it by that: handed from one to the next, it
    /// would be nobody's who looks.
    async fn free(&self) {
        let _ = self.0.subscribe().wait_for(|is_taken| !*is_taken).await;
    }

    /// Takes it, unless somebody has it.
    fn take(&self) -> Option<Alone<'_>> {
        let is_ours = self
            .0
            .send_if_modified(|is_taken| !std::mem::replace(is_taken, true));
        is_ours.then(|| Alone(self))
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.0.send_replace(false);
    }
}

impl Fetcher {
    /// Runs `work` once it has its turn, for at most the deadline from then on. It waits for nobody else.
    pub(crate) async fn bounded<T>(
        &self,
        subject: &Subject,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let _slot = self.slots.take(&self.whom).await;
        self.in_turn(subject, work).await
    }

    /// The same for what only one at a time does, who has `turn`: who waits for that looks thereafter whether it `found` what it
    /// wants, and runs `work` where it didn't.
    pub(crate) async fn alone<T, F>(
        &self,
        subject: &Subject,
        turn: &Turn,
        found: impl Fn() -> F,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Option<T>, Error>>,
    {
        // However many have it before. Until there is a slot, nothing counts.
        let mut until = Instant::now() + self.options.deadline;
        loop {
            // Who has it has a slot, too.
            let others = async {
                turn.free().await;
                Ok(())
            };
            self.in_time(subject, until, others).await?;
            if let Some(found) = found().await? {
                return Ok(found);
            }
            let asked = Instant::now();
            let _slot = self.slots.take(&self.whom).await;
            until += asked.elapsed();
            // Whoever had it meanwhile may still have it.
            if let Some(_alone) = turn.take() {
                return match found().await? {
                    Some(found) => Ok(found),
                    None => self.in_turn(subject, work).await,
                };
            }
        }
    }

    /// Runs `work`, unless it brings next to nothing while others wait.
    async fn in_turn<T>(
        &self,
        subject: &Subject,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let patience = self.options.patience;
        let began = Instant::now();
        let mut seen = VecDeque::from([(began, subject.came())]);
        let slow = async {
            loop {
                sleep(LOOK.min(patience)).await;
                let (now, all) = (Instant::now(), subject.came());
                seen.push_back((now, all));
                // What came before says nothing of what comes now.
                let is_past = |(at, _): &(Instant, u64)| now.duration_since(*at) >= patience;
                while seen.get(1).is_some_and(is_past) {
                    seen.pop_front();
                }
                let (since, before) = seen.front().copied().unwrap_or((now, all));
                let (took, came) = (now.duration_since(since), all.saturating_sub(before));
                let enough = PACE.saturating_mul(took.as_secs().max(1));
                if took >= patience && came < enough && self.slots.give_way() {
                    return (took, came);
                }
            }
        };
        tokio::select! {
            biased;
            result = self.in_time(subject, began + self.options.deadline, work) => result,
            (took, came) = slow => Err(subject.unavailable(format!(
                "{came} bytes came within {} s, and others wait for their turn",
                took.as_secs()
            ))),
        }
    }

    /// Runs `work` until the deadline's end.
    async fn in_time<T>(
        &self,
        subject: &Subject,
        until: Instant,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let deadline = self.options.deadline;
        timeout_at(until, work).await.unwrap_or_else(|_| {
            Err(subject.unavailable(format!("it took longer than {} s", deadline.as_secs())))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;
    use crate::error::Origin;
    use crate::fetch::FetchOptions;

    fn subject() -> Subject {
        Subject::new(Origin::Url, "host".to_owned(), "it".to_owned())
    }

    /// Would fail if what came at first let a fetch keep its turn for long however little comes thereafter.
    #[tokio::test]
    async fn who_was_quick_and_is_slow_gives_way() {
        let options = FetchOptions {
            patience: Duration::from_millis(100),
            ..FetchOptions::default()
        };
        let fetcher = Fetcher::new(options).unwrap();
        let mut taken = Vec::new();
        for index in 0..16 {
            taken.push(fetcher.slots.take(&format!("n{}", index / 4)).await);
        }
        let (subject, other) = (subject(), subject());
        let waiting = fetcher.bounded(&other, async { Ok(()) });
        let burst = async {
            // A minute's worth, and more.
            subject.count(&vec![7; 1 << 20].into());
            pending::<Result<(), Error>>().await
        };
        let ended = tokio::select! {
            _ = waiting => None,
            ended = fetcher.in_turn(&subject, burst) => Some(ended),
            () = sleep(Duration::from_secs(20)) => None,
        };
        let error = ended.expect("it gives way").unwrap_err();
        assert!(error.to_string().contains("0 bytes came"), "{error}");
    }

    async fn nothing() -> Result<Option<()>, Error> {
        Ok(None)
    }

    /// Would fail if who waits for several that fetch the same, one after the other, waited for as long as all of them.
    #[tokio::test]
    async fn who_waits_for_several_waits_for_no_longer_than_the_deadline() {
        let deadline = Duration::from_secs(4);
        let options = FetchOptions {
            deadline,
            ..FetchOptions::default()
        };
        let fetcher = Fetcher::new(options).unwrap();
        let patient = Fetcher::new(FetchOptions::default()).unwrap();
        let (turn, subject, other) = (Turn::default(), subject(), subject());
        let held = turn.take();
        let release = async {
            sleep(deadline / 2).await;
            drop(held);
            pending::<()>().await;
        };
        // It looks for what it wants for so long that the other comes first.
        let found = || async {
            tokio::task::yield_now().await;
            Ok(None)
        };
        let waits = fetcher.alone(&subject, &turn, found, async { Ok(()) });
        let ended = tokio::select! {
            biased;
            () = release => None,
            ended = waits => Some(ended),
            _ = patient.alone(&other, &turn, nothing, pending()) => None,
            () = sleep(deadline * 5 / 4) => None,
        };
        let error = ended.expect("its time is over").unwrap_err();
        assert!(error.to_string().contains("took longer"), "{error}");
    }

    /// Would fail if those who wait for a fetch that fails kept each other from the next.
    #[tokio::test]
    async fn one_of_those_who_wait_is_next() {
        let fetcher = Fetcher::new(FetchOptions::default()).unwrap();
        let (turn, subject) = (Turn::default(), subject());
        let held = turn.take();
        let fetch = || fetcher.alone(&subject, &turn, nothing, async { Ok(()) });
        let release = async {
            tokio::task::yield_now().await;
            drop(held);
        };
        let all = async { tokio::join!(fetch(), fetch(), fetch(), release) };
        let all = tokio::time::timeout(Duration::from_secs(20), all).await;
        let (first, second, third, ()) = all.expect("they fetch, one after the other");
        first.and(second).and(third).unwrap();
    }
}

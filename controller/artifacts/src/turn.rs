//! Whose turn is it to fetch, and for how long? Who fetches has a slot, and a deadline; who brings next to nothing while others wait
//! for a slot loses it to one of them; and who waits for what another fetches has none meanwhile.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};

use crate::error::Error;
use crate::fetch::Fetcher;
use crate::subject::Subject;

/// The bytes per second that a fetch brings at least where others wait: so few that sixteen at once do by a line of 2 Mbit/s.
const PACE: u64 = 16 << 10;
/// How often it is looked at how many came.
const LOOK: Duration = Duration::from_secs(5);

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
        turn: &Mutex<()>,
        found: impl Fn() -> F,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Option<T>, Error>>,
    {
        loop {
            // Who has it has a slot, too.
            let others = async {
                drop(turn.lock().await);
                Ok(())
            };
            self.in_time(subject, others).await?;
            if let Some(found) = found().await? {
                return Ok(found);
            }
            let _slot = self.slots.take(&self.whom).await;
            // Whoever had it meanwhile may still have it.
            if let Ok(_alone) = turn.try_lock() {
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
        let (began, before) = (Instant::now(), subject.came());
        let slow = async {
            loop {
                sleep(LOOK.min(patience)).await;
                let (took, came) = (began.elapsed(), subject.came().saturating_sub(before));
                let enough = PACE.saturating_mul(took.as_secs().max(1));
                if took >= patience && came < enough && self.slots.give_way() {
                    return (took, came);
                }
            }
        };
        tokio::select! {
            biased;
            result = self.in_time(subject, work) => result,
            (took, came) = slow => Err(subject.unavailable(format!(
                "{came} bytes came within {} s, and others wait for their turn",
                took.as_secs()
            ))),
        }
    }

    /// Runs `work` for at most the deadline.
    async fn in_time<T>(
        &self,
        subject: &Subject,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let deadline = self.options.deadline;
        timeout(deadline, work).await.unwrap_or_else(|_| {
            Err(subject.unavailable(format!("it took longer than {} s", deadline.as_secs())))
        })
    }
}

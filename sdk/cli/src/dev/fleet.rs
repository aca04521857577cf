//! Which replicas of a function should there be? A pure state machine: what happened goes in, what to do comes out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A replica's number, unique within its function.
pub(crate) type ReplicaId = u64;
/// A revision's number; newer is larger.
pub(crate) type RevisionId = u64;

/// The shortest and the longest pause after a replica that didn't last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// A replica that served this long and then ended failed by itself, and not in a row with the one before.
const LASTED: Duration = Duration::from_secs(10);

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Start a replica.
    Start {
        /// Its number.
        replica: ReplicaId,
        /// What it is to run.
        revision: RevisionId,
    },
    /// Send it requests.
    Insert(ReplicaId),
    /// Send it nothing more, let it finish, and end it.
    Drain(ReplicaId),
    /// Tell who waits that there is a replica.
    Awake,
    /// Tell who waits that there is none, and why.
    Asleep {
        /// Why.
        reason: String,
        /// For how long there will be none.
        retry_after: Option<Duration>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Ready { since: Instant },
    Draining,
}

#[derive(Debug)]
struct Replica {
    revision: RevisionId,
    state: State,
}

/// The replicas of one function.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    target: usize,
    revision: Option<RevisionId>,
    /// Why there is no revision.
    broken: Option<String>,
    replicas: BTreeMap<ReplicaId, Replica>,
    next: ReplicaId,
    failures: u32,
    paused: Option<(Instant, String)>,
    waited_for: bool,
}

impl Fleet {
    /// There is something new to run. Old replicas serve until enough new ones do.
    pub(crate) fn revise(&mut self, revision: RevisionId, now: Instant) -> Vec<Action> {
        self.revision = Some(revision);
        self.broken = None;
        self.failures = 0;
        self.paused = None;
        self.settle(now)
    }

    /// What there is to run is broken. An earlier revision stays.
    pub(crate) fn break_down(&mut self, reason: String, now: Instant) -> Vec<Action> {
        if self.revision.is_none() {
            self.broken = Some(reason);
        }
        self.settle(now)
    }

    /// It is being built: who waits, waits on.
    pub(crate) fn rebuild(&mut self) {
        self.broken = None;
    }

    /// So many replicas are wanted.
    pub(crate) fn scale(&mut self, target: usize, now: Instant) -> Vec<Action> {
        self.target = if self.waited_for {
            target.max(1)
        } else {
            target
        };
        self.settle(now)
    }

    /// Somebody waits for a replica: [`Action::Awake`] or [`Action::Asleep`] will answer.
    pub(crate) fn wake(&mut self, now: Instant) -> Vec<Action> {
        self.waited_for = true;
        self.target = self.target.max(1);
        self.settle(now)
    }

    /// A replica serves.
    pub(crate) fn ready(&mut self, replica: ReplicaId, now: Instant) -> Vec<Action> {
        match self.replicas.get_mut(&replica) {
            Some(replica) if replica.state == State::Starting => {
                replica.state = State::Ready { since: now }
            }
            _ => return Vec::new(),
        }
        let mut actions = vec![Action::Insert(replica)];
        actions.extend(self.settle(now));
        actions
    }

    /// A replica ended.
    pub(crate) fn ended(
        &mut self,
        replica: ReplicaId,
        reason: String,
        now: Instant,
    ) -> Vec<Action> {
        let Some(Replica { revision, state }) = self.replicas.remove(&replica) else {
            return Vec::new();
        };
        if state == State::Draining || Some(revision) != self.revision {
            return self.settle(now);
        }
        // One that served and ended is replaced at once; one of a row of failures, or that never served, after a pause.
        let has_served = match state {
            State::Ready { since } => {
                if now.saturating_duration_since(since) >= LASTED {
                    self.failures = 0;
                }
                true
            }
            State::Starting | State::Draining => false,
        };
        if !has_served || self.failures > 0 {
            let pause = BACKOFF
                .0
                .saturating_mul(1 << self.failures.min(10))
                .min(BACKOFF.1);
            self.paused = Some((now + pause, reason));
        }
        self.failures = self.failures.saturating_add(1);
        self.settle(now)
    }

    /// Time passed.
    pub(crate) fn tick(&mut self, now: Instant) -> Vec<Action> {
        self.settle(now)
    }

    /// When [`Fleet::tick`] is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.paused.as_ref().map(|(until, _)| *until)
    }

    /// How many replicas serve.
    pub(crate) fn serving(&self) -> usize {
        self.replicas
            .values()
            .filter(|replica| matches!(replica.state, State::Ready { .. }))
            .count()
    }

    /// Compares what is with what should be.
    fn settle(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.paused.as_ref().is_some_and(|(until, _)| now >= *until) {
            self.paused = None;
        }
        self.start(&mut actions);
        self.drain(&mut actions);
        self.answer(now, &mut actions);
        actions
    }

    fn start(&mut self, actions: &mut Vec<Action>) {
        let Some(revision) = self.revision else {
            return;
        };
        if self.paused.is_some() {
            return;
        }
        for _ in self.current().len()..self.target {
            let replica = self.next;
            self.next += 1;
            self.replicas.insert(
                replica,
                Replica {
                    revision,
                    state: State::Starting,
                },
            );
            actions.push(Action::Start { replica, revision });
        }
    }

    fn drain(&mut self, actions: &mut Vec<Action>) {
        let current = self.current();
        let surplus = current.len().saturating_sub(self.target);
        // Who doesn't serve yet goes first, then the youngest.
        let mut leaving: Vec<ReplicaId> = {
            let mut by_use = current.clone();
            by_use.sort_by_key(|id| (self.is_ready(*id), std::cmp::Reverse(*id)));
            by_use.into_iter().take(surplus).collect()
        };
        let ready = current.iter().filter(|id| self.is_ready(**id)).count();
        if ready >= self.target {
            let old = |replica: &Replica| {
                Some(replica.revision) != self.revision && replica.state != State::Draining
            };
            leaving.extend(
                self.replicas
                    .iter()
                    .filter(|(_, replica)| old(replica))
                    .map(|(id, _)| *id),
            );
        }
        for id in leaving {
            if let Some(replica) = self.replicas.get_mut(&id) {
                replica.state = State::Draining;
                actions.push(Action::Drain(id));
            }
        }
    }

    fn answer(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if !self.waited_for {
            return;
        }
        if self.serving() > 0 {
            self.waited_for = false;
            actions.push(Action::Awake);
        } else if let Some(reason) = &self.broken {
            actions.push(Action::Asleep {
                reason: reason.clone(),
                retry_after: None,
            });
            self.give_up();
        } else if let (true, Some((until, reason))) = (self.current().is_empty(), &self.paused) {
            let retry_after = Some(until.saturating_duration_since(now));
            actions.push(Action::Asleep {
                reason: reason.clone(),
                retry_after,
            });
            self.waited_for = false;
        }
    }

    fn give_up(&mut self) {
        self.waited_for = false;
        self.target = 0;
    }

    /// Replicas of the revision, those that leave excepted.
    fn current(&self) -> Vec<ReplicaId> {
        let is = |replica: &Replica| {
            Some(replica.revision) == self.revision && replica.state != State::Draining
        };
        self.replicas
            .iter()
            .filter(|(_, replica)| is(replica))
            .map(|(id, _)| *id)
            .collect()
    }

    fn is_ready(&self, id: ReplicaId) -> bool {
        self.replicas
            .get(&id)
            .is_some_and(|replica| matches!(replica.state, State::Ready { .. }))
    }
}

#[cfg(test)]
mod tests {
    use super::Action::{Asleep, Awake, Drain, Insert, Start};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn start(replica: u64, revision: u64) -> Action {
        Start { replica, revision }
    }

    #[test]
    fn a_request_wakes_a_replica_and_idleness_ends_it() {
        let (mut fleet, now) = (Fleet::default(), Instant::now());
        assert_eq!(fleet.revise(1, now), []);
        assert_eq!(fleet.wake(now), [start(0, 1)]);
        assert_eq!(fleet.wake(now), []);
        assert_eq!(fleet.ready(0, now), [Insert(0), Awake]);
        assert_eq!(fleet.wake(now), [Awake]);
        assert_eq!(fleet.scale(0, now), [Drain(0)]);
        // What comes now must not get the replica that leaves.
        assert_eq!(fleet.wake(now), [start(1, 1)]);
        assert_eq!(fleet.ended(0, String::new(), now), []);
        assert_eq!(fleet.ready(1, now), [Insert(1), Awake]);
    }

    #[test]
    fn a_decision_for_none_does_not_end_what_somebody_waits_for() {
        let (mut fleet, now) = (Fleet::default(), Instant::now());
        fleet.revise(1, now);
        fleet.wake(now);
        assert_eq!(fleet.scale(0, now), []);
        assert_eq!(fleet.ready(0, now), [Insert(0), Awake]);
    }

    #[test]
    fn who_asks_while_it_is_built_waits_and_is_told_what_came_of_it() {
        let (mut fleet, now) = (Fleet::default(), Instant::now());
        assert_eq!(fleet.wake(now), []);
        assert_eq!(
            fleet.break_down("no".to_owned(), now),
            [Asleep {
                reason: "no".to_owned(),
                retry_after: None
            }]
        );
        fleet.rebuild();
        assert_eq!(fleet.wake(now), []);
        assert_eq!(fleet.revise(1, now), [start(0, 1)]);
    }

    #[test]
    fn new_replicas_serve_before_old_ones_leave() {
        let (mut fleet, now) = (Fleet::default(), Instant::now());
        fleet.revise(1, now);
        assert_eq!(fleet.scale(2, now), [start(0, 1), start(1, 1)]);
        fleet.ready(0, now);
        fleet.ready(1, now);
        assert_eq!(fleet.revise(2, now), [start(2, 2), start(3, 2)]);
        assert_eq!(fleet.ready(2, now), [Insert(2)]);
        assert_eq!(fleet.ready(3, now), [Insert(3), Drain(0), Drain(1)]);
    }

    #[test]
    fn a_revision_that_does_not_start_leaves_the_old_one_serving() {
        let (mut fleet, now) = (Fleet::default(), Instant::now());
        fleet.revise(1, now);
        fleet.scale(1, now);
        fleet.ready(0, now);
        fleet.revise(2, now);
        assert_eq!(fleet.ended(1, "bad model".to_owned(), now), []);
        assert_eq!(fleet.wake(now), [Awake]);
        assert_eq!(fleet.break_down("doesn't compile".to_owned(), now), []);
        // Another change puts it right.
        assert_eq!(fleet.revise(3, now), [start(2, 3)]);
        assert_eq!(fleet.ready(2, now), [Insert(2), Drain(0)]);
    }

    #[test]
    fn a_crash_loop_is_slowed_down_and_told() {
        let (mut fleet, mut now) = (Fleet::default(), Instant::now());
        fleet.revise(1, now);
        fleet.wake(now);
        let mut pauses = Vec::new();
        for replica in 0..8 {
            let actions = fleet.ended(replica, "bad model".to_owned(), now);
            let [
                Asleep {
                    reason,
                    retry_after: Some(pause),
                },
            ] = &actions[..]
            else {
                panic!("{actions:?}")
            };
            assert_eq!(reason, "bad model");
            pauses.push(pause.as_secs_f64());
            // In the pause the answer comes at once, and nothing is started.
            assert!(matches!(&fleet.wake(now)[..], [Asleep { .. }]));
            now += *pause;
            assert_eq!(fleet.due(), Some(now));
            assert_eq!(fleet.tick(now), [start(replica + 1, 1)]);
            assert_eq!(fleet.wake(now), []);
        }
        assert_eq!(pauses, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
    }

    #[test]
    fn a_replica_that_served_is_replaced_at_once_unless_it_is_one_of_a_row() {
        let (mut fleet, now) = (Fleet::default(), Instant::now());
        fleet.revise(1, now);
        fleet.scale(1, now);
        fleet.ready(0, now);
        assert_eq!(
            fleet.ended(0, "killed".to_owned(), now + SECOND),
            [start(1, 1)]
        );
        fleet.ready(1, now + SECOND);
        assert_eq!(fleet.ended(1, "killed".to_owned(), now + SECOND * 2), []);
        assert_eq!(fleet.due(), Some(now + SECOND * 3));
        assert_eq!(fleet.tick(now + SECOND * 3), [start(2, 1)]);
        fleet.ready(2, now + SECOND * 3);
        assert_eq!(
            fleet.ended(2, "killed".to_owned(), now + SECOND * 3 + LASTED),
            [start(3, 1)]
        );
    }

    #[test]
    fn who_does_not_serve_yet_goes_first() {
        let (mut fleet, now) = (Fleet::default(), Instant::now());
        fleet.revise(1, now);
        fleet.scale(3, now);
        fleet.ready(2, now);
        fleet.ready(1, now);
        assert_eq!(fleet.scale(2, now), [Drain(0)]);
        assert_eq!(fleet.scale(1, now), [Drain(2)]);
        assert_eq!(fleet.serving(), 1);
    }
}

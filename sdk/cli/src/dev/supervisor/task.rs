//! The task of a supervisor: what happened goes into the fleet, what the fleet decides is done.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use wisp_contract::assignment::Key;
use wisp_contract::problem::Fault;
use wisp_contract::{Assignment, FunctionId};
use wisp_gateway::{ActivateError, Endpoint, Gateway};

use super::Order;
use crate::dev::console::{Console, Event, ReplicaState};
use crate::dev::fleet::{Action, Fleet, ReplicaId, RevisionId};
use crate::dev::prepare::Prepared;
use crate::dev::replica::{Launch, Replica, Said};

/// A function's replicas and who waits for one.
pub(super) struct State {
    id: FunctionId,
    name: String,
    launch: Arc<Launch>,
    gateway: Arc<Gateway>,
    console: Console,
    orders: mpsc::UnboundedSender<Order>,
    count: watch::Sender<usize>,
    fleet: Fleet,
    revisions: BTreeMap<RevisionId, Arc<Prepared>>,
    replicas: BTreeMap<ReplicaId, Member>,
    waiting: Vec<oneshot::Sender<Result<(), ActivateError>>>,
}

/// A replica and what is known of it.
struct Member {
    process: Replica,
    /// What it runs.
    prepared: Arc<Prepared>,
    key: Key,
    address: Option<SocketAddr>,
    /// Why it failed, in its own words.
    failed: Option<String>,
    /// The last thing it said that was no log line: a panic, usually.
    last_words: Option<String>,
    is_leaving: bool,
}

impl State {
    /// The state of a function that has nothing to run yet. `count` tells how many replicas serve.
    pub(super) fn new(
        id: FunctionId,
        launch: Arc<Launch>,
        gateway: Arc<Gateway>,
        console: Console,
        orders: mpsc::UnboundedSender<Order>,
        count: watch::Sender<usize>,
    ) -> Self {
        Self {
            name: id.to_string(),
            id,
            launch,
            gateway,
            console,
            orders,
            count,
            fleet: Fleet::default(),
            revisions: BTreeMap::new(),
            replicas: BTreeMap::new(),
            waiting: Vec::new(),
        }
    }

    /// Follows `orders` until it is told to stop and all replicas have ended.
    pub(super) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let mut stopping: Option<oneshot::Sender<()>> = None;
        loop {
            if stopping.is_some() && self.replicas.is_empty() {
                break;
            }
            let due = self.fleet.due();
            let tick = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            let now = Instant::now;
            let actions = tokio::select! {
                () = tick => self.fleet.tick(now()),
                order = orders.recv() => match order {
                    None => break,
                    Some(Order::Building) => { self.fleet.rebuild(); Vec::new() }
                    Some(Order::Revise(prepared)) => self.revise(prepared),
                    Some(Order::Broken(reason)) => self.fleet.break_down(reason, now()),
                    Some(Order::Scale(_) | Order::Wake(_)) if stopping.is_some() => Vec::new(),
                    Some(Order::Scale(replicas)) => self.fleet.scale(replicas, now()),
                    Some(Order::Wake(answer)) => { self.waiting.push(answer); self.fleet.wake(now()) }
                    Some(Order::Said(replica, said)) => self.heard(replica, said),
                    Some(Order::Stop(done)) => {
                        self.waiting.clear();
                        stopping = Some(done);
                        self.fleet = Fleet::default();
                        let all: Vec<ReplicaId> = self.replicas.keys().copied().collect();
                        all.into_iter().for_each(|replica| self.drain(replica));
                        Vec::new()
                    }
                },
            };
            self.act(actions);
            self.count.send_if_modified(|count| {
                let serving = self.fleet.serving();
                std::mem::replace(count, serving) != serving
            });
        }
        if let Some(done) = stopping {
            let _ = done.send(());
        }
    }

    fn revise(&mut self, prepared: Arc<Prepared>) -> Vec<Action> {
        let newest = self.revisions.last_key_value();
        if newest.is_some_and(|(_, known)| known.digest == prepared.digest) {
            return Vec::new();
        }
        let revision = newest.map_or(1, |(id, _)| id + 1);
        self.console.tell(Event::Revision {
            function: self.name.clone(),
            revision: prepared.digest.clone(),
        });
        self.revisions.insert(revision, prepared);
        // Replicas that run have what they run; new ones start with the newest.
        while self.revisions.len() > 2 {
            self.revisions.pop_first();
        }
        self.fleet.revise(revision, Instant::now())
    }

    fn act(&mut self, actions: Vec<Action>) {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Start { replica, revision } => {
                    if let Err(reason) = self.launch(replica, revision) {
                        self.report(
                            replica,
                            0,
                            Duration::ZERO,
                            ReplicaState::Failed,
                            Some(reason.clone()),
                        );
                        actions.extend(self.fleet.ended(replica, reason, Instant::now()));
                    }
                }
                Action::Insert(replica) => self.insert(replica),
                Action::Drain(replica) => self.drain(replica),
                Action::Awake => self
                    .waiting
                    .drain(..)
                    .for_each(|answer| _ = answer.send(Ok(()))),
                Action::Asleep {
                    reason,
                    retry_after,
                } => {
                    let error = ActivateError::new(
                        Fault::Function,
                        format!("the function {} has no replica: {reason}", self.id),
                    );
                    let error = match retry_after {
                        Some(after) => error.with_retry_after(after),
                        None => error,
                    };
                    self.waiting
                        .drain(..)
                        .for_each(|answer| _ = answer.send(Err(error.clone())));
                }
            }
        }
    }

    fn launch(&mut self, replica: ReplicaId, revision: RevisionId) -> Result<(), String> {
        let prepared = self
            .revisions
            .get(&revision)
            .map(Arc::clone)
            .ok_or("its revision is gone")?;
        let key = Key(uuid::Uuid::new_v4().simple().to_string());
        let assignment = Assignment {
            function: self.id.clone(),
            uid: None,
            revision: prepared.digest.clone(),
            config: prepared.config.clone(),
            cpus: None,
            key: Some(key.clone()),
            artifacts: Vec::new(),
        };
        let orders = self.orders.clone();
        let said = move |said| _ = orders.send(Order::Said(replica, said));
        let process = Replica::start(&self.launch, &assignment, said).map_err(|error| {
            format!(
                "{} could not be started: {error}",
                self.launch.runtime.display()
            )
        })?;
        self.report(
            replica,
            process.pid,
            Duration::ZERO,
            ReplicaState::Starting,
            None,
        );
        let member = Member {
            process,
            prepared,
            key,
            address: None,
            failed: None,
            last_words: None,
            is_leaving: false,
        };
        self.replicas.insert(replica, member);
        Ok(())
    }

    fn heard(&mut self, replica: ReplicaId, said: Said) -> Vec<Action> {
        let Some(member) = self.replicas.get_mut(&replica) else {
            return Vec::new();
        };
        match said {
            Said::Listening(address) => member.address = Some(address),
            Said::Ready => {
                let (pid, took) = (member.process.pid, member.process.started.elapsed());
                self.report(replica, pid, took, ReplicaState::Ready, None);
                return self.fleet.ready(replica, Instant::now());
            }
            Said::Failed(reason) => member.failed = Some(reason),
            Said::Line(line) => self.console.log(&self.name, replica, &line),
            Said::Text(text) => {
                self.console.tell(Event::Note {
                    message: format!("{}: replica {replica}: {text}", self.name),
                });
                member.last_words = Some(text);
            }
            Said::Ended(why) => return self.ended(replica, why),
        }
        Vec::new()
    }

    fn ended(&mut self, replica: ReplicaId, why: String) -> Vec<Action> {
        let Some(member) = self.replicas.remove(&replica) else {
            return Vec::new();
        };
        if let Some(address) = member.address {
            self.gateway.remove_endpoint(&self.id, address);
        }
        let reason = member.failed.unwrap_or_else(|| match member.last_words {
            Some(words) => format!("{why}; it said: {words}"),
            None => why,
        });
        let (state, shown) = if member.is_leaving {
            (ReplicaState::Ended, None)
        } else {
            (ReplicaState::Failed, Some(reason.clone()))
        };
        self.report(
            replica,
            member.process.pid,
            member.process.started.elapsed(),
            state,
            shown,
        );
        self.fleet.ended(replica, reason, Instant::now())
    }

    fn insert(&mut self, replica: ReplicaId) {
        let Some(member) = self.replicas.get(&replica) else {
            return;
        };
        let Some(address) = member.address else {
            // It says `ready` and never said where: of no use.
            member.process.stop().stop(Duration::ZERO);
            return;
        };
        let concurrency = member.prepared.config.limits.concurrency.get();
        let endpoint = Endpoint {
            address,
            concurrency: u32::try_from(concurrency).unwrap_or(u32::MAX),
            key: Some(member.key.clone()),
        };
        self.gateway.insert_endpoint(&self.id, &endpoint);
    }

    fn drain(&mut self, replica: ReplicaId) {
        let Some(member) = self.replicas.get_mut(&replica) else {
            return;
        };
        if std::mem::replace(&mut member.is_leaving, true) {
            return;
        }
        let patience = member.prepared.config.limits.timeout;
        // The gateway sends it nothing more; only when all that was sent is answered does it hear that it is to end.
        let stop = member.process.stop();
        match member
            .address
            .map(|address| self.gateway.remove_endpoint(&self.id, address))
        {
            Some(drained) => {
                _ = tokio::spawn(async move {
                    let _ = tokio::time::timeout(patience, drained.wait()).await;
                    stop.stop(patience);
                })
            }
            None => stop.stop(patience),
        }
        let (pid, age) = (member.process.pid, member.process.started.elapsed());
        self.report(replica, pid, age, ReplicaState::Draining, None);
    }

    fn report(
        &self,
        replica: ReplicaId,
        pid: u32,
        age: Duration,
        state: ReplicaState,
        reason: Option<String>,
    ) {
        let millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.console.tell(Event::Replica {
            function: self.name.clone(),
            replica,
            state,
            pid,
            millis,
            reason,
        });
    }
}

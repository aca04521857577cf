//! One function's replicas: a task that starts, watches and ends them as its fleet says.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{mpsc, oneshot, watch};
use wisp_contract::FunctionId;
use wisp_contract::problem::Fault;
use wisp_gateway::{ActivateError, Gateway};

use super::console::Console;
use super::fleet::ReplicaId;
use super::prepare::Prepared;
use super::replica::{Launch, Said};

mod task;

use task::State;

/// What a supervisor is told.
enum Order {
    Building,
    Revise(Arc<Prepared>),
    Broken(String),
    Scale(usize),
    Wake(oneshot::Sender<Result<(), ActivateError>>),
    Said(ReplicaId, Said),
    Stop(oneshot::Sender<()>),
}

/// The way to a supervisor.
#[derive(Clone)]
pub(crate) struct Supervisor {
    orders: mpsc::UnboundedSender<Order>,
    serving: watch::Receiver<usize>,
    has_revision: Arc<AtomicBool>,
}

impl Supervisor {
    /// Starts the task of a function that has nothing to run yet.
    pub(crate) fn start(
        id: FunctionId,
        launch: Arc<Launch>,
        gateway: Arc<Gateway>,
        console: Console,
    ) -> Self {
        let (orders, receiver) = mpsc::unbounded_channel();
        let (count, serving) = watch::channel(0);
        let state = State::new(id, launch, gateway, console, orders.clone(), count);
        tokio::spawn(state.run(receiver));
        Self {
            orders,
            serving,
            has_revision: Arc::default(),
        }
    }

    // A supervisor whose task is gone is of a function that is gone: nobody misses the order.
    fn tell(&self, order: Order) {
        let _ = self.orders.send(order);
    }

    /// Whoever waits for a replica waits on: there will be something to run.
    pub(crate) fn building(&self) {
        self.tell(Order::Building);
    }

    /// There is something new to run.
    pub(crate) fn revise(&self, prepared: Arc<Prepared>) {
        self.has_revision.store(true, Ordering::Relaxed);
        self.tell(Order::Revise(prepared));
    }

    /// Whether there ever was something to run.
    pub(crate) fn has_revision(&self) -> bool {
        self.has_revision.load(Ordering::Relaxed)
    }

    /// What there is to run is broken.
    pub(crate) fn broken(&self, reason: String) {
        self.tell(Order::Broken(reason));
    }

    /// So many replicas are wanted.
    pub(crate) fn scale(&self, replicas: usize) {
        self.tell(Order::Scale(replicas));
    }

    /// How many replicas serve.
    pub(crate) fn serving(&self) -> usize {
        *self.serving.borrow()
    }

    /// Waits for a replica that serves.
    ///
    /// # Errors
    /// When there is none to be had.
    pub(crate) async fn wake(&self) -> Result<(), ActivateError> {
        let (answer, answered) = oneshot::channel();
        self.tell(Order::Wake(answer));
        answered.await.unwrap_or_else(|_| {
            Err(ActivateError::new(
                Fault::Platform,
                "the function was removed",
            ))
        })
    }

    /// Lets all replicas finish, and returns when they have ended.
    pub(crate) async fn stop(&self) {
        let (done, ended) = oneshot::channel();
        self.tell(Order::Stop(done));
        let _ = ended.await;
    }
}

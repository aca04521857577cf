//! Where does a lane compute?

use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread;

use crate::backend::Lane;

/// A thread that has a lane, or is preparing it, and waits to be told what to do with it.
pub(crate) struct LaneThread {
    work: Sender<Work>,
}

type Work = Box<dyn FnOnce(Box<dyn Lane>) + Send>;

impl LaneThread {
    /// Starts it. It keeps a clone of `preparing` until the lane is prepared.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(crate) fn start(
        name: String,
        mut lane: Box<dyn Lane>,
        preparing: &Sender<()>,
    ) -> io::Result<Self> {
        let (work, told) = mpsc::channel::<Work>();
        let preparing = lane.prepares().then(|| preparing.clone());
        thread::Builder::new().name(name).spawn(move || {
            if let Some(preparing) = preparing {
                lane.prepare();
                drop(preparing);
            }
            // Nobody needs it where nobody tells it anything any more.
            if let Ok(work) = told.recv() {
                work(lane);
            }
        })?;
        Ok(Self { work })
    }

    /// Has it work with the lane, once that is prepared.
    pub(crate) fn work(self, work: impl FnOnce(Box<dyn Lane>) + Send + 'static) {
        // Should the thread have died, the work is dropped, and whoever it was for hears of that.
        let _ = self.work.send(Box::new(work));
    }
}

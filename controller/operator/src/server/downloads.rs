//! Files that are being fetched: each holds memory until its reader has taken it, so there are only so many.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use wisp_places::Asked;

use super::caller::Caller;

/// Files that are sent at once.
const MOST: usize = 512;
/// Those to one address: a replica fetches its component or code, and 32 models at most, all at once.
const MOST_TO_ONE: usize = 40;
/// How long one waits for its turn. Replicas give up who says nothing for ten seconds, and ask again who says that it is busy.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a file may take to be taken, beside its length's share.
const LEAST_TIME: Duration = Duration::from_secs(60);
/// Bytes of it a second at the least.
const LEAST_RATE: u64 = 128 << 10;

/// Those that are sent.
#[derive(Debug)]
pub(super) struct Downloads {
    all: Arc<Semaphore>,
    by_address: Mutex<HashMap<IpAddr, Arc<Semaphore>>>,
}

/// The turn of one. Its connection isn't closed for others meanwhile.
#[derive(Debug)]
pub(super) struct Turn {
    _of_all: OwnedSemaphorePermit,
    _of_one: OwnedSemaphorePermit,
    _place: Asked,
}

/// A file that is sent. Its connection is cut off where it isn't taken in time.
#[derive(Debug)]
pub(super) struct Download {
    late: AbortHandle,
    _turn: Turn,
}

impl Default for Downloads {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(MOST)),
            by_address: Mutex::default(),
        }
    }
}

impl Downloads {
    /// Waits until another file may be sent to `caller`; `None`: it isn't its turn soon.
    pub(super) async fn turn(&self, caller: &Caller) -> Option<Turn> {
        let both = async {
            let of_one = self.of(caller.address).acquire_owned().await.ok()?;
            let of_all = Arc::clone(&self.all).acquire_owned().await.ok()?;
            Some((of_all, of_one))
        };
        let (of_all, of_one) = timeout(PATIENCE, both).await.ok()??;
        Some(Turn {
            _of_all: of_all,
            _of_one: of_one,
            _place: caller.keep(),
        })
    }

    fn of(&self, address: IpAddr) -> Arc<Semaphore> {
        let mut known = self
            .by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Whoever fetches, or waits, has a share of it.
        known.retain(|_, one| Arc::strong_count(one) > 1);
        let one = known.entry(address);
        Arc::clone(one.or_insert_with(|| Arc::new(Semaphore::new(MOST_TO_ONE))))
    }
}

impl Turn {
    /// A file of this `length` is sent to `caller`.
    pub(super) fn begin(self, caller: &Caller, length: u64) -> Download {
        let cut = caller.cut().clone();
        let allowed = LEAST_TIME + Duration::from_secs(length / LEAST_RATE);
        let late = tokio::spawn(async move {
            tokio::time::sleep(allowed).await;
            cut.cancel();
        });
        Download {
            late: late.abort_handle(),
            _turn: self,
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.late.abort();
    }
}

//! Who asks, and how much may be kept for them.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio_util::sync::CancellationToken;
use wisp_places::{Asked, Place};

/// Answers that a connection may leave untaken, and requests that it may have waiting, unless a gateway showed its key on it.
/// A replica fetches its component, its code and at most 32 models.
const MOST_OF_STRANGERS: usize = 64;

/// The connection that a request came on; in its extensions.
#[derive(Clone)]
pub(super) struct Caller {
    /// Who is at its other end.
    pub(super) address: IpAddr,
    place: Arc<Place<AtomicUsize>>,
    unanswered: Arc<AtomicUsize>,
    is_gateway: Arc<AtomicBool>,
    cut: CancellationToken,
}

/// A request whose answer wasn't taken yet. The connection of a gateway's isn't closed for others meanwhile.
#[derive(Debug)]
pub(super) struct Unanswered {
    count: Arc<AtomicUsize>,
    _place: Option<Asked>,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Caller {
    pub(super) fn new(address: IpAddr, place: Arc<Place<AtomicUsize>>) -> Self {
        Self {
            address,
            place,
            unanswered: Arc::default(),
            is_gateway: Arc::default(),
            cut: CancellationToken::new(),
        }
    }

    /// Once more something is asked on the connection, and by a gateway where it is its key that comes with it. Of who asks too much
    /// it is cut off.
    pub(super) fn begin(&self, is_gateways: bool) -> Unanswered {
        if is_gateways {
            self.is_gateway.store(true, Ordering::Relaxed);
        }
        let before = self.unanswered.fetch_add(1, Ordering::Relaxed);
        if before >= MOST_OF_STRANGERS && !self.is_gateway.load(Ordering::Relaxed) {
            self.cut.cancel();
        }
        Unanswered {
            count: Arc::clone(&self.unanswered),
            _place: is_gateways.then(|| self.keep()),
        }
    }

    /// The connection isn't closed for others before what is returned is dropped.
    pub(super) fn keep(&self) -> Asked {
        Asked::new(&self.place)
    }

    /// What cuts the connection off.
    pub(super) fn cut(&self) -> &CancellationToken {
        &self.cut
    }
}

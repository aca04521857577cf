//! What was sent to clients that haven't taken it: hyper and h2 keep it for them after the response's body has ended, for as
//! long as their connection lives.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use http_body::Frame;
use tokio::time::Instant;
use wisp_admit::Permit;

use crate::idle::{Overtime, Usage};
use crate::overdue;

/// What a response holds until its client's connection has taken the last byte: a function's has its place, unless it has ended and
/// there is room for more of them than have places. Who takes nothing has nobody wait for long.
#[derive(Debug)]
pub(crate) struct Unread {
    /// Of a failure's there is none.
    place: Mutex<Option<Permit>>,
    /// Until when the client may take it.
    until: Option<Instant>,
    /// That of its connection, where others are answered on it meanwhile.
    usage: Option<Usage>,
    overtime: OnceLock<Overtime>,
}

impl Unread {
    pub(crate) fn new(place: Option<Permit>) -> Arc<Self> {
        Arc::new(Self {
            place: Mutex::new(place),
            until: None,
            usage: None,
            overtime: OnceLock::new(),
        })
    }

    /// The task that is polled now begins to send it, and minds that the client takes it until then.
    pub(crate) fn begin(self: &mut Arc<Self>, until: Instant) {
        if let Some(this) = Arc::get_mut(self) {
            this.until = Some(until);
            overdue::begin(until);
        }
    }

    /// It is sent over HTTP/2. Nothing was yet.
    pub(crate) fn over_http2(self: &mut Arc<Self>, usage: &Usage) {
        if let Some(this) = Arc::get_mut(self) {
            this.usage = Some(usage.clone());
        }
    }

    /// Nothing more is going to be sent.
    pub(crate) fn ended(&self) {
        if let Some(usage) = &self.usage {
            let overtime = self.overtime.get_or_init(|| usage.overtime());
            if overtime.has_room() {
                let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
                drop(place.take());
            }
        }
    }

    /// The frame, with this for as long as it isn't taken.
    pub(crate) fn frame(self: &Arc<Self>, frame: Frame<Bytes>) -> Frame<Piece> {
        frame.map_data(|bytes| Piece::new(bytes, Arc::clone(self)))
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        // Over HTTP/1.1 this is within the task that began it. Over HTTP/2 that one minds the body alone.
        if let Some(until) = self.until {
            overdue::end(until);
        }
    }
}

/// A piece of a response.
pub(crate) type Piece = wisp_places::Piece<Arc<Unread>>;

#[cfg(test)]
mod tests {
    use wisp_admit::{Limiter, Limits};

    use super::*;
    use crate::memory::Memory;

    /// Would fail if a response's place were given to another while its client had yet to take it, or kept longer; or if over
    /// HTTP/2, where clients take what they like of it, one kept it that there is room for.
    #[test]
    fn a_place_is_kept_until_the_last_piece_is_taken() {
        let limiter = Limiter::new(Limits {
            in_flight: 1,
            queue: 0,
            queue_bytes: 0,
        });
        let unread = Unread::new(limiter.try_acquire());
        let piece = unread.frame(Frame::data(Bytes::from_static(b"last")));
        unread.ended();
        drop(unread);
        assert!(limiter.try_acquire().is_none());
        drop(piece);
        assert!(limiter.try_acquire().is_some());
        let usage = Usage::new(&Arc::new(Memory::new(100 << 10)));
        // All that one connection's may take is half of what there is.
        let mut kept = Vec::new();
        for has_room in [true, true, false] {
            let mut unread = Unread::new(limiter.try_acquire());
            unread.over_http2(&usage);
            let piece = unread.frame(Frame::data(Bytes::from_static(b"last")));
            assert!(limiter.try_acquire().is_none());
            unread.ended();
            assert_eq!(limiter.try_acquire().is_some(), has_room);
            kept.push(piece);
        }
        drop(kept);
        assert!(limiter.try_acquire().is_some());
        assert!(usage.overtime().has_room());
    }
}

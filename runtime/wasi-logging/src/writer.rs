//! One thread that writes lines, so that nobody else waits for standard output.

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use wisp_contract::log::{Level, Line};

use crate::clock::Now;
use crate::sink::Sink;

/// Writes lines from a bounded buffer in a thread of its own. Clones share the buffer. A line that finds the buffer
/// full is dropped, and the writer says how many were as soon as it can.
#[derive(Clone)]
pub struct Writer(Arc<Shared>);

struct Shared {
    capacity: usize,
    state: Mutex<State>,
    filled: Condvar,
    written: Condvar,
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    dropped: u64,
    writing: bool,
}

impl Writer {
    /// Starts a thread that writes to `out` what is at most `capacity` bytes behind. The thread lives as long as the
    /// process: call [`Writer::flush`] before the process ends. Errors of `out` lose lines, and are not reported:
    /// there is no other place to say so.
    ///
    /// # Errors
    /// When the thread can't be started.
    pub fn spawn(out: impl Write + Send + 'static, capacity: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            capacity,
            state: Mutex::new(State::default()),
            filled: Condvar::new(),
            written: Condvar::new(),
        });
        let writer = Self(Arc::clone(&shared));
        thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || shared.run(out))?;
        Ok(writer)
    }

    /// Waits until everything that was taken before has been written, at most `patience` long. Blocks the calling
    /// thread: only for a process that is about to end.
    ///
    /// Returns whether everything was written.
    #[must_use]
    pub fn flush(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.0.state();
        while state.writing || !state.buffer.is_empty() || state.dropped > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            (state, _) = self
                .0
                .written
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
        true
    }
}

impl Sink for Writer {
    fn line(&self, line: &Line<'_>) {
        let mut json = serde_json::to_vec(line).unwrap_or_default();
        json.push(b'\n');
        let mut state = self.0.state();
        if state.buffer.len().saturating_add(json.len()) > self.0.capacity {
            state.dropped = state.dropped.saturating_add(1);
        } else {
            state.buffer.append(&mut json);
        }
        drop(state);
        self.0.filled.notify_one();
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("capacity", &self.0.capacity)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut out: impl Write) {
        let mut batch = Vec::new();
        let mut state = self.state();
        loop {
            while state.buffer.is_empty() && state.dropped == 0 {
                state = self
                    .filled
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            std::mem::swap(&mut state.buffer, &mut batch);
            let dropped = std::mem::take(&mut state.dropped);
            state.writing = true;
            drop(state);
            if dropped > 0 {
                append_notice(&mut batch, dropped, self.capacity);
            }
            // An error here (the reader is gone) leaves nobody to tell.
            let _ = out.write_all(&batch).and_then(|()| out.flush());
            batch.clear();
            state = self.state();
            state.writing = false;
            self.written.notify_all();
        }
    }
}

fn append_notice(batch: &mut Vec<u8>, dropped: u64, capacity: usize) {
    let line = Line {
        ts: Now::read().ts().into(),
        level: Level::Warn,
        target: module_path!().into(),
        message: format!(
            "dropped {dropped} log lines: whoever reads this output was {capacity} bytes behind"
        )
        .into(),
        event: None,
        function: None,
        request_id: None,
        fields: [("droppedLines".to_owned(), Value::from(dropped))].into(),
    };
    batch.append(&mut serde_json::to_vec(&line).unwrap_or_default());
    batch.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn line(message: &str) -> Line<'_> {
        Line {
            ts: "2026-01-02T03:04:05.000000Z".into(),
            level: Level::Info,
            target: "test".into(),
            message: message.into(),
            event: None,
            function: None,
            request_id: None,
            fields: Default::default(),
        }
    }

    /// A reader that takes a write only when it is told to.
    struct Slow {
        permits: mpsc::Receiver<()>,
        started: mpsc::Sender<()>,
        out: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.started.send(()).unwrap();
            self.permits.recv().unwrap();
            self.out.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_is_slow_loses_lines_and_is_told_how_many_and_nobody_waits() {
        let out = Arc::new(Mutex::new(Vec::new()));
        let (permit, permits) = mpsc::channel();
        let (started, starts) = mpsc::channel();
        let writer = Writer::spawn(
            Slow {
                permits,
                started,
                out: Arc::clone(&out),
            },
            400,
        )
        .unwrap();
        writer.line(&line("first"));
        starts.recv().unwrap();
        // The thread is stuck in the first write now; this loop would hang if a line had to wait for it.
        for _ in 0..100 {
            writer.line(&line("more"));
        }
        assert!(!writer.flush(Duration::ZERO));
        permit.send(()).unwrap();
        permit.send(()).unwrap();
        assert!(writer.flush(Duration::from_secs(60)));
        let text = String::from_utf8(out.lock().unwrap().clone()).unwrap();
        let kept = text.matches("\"more\"").count();
        assert!((1..100).contains(&kept), "{text}");
        assert!(
            text.contains(&format!("dropped {} log lines", 100 - kept)),
            "{text}"
        );
        for json in text.lines() {
            serde_json::from_str::<Line<'_>>(json).unwrap();
        }
    }

    #[test]
    fn a_reader_that_is_gone_stops_nobody() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let writer = Writer::spawn(Gone, 1000).unwrap();
        for _ in 0..3 {
            writer.line(&line("x"));
            assert!(writer.flush(Duration::from_secs(60)));
        }
    }
}

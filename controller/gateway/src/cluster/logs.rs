//! Log lines: one JSON object each, as [`wisp_contract::log::Line`] has it, written by a thread of their own so that a
//! slow reader of standard output never holds up a request.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use wisp_contract::log::{Level, Line, chain, event};
use wisp_gateway::{RequestReport, RequestReporter};

/// Lines that may wait for the reader, and their bytes; what comes on top is dropped, and counted.
const WAITING: (usize, usize) = (16 << 10, 8 << 20);
/// Bytes of a request's path that its line has, and of the same in its message.
const PATH: (usize, usize) = (8 << 10, 256);

/// How long the last lines may take when the process ends.
const FLUSH: Duration = Duration::from_secs(2);
/// How often is looked then whether there is room in the queue.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Where lines go.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    lines: SyncSender<Item>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Bytes of the lines that wait.
    waiting: AtomicUsize,
    /// Lines that were dropped since that was said.
    dropped: AtomicU64,
}

/// A line, or whom to tell that all lines before are written.
#[derive(Debug)]
enum Item {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// Ends when the last [`Log`] was dropped and its lines are written.
pub(crate) type Writing = JoinHandle<()>;

impl Log {
    /// Starts to write lines to `out`.
    ///
    /// # Errors
    /// When no thread can be made.
    pub(crate) fn new(out: impl Write + Send + 'static) -> std::io::Result<(Self, Writing)> {
        let (lines, waiting) = sync_channel(WAITING.0);
        let shared = Arc::<Shared>::default();
        let log = Self {
            lines,
            shared: Arc::clone(&shared),
        };
        let writing = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write(&waiting, &shared, out))?;
        Ok((log, writing))
    }

    /// Writes a line, unless too many wait already.
    pub(crate) fn line(&self, line: &Line<'_>) {
        if let Ok(mut bytes) = serde_json::to_vec(line) {
            bytes.push(b'\n');
            let length = bytes.len();
            let before = self.shared.waiting.fetch_add(length, Ordering::Relaxed);
            let has_room = before.saturating_add(length) <= WAITING.1;
            if !has_room || self.lines.try_send(Item::Line(bytes)).is_err() {
                self.shared.waiting.fetch_sub(length, Ordering::Relaxed);
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Waits until what was said so far is written, but not for ever: a reader that doesn't read must not keep the
    /// process from ending.
    pub(crate) fn flush(&self) {
        let (done, written) = sync_channel(1);
        let until = Instant::now() + FLUSH;
        let mut item = Item::Flush(done);
        while let Err(TrySendError::Full(again)) = self.lines.try_send(item) {
            if Instant::now() >= until {
                return;
            }
            item = again;
            std::thread::sleep(LOOK_AGAIN);
        }
        let _ = written.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

fn write(lines: &Receiver<Item>, shared: &Shared, mut out: impl Write) {
    while let Ok(item) = lines.recv() {
        let line = match item {
            Item::Line(line) => line,
            Item::Flush(done) => {
                let _ = done.try_send(());
                continue;
            }
        };
        // A reader that is gone is no reason to stop serving.
        let _ = out.write_all(&line);
        shared.waiting.fetch_sub(line.len(), Ordering::Relaxed);
        let lost = shared.dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let text = format!("{lost} log lines were dropped: the reader is too slow");
            let line = plain(Level::Warn, module_path!(), text);
            let _ = serde_json::to_writer(&mut out, &line);
            let _ = out.write_all(b"\n");
        }
        let _ = out.flush();
    }
}

fn plain(level: Level, target: &str, message: String) -> Line<'_> {
    Line {
        ts: now().into(),
        level,
        target: target.into(),
        message: message.into(),
        event: None,
        function: None,
        request_id: None,
        fields: BTreeMap::new(),
    }
}

fn now() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

/// Makes lines of what the gateway's own code says through `tracing`.
pub(crate) struct Tracing(pub(crate) Log);

impl<S: Subscriber> Layer<S> for Tracing {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let level = match *metadata.level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            tracing::Level::DEBUG => Level::Debug,
            tracing::Level::TRACE => Level::Trace,
        };
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut take = |name: &str| match fields.0.remove(name) {
            Some(Value::String(text)) => Some(text),
            Some(other) => Some(other.to_string()),
            None => None,
        };
        let (message, name, function) = (take("message"), take("event"), take("function"));
        self.0.line(&Line {
            event: name.map(Into::into),
            function: function.map(Into::into),
            fields: fields.0,
            ..plain(level, metadata.target(), message.unwrap_or_default())
        });
    }
}

#[derive(Default)]
struct Fields(BTreeMap<String, Value>);

impl Fields {
    fn set(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value);
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.set(field, chain(value));
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, format!("{value:?}"));
    }
}

/// Writes one line per request that is over.
pub(crate) struct Access(pub(crate) Log);

impl RequestReporter for Access {
    fn report(&self, request: RequestReport) {
        let millis = |time: Duration| Value::from(time.as_secs_f64() * 1e3);
        let mut fields = BTreeMap::from([
            ("method".to_owned(), Value::from(request.method.as_str())),
            ("path".to_owned(), Value::from(cut(&request.path, PATH.0))),
            ("status".to_owned(), Value::from(request.status)),
            ("client".to_owned(), Value::from(request.client.to_string())),
            ("millis".to_owned(), millis(request.elapsed)),
            ("queueMillis".to_owned(), millis(request.queue)),
            ("activateMillis".to_owned(), millis(request.activate)),
        ]);
        if let Some(reason) = request.reason {
            fields.insert("reason".to_owned(), reason.into());
        }
        let path = cut(&request.path, PATH.1);
        let message = format!("{} {path} {}", request.method, request.status);
        self.0.line(&Line {
            event: Some(event::REQUEST.into()),
            function: request.function.map(|id| id.to_string().into()),
            request_id: Some(request.request_id.into()),
            fields,
            ..plain(Level::Info, module_path!(), message)
        });
    }
}

/// The beginning of `text`, where it is longer than `most` bytes.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(most);
    format!("{}…", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Would fail if a reader that is behind could be owed any number of bytes, what waits for it were lost at the end, or one that
    /// reads nothing kept the process from ending.
    #[test]
    fn what_waits_is_bounded_in_bytes_and_written_at_the_end() {
        let sink = Sink::default();
        let blocked = sink.0.lock().unwrap();
        let (log, _writing) = Log::new(sink.clone()).unwrap();
        let text = "x".repeat(60_000);
        for _ in 0..1000 {
            log.line(&plain(Level::Info, "test", text.clone()));
        }
        assert!(log.shared.waiting.load(Ordering::Relaxed) <= WAITING.1);
        let lost = log.shared.dropped.load(Ordering::Relaxed);
        let began = Instant::now();
        log.flush();
        assert!(began.elapsed() >= FLUSH);
        drop(blocked);
        log.flush();
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Line<'_>> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let said = format!("{lost} log lines were dropped: the reader is too slow");
        assert_eq!(lines.iter().filter(|line| line.message == said).count(), 1);
        assert_eq!(lines.len() as u64, 1000 - lost + 1);
        assert_eq!(log.shared.waiting.load(Ordering::Relaxed), 0);
    }

    /// Would fail if the last lines were given up where there are as many as may wait.
    #[test]
    fn a_full_queue_is_written_at_the_end() {
        let sink = Sink::default();
        let blocked = sink.0.lock().unwrap();
        let (log, _writing) = Log::new(sink.clone()).unwrap();
        // The one that the thread has is no longer in the queue.
        while log.shared.dropped.load(Ordering::Relaxed) < 2 {
            log.line(&plain(Level::Info, "test", "x".to_owned()));
        }
        let flushing = std::thread::spawn({
            let log = log.clone();
            move || log.flush()
        });
        drop(blocked);
        flushing.join().unwrap();
        let written = sink.0.lock().unwrap();
        let lines = written.split(|byte| *byte == b'\n').count();
        assert!(lines > WAITING.0, "{lines}");
    }

    #[test]
    fn a_long_path_is_cut_between_characters() {
        assert_eq!(cut("/ü", 3), "/ü");
        assert_eq!(cut("/ü", 2), "/…");
    }

    #[test]
    fn events_become_lines_of_the_contract() {
        let sink = Sink::default();
        let (log, writing) = Log::new(sink.clone()).unwrap();
        let subscriber = tracing_subscriber::registry().with(Tracing(log));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(function = %"a/b", event = "draining", count = 3, "it \"ends\"");
        });
        writing.join().unwrap();
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let line: Line<'_> = serde_json::from_str(text.trim_end()).unwrap();
        assert_eq!((line.level, &*line.message), (Level::Warn, "it \"ends\""));
        assert_eq!(line.function.as_deref(), Some("a/b"));
        assert_eq!(line.event.as_deref(), Some("draining"));
        assert_eq!(line.fields["count"], 3);
        assert!(line.ts.ends_with('Z') && line.ts.len() == 27, "{}", line.ts);
    }
}

//! What one instance logs, within what the replica may log.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::Value;
use wisp_contract::FunctionId;
use wisp_contract::log::{GUEST_LOG, GUEST_STDERR, GUEST_STDOUT, Level, Line};

use crate::assemble::{Assembler, Piece};
use crate::clock::Now;
use crate::rate::Bucket;
use crate::sink::Sink;
use crate::stream::GuestStream;

/// What a line costs beside its text: that is as much as is written with it.
const AROUND: u64 = 128;

/// Bounds on what guests log.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes per second of all instances together, of which each line takes 128 more than its text does as JSON. A second's
    /// worth may come at once.
    pub rate: NonZeroU64,
    /// Bytes of one line; the rest is cut off and counted.
    pub line: NonZeroUsize,
}

impl Options {
    /// Lines of at most 16 KiB at `rate` bytes per second.
    #[must_use]
    pub fn new(rate: NonZeroU64) -> Self {
        Self {
            rate,
            line: NonZeroUsize::MIN.saturating_add((16 << 10) - 1),
        }
    }
}

/// Makes the [`InstanceLog`]s of one replica. Clones share everything.
#[derive(Clone)]
pub struct Logs(Arc<Replica>);

struct Replica {
    function: String,
    options: Options,
    sink: Arc<dyn Sink>,
    bucket: Mutex<Bucket>,
    dropped: AtomicU64,
    lost: Mutex<Lost>,
}

/// What was dropped since it was last said.
#[derive(Default)]
struct Lost {
    lines: u64,
    bytes: u64,
    /// The request that wrote it, where one did.
    request_id: Option<Arc<str>>,
}

impl Logs {
    /// The logs of `function`'s replica, which go to `sink`.
    #[must_use]
    pub fn new(function: &FunctionId, options: Options, sink: Arc<dyn Sink>) -> Self {
        Self(Arc::new(Replica {
            function: function.to_string(),
            bucket: Mutex::new(Bucket::full(options.rate, Instant::now())),
            options,
            sink,
            dropped: AtomicU64::new(0),
            lost: Mutex::default(),
        }))
    }

    /// Bytes of guest output that were dropped so far because they came faster than [`Options::rate`].
    #[must_use]
    pub fn dropped_bytes(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    /// Says how much was dropped since it was last said, if anything was; to be called from time to time. No rate holds for that
    /// line. The last clone's drop says it, too.
    pub fn report(&self) {
        self.0.report();
    }

    /// The log of a new instance, which serves the request `request_id` first.
    #[must_use]
    pub fn instance(&self, request_id: Option<Arc<str>>) -> InstanceLog {
        InstanceLog(Arc::new(Instance {
            replica: Arc::clone(&self.0),
            state: Mutex::new(State {
                request_id,
                ..State::default()
            }),
        }))
    }
}

/// What one instance logs. Clones share everything; the last one's drop flushes lines without an end.
#[derive(Clone)]
pub struct InstanceLog(Arc<Instance>);

struct Instance {
    replica: Arc<Replica>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    request_id: Option<Arc<str>>,
    stdout: Assembler,
    stderr: Assembler,
}

/// One of a guest's two standard output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Std {
    Out,
    Err,
}

impl InstanceLog {
    /// The guest's standard output. Its lines have level info and the target `guest.stdout`.
    #[must_use]
    pub fn stdout(&self) -> GuestStream {
        GuestStream::new(self.clone(), Std::Out)
    }

    /// The guest's standard error. Its lines have level warn and the target `guest.stderr`.
    #[must_use]
    pub fn stderr(&self) -> GuestStream {
        GuestStream::new(self.clone(), Std::Err)
    }

    /// From now on the instance serves another request, or several at once (`None`). Lines without an end are flushed:
    /// they belong to the request before.
    pub fn set_request_id(&self, request_id: Option<Arc<str>>) {
        let mut state = self.0.state();
        self.0.flush(&mut state);
        state.request_id = request_id;
    }

    /// Logs lines without an end now. Dropping the last clone does the same.
    pub fn flush(&self) {
        self.0.flush(&mut self.0.state());
    }

    pub(crate) fn write(&self, std: Std, bytes: &[u8], now: Now) {
        let mut state = self.0.state();
        let state = &mut *state;
        let cap = self.0.replica.options.line.get();
        let mut assembler = std::mem::take(state.assembler(std));
        assembler.push(bytes, cap, |piece| self.0.emit_std(state, std, &piece, now));
        *state.assembler(std) = assembler;
    }

    pub(crate) fn log(
        &self,
        level: Level,
        context: &str,
        message: &str,
        extra: Option<(&str, Value)>,
        now: Now,
    ) {
        let cap = self.0.replica.options.line.get();
        let (context, context_cut) = cut_at_char(context, cap);
        let (message, cut) = cut_at_char(message, cap);
        let mut fields = BTreeMap::new();
        if !context.is_empty() {
            fields.insert("context".to_owned(), Value::from(context));
        }
        if let Some((name, value)) = extra {
            fields.insert(name.to_owned(), value);
        }
        let mut state = self.0.state();
        let entry = Entry {
            level,
            target: GUEST_LOG,
            message: message.into(),
            cut: cut.saturating_add(context_cut),
            fields,
        };
        self.0.emit(&mut state, entry, now);
    }
}

impl State {
    fn assembler(&mut self, std: Std) -> &mut Assembler {
        match std {
            Std::Out => &mut self.stdout,
            Std::Err => &mut self.stderr,
        }
    }
}

struct Entry<'a> {
    level: Level,
    target: &'static str,
    message: Cow<'a, str>,
    cut: u64,
    fields: BTreeMap<String, Value>,
}

impl Instance {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flush(&self, state: &mut State) {
        if state.stdout.is_empty() && state.stderr.is_empty() {
            return;
        }
        let now = Now::read();
        for std in [Std::Out, Std::Err] {
            if let Some(piece) = state.assembler(std).finish() {
                self.emit_std(state, std, &piece, now);
            }
        }
    }

    fn emit_std(&self, state: &mut State, std: Std, piece: &Piece, now: Now) {
        let (level, target) = match std {
            Std::Out => (Level::Info, GUEST_STDOUT),
            Std::Err => (Level::Warn, GUEST_STDERR),
        };
        let message = String::from_utf8_lossy(&piece.bytes);
        self.emit(
            state,
            Entry {
                level,
                target,
                message,
                cut: piece.cut,
                fields: BTreeMap::new(),
            },
            now,
        );
    }

    /// Logs a line where the rate allows it, else counts it.
    fn emit(&self, state: &mut State, entry: Entry<'_>, now: Now) {
        let Entry {
            level,
            target,
            message,
            cut,
            mut fields,
        } = entry;
        let context = fields
            .get("context")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let bytes = (message.len() + context.len() + 1) as u64;
        let escapes = escapes(&message).saturating_add(escapes(context));
        let passes = self
            .replica
            .bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(
                bytes.saturating_add(escapes).saturating_add(AROUND),
                now.instant,
            );
        if !passes {
            let lost = bytes.saturating_add(cut);
            self.replica.lose(lost, &state.request_id);
            return;
        }
        let message = if cut == 0 {
            message
        } else {
            fields.insert("cutBytes".to_owned(), Value::from(cut));
            format!(
                "{message}… [{cut} more bytes cut: a line is at most {} bytes]",
                self.replica.options.line
            )
            .into()
        };
        let request_id = state.request_id.as_deref();
        self.replica
            .line(request_id, level, target, message, fields, now);
    }
}

impl Replica {
    fn lost(&self) -> MutexGuard<'_, Lost> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a line of so many bytes that isn't logged.
    fn lose(&self, bytes: u64, request_id: &Option<Arc<str>>) {
        self.dropped.fetch_add(bytes, Ordering::Relaxed);
        let mut lost = self.lost();
        if lost.lines == 0 {
            lost.request_id.clone_from(request_id);
        } else if lost.request_id != *request_id {
            lost.request_id = None;
        }
        lost.lines = lost.lines.saturating_add(1);
        lost.bytes = lost.bytes.saturating_add(bytes);
    }

    fn report(&self) {
        let lost = std::mem::take(&mut *self.lost());
        if lost.lines > 0 {
            self.say(&lost, Now::read());
        }
    }

    fn say(&self, lost: &Lost, now: Now) {
        let Lost { lines, bytes, .. } = lost;
        let message = format!(
            "dropped {bytes} bytes in {lines} lines of the guest's output: a replica may log {} bytes per second (limits.logRate)",
            self.options.rate
        );
        let fields = BTreeMap::from([
            ("droppedBytes".to_owned(), Value::from(*bytes)),
            ("droppedLines".to_owned(), Value::from(*lines)),
        ]);
        self.line(
            lost.request_id.as_deref(),
            Level::Warn,
            module_path!(),
            message.into(),
            fields,
            now,
        );
    }

    fn line(
        &self,
        request_id: Option<&str>,
        level: Level,
        target: &str,
        message: Cow<'_, str>,
        fields: BTreeMap<String, Value>,
        now: Now,
    ) {
        self.sink.line(&Line {
            ts: now.ts().into(),
            level,
            target: target.into(),
            message,
            event: None,
            function: Some(self.function.as_str().into()),
            request_id: request_id.map(Into::into),
            fields,
        });
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.report();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let mut state =
            std::mem::take(self.state.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.flush(&mut state);
    }
}

/// The longest start of `text` that is at most `cap` bytes, and how many bytes follow it.
fn cut_at_char(text: &str, cap: usize) -> (&str, u64) {
    let kept = text
        .get(..text.floor_char_boundary(cap))
        .unwrap_or_default();
    (kept, (text.len() - kept.len()) as u64)
}

/// How many bytes longer `text` is as a JSON string: a control character is written as up to six.
fn escapes(text: &str) -> u64 {
    let more = |byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0C => 1,
        0x00..0x20 => 5,
        _ => 0,
    };
    text.bytes().map(more).sum()
}

#[cfg(test)]
mod tests;

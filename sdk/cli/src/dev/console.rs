//! What `wisp dev` prints: one writer for everything that happens.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use serde::Serialize;
use wisp_contract::log::{Level, Line};

use crate::terminal::Terminal;

mod style;

use style::Style;

/// Lines that wait for a slow terminal; what comes beyond them is dropped and counted.
const BACKLOG: usize = 4096;
/// How long the end waits for a terminal that doesn't take the last lines: one that was stopped never will.
const LAST: Duration = Duration::from_secs(2);

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    tag = "event"
)]
pub(crate) enum Event {
    /// The gateway serves.
    Listening { url: String, version: &'static str },
    /// A function can be asked.
    Function {
        function: String,
        url: String,
        hosts: Vec<String>,
    },
    /// A function is gone from its folder.
    Removed { function: String },
    /// A function is being built, or its component, which somebody else built, initialised and compiled.
    Building { function: String },
    /// It was built.
    Built {
        function: String,
        millis: u64,
        bytes: u64,
        init_millis: Option<f64>,
        notes: Vec<String>,
    },
    /// It can't be built. What ran before, if anything did, still does.
    BuildFailed {
        function: String,
        message: String,
        has_earlier: bool,
    },
    /// A manifest is wrong; what it said before still holds.
    Invalid { file: String, message: String },
    /// There is something new to run.
    Revision { function: String, revision: String },
    /// A replica was started, serves, was told to end, or ended.
    Replica {
        function: String,
        replica: u64,
        state: ReplicaState,
        pid: u32,
        millis: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// A request was answered.
    Request {
        function: Option<String>,
        request_id: String,
        method: String,
        path: String,
        status: u16,
        millis: f64,
        activate_millis: f64,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'static str>,
    },
    /// The function, or its host, wrote a line.
    Log {
        function: String,
        replica: u64,
        level: Level,
        target: String,
        message: String,
        /// Where in the guest it happened.
        #[serde(skip_serializing_if = "Option::is_none")]
        cause: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<String>,
    },
    /// It ends.
    Stopping,
    /// For a person.
    Note { message: String },
}

/// Where a replica is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ReplicaState {
    /// Its process runs.
    Starting,
    /// It serves.
    Ready,
    /// It finishes what it has.
    Draining,
    /// It ended as it was told to.
    Ended,
    /// It ended by itself.
    Failed,
}

/// Takes events from every thread, and never waits.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    events: Sender<Message>,
    backlog: Arc<Backlog>,
}

/// Of what comes as fast as requests do: others are few.
#[derive(Debug, Default)]
struct Backlog {
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

impl Backlog {
    /// Whether there is room for one more, which is counted.
    fn takes(&self) -> bool {
        let takes = self.waiting.fetch_add(1, Ordering::Relaxed) < BACKLOG;
        if !takes {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        takes
    }
}

#[derive(Debug)]
enum Message {
    Event(Event),
    /// Everything before this is printed when the sender is dropped.
    Flush {
        _done: SyncSender<()>,
    },
}

impl Event {
    /// Whether there is one for each request, or for each line of a guest.
    fn is_frequent(&self) -> bool {
        matches!(
            self,
            Self::Request { .. } | Self::Log { .. } | Self::Note { .. }
        )
    }
}

impl Console {
    /// Starts the thread that prints.
    ///
    /// # Errors
    /// When the system refuses the thread.
    pub(crate) fn start(terminal: Terminal) -> std::io::Result<Self> {
        Self::to(std::io::stdout(), terminal)
    }

    fn to(out: impl Write + Send + 'static, terminal: Terminal) -> std::io::Result<Self> {
        let (events, receiver) = channel();
        let backlog = Arc::new(Backlog::default());
        let of_printer = Arc::clone(&backlog);
        std::thread::Builder::new()
            .name("wisp-console".to_owned())
            .spawn(move || print(&receiver, out, terminal, &of_printer))?;
        Ok(Self { events, backlog })
    }

    /// Waits until everything so far is printed, though not for ever.
    pub(crate) fn flush(&self) {
        let (done, printed) = sync_channel(1);
        if self.events.send(Message::Flush { _done: done }).is_ok() {
            let _ = printed.recv_timeout(LAST);
        }
    }

    /// Prints `event` soon. Requests and guests' lines are dropped where the terminal doesn't keep up. All else waits,
    /// but whoever tells doesn't: a terminal that was stopped must not stop the gateway, nor the end.
    pub(crate) fn tell(&self, event: Event) {
        if !event.is_frequent() || self.backlog.takes() {
            let _ = self.events.send(Message::Event(event));
        }
    }

    /// A line of the host, or of its guest.
    pub(crate) fn log(&self, function: &str, replica: u64, line: &Line<'_>) {
        self.tell(Event::Log {
            function: function.to_owned(),
            replica,
            level: line.level,
            target: line.target.to_string(),
            message: line.message.to_string(),
            cause: line
                .fields
                .get("cause")
                .and_then(|cause| cause.as_str())
                .map(str::to_owned),
            request_id: line.request_id.as_ref().map(ToString::to_string),
        });
    }
}

fn print(messages: &Receiver<Message>, out: impl Write, terminal: Terminal, backlog: &Backlog) {
    let mut style = Style::new(terminal.out);
    let mut out = std::io::BufWriter::new(out);
    while let Ok(first) = messages.recv() {
        let mut flushed = Vec::new();
        // Everything that is there already goes out in one piece.
        for message in std::iter::once(first).chain(messages.try_iter().take(BACKLOG)) {
            match message {
                Message::Event(event) => {
                    if event.is_frequent() {
                        backlog.waiting.fetch_sub(1, Ordering::Relaxed);
                    }
                    write(&mut out, &mut style, &terminal, &event);
                }
                flush @ Message::Flush { .. } => flushed.push(flush),
            }
        }
        let lost = backlog.dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let message =
                format!("{lost} lines are not shown: they came faster than this terminal prints");
            write(&mut out, &mut style, &terminal, &Event::Note { message });
        }
        let _ = out.flush();
        drop(flushed);
    }
}

fn write(out: &mut impl Write, style: &mut Style, terminal: &Terminal, event: &Event) {
    // Nobody reads what a closed pipe swallows.
    let _ = if terminal.is_json() {
        writeln!(out, "{}", serde_json::to_string(event).unwrap_or_default())
    } else {
        style
            .render(event)
            .iter()
            .try_for_each(|line| writeln!(out, "{line}"))
    };
}

#[cfg(test)]
mod tests;

//! What `wisp dev` prints: one writer for everything that happens.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use serde::Serialize;
use wisp_contract::log::{GUEST_LOG, GUEST_STDERR, Level, Line};

use crate::terminal::{self, Paint, Terminal};

/// Lines that wait for a slow terminal; what comes beyond them is dropped and counted.
const BACKLOG: usize = 4096;

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
    /// A function is being built.
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
    events: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Message {
    Event(Event),
    /// Everything before this is printed when the sender is dropped.
    Flush {
        _done: SyncSender<()>,
    },
}

impl Console {
    /// Starts the thread that prints.
    ///
    /// # Errors
    /// When the system refuses the thread.
    pub(crate) fn start(terminal: Terminal) -> std::io::Result<Self> {
        let (events, receiver) = sync_channel(BACKLOG);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        std::thread::Builder::new()
            .name("wisp-console".to_owned())
            .spawn(move || print(&receiver, terminal, &counter))?;
        Ok(Self { events, dropped })
    }

    /// Waits until everything so far is printed.
    pub(crate) fn flush(&self) {
        let (done, printed) = sync_channel(1);
        if self.events.send(Message::Flush { _done: done }).is_ok() {
            let _ = printed.recv();
        }
    }

    /// Prints `event` soon. Requests and guests' lines are dropped where the terminal doesn't keep up; all else waits.
    pub(crate) fn tell(&self, event: Event) {
        match event {
            Event::Request { .. } | Event::Log { .. } => {
                if let Err(TrySendError::Full(_)) = self.events.try_send(Message::Event(event)) {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            event => _ = self.events.send(Message::Event(event)),
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
            request_id: line.request_id.as_ref().map(ToString::to_string),
        });
    }
}

fn print(messages: &Receiver<Message>, terminal: Terminal, dropped: &AtomicU64) {
    let mut style = Style::new(terminal.out);
    let mut out = std::io::BufWriter::new(std::io::stdout());
    while let Ok(first) = messages.recv() {
        let mut flushed = Vec::new();
        // Everything that is there already goes out in one piece.
        for message in std::iter::once(first).chain(messages.try_iter().take(BACKLOG)) {
            match message {
                Message::Event(event) => write(&mut out, &mut style, &terminal, &event),
                flush @ Message::Flush { .. } => flushed.push(flush),
            }
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
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

/// How events look to people.
struct Style {
    paint: Paint,
    known: Vec<String>,
    width: usize,
}

impl Style {
    fn new(paint: Paint) -> Self {
        Self {
            paint,
            known: Vec::new(),
            width: 4,
        }
    }

    /// The column with the function's name.
    fn prefix(&mut self, function: &str) -> String {
        let name = function.strip_prefix("default/").unwrap_or(function);
        let index = self
            .known
            .iter()
            .position(|known| known == name)
            .unwrap_or_else(|| {
                self.known.push(name.to_owned());
                self.known.len() - 1
            });
        self.width = self.width.max(name.chars().count()).min(24);
        self.paint
            .hue(index, &format!("{name:<width$} │", width = self.width))
    }

    fn render(&mut self, event: &Event) -> Vec<String> {
        let paint = self.paint;
        match event {
            Event::Listening { url, version } => {
                vec![format!(
                    "{} {version} · gateway {}",
                    paint.bold("wisp dev"),
                    paint.bold(url)
                )]
            }
            Event::Function {
                function,
                url,
                hosts,
            } => {
                let hosts: String = hosts.iter().map(|host| format!(", host {host}")).collect();
                vec![format!(
                    "{} {}{}",
                    self.prefix(function),
                    paint.bold(url),
                    paint.dim(&hosts)
                )]
            }
            Event::Removed { function } => vec![format!(
                "{} {}",
                self.prefix(function),
                paint.dim("removed")
            )],
            Event::Building { function } => vec![format!(
                "{} {}",
                self.prefix(function),
                paint.dim("building…")
            )],
            Event::Built {
                function,
                millis,
                bytes,
                init_millis,
                notes,
            } => {
                let prefix = self.prefix(function);
                let saved = init_millis.map_or_else(String::new, |millis| {
                    let saved = terminal::duration(Duration::from_secs_f64(millis.max(0.0) / 1e3));
                    format!(", initialised ahead of time (every instance saves {saved})")
                });
                let took = terminal::duration(Duration::from_millis(*millis));
                let mut lines = vec![format!(
                    "{prefix} {} in {took}, {}{saved}",
                    paint.green("built"),
                    terminal::bytes(*bytes)
                )];
                lines.extend(
                    notes
                        .iter()
                        .map(|note| format!("{prefix} {}", paint.yellow(note))),
                );
                lines
            }
            Event::BuildFailed {
                function,
                message,
                has_earlier,
            } => {
                let prefix = self.prefix(function);
                let text = if *has_earlier {
                    "can't be built; what ran before still does"
                } else {
                    "can't be built"
                };
                let mut lines = vec![format!("{prefix} {}", paint.red(text))];
                lines.extend(message.lines().map(|line| format!("{prefix} {line}")));
                lines
            }
            Event::Invalid { file, message } => {
                let mut lines = vec![format!("{} {file}", paint.red("wrong:"))];
                lines.extend(message.lines().map(|line| format!("  {line}")));
                lines
            }
            Event::Revision { function, revision } => {
                vec![format!(
                    "{} {}",
                    self.prefix(function),
                    paint.dim(&format!("revision {revision}"))
                )]
            }
            Event::Replica {
                function,
                replica,
                state,
                pid,
                millis,
                reason,
            } => {
                let prefix = self.prefix(function);
                let took = terminal::duration(Duration::from_millis(*millis));
                let text = match state {
                    ReplicaState::Starting => return Vec::new(),
                    ReplicaState::Ready => paint.dim(&format!(
                        "replica {replica} ready after {took} (process {pid})"
                    )),
                    ReplicaState::Draining => paint.dim(&format!("replica {replica} drains")),
                    ReplicaState::Ended => paint.dim(&format!("replica {replica} ended")),
                    ReplicaState::Failed => {
                        let reason = reason.as_deref().unwrap_or("it ended");
                        paint.red(&format!("replica {replica} failed: {reason}"))
                    }
                };
                vec![format!("{prefix} {text}")]
            }
            Event::Request {
                function,
                request_id,
                method,
                path,
                status,
                millis,
                activate_millis,
                reason,
            } => {
                let prefix = self.prefix(function.as_deref().unwrap_or("-"));
                let status = match status {
                    200..300 => paint.green(&status.to_string()),
                    300..500 => paint.yellow(&status.to_string()),
                    _ => paint.red(&status.to_string()),
                };
                let took = terminal::duration(Duration::from_secs_f64(millis.max(0.0) / 1e3));
                let mut aside = String::new();
                if *activate_millis > 0.0 {
                    let woke = terminal::duration(Duration::from_secs_f64(activate_millis / 1e3));
                    aside.push_str(&format!(" woke in {woke}"));
                }
                if let Some(reason) = reason {
                    aside.push_str(&format!(" {reason}"));
                }
                aside.push_str(&format!(" {request_id}"));
                vec![format!(
                    "{prefix} {method} {path} {status} {took}{}",
                    paint.dim(&aside)
                )]
            }
            // What a host says of itself while all is well is for scripts.
            Event::Log {
                level: Level::Info | Level::Debug | Level::Trace,
                target,
                ..
            } if !target.starts_with("guest.") => Vec::new(),
            Event::Log {
                function,
                level,
                target,
                message,
                request_id,
                ..
            } => {
                let prefix = self.prefix(function);
                let level = match level {
                    Level::Error => paint.red("error "),
                    Level::Warn => paint.yellow("warn "),
                    Level::Info if target == GUEST_LOG => paint.green("info "),
                    Level::Debug | Level::Trace => paint.dim("debug "),
                    Level::Info => String::new(),
                };
                let level = if target == GUEST_STDERR {
                    String::new()
                } else {
                    level
                };
                let id = request_id
                    .as_ref()
                    .map_or_else(String::new, |id| paint.dim(&format!(" {id}")));
                message
                    .lines()
                    .map(|line| format!("{prefix}   {level}{line}{id}"))
                    .collect()
            }
            Event::Stopping => vec![
                paint.dim("stopping: requests in flight are finished; Ctrl-C again ends at once"),
            ],
            Event::Note { message } => vec![paint.yellow(message)],
        }
    }
}

#[cfg(test)]
mod tests;

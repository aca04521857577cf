//! How events look to people.

use std::time::Duration;

use wisp_contract::log::{GUEST_LOG, GUEST_STDERR, Level};

use super::{Event, ReplicaState};
use crate::terminal::{self, Paint, harmless, harmless_lines};

/// How events look to people.
pub(super) struct Style {
    paint: Paint,
    known: Vec<String>,
    width: usize,
}

impl Style {
    /// With these colours.
    pub(super) fn new(paint: Paint) -> Self {
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

    /// The lines of one event.
    pub(super) fn render(&mut self, event: &Event) -> Vec<String> {
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
                        .map(|note| format!("{prefix} {}", paint.yellow(&harmless(note)))),
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
                let mut lines = vec![format!("{} {}", paint.red("wrong:"), harmless(file))];
                lines.extend(message.lines().map(|line| format!("  {}", harmless(line))));
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
                        paint.red(&format!("replica {replica} failed: {}", harmless(reason)))
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
                aside.push_str(&format!(" {}", harmless(request_id)));
                vec![format!(
                    "{prefix} {} {} {status} {took}{}",
                    harmless(method),
                    harmless(path),
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
                cause,
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
                    .map_or_else(String::new, |id| paint.dim(&format!(" {}", harmless(id))));
                let causes = cause.iter().flat_map(|cause| cause.lines());
                message
                    .lines()
                    .map(|line| format!("{prefix}   {level}{}{id}", harmless(line)))
                    .chain(
                        causes.map(|line| format!("{prefix}     {}", paint.dim(&harmless(line)))),
                    )
                    .collect()
            }
            Event::Stopping => vec![
                paint.dim("stopping: requests in flight are finished; Ctrl-C again ends at once"),
            ],
            // A replica's words that are no log lines are among them.
            Event::Note { message } => vec![paint.yellow(&harmless_lines(message))],
        }
    }
}

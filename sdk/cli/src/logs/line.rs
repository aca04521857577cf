//! One line of a replica's log, and how it looks.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;
use wisp_contract::log::{GUEST_LOG, GUEST_STDERR, GUEST_STDOUT, Level, Line, event};

use crate::terminal::{self, OutputError, Paint, Terminal, harmless};

/// A line that a replica wrote.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// The replica's pod.
    pub(super) pod: String,
    /// When the kubelet got it.
    pub(super) written: Option<Timestamp>,
    text: String,
    /// What it says, where it is a line of ours.
    line: Option<Line<'static>>,
}

impl Entry {
    /// Reads a line that the kubelet put its time before.
    pub(super) fn read(pod: &str, text: &str) -> Self {
        let (written, text) = match text.split_once(' ') {
            Some((time, rest)) => match time.parse() {
                Ok(time) => (Some(time), rest),
                Err(_) => (None, text),
            },
            None => (text.parse().ok(), ""),
        };
        Self {
            pod: pod.to_owned(),
            written,
            line: serde_json::from_str(text).ok(),
            text: text.to_owned(),
        }
    }

    fn is_of(&self, request: &str) -> bool {
        self.line
            .as_ref()
            .and_then(|line| line.request_id.as_deref())
            .is_some_and(|id| id == request)
    }
}

/// Prints lines.
pub(super) struct Printer {
    /// Only those of this request.
    request: Option<String>,
    terminal: Terminal,
    /// Pods in the order in which they appeared; that is their colour.
    known: Vec<String>,
    zone: TimeZone,
}

impl Printer {
    pub(super) fn new(request: Option<String>, terminal: &Terminal) -> Self {
        Self {
            request,
            terminal: *terminal,
            known: Vec::new(),
            zone: TimeZone::system(),
        }
    }

    /// Prints one, if it is wanted; returns whether it is.
    ///
    /// # Errors
    /// When it can't be printed.
    pub(super) fn print(&mut self, entry: &Entry) -> Result<bool, OutputError> {
        if self
            .request
            .as_ref()
            .is_some_and(|request| !entry.is_of(request))
        {
            return Ok(false);
        }
        if self.terminal.is_json() {
            self.terminal.json(&json(entry))?;
        } else {
            let paint = self.terminal.out;
            for line in self.render(entry, paint) {
                self.terminal.say(&line)?;
            }
        }
        Ok(true)
    }

    /// The lines that a person sees.
    fn render(&mut self, entry: &Entry, paint: Paint) -> Vec<String> {
        let number = self
            .known
            .iter()
            .position(|known| *known == entry.pod)
            .unwrap_or_else(|| {
                self.known.push(entry.pod.clone());
                self.known.len() - 1
            });
        // `digits-0123456789-abcde-x7k2p`: its last part tells replicas apart.
        let short = entry.pod.rsplit('-').next().unwrap_or(&entry.pod);
        let time = entry.written.map_or_else(String::new, |written| {
            written
                .to_zoned(self.zone.clone())
                .strftime("%H:%M:%S%.3f")
                .to_string()
        });
        let prefix = format!(
            "{} {}",
            paint.dim(&time),
            paint.hue(number, &format!("{short} │"))
        );
        let Some(line) = &entry.line else {
            return vec![format!("{prefix} {}", harmless(&entry.text))];
        };
        let id = match (&line.request_id, &self.request) {
            // Where one request was asked for, all lines are its.
            (Some(id), None) => paint.dim(&format!(" {}", harmless(id))),
            _ => String::new(),
        };
        if line.event.as_deref() == Some(event::REQUEST)
            && let Some(text) = request(line, paint)
        {
            return vec![format!("{prefix} {text}{id}")];
        }
        let level = level(line, paint);
        let fields = fields(line, paint);
        line.message
            .lines()
            .map(|text| format!("{prefix} {level}{}{fields}{id}", harmless(text)))
            .collect()
    }
}

/// The line as it is, and whose it is.
fn json(entry: &Entry) -> Value {
    let mut value = match &entry.line {
        Some(line) => serde_json::to_value(line).unwrap_or_default(),
        None => serde_json::json!({"message": entry.text}),
    };
    if let Some(object) = value.as_object_mut() {
        object.insert("pod".to_owned(), entry.pod.clone().into());
        if let Some(written) = entry.written {
            object
                .entry("ts")
                .or_insert_with(|| written.to_string().into());
        }
    }
    value
}

/// `GET /digits 200 1.2 ms`, where the line has all of that.
fn request(line: &Line<'_>, paint: Paint) -> Option<String> {
    let text = |name: &str| line.fields.get(name).and_then(Value::as_str);
    let status = line.fields.get("status").and_then(Value::as_u64)?;
    let millis = line.fields.get("millis").and_then(Value::as_f64)?;
    let shown = match status {
        200..300 => paint.green(&status.to_string()),
        300..500 => paint.yellow(&status.to_string()),
        _ => paint.red(&status.to_string()),
    };
    let took = std::time::Duration::try_from_secs_f64(millis / 1e3).unwrap_or_default();
    let reason = text("reason").map_or_else(String::new, |reason| format!(" {}", harmless(reason)));
    Some(format!(
        "{} {} {shown} {}{reason}",
        harmless(text("method")?),
        harmless(text("path")?),
        terminal::duration(took)
    ))
}

fn level(line: &Line<'_>, paint: Paint) -> String {
    // Standard output has no levels, and standard error says nothing of how grave it is.
    if [GUEST_STDOUT, GUEST_STDERR].contains(&&*line.target) {
        return String::new();
    }
    match line.level {
        Level::Error => paint.red("error "),
        Level::Warn => paint.yellow("warn "),
        Level::Info if line.target == GUEST_LOG => paint.green("info "),
        Level::Info => String::new(),
        Level::Debug | Level::Trace => paint.dim("debug "),
    }
}

fn fields(line: &Line<'_>, paint: Paint) -> String {
    let mut text = String::new();
    for (name, value) in &line.fields {
        let _ = match value {
            Value::String(value) => write!(text, " {name}={}", harmless(value)),
            value => write!(text, " {name}={}", harmless(&value.to_string())),
        };
    }
    if text.is_empty() {
        text
    } else {
        paint.dim(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Color, Format};

    const LINES: [(&str, &str); 7] = [
        (
            "digits-0123456789-abcde-x7k2p",
            r#"2026-01-01T00:00:00.123456789Z {"ts":"2026-01-01T00:00:00.1Z","level":"info","target":"wisp_host","message":"ready","event":"ready","function":"vision/digits","millis":12}"#,
        ),
        (
            "digits-0123456789-abcde-9fghi",
            r#"2026-01-01T00:00:01Z {"ts":"x","level":"info","target":"wisp_host","message":"answered","event":"request","requestId":"r1","method":"GET","path":"/a","status":502,"millis":1.25,"reason":"trap"}"#,
        ),
        (
            "digits-0123456789-abcde-x7k2p",
            r#"2026-01-01T00:00:02Z {"ts":"x","level":"warn","target":"guest.log","message":"one\ntwo","requestId":"r2"}"#,
        ),
        (
            "digits-0123456789-abcde-x7k2p",
            r#"2026-01-01T00:00:03Z {"ts":"x","level":"info","target":"guest.stderr","message":"\u001b[2Jgone","requestId":"r1"}"#,
        ),
        (
            "digits-0123456789-abcde-x7k2p",
            "2026-01-01T00:00:04Z thread 'main' panicked",
        ),
        ("digits-0123456789-abcde-x7k2p", "2026-01-01T00:00:05Z "),
        ("digits-0123456789-abcde-x7k2p", "no time at all"),
    ];

    fn printer(request: Option<&str>) -> Printer {
        let terminal = Terminal::detect(Format::Human, Color::Never);
        let mut printer = Printer::new(request.map(str::to_owned), &terminal);
        printer.zone = TimeZone::UTC;
        printer
    }

    #[test]
    fn what_people_and_scripts_see() {
        let mut printer = printer(None);
        let mut text = Vec::new();
        for (pod, line) in LINES {
            let entry = Entry::read(pod, line);
            text.extend(printer.render(&entry, Paint::NONE));
            text.push(format!("    {}", json(&entry)));
        }
        insta::assert_snapshot!(text.join("\n"));
    }

    /// Would fail if another request's lines, or lines of none, were shown as this one's.
    #[test]
    fn a_request_is_told_from_all_others() {
        let of = |id: &str| {
            LINES
                .iter()
                .filter(|(pod, line)| Entry::read(pod, line).is_of(id))
                .count()
        };
        assert_eq!([of("r1"), of("r2"), of("r")], [2, 1, 0]);
        let entry = Entry::read(LINES[1].0, LINES[1].1);
        let shown = printer(Some("r1")).render(&entry, Paint::NONE).join("");
        assert!(!shown.contains("r1"), "{shown}");
    }
}

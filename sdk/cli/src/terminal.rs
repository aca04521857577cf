//! Who reads this, a person or a script, and may it be coloured?

use std::io::{self, ErrorKind, IsTerminal, Write};

use crate::args::{Color, Format};
use crate::failure::Explain;

/// What should be read can't be written.
#[derive(Debug, thiserror::Error)]
#[error("standard output can't be written to")]
pub(crate) struct OutputError(#[from] io::Error);

impl Explain for OutputError {
    /// Who closed the pipe has read enough, as in `wisp logs -f x | head -1`.
    fn is_end(&self) -> bool {
        self.0.kind() == ErrorKind::BrokenPipe
    }
}

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminal {
    /// For people or for scripts.
    pub(crate) format: Format,
    /// Whether standard output is a terminal.
    pub(crate) interactive: bool,
    /// Colours of standard output.
    pub(crate) out: Paint,
    /// Colours of standard error.
    pub(crate) err: Paint,
    /// Whether lines for people are on standard error, all of them.
    is_aside: bool,
}

/// Colours, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Paint(bool);

/// The colours of functions' names, in turn. Red is for errors.
const HUES: [&str; 5] = ["36", "35", "33", "32", "34"];

impl Paint {
    /// No colours.
    #[cfg(test)]
    pub(crate) const NONE: Self = Self(false);

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Whether there are colours.
    pub(crate) fn is_on(self) -> bool {
        self.0
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.wrap("33", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// The colour of the `index`th function.
    pub(crate) fn hue(self, index: usize, text: &str) -> String {
        self.wrap(HUES.get(index % HUES.len()).copied().unwrap_or("0"), text)
    }
}

impl Terminal {
    /// Reads <https://no-color.org>'s variable and what the standard streams are.
    pub(crate) fn detect(format: Format, color: Color) -> Self {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let interactive = std::io::stdout().is_terminal();
        let paint = |terminal: bool| {
            Paint(match color {
                Color::Always => true,
                Color::Never => false,
                Color::Auto => terminal && !refused,
            })
        };
        Self {
            format,
            interactive,
            out: paint(interactive),
            err: paint(std::io::stderr().is_terminal()),
            is_aside: false,
        }
    }

    /// The same where standard output is for something else than lines for people.
    pub(crate) fn aside(self) -> Self {
        Self {
            out: self.err,
            is_aside: true,
            ..self
        }
    }

    /// Whether a script reads.
    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// A line for people, on standard output unless that is for something else.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn say(&self, line: &str) -> Result<(), OutputError> {
        if self.is_aside {
            self.note(line);
            return Ok(());
        }
        if self.is_json() {
            return Ok(());
        }
        Ok(writeln!(std::io::stdout().lock(), "{line}")?)
    }

    /// A line for people about what goes on meanwhile, on standard error.
    pub(crate) fn note(&self, line: &str) {
        if !self.is_json() {
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        }
    }

    /// A line about what is missing in what is printed, on standard error, whoever reads.
    pub(crate) fn warn(&self, line: &str) {
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }

    /// An object for scripts, on standard output.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn json(&self, value: &serde_json::Value) -> Result<(), OutputError> {
        if !self.is_json() {
            return Ok(());
        }
        Ok(writeln!(std::io::stdout().lock(), "{value}")?)
    }
}

/// Bytes as they are, on standard output, at once.
///
/// # Errors
/// When they can't be written.
pub(crate) fn write(bytes: &[u8]) -> Result<(), OutputError> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// Whether a terminal would do something else with these bytes than show them: the control characters of ASCII save
/// white space, and those that UTF-8 has as two bytes (C1). `before` is the byte that came before them.
pub(crate) fn acts(before: u8, bytes: &[u8]) -> bool {
    let mut last = before;
    bytes.iter().any(|&byte| {
        let is_c1 = std::mem::replace(&mut last, byte) == 0xc2 && matches!(byte, 0x80..=0x9f);
        is_c1 || byte.is_ascii_control() && !matches!(byte, b'\t'..=b'\r')
    })
}

/// [`harmless`], line by line.
pub(crate) fn harmless_lines(text: &str) -> String {
    let lines: Vec<String> = text.split('\n').map(harmless).collect();
    lines.join("\n")
}

/// Without what would move a terminal's cursor or change its colours: functions log and answer what
/// strangers send.
pub(crate) fn harmless(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() && letter != '\t' {
            clean.extend(letter.escape_default());
        } else {
            clean.push(letter);
        }
    }
    clean
}

/// `1.3 KB`, decimal as disks and networks count.
pub(crate) fn bytes(count: u64) -> String {
    #[expect(
        clippy::cast_precision_loss,
        reason = "one digit after the point is shown"
    )]
    let value = count as f64;
    match count {
        0..1000 => format!("{count} B"),
        1000..1_000_000 => format!("{:.1} KB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.2} GB", value / 1e9),
    }
}

/// `850 µs`, `12 ms`, `1.4 s`, `2 min 5 s`.
pub(crate) fn duration(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1e-3 {
        format!("{:.0} µs", seconds * 1e6)
    } else if seconds < 0.01 {
        format!("{:.1} ms", seconds * 1e3)
    } else if seconds < 1.0 {
        format!("{:.0} ms", seconds * 1e3)
    } else if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        format!(
            "{} min {} s",
            duration.as_secs() / 60,
            duration.as_secs() % 60
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn quantities_are_short() {
        assert_eq!(
            [999, 1000, 2_345_678, 3_000_000_000].map(bytes),
            ["999 B", "1.0 KB", "2.3 MB", "3.00 GB"]
        );
        let durations = [850, 9_500, 12_000, 1_400_000, 125_000_000]
            .map(|micros| duration(Duration::from_micros(micros)));
        assert_eq!(
            durations,
            ["850 µs", "9.5 ms", "12 ms", "1.4 s", "2 min 5 s"]
        );
    }

    /// Would fail if a function could write to a terminal what moves its cursor, or its text weren't shown any more.
    #[test]
    fn what_strangers_send_does_nothing_to_a_terminal() {
        for text in ["plain\ttext\r\n", "h\u{e9}llo \u{a0}\u{20ac} 日本", ""] {
            assert!(!acts(b'\n', text.as_bytes()), "{text:?}");
        }
        for text in [
            "\x1b[2J", "\u{9b}2J", "\0", "a\x08b", "\x7f", "\x0e", "\x07",
        ] {
            assert!(acts(b'\n', text.as_bytes()), "{text:?}");
        }
        assert!(acts(0xc2, b"\x9b"), "in two pieces");
        assert_eq!(
            harmless_lines("a\x1b[2J\nb\u{9b}\t\n"),
            "a\\u{1b}[2J\nb\\u{9b}\t\n"
        );
    }

    #[test]
    fn colours_vanish_where_nobody_sees_them() {
        assert_eq!(Paint::NONE.red("x"), "x");
        assert_eq!(Paint(true).hue(7, "x"), "\x1b[33mx\x1b[0m");
    }
}

//! How a command fails: a sentence, its causes, a way out, an exit status.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::terminal::{Terminal, harmless_lines};

/// An error that knows the way out.
pub(crate) trait Explain: Error + Send + Sync + 'static {
    /// What to do about it, as a sentence without a full stop.
    fn hint(&self) -> Option<String> {
        None
    }

    /// The process' exit status.
    fn code(&self) -> u8 {
        1
    }

    /// Whether the command just ends here, with success and without a word: nobody reads any more.
    fn is_end(&self) -> bool {
        false
    }
}

/// What a command ends with where it doesn't succeed.
#[derive(Debug)]
pub(crate) struct Failure {
    error: Box<dyn Error + Send + Sync>,
    hint: Option<String>,
    code: u8,
    is_end: bool,
}

impl<E: Explain> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            hint: error.hint(),
            code: error.code(),
            is_end: error.is_end(),
            error: Box::new(error),
        }
    }
}

impl Failure {
    /// Whether nobody reads what more there is to say.
    pub(crate) fn is_end(&self) -> bool {
        self.is_end
    }

    /// Prints it, and gives the process' exit status.
    pub(crate) fn print(&self, terminal: &Terminal) -> ExitCode {
        if self.is_end {
            return ExitCode::SUCCESS;
        }
        if terminal.is_json() {
            let told = self.told();
            // Standard output may be what is broken.
            if terminal.json(&told).is_err() {
                let _ = writeln!(std::io::stderr().lock(), "{told}");
            }
        } else {
            let paint = terminal.err;
            // A function's own words may be among them.
            let mut texts = causes(&*self.error).map(|text| harmless_lines(&text));
            terminal.note(&format!(
                "{} {}",
                paint.red("error:"),
                texts.next().unwrap_or_default()
            ));
            for cause in texts {
                terminal.note(&format!("  {} {cause}", paint.dim("because:")));
            }
            if let Some(hint) = &self.hint {
                let hint = harmless_lines(hint);
                terminal.note(&format!("  {} {hint}", paint.green("hint:")));
            }
        }
        ExitCode::from(self.code)
    }

    /// It as scripts read it.
    pub(crate) fn told(&self) -> Value {
        let causes: Vec<String> = causes(&*self.error).skip(1).collect();
        json!({"error": self.error.to_string(), "causes": causes, "hint": self.hint})
    }

    /// Sentence, causes and hint as the tests compare them.
    #[cfg(test)]
    pub(crate) fn text(&self) -> String {
        let mut text = causes(&*self.error).collect::<Vec<_>>().join(" <- ");
        if let Some(hint) = &self.hint {
            text.push_str(" | hint: ");
            text.push_str(hint);
        }
        text
    }
}

/// The error's text and those of its causes. What only repeats the one before, or its end, is left out: some errors show their
/// cause themselves.
pub(crate) fn causes(error: &dyn Error) -> impl Iterator<Item = String> {
    let mut next: Option<&dyn Error> = Some(error);
    let mut last = String::new();
    std::iter::from_fn(move || {
        loop {
            let error = next?;
            next = error.source();
            let text = error.to_string();
            if last.is_empty() || !last.ends_with(&text) {
                last.clone_from(&text);
                return Some(text);
            }
        }
    })
}

/// The error and its causes on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    causes(error).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Told {
        text: &'static str,
        source: Option<Box<Told>>,
    }

    fn told(texts: &[&'static str]) -> Option<Box<Told>> {
        let (text, causes) = texts.split_first()?;
        let source = told(causes);
        Some(Box::new(Told { text, source }))
    }

    /// Would fail if a person read one cause twice.
    #[test]
    fn a_cause_that_was_told_already_is_not_told_again() {
        let said = |texts: &[&'static str]| chain(&*told(texts).unwrap());
        assert_eq!(said(&["a", "b", "c"]), "a: b: c");
        assert_eq!(
            said(&["can't read x: no such file", "no such file", "c"]),
            "can't read x: no such file: c"
        );
        assert_eq!(said(&["a", "a", "b"]), "a: b");
        assert_eq!(said(&["", "a"]), ": a");
    }
}

//! What is wrong with a manifest, and where.

use std::fmt;

/// One mistake: where, and a sentence that names the value and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The line in the text, counted from 1, where the mistake was found in one.
    pub line: Option<usize>,
    /// The field, such as `spec.models[0].name`; empty for the document itself.
    pub path: String,
    /// What is wrong.
    pub message: String,
}

impl Mistake {
    pub(crate) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            line: None,
            path: path.into(),
            message: message.into(),
        }
    }

    pub(crate) fn at(line: usize, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            line: Some(line),
            path: path.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong, in the order of the text; never empty. Printed one mistake a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestError {
    mistakes: Vec<Mistake>,
}

impl ManifestError {
    /// An error, if there is any mistake.
    pub(crate) fn unless_empty(mut mistakes: Vec<Mistake>) -> Result<(), Self> {
        if mistakes.is_empty() {
            return Ok(());
        }
        mistakes.sort_by_key(|mistake| mistake.line);
        mistakes.dedup();
        Err(Self { mistakes })
    }

    /// The same mistakes, each with the line that `line` gives its field.
    pub(crate) fn with_lines(mut self, line: impl Fn(&str) -> usize) -> Self {
        for mistake in &mut self.mistakes {
            mistake.line = Some(line(&mistake.path));
        }
        self.mistakes.sort_by_key(|mistake| mistake.line);
        self
    }

    /// The error of one mistake.
    pub(crate) fn one(mistake: Mistake) -> Self {
        Self {
            mistakes: vec![mistake],
        }
    }

    /// The mistakes, at least one.
    #[must_use]
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }

    /// The mistakes, at least one.
    #[must_use]
    pub fn into_mistakes(self) -> Vec<Mistake> {
        self.mistakes
    }
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.mistakes.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ManifestError {}

/// The name among `known` that `name` was probably meant to be.
pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| {
            (
                strsim::jaro_winkler(&lower, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `a`, `b` and `c`, in the order given.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>, last: &str) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        Some((end, [])) => end.clone(),
        Some((end, start)) => format!("{} {last} {end}", start.join(", ")),
        None => "nothing".to_owned(),
    }
}

//! Steps that say what they do, and how long they took.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// A list of timed steps.
#[derive(Default)]
pub(crate) struct Steps {
    done: Vec<(String, Duration)>,
}

impl Steps {
    /// Prints the step's title, runs it and remembers its time.
    pub(crate) fn run<T>(&mut self, title: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("\n── {title}");
        let start = Instant::now();
        let value = step().with_context(|| format!("step failed: {title}"))?;
        self.done.push((title.to_owned(), start.elapsed()));
        Ok(value)
    }

    /// Prints how long each step took.
    pub(crate) fn summary(&self) {
        let width = self
            .done
            .iter()
            .map(|(title, _)| title.chars().count())
            .max()
            .unwrap_or(0);
        eprintln!("\n── How long it took");
        for (title, time) in &self.done {
            eprintln!("   {title:width$}  {}", seconds(*time));
        }
        let total = self.done.iter().map(|(_, time)| *time).sum();
        eprintln!("   {:width$}  {}", "in all", seconds(total));
    }
}

fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..60 => format!("{:6.2} s", time.as_secs_f64()),
        whole => format!("{:3} min {:02} s", whole / 60, whole % 60),
    }
}

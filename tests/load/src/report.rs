//! What a bench found: for machines as JSON, for people as a table.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::machine::Machine;

/// Values of the same thing, one per round.
#[derive(Debug, Clone, Default)]
pub struct Sample(pub Vec<f64>);

impl Sample {
    /// The middle one, or the mean of the two in the middle. 0 where there is none.
    #[must_use]
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
        if sorted.len() % 2 == 1 {
            at(middle)
        } else {
            f64::midpoint(at(middle.saturating_sub(1)), at(middle))
        }
    }

    /// Each value over the other's of the same round.
    #[must_use]
    pub fn over(&self, other: &Self) -> Self {
        Self(
            self.0
                .iter()
                .zip(&other.0)
                .map(|(one, other)| one / other)
                .collect(),
        )
    }

    /// Each value less the other's of the same round.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        Self(
            self.0
                .iter()
                .zip(&other.0)
                .map(|(one, other)| one - other)
                .collect(),
        )
    }

    /// The greatest less the least, as a part of the median.
    #[must_use]
    pub fn spread(&self) -> f64 {
        let greatest = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let least = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let median = self.median();
        if median == 0.0 {
            0.0
        } else {
            (greatest - least) / median
        }
    }
}

/// What a value is to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Aim {
    /// At least this.
    AtLeast(f64),
    /// Less than this.
    Below(f64),
}

/// One number.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Which bench.
    pub bench: String,
    /// What was run, and how.
    pub case: String,
    /// What was measured.
    pub metric: String,
    /// The median over all rounds.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// The greatest less the least round, as a part of the median.
    pub spread: f64,
    /// The same of what it is compared with.
    pub baseline: Option<f64>,
    /// `value` over `baseline`.
    pub ratio: Option<f64>,
    /// What it is to be.
    pub aim: Option<Aim>,
    /// Whether it is.
    pub met: Option<bool>,
}

impl Row {
    /// A number of its own.
    #[must_use]
    pub fn new(bench: &str, case: &str, metric: &str, sample: &Sample, unit: &str) -> Self {
        Self {
            bench: bench.to_owned(),
            case: case.to_owned(),
            metric: metric.to_owned(),
            value: sample.median(),
            unit: unit.to_owned(),
            spread: sample.spread(),
            baseline: None,
            ratio: None,
            aim: None,
            met: None,
        }
    }

    /// Compares it with the same of something else.
    #[must_use]
    pub fn against(mut self, baseline: f64) -> Self {
        self.baseline = Some(baseline);
        self.ratio = (baseline != 0.0).then(|| self.value / baseline);
        self
    }

    /// What the value is to be.
    #[must_use]
    pub fn aiming(mut self, aim: Aim) -> Self {
        self.met = Some(match aim {
            Aim::AtLeast(bound) => self.value >= bound,
            Aim::Below(bound) => self.value < bound,
        });
        self.aim = Some(aim);
        self
    }
}

/// A run in which all cases have their turns.
pub(crate) fn in_turns(rounds: u32, seconds: u32) -> String {
    format!("{rounds} rounds of {seconds} s")
}

/// All that one run found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// On what.
    pub machine: Machine,
    /// How long it was, and how much of the bench: only runs of which this is the same are held against each other.
    pub run: String,
    /// The numbers.
    pub rows: Vec<Row>,
}

impl Report {
    /// Writes it as JSON, with the folders that are missing.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Whether everything that has an aim reaches it.
    #[must_use]
    pub fn met(&self) -> bool {
        self.rows.iter().all(|row| row.met != Some(false))
    }

    /// How a program ends that found this: well, or with 4 where an aim was missed, which is neither what a failure is told
    /// by nor a wrong command line, nor, in `gpu check`, that there is no GPU.
    #[must_use]
    pub fn status(&self) -> ExitCode {
        if self.met() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(4)
        }
    }

    /// For people.
    #[must_use]
    pub fn table(&self) -> String {
        let mut lines = vec![
            [
                "case", "metric", "value", "spread", "baseline", "ratio", "aim",
            ]
            .map(str::to_owned),
        ];
        for row in &self.rows {
            let mark = |met: Option<bool>| match met {
                Some(true) => " met",
                Some(false) => " MISSED",
                None => "",
            };
            let aim = row.aim.map_or_else(String::new, |aim| match aim {
                Aim::AtLeast(bound) => format!(">= {}", short(bound)),
                Aim::Below(bound) => format!("< {}", short(bound)),
            });
            lines.push([
                row.case.clone(),
                row.metric.clone(),
                format!("{} {}", short(row.value), row.unit),
                format!("{:.0}%", row.spread * 100.0),
                row.baseline.map_or_else(String::new, short),
                row.ratio
                    .map_or_else(String::new, |ratio| format!("{ratio:.2}")),
                format!("{aim}{}", mark(row.met)),
            ]);
        }
        let mut out = format!("{}; {}\n", self.machine, self.run);
        for line in &lines {
            for (column, cell) in line.iter().enumerate() {
                let width = lines.iter().filter_map(|line| line.get(column));
                let width = width.map(|cell| cell.chars().count()).max().unwrap_or(0);
                let _ = write!(out, "{cell:width$}  ");
            }
            out.truncate(out.trim_end().len());
            out.push('\n');
        }
        out
    }
}

/// With as many digits as say something.
fn short(value: f64) -> String {
    if value.abs() >= 1000.0 {
        format!("{value:.0}")
    } else if value.abs() >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_knows_its_median_spread_ratio_and_aim() {
        let row = Row::new("b", "c", "m", &Sample(vec![3.0, 1.0, 2.0]), "s").against(4.0);
        assert_eq!((row.value, row.spread, row.ratio), (2.0, 1.0, Some(0.5)));
        assert_eq!(row.clone().aiming(Aim::Below(2.0)).met, Some(false));
        assert_eq!(row.aiming(Aim::AtLeast(2.0)).met, Some(true));
        assert_eq!(Sample(vec![1.0, 2.0]).median(), 1.5);
        assert_eq!(
            (Sample::default().median(), Sample::default().spread()),
            (0.0, 0.0)
        );
    }
}

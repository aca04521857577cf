//! What `/metrics` answers, read as Prometheus reads it: its text format and OpenMetrics, which extends it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use wisp_integration::{Answer, Client};

/// What one process told.
#[derive(Debug, Default)]
pub struct Exposition {
    /// The series with their labels as they stand, and their values.
    series: BTreeMap<String, f64>,
    /// The families that have a type.
    families: BTreeSet<String>,
}

impl Exposition {
    /// Asks for it.
    ///
    /// # Errors
    /// When it isn't given, or isn't what its media type says.
    pub async fn ask(client: Client, path: &str) -> Result<Self> {
        let answer: Answer = client.get(path).await?;
        ensure!(answer.status == 200, "{path}: {answer:?}");
        let media_type = answer.headers.get("content-type");
        let media_type = media_type.context("no content-type")?.to_str()?;
        let is_open = match media_type.split(';').next() {
            Some("application/openmetrics-text") => true,
            Some("text/plain") => false,
            _ => bail!("{media_type} is none of Prometheus'"),
        };
        Self::read(&answer.text(), is_open)
    }

    fn read(text: &str, is_open: bool) -> Result<Self> {
        ensure!(text.ends_with('\n'), "the last line has no end");
        ensure!(text.ends_with("# EOF\n") == is_open, "{text}");
        let mut read = Self::default();
        for line in text.lines().filter(|line| *line != "# EOF") {
            read.line(line).with_context(|| line.to_owned())?;
        }
        Ok(read)
    }

    fn line(&mut self, line: &str) -> Result<()> {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, family) = (words.next(), words.next().context("of what?")?);
            match kind {
                Some("TYPE") => {
                    ensure!(self.families.insert(family.to_owned()), "said twice");
                }
                Some("HELP" | "UNIT") => {}
                _ => bail!("expected TYPE, HELP or UNIT"),
            }
            return Ok(());
        }
        // No label's value of ours has a space or a brace.
        let (series, value) = line.split_once(' ').context("no value")?;
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').context("labels without an end")?;
        for label in labels.split("\",").filter(|label| !label.is_empty()) {
            let (_, value) = label.split_once("=\"").context("a label without a value")?;
            ensure!(!value.trim_end_matches('"').contains('"'), "not escaped");
        }
        let family = ["", "_total", "_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| self.families.get(name.strip_suffix(suffix)?));
        family.context("it has no type")?;
        let before = self.series.insert(series.to_owned(), value.parse()?);
        ensure!(before.is_none(), "it is there twice");
        Ok(())
    }

    /// The sum of the series of this name that have all of `labels`, each as `name="value"`; none where there is none.
    #[must_use]
    pub fn sum(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let mut found = self.series.iter().filter(|(series, _)| {
            let rest = series.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
                && labels.iter().all(|label| series.contains(label))
        });
        let (_, first) = found.next()?;
        Some(found.fold(*first, |sum, (_, value)| sum + value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if the tests took for metrics what Prometheus doesn't.
    #[test]
    fn what_prometheus_refuses_is_refused() {
        let good = "# HELP a Words.\n# TYPE a counter\na_total{b=\"c\",d=\"e\"} 2\na_total{b=\"f\",d=\"e\"} 3\n";
        let read = Exposition::read(good, false).unwrap();
        assert_eq!(read.sum("a_total", &["d=\"e\""]), Some(5.0));
        assert_eq!(read.sum("a_total", &["b=\"c\""]), Some(2.0));
        assert_eq!(read.sum("a", &[]), None);
        for wrong in [
            "a 1\n",
            "# TYPE a gauge\na\n",
            "# TYPE a gauge\na 1",
            "# TYPE a gauge\na one\n",
            "# TYPE a gauge\na{b=\"c\" 1\n",
            "# TYPE a gauge\na{b} 1\n",
            "# TYPE a gauge\na 1\na 2\n",
            "# TYPE a gauge\n# TYPE a gauge\n",
            "# Words\n",
        ] {
            assert!(Exposition::read(wrong, false).is_err(), "{wrong}");
        }
        assert!(Exposition::read("# TYPE a gauge\na 1\n", true).is_err());
        assert!(Exposition::read("# TYPE a gauge\na 1\n# EOF\n", true).is_ok());
    }
}

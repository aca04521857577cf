//! What did the last run of a bench find? Rows with an aim are held against it: whether an aim is met doesn't tell whether
//! something became slower.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

/// What a run found; `None` where there was none.
pub(super) fn read(file: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

/// A line for each row with an aim that was there in the last run, too. `None` where there is none, or that run was on
/// another machine, or longer or shorter.
pub(super) fn compared(last: &Value, now: &Value) -> Option<String> {
    let same = |part: &str| last.pointer(part) == now.pointer(part);
    let machine = ["processor", "cores", "memory_gib", "kernel"];
    let is_like = machine.iter().all(|part| same(&format!("/machine/{part}"))) && same("/run");
    if !is_like {
        return None;
    }
    let mut text = String::new();
    for row in rows(now).filter(|row| row.get("aim").is_some_and(|aim| !aim.is_null())) {
        let is_it = |other: &&Value| {
            ["case", "metric"]
                .iter()
                .all(|key| other.get(key) == row.get(key))
        };
        let before = rows(last).find(is_it).and_then(value);
        if let (Some(before), Some(now)) = (before.filter(|value| *value != 0.0), value(row)) {
            let word = |key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default();
            let (case, metric, unit) = (word("case"), word("metric"), word("unit"));
            let _ = writeln!(
                text,
                "{case}, {metric}: {:.2} times the last run's, {before:.2} then and {now:.2} {unit} now",
                now / before
            );
        }
    }
    (!text.is_empty()).then_some(text)
}

fn rows(report: &Value) -> impl Iterator<Item = &Value> {
    let rows = report.get("rows").and_then(Value::as_array);
    rows.into_iter().flatten()
}

fn value(row: &Value) -> Option<f64> {
    row.get("value")?.as_f64()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(cores: u32, run: &str, value: f64) -> Value {
        let row = |metric: &str, aim: Value| json!({"case": "a", "metric": metric, "unit": "ms", "value": value, "aim": aim});
        json!({
            "machine": {"processor": "x", "cores": cores, "busy": value},
            "run": run,
            "rows": [row("p50", json!({"below": 1.0})), row("p99", Value::Null)],
        })
    }

    /// Would fail if a row without an aim were told, or one of another machine or of another length, or the ratio were the other
    /// way round.
    #[test]
    fn what_has_an_aim_is_held_against_the_last_run_here() {
        let now = report(2, "3 rounds", 3.0);
        let text = compared(&report(2, "3 rounds", 2.0), &now).unwrap();
        assert_eq!(
            text,
            "a, p50: 1.50 times the last run's, 2.00 then and 3.00 ms now\n"
        );
        assert_eq!(compared(&report(4, "3 rounds", 2.0), &now), None);
        assert_eq!(compared(&report(2, "1 round", 2.0), &now), None);
        assert_eq!(compared(&report(2, "3 rounds", 0.0), &now), None);
        assert_eq!(compared(&json!({}), &now), None);
    }
}

//! What Prometheus reads: every label is one of a bounded set, the functions there are and words of our own.

use std::fmt::Write as _;

use crate::function::Function;
use crate::memory::Memory;
use crate::report::{LATENCY_BOUNDS, Totals};

/// The media type of [`text`].
pub(crate) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is counted of no function.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts<'a> {
    /// Requests that were for none.
    pub(crate) unrouted: u64,
    /// Clients' connections that are open.
    pub(crate) connections: u32,
    /// Those that were closed at once.
    pub(crate) refused_connections: u64,
    /// What is held for clients, by a word for it.
    pub(crate) held: [(&'static str, &'a Memory); 3],
}

struct Row {
    labels: String,
    in_flight: u32,
    queued: u32,
    replicas: usize,
    totals: Totals,
}

/// All counts in Prometheus' text format, <https://prometheus.io/docs/instrumenting/exposition_formats/>.
pub(crate) fn text<'a>(
    functions: impl IntoIterator<Item = &'a Function>,
    counts: Counts<'_>,
) -> String {
    let rows: Vec<Row> = functions.into_iter().map(row).collect();
    let mut out = String::new();
    // Names are DNS labels: nothing in a label needs escaping. Writing to a String cannot fail.
    let _ = write(&mut out, &rows, counts);
    out
}

fn row(function: &Function) -> Row {
    Row {
        labels: format!(
            "namespace=\"{}\",function=\"{}\"",
            function.id.namespace(),
            function.id.name()
        ),
        in_flight: function.stats.in_flight(),
        queued: function.stats.queued(),
        replicas: function.replicas.len(),
        totals: function.stats.totals(),
    }
}

fn write(out: &mut String, rows: &[Row], counts: Counts<'_>) -> std::fmt::Result {
    head(
        out,
        "wisp_gateway_requests_total",
        "counter",
        "Requests that came for a function.",
    )?;
    for row in rows {
        writeln!(
            out,
            "wisp_gateway_requests_total{{{}}} {}",
            row.labels, row.totals.requests
        )?;
    }
    head(
        out,
        "wisp_gateway_unrouted_requests_total",
        "counter",
        "Requests that were for no function.",
    )?;
    writeln!(
        out,
        "wisp_gateway_unrouted_requests_total {}",
        counts.unrouted
    )?;
    head(
        out,
        "wisp_gateway_connections",
        "gauge",
        "Clients' connections.",
    )?;
    writeln!(out, "wisp_gateway_connections {}", counts.connections)?;
    head(
        out,
        "wisp_gateway_refused_connections_total",
        "counter",
        "Clients' connections that were closed at once, as there were as many as there may be.",
    )?;
    writeln!(
        out,
        "wisp_gateway_refused_connections_total {}",
        counts.refused_connections
    )?;
    head(
        out,
        "wisp_gateway_held_bytes",
        "gauge",
        "What is held for clients: requests that wait, small frames of their bodies that nobody has read, and answers that a client leaves unread.",
    )?;
    for (what, memory) in counts.held {
        let bytes = memory.held();
        writeln!(out, "wisp_gateway_held_bytes{{what=\"{what}\"}} {bytes}")?;
    }
    head(
        out,
        "wisp_gateway_held_limit_bytes",
        "gauge",
        "How much of each may be held.",
    )?;
    for (what, memory) in counts.held {
        let allowed = memory.allowed();
        writeln!(
            out,
            "wisp_gateway_held_limit_bytes{{what=\"{what}\"}} {allowed}"
        )?;
    }
    head(
        out,
        "wisp_gateway_responses_total",
        "counter",
        "Responses by class of status.",
    )?;
    for row in rows {
        for (class, count) in ["1xx", "2xx", "3xx", "4xx", "5xx"]
            .into_iter()
            .zip(row.totals.answers)
        {
            writeln!(
                out,
                "wisp_gateway_responses_total{{{},code=\"{class}\"}} {count}",
                row.labels
            )?;
        }
    }
    head(
        out,
        "wisp_gateway_request_duration_seconds",
        "histogram",
        "From a request's head to its response's last byte.",
    )?;
    for row in rows {
        let mut sum = 0_u64;
        for (bound, count) in LATENCY_BOUNDS.iter().zip(row.totals.latency) {
            sum = sum.saturating_add(count);
            writeln!(
                out,
                "wisp_gateway_request_duration_seconds_bucket{{{},le=\"{bound}\"}} {sum}",
                row.labels
            )?;
        }
        let count = row
            .totals
            .latency
            .iter()
            .fold(0_u64, |sum, count| sum.saturating_add(*count));
        writeln!(
            out,
            "wisp_gateway_request_duration_seconds_bucket{{{},le=\"+Inf\"}} {count}",
            row.labels
        )?;
        writeln!(
            out,
            "wisp_gateway_request_duration_seconds_sum{{{}}} {}",
            row.labels, row.totals.latency_seconds
        )?;
        writeln!(
            out,
            "wisp_gateway_request_duration_seconds_count{{{}}} {count}",
            row.labels
        )?;
    }
    head(
        out,
        "wisp_gateway_in_flight",
        "gauge",
        "Requests in flight in replicas.",
    )?;
    for row in rows {
        writeln!(
            out,
            "wisp_gateway_in_flight{{{}}} {}",
            row.labels, row.in_flight
        )?;
    }
    head(
        out,
        "wisp_gateway_queued",
        "gauge",
        "Requests that wait for a place or a replica.",
    )?;
    for row in rows {
        writeln!(out, "wisp_gateway_queued{{{}}} {}", row.labels, row.queued)?;
    }
    head(
        out,
        "wisp_gateway_endpoints",
        "gauge",
        "Replicas that requests go to.",
    )?;
    for row in rows {
        writeln!(
            out,
            "wisp_gateway_endpoints{{{}}} {}",
            row.labels, row.replicas
        )?;
    }
    head(
        out,
        "wisp_gateway_activations_total",
        "counter",
        "Wake-ups of functions without a replica, by outcome.",
    )?;
    for row in rows {
        for (outcome, count) in ["succeeded", "failed"]
            .into_iter()
            .zip(row.totals.activations)
        {
            writeln!(
                out,
                "wisp_gateway_activations_total{{{},outcome=\"{outcome}\"}} {count}",
                row.labels
            )?;
        }
    }
    Ok(())
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) -> std::fmt::Result {
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

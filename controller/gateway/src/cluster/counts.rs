//! What the process counts of itself, beside what the gateway counts of functions.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// Something that only grows.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All counts.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Errors of the watch of functions.
    pub(crate) functions_watch: Count,
    /// Errors of the watch of pods.
    pub(crate) pods_watch: Count,
    /// Errors of the watch of the certificate's Secret.
    pub(crate) certificate_watch: Count,
    /// Objects that could not be read.
    pub(crate) unreadable: Count,
    /// Clients whose namespace could not be learnt.
    pub(crate) clients: Count,
    /// Wake-ups that the operator didn't answer as asked.
    pub(crate) ensure: Count,
    /// Reports that the operator didn't take.
    pub(crate) report: Count,
    /// Certificates that were taken into use.
    pub(crate) certificates: Count,
    /// Certificates that could not be.
    pub(crate) bad_certificates: Count,
}

impl Counts {
    /// In Prometheus' text format.
    pub(crate) fn text(&self, is_ready: bool) -> String {
        let mut out = String::new();
        let mut metric = |name: &str, kind: &str, help: &str, rows: &[(&str, u64)]| {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in rows {
                let _ = writeln!(out, "{name}{labels} {value}");
            }
        };
        metric(
            "wisp_gateway_ready",
            "gauge",
            "Whether the gateway knows all functions and pods, and isn't draining.",
            &[("", u64::from(is_ready))],
        );
        metric(
            "wisp_gateway_watch_errors_total",
            "counter",
            "Errors of watches; they are taken up again after a pause.",
            &[
                ("{watch=\"functions\"}", self.functions_watch.get()),
                ("{watch=\"pods\"}", self.pods_watch.get()),
                ("{watch=\"certificate\"}", self.certificate_watch.get()),
            ],
        );
        metric(
            "wisp_gateway_unreadable_objects_total",
            "counter",
            "Functions that could not be read, each time they were seen.",
            &[("", self.unreadable.get())],
        );
        metric(
            "wisp_gateway_client_lookup_errors_total",
            "counter",
            "Requests to the API server for a client's namespace that failed.",
            &[("", self.clients.get())],
        );
        metric(
            "wisp_gateway_operator_errors_total",
            "counter",
            "Requests to the operator that failed.",
            &[
                ("{request=\"ensure\"}", self.ensure.get()),
                ("{request=\"report\"}", self.report.get()),
            ],
        );
        metric(
            "wisp_gateway_certificates_total",
            "counter",
            "Certificates that were seen, by whether they could be used.",
            &[
                ("{outcome=\"taken\"}", self.certificates.get()),
                ("{outcome=\"refused\"}", self.bad_certificates.get()),
            ],
        );
        out
    }
}

//! What is remembered of one request: for metrics, and for the access log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Method, Uri};
use serde_json::Value;
use wisp_contract::log::{Level, Line, event};
use wisp_wasi_logging::{Now, Sink as _, Writer};

use crate::metrics::Metrics;
use crate::respond::CLIENT_GONE;

/// One request, from its head to its response's last byte. It is counted and logged when this is dropped.
pub(crate) struct Record {
    began: Instant,
    id: Arc<str>,
    metrics: Arc<Metrics>,
    access: Option<Access>,
    status: u16,
    reason: Option<&'static str>,
    bytes: u64,
}

/// What only the access log needs.
pub(crate) struct Access {
    pub(crate) log: Writer,
    pub(crate) function: String,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
}

impl Record {
    pub(crate) fn begin(
        began: Instant,
        id: Arc<str>,
        metrics: Arc<Metrics>,
        access: Option<Access>,
    ) -> Self {
        Self {
            began,
            id,
            metrics,
            access,
            status: CLIENT_GONE,
            reason: Some("client-gone"),
            bytes: 0,
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The id as a header's value. Ids are printable, so there always is one.
    pub(crate) fn id_header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.id).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// The response's head is on its way.
    pub(crate) fn answered(&mut self, status: u16, reason: Option<&'static str>) {
        self.status = status;
        self.reason = reason;
    }

    /// The response's body failed for `reason`.
    pub(crate) fn broke_off(&mut self, reason: &'static str) {
        self.reason = Some(reason);
    }

    /// The client left before it had the whole response.
    pub(crate) fn client_gone(&mut self) {
        self.reason.get_or_insert("client-gone");
    }

    /// So many bytes of the body went out.
    pub(crate) fn sent(&mut self, bytes: u64) {
        self.bytes += bytes;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        self.metrics
            .request(self.status, self.reason.unwrap_or_default(), took);
        let Some(access) = self.access.take() else {
            return;
        };
        let mut fields = BTreeMap::from([
            ("method".to_owned(), Value::from(access.method.as_str())),
            ("path".to_owned(), Value::from(access.uri.path())),
            ("status".to_owned(), Value::from(self.status)),
            ("millis".to_owned(), Value::from(took.as_secs_f64() * 1e3)),
            ("bytes".to_owned(), Value::from(self.bytes)),
        ]);
        if let Some(reason) = self.reason {
            fields.insert("reason".to_owned(), Value::from(reason));
        }
        access.log.line(&Line {
            ts: Now::read().ts().into(),
            level: Level::Info,
            target: module_path!().into(),
            message: format!("{} {} {}", access.method, access.uri.path(), self.status).into(),
            event: Some(event::REQUEST.into()),
            function: Some((&*access.function).into()),
            request_id: Some((&*self.id).into()),
            fields,
        });
    }
}

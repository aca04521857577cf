//! What is remembered of one request: for metrics, and for the access log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, Method, Uri};
use serde_json::Value;
use wisp_contract::log::{Level, Line, event};
use wisp_wasi_logging::{Now, Sink as _, Writer};

use crate::metrics::Metrics;
use crate::request::Upload;
use crate::respond::CLIENT_GONE;

/// One request, from its head to its response's last byte. It is counted and logged when this is dropped.
pub(crate) struct Record {
    began: Instant,
    id: Arc<str>,
    metrics: Arc<Metrics>,
    access: Option<Access>,
    upload: Option<Upload>,
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
            upload: None,
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

    /// What becomes of the request's body is told by `upload`.
    pub(crate) fn reads(&mut self, upload: &Upload) {
        self.upload = Some(upload.clone());
    }

    /// The response's head is on its way.
    pub(crate) fn answered(&mut self, status: u16, reason: Option<&'static str>) {
        self.status = status;
        self.reason = reason;
    }

    /// The response's body failed for `reason`, or for what its client made of the request's.
    pub(crate) fn broke_off(&mut self, reason: &'static str) {
        let of_client = self.upload.as_ref().and_then(Upload::reason);
        self.reason = Some(of_client.unwrap_or(reason));
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Version;
    use http_body_util::{BodyExt as _, Full};

    use super::*;
    use crate::request::Limited;

    /// Would fail if a function were blamed for what its client's body didn't let it do.
    #[tokio::test]
    async fn an_answer_that_breaks_off_with_its_request_is_the_clients_fault() {
        for (allowed, reason) in [(3, "trapped"), (2, "body-too-large")] {
            let metrics = Arc::new(Metrics::new());
            let mut record = Record::begin(Instant::now(), "id".into(), Arc::clone(&metrics), None);
            let body = Full::new(Bytes::from("abc")).map_err(|never| match never {});
            let (limited, upload) = Limited::new(body, Version::HTTP_11, allowed);
            record.reads(&upload);
            record.answered(200, None);
            assert_eq!(limited.collect().await.is_ok(), reason == "trapped");
            record.broke_off("trapped");
            drop(record);
            let counted = format!("{{class=\"2xx\",reason=\"{reason}\"}} 1");
            let text = metrics.encode(None);
            assert!(text.contains(&counted), "{text}");
        }
    }
}

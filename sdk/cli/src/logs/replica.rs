//! One replica's log: read as it is, or followed for as long as the replica lives, whatever connections do.

use std::time::Duration;

use futures::{AsyncBufReadExt as _, Stream, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use tokio::sync::mpsc;

use super::line::Entry;

/// The container that hosts the function.
pub(super) const CONTAINER: &str = "function";
/// Between two attempts to read on.
const PAUSE: Duration = Duration::from_millis(500);
/// After so long without a line the log is asked for anew: the connection may be gone without anybody having been told.
const SILENCE: Duration = Duration::from_secs(120);

/// What comes of following a log.
pub(super) enum Said {
    Line(Entry),
    /// The log of this replica can't be read for now, and why.
    Unread(String, kube::Error),
}

/// Whether this user may not read logs, whichever.
pub(super) fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 401 | 403))
}

/// Which lines.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) since: Option<Duration>,
    pub(super) tail: Option<u32>,
    pub(super) follow: bool,
}

impl Wanted {
    /// The same of a replica that just came: all.
    pub(super) fn of_newcomer(&self) -> Self {
        Self {
            since: None,
            tail: None,
            follow: self.follow,
        }
    }

    fn parameters(&self, after: Option<Timestamp>) -> LogParams {
        LogParams {
            container: Some(CONTAINER.to_owned()),
            follow: self.follow,
            timestamps: true,
            since_time: after,
            since_seconds: self
                .since
                .filter(|_| after.is_none())
                .map(|since| i64::try_from(since.as_secs().max(1)).unwrap_or(i64::MAX)),
            tail_lines: self.tail.filter(|_| after.is_none()).map(i64::from),
            ..LogParams::default()
        }
    }
}

/// A replica whose log is read.
pub(super) struct Replica {
    api: Api<Pod>,
    pub(super) name: String,
}

impl Replica {
    pub(super) fn new(api: &Api<Pod>, name: &str) -> Self {
        Self {
            api: api.clone(),
            name: name.to_owned(),
        }
    }

    /// Its lines.
    pub(super) fn lines(
        &self,
        wanted: &Wanted,
    ) -> impl Stream<Item = Result<Entry, kube::Error>> + use<> {
        self.read(wanted.parameters(None))
    }

    fn read(
        &self,
        parameters: LogParams,
    ) -> impl Stream<Item = Result<Entry, kube::Error>> + use<> {
        let (api, name) = (self.api.clone(), self.name.clone());
        let opened =
            async move { Ok::<_, kube::Error>((api.log_stream(&name, &parameters).await?, name)) };
        futures::stream::once(opened)
            .map_ok(|(log, name)| {
                log.lines()
                    .map_ok(move |line| Entry::read(&name, &line))
                    .map_err(kube::Error::ReadEvents)
            })
            .try_flatten()
    }

    /// Sends its lines until it is gone. A connection that breaks off, or is silent for long, is made again, and begins
    /// where it ended. That its log can't be read is told once, and ends it where that can't pass.
    pub(super) async fn follow(self, wanted: Wanted, sender: mpsc::Sender<Said>) {
        let mut last: Option<Timestamp> = None;
        let mut is_told = false;
        let began = Timestamp::now();
        let mut parameters = wanted.parameters(None);
        loop {
            let mut lines = Box::pin(self.read(parameters));
            while let Ok(Some(line)) = tokio::time::timeout(SILENCE, lines.next()).await {
                let said = match line {
                    // The server's `sinceTime` is good to a second.
                    Ok(entry) if entry.written.is_some() && entry.written <= last => continue,
                    Ok(entry) => {
                        last = entry.written.or(last);
                        is_told = false;
                        Said::Line(entry)
                    }
                    Err(_) if std::mem::replace(&mut is_told, true) => break,
                    Err(error) => Said::Unread(self.name.clone(), error),
                };
                let is_over = matches!(&said, Said::Unread(_, error) if is_forbidden(error));
                if sender.send(said).await.is_err() || is_over {
                    return;
                }
            }
            // The log ended, or the connection did: does the replica run still?
            match self.api.get_opt(&self.name).await {
                Ok(Some(pod)) if is_running(&pod) => {}
                Ok(_) => return,
                Err(_) => {}
            }
            tokio::time::sleep(PAUSE).await;
            // Where nothing was wanted of what there was, what came since is.
            parameters = wanted.parameters(Some(last.unwrap_or(began)));
        }
    }
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Running" | "Pending"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if a log that broke off began anew, or lost what was said meanwhile.
    #[test]
    fn a_log_goes_on_where_it_ended() {
        let wanted = Wanted {
            since: Some(Duration::from_millis(10)),
            tail: Some(5),
            follow: true,
        };
        let first = wanted.parameters(None);
        assert_eq!(first.since_seconds, Some(1));
        assert_eq!(first.tail_lines, Some(5));
        let last: Timestamp = "2026-01-01T00:00:00.5Z".parse().unwrap();
        let next = wanted.parameters(Some(last));
        assert_eq!(next.since_time, Some(last));
        assert_eq!((next.since_seconds, next.tail_lines), (None, None));
        let new = wanted.of_newcomer().parameters(None);
        assert_eq!((new.since_seconds, new.tail_lines), (None, None));
        assert!(new.follow);
    }
}

//! One replica's log: read as it is, or followed for as long as the replica lives, whatever connections do.

use std::time::{Duration, Instant};

use futures::{AsyncBufRead, AsyncBufReadExt as _, Stream, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use tokio::sync::mpsc;

use super::line::Entry;
use crate::cluster::within;

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
    /// Those of the container before the one that runs: of one that crashed.
    pub(super) previous: bool,
}

impl Wanted {
    /// The same of a replica that just came: all.
    pub(super) fn of_newcomer(&self) -> Self {
        Self {
            since: None,
            tail: None,
            follow: self.follow,
            previous: self.previous,
        }
    }

    /// What was written since `began`. A node's clock may be another, so it is said how long that is.
    fn parameters_since(&self, began: Instant) -> LogParams {
        let seconds = began.elapsed().as_secs().saturating_add(1);
        LogParams {
            since_seconds: i64::try_from(seconds).ok(),
            tail_lines: None,
            ..self.parameters(None)
        }
    }

    fn parameters(&self, after: Option<Timestamp>) -> LogParams {
        LogParams {
            container: Some(CONTAINER.to_owned()),
            follow: self.follow,
            previous: self.previous,
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
        let opened = async move {
            let log = api.log_stream(&name, &parameters);
            // One that is followed may begin with its first line.
            let log = if parameters.follow {
                log.await?
            } else {
                within(log).await?
            };
            Ok::<_, kube::Error>((log, name))
        };
        futures::stream::once(opened)
            .map_ok(|(log, name)| {
                lines(log)
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
        let began = Instant::now();
        let mut parameters = wanted.parameters(None);
        let mut again = Again::default();
        loop {
            let mut lines = Box::pin(self.read(parameters));
            while let Ok(Some(line)) = tokio::time::timeout(SILENCE, lines.next()).await {
                let said = match line {
                    Ok(entry) if again.repeats(entry.written) => continue,
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
            match within(self.api.get_opt(&self.name)).await {
                Ok(Some(pod)) if is_running(&pod) => {}
                Ok(_) => return,
                Err(_) => {}
            }
            tokio::time::sleep(PAUSE).await;
            // Where nothing was wanted of what there was, what came since is.
            parameters = match last {
                Some(last) => wanted.parameters(Some(last)),
                None => wanted.parameters_since(began),
            };
            again = Again(last);
        }
    }
}

/// The last line before the log was asked for once more: until there is a newer one, what comes was there already. The
/// server's `sinceTime` is good to a second. After that the order of the lines is all that counts: several may have one
/// time, and a node's clock may be set back.
#[derive(Debug, Default)]
struct Again(Option<Timestamp>);

impl Again {
    /// Whether a line of this time was there already.
    fn repeats(&mut self, written: Option<Timestamp>) -> bool {
        let repeats = written.is_some() && written <= self.0;
        if written.is_some() && !repeats {
            self.0 = None;
        }
        repeats
    }
}

/// Lines as text, whatever bytes a program wrote: one that is no UTF-8 doesn't end the log.
fn lines(log: impl AsyncBufRead + Unpin) -> impl Stream<Item = std::io::Result<String>> {
    futures::stream::try_unfold(log, |mut log| async move {
        let mut line = Vec::new();
        if log.read_until(b'\n', &mut line).await? == 0 {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        Ok(Some((text.to_owned(), log)))
    })
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

    /// Would fail if lines of one time, or of a clock that was set back, were taken for repeated; or repeated ones weren't.
    #[test]
    fn lines_are_repeated_only_after_the_log_was_asked_for_again() {
        let repeated = |again: &mut Again, seconds: &[i64]| -> Vec<i64> {
            let at = |second: i64| Some(Timestamp::from_second(second).unwrap());
            let repeated = seconds.iter().filter(|second| again.repeats(at(**second)));
            repeated.copied().collect()
        };
        assert!(repeated(&mut Again::default(), &[5, 5, 4, 6]).is_empty());
        let mut again = Again(Some(Timestamp::from_second(5).unwrap()));
        assert_eq!(repeated(&mut again, &[4, 5, 6, 6, 3]), [4, 5]);
        assert!(!again.repeats(None));
    }

    /// Would fail if a byte that is no UTF-8 ended a log.
    #[tokio::test]
    async fn a_line_is_read_whatever_it_holds() {
        let log = futures::io::Cursor::new(b"one\r\n\xff two\n\nend");
        let lines: Vec<String> = lines(log).try_collect().await.unwrap();
        assert_eq!(lines, ["one", "\u{fffd} two", "", "end"]);
    }

    /// Would fail if a log that broke off began anew, or lost what was said meanwhile.
    #[test]
    fn a_log_goes_on_where_it_ended() {
        let wanted = Wanted {
            since: Some(Duration::from_millis(10)),
            tail: Some(5),
            follow: true,
            previous: false,
        };
        let first = wanted.parameters(None);
        assert_eq!(first.since_seconds, Some(1));
        assert_eq!(first.tail_lines, Some(5));
        let last: Timestamp = "2026-01-01T00:00:00.5Z".parse().unwrap();
        let next = wanted.parameters(Some(last));
        assert_eq!(next.since_time, Some(last));
        assert_eq!((next.since_seconds, next.tail_lines), (None, None));
        let began = Instant::now();
        let silent = wanted.parameters_since(began - Duration::from_millis(2500));
        assert_eq!((silent.since_seconds, silent.tail_lines), (Some(3), None));
        assert!(silent.since_time.is_none() && silent.follow);
        let new = wanted.of_newcomer().parameters(None);
        assert_eq!((new.since_seconds, new.tail_lines), (None, None));
        assert!(new.follow);
    }
}

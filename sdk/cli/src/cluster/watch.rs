//! What changes in a cluster, as it changes, whatever happens to the connection.

use std::fmt::Debug;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use kube::Api;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Error, Event, watcher};
use serde::de::DeserializeOwned;

use crate::failure::causes;
use crate::terminal::Terminal;

/// Objects that are watched.
pub(crate) struct Watch<K> {
    events: BoxStream<'static, Result<Event<K>, Error>>,
    terminal: Terminal,
    is_down: bool,
}

impl<K> Watch<K>
where
    K: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    /// Watches what `config` selects. While the cluster doesn't answer it is asked again, less and less often.
    pub(crate) fn new(api: Api<K>, config: watcher::Config, terminal: &Terminal) -> Self {
        Self {
            events: watcher(api, config).default_backoff().boxed(),
            terminal: *terminal,
            is_down: false,
        }
    }

    /// The next event; `None` never comes as long as the cluster is asked. That the cluster doesn't answer is told once,
    /// and so is that it does again.
    ///
    /// # Errors
    /// When this user may not watch.
    pub(crate) async fn next(&mut self) -> Result<Option<Event<K>>, kube::Error> {
        let paint = self.terminal.err;
        while let Some(event) = self.events.next().await {
            let error = match event {
                Ok(event) => {
                    // `Init` only says that it is asked.
                    if self.is_down && !matches!(event, Event::Init) {
                        self.is_down = false;
                        self.terminal.note(&paint.dim("the cluster answers again"));
                    }
                    return Ok(Some(event));
                }
                Err(error) => error,
            };
            let error = match error {
                Error::InitialListFailed(kube::Error::Api(status))
                | Error::WatchStartFailed(kube::Error::Api(status))
                    if status.code == 401 || status.code == 403 =>
                {
                    return Err(kube::Error::Api(status));
                }
                // The server has forgotten where it was, and begins anew.
                Error::WatchError(_) => continue,
                error => error,
            };
            if !std::mem::replace(&mut self.is_down, true) {
                let why = causes(&error).last().unwrap_or_default();
                self.terminal.note(&format!(
                    "{} the cluster doesn't answer ({why}); it is asked again",
                    paint.yellow("waiting:")
                ));
            }
        }
        Ok(None)
    }
}

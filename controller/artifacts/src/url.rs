//! From a URL to a stored file.

use reqwest::Url;

use crate::error::{Error, Origin};
use crate::fetch::Fetcher;
use crate::store::{Expected, Place, Store, Stored};
use crate::subject::{Subject, host_of};

impl Fetcher {
    /// Downloads `url` into `store`, unless the store already has what it should be, and has it from there: whoever knows a
    /// digest alone gets nothing by it. `sha256` is in lower-case hex.
    ///
    /// # Errors
    /// When there is nothing at the URL, it has another digest or more than `limit` bytes, or it or the store fails.
    pub async fn download(
        &self,
        url: &str,
        sha256: &str,
        store: &Store,
        limit: u64,
    ) -> Result<Stored, Error> {
        let found = || async {
            if !store.came_from(sha256, Place::Url(url)).await {
                return Ok::<_, Error>(None);
            }
            let found = store.find(sha256).await?;
            Ok(found.map(|(_, length)| Stored {
                sha256: sha256.to_owned(),
                length,
            }))
        };
        if let Some(stored) = found().await? {
            return Ok(stored);
        }
        let parsed: Url = url
            .parse()
            .ok()
            .filter(|parsed: &Url| matches!(parsed.scheme(), "http" | "https") && parsed.has_host())
            .ok_or_else(|| Error::Url {
                url: url.to_owned(),
            })?;
        let subject = Subject::new(Origin::Url, host_of(&parsed), url.to_owned());
        self.may_reach(&parsed, &subject)?;
        let work = async {
            let response = self
                .client
                .get(parsed)
                .send()
                .await
                .map_err(|error| subject.failed(&error))?;
            let response = subject.success(response, false).await?;
            if response
                .content_length()
                .is_some_and(|length| length > limit)
            {
                return Err(Error::TooLarge {
                    what: subject.what.clone(),
                    limit,
                });
            }
            let expected = Expected {
                what: subject.what.clone(),
                sha256: Some(sha256.to_owned()),
                length: response.content_length(),
                limit,
            };
            let stored = store.save(expected, subject.stream(response, None));
            let stored = stored.await?;
            store.comes_from(sha256, &[Place::Url(url)]).await?;
            Ok(stored)
        };
        let turn = store.turn(url, sha256);
        self.alone(&subject, &turn, found, work).await
    }
}

//! One exchange with one registry about one repository: it logs in when it is asked to.

use http::StatusCode;
use http::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, RequestBuilder, Response, Url};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::auth::{Challenge, Token};
use crate::credentials::{Credentials, Login};
use crate::error::{Error, Origin};
use crate::fetch::Fetcher;
use crate::reference::Reference;
use crate::subject::Subject;

/// What may be done with a repository, as a token's scope names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Pull,
    Push,
}

pub(super) struct Session<'a> {
    pub(super) fetcher: &'a Fetcher,
    pub(super) image: &'a Reference,
    pub(super) subject: Subject,
    action: Action,
    login: Option<&'a Login>,
    plain: bool,
    /// What a registry that asked for it is sent with every request.
    held: Mutex<Option<Held>>,
}

/// What a registry let us in with.
struct Held {
    /// What it asked for.
    challenge: Challenge,
    header: Option<HeaderValue>,
    /// From when on it may be refused.
    ends: Option<Instant>,
}

impl Held {
    fn is_old(&self, now: Instant) -> bool {
        self.ends.is_some_and(|ends| ends <= now)
    }
}

impl<'a> Session<'a> {
    pub(super) fn new(
        fetcher: &'a Fetcher,
        image: &'a Reference,
        action: Action,
        login: Option<&'a Login>,
    ) -> Self {
        Self {
            fetcher,
            image,
            subject: subject(image),
            action,
            login,
            plain: is_plain(image.host(), &fetcher.options.plain_http),
            held: Mutex::new(None),
        }
    }

    /// One for each of the `credentials` for the image's registry, to be tried in turn for as long as what comes of it
    /// [may be otherwise](may_see_more) with the next; one without any where there are none.
    pub(super) fn each(
        fetcher: &'a Fetcher,
        image: &'a Reference,
        action: Action,
        credentials: &'a Credentials,
    ) -> Vec<Self> {
        let session = |login| Self::new(fetcher, image, action, login);
        match credentials.of(image) {
            none if none.is_empty() => vec![session(None)],
            logins => logins.into_iter().map(Some).map(session).collect(),
        }
    }

    /// A URL of the repository: `path` follows its name.
    pub(super) fn url(&self, path: &str) -> Result<Url, Error> {
        let scheme = if self.plain { "http" } else { "https" };
        let (host, repository) = (self.image.host(), self.image.repository());
        let url = format!("{scheme}://{host}/v2/{repository}/{path}");
        url.parse().map_err(|_| Error::Url { url })
    }

    /// Whether it is the registry's own.
    pub(super) fn is_own(&self, url: &Url) -> Result<bool, Error> {
        Ok(url.origin() == self.url("")?.origin())
    }

    /// Sends what `request` makes, with what the registry wants to see; logs in and sends it again where it must.
    pub(super) async fn send(
        &self,
        request: impl Fn(&Client) -> RequestBuilder,
    ) -> Result<Response, Error> {
        let used = self.header().await;
        let made = request(&self.fetcher.client);
        let response = self.attempt(made, used.clone()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        // Where it redirects to may ask for nothing: a realm of theirs would be sent the login.
        let is_own = self.is_own(response.url())?;
        let Some(challenge) = Challenge::of(response.headers()).filter(|_| is_own) else {
            return Ok(response);
        };
        // Tokens live for a minute or so, and uploads for as long as they need: one that was good may be refused now.
        match self.renew(challenge, used.as_ref()).await? {
            Some(header) => {
                let made = request(&self.fetcher.client);
                self.attempt(made, Some(header)).await
            }
            None => Ok(response),
        }
    }

    /// What the registry wants to see, for a request that can't be sent twice: a token whose time is over is renewed.
    pub(super) async fn fresh(&self) -> Result<Option<HeaderValue>, Error> {
        let mut held = self.held.lock().await;
        if let Some(old) = held.take_if(|held| held.is_old(Instant::now())) {
            *held = Some(self.log_in(old.challenge).await?);
        }
        Ok(held.as_ref().and_then(|held| held.header.clone()))
    }

    async fn header(&self) -> Option<HeaderValue> {
        let held = self.held.lock().await;
        held.as_ref().and_then(|held| held.header.clone())
    }

    /// Logs in after `refused` was; `None` where there is nothing else to show.
    async fn renew(
        &self,
        challenge: Challenge,
        refused: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, Error> {
        let mut held = self.held.lock().await;
        let shown = held.as_ref().and_then(|held| held.header.as_ref());
        // Another request may have logged in meanwhile.
        if shown == refused {
            *held = Some(self.log_in(challenge).await?);
        }
        let header = held.as_ref().and_then(|held| held.header.clone());
        Ok(header.filter(|header| Some(header) != refused))
    }

    /// The response, where it is a success.
    pub(super) async fn success(&self, response: Response) -> Result<Response, Error> {
        self.subject.success(response, self.login.is_some()).await
    }

    /// Sends one request, with `authorization` where it goes to the registry itself.
    pub(super) async fn attempt(
        &self,
        request: RequestBuilder,
        authorization: Option<HeaderValue>,
    ) -> Result<Response, Error> {
        let (client, request) = request.build_split();
        let mut request = request.map_err(|error| self.subject.failed(&error))?;
        // Uploads may go to a host that the registry names: the credentials are none of its business.
        let is_own = self.is_own(request.url())?;
        if let Some(authorization) = authorization.filter(|_| is_own) {
            request.headers_mut().insert(AUTHORIZATION, authorization);
        }
        self.fetcher.may_reach(request.url(), &self.subject)?;
        client
            .execute(request)
            .await
            .map_err(|error| self.subject.failed(&error))
    }

    async fn log_in(&self, challenge: Challenge) -> Result<Held, Error> {
        let lasting = |challenge, header| Held {
            challenge,
            header,
            ends: None,
        };
        let Challenge::Bearer { realm, service } = &challenge else {
            return Ok(lasting(challenge, self.login.and_then(Login::header)));
        };
        if let Some(login @ Login::Bearer(_)) = self.login {
            return Ok(lasting(challenge, login.header()));
        }
        let actions = match self.action {
            Action::Pull => "pull",
            Action::Push => "pull,push",
        };
        let scope = format!("repository:{}:{actions}", self.image.repository());
        let asked = Instant::now();
        let Token { header, lifetime } = self
            .fetcher
            .token(
                realm,
                service.as_deref(),
                &scope,
                self.login,
                self.plain,
                &self.subject,
            )
            .await?;
        Ok(Held {
            header: Some(header),
            ends: asked.checked_add(lifetime),
            challenge,
        })
    }
}

/// Whether who logs in as another may see what this one doesn't. Some registries say of what one may not see that it isn't
/// there.
pub(super) fn may_see_more(error: &Error) -> bool {
    matches!(error, Error::Unauthorized { .. } | Error::NotFound { .. })
}

/// Which of two logins' errors is told: who isn't let in may be the one who would see it.
pub(super) fn told(before: Option<Error>, error: Error) -> Error {
    match before {
        Some(before @ Error::Unauthorized { .. }) => before,
        _ => error,
    }
}

/// The image, for errors.
fn subject(image: &Reference) -> Subject {
    Subject::new(
        Origin::Registry,
        image.registry().to_owned(),
        image.to_string(),
    )
}

/// Whether a registry is spoken to without TLS: it is named, or on this machine's loopback.
fn is_plain(host: &str, named: &[String]) -> bool {
    let Ok(authority) = host.parse::<http::uri::Authority>() else {
        return false;
    };
    let name = authority.host();
    let is_loopback = name == "localhost"
        || name
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    is_loopback || named.iter().any(|named| named == host || named == name)
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    /// Would fail if a password could go out in the clear to a registry that nobody named.
    #[test]
    fn only_named_registries_and_this_machine_are_spoken_to_in_the_clear() {
        let named = ["r.internal".to_owned(), "10.0.0.1:5000".to_owned()];
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:40001",
            "[::1]:5000",
            "r.internal",
            "r.internal:5000",
            "10.0.0.1:5000",
        ] {
            assert!(is_plain(host, &named), "{host}");
        }
        for host in [
            "r.io",
            "x.r.internal",
            "10.0.0.1",
            "10.0.0.1:5001",
            "localhost.evil.io",
            "127.0.0.1.evil.io",
        ] {
            assert!(!is_plain(host, &named), "{host}");
        }
    }
}

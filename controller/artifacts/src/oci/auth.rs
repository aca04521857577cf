//! What does a registry want to see before it answers? The `WWW-Authenticate` challenge (RFC 9110, 11.6.1) and the
//! token that Docker's token authentication exchanges a login for.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use reqwest::Url;
use serde::Deserialize;

use crate::credentials::Login;
use crate::error::Error;
use crate::fetch::Fetcher;
use crate::subject::Subject;

/// How a registry wants to be asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// With the login itself.
    Basic,
    /// With a token from `realm`.
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

/// What a token server gave.
pub(super) struct Token {
    pub(super) header: HeaderValue,
    /// How long the registry takes it, from when it was asked for.
    pub(super) lifetime: Duration,
}

/// How long a token lives whose server doesn't say, as Docker's token authentication has it.
const LIFETIME: Duration = Duration::from_secs(60);

/// The most bytes of a token.
const LONGEST: usize = 256 << 10;

impl Challenge {
    /// The challenge of a response; `Bearer` where there are several.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut basic = false;
        for header in headers.get_all(WWW_AUTHENTICATE) {
            let Some((scheme, rest)) = header.to_str().ok().and_then(|text| text.split_once(' '))
            else {
                continue;
            };
            if scheme.eq_ignore_ascii_case("basic") {
                basic = true;
            } else if scheme.eq_ignore_ascii_case("bearer") {
                let mut parameters = parameters(rest);
                if let Some(realm) = parameters.remove("realm") {
                    return Some(Self::Bearer {
                        realm,
                        service: parameters.remove("service"),
                    });
                }
            }
        }
        basic.then_some(Self::Basic)
    }
}

/// `key="value", key=value`, with `\` before a character that is meant literally.
fn parameters(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(|c| *c == ',' || c.is_whitespace()).is_some() {}
        let mut key = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && *c != ',') {
            key.push(c.to_ascii_lowercase());
        }
        if key.is_empty() {
            return found;
        }
        if chars.next_if_eq(&'=').is_none() {
            continue;
        }
        while chars.next_if(|c| c.is_whitespace()).is_some() {}
        let mut value = String::new();
        if chars.next_if_eq(&'"').is_some() {
            while let Some(c) = chars.next() {
                match c {
                    '"' => break,
                    '\\' => value.extend(chars.next()),
                    c => value.push(c),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != ',' && !c.is_whitespace()) {
                value.push(c);
            }
        }
        found.insert(key.trim().to_owned(), value);
    }
}

impl Login {
    /// The `Authorization` of a registry that wants no token.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let text = match self {
            Self::Password { user, password } => {
                format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
            }
            Self::Bearer(token) => format!("Bearer {token}"),
            Self::Refresh(_) => return None,
        };
        secret(&text)
    }
}

/// A header that is not printed and not kept by HTTP/2's compression.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Fetcher {
    /// Exchanges `login`, or nothing, for a token that allows `scope`.
    pub(super) async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        login: Option<&Login>,
        plain: bool,
        subject: &Subject,
    ) -> Result<Token, Error> {
        let url: Url = realm
            .parse()
            .ok()
            // A password that is never sent in the clear to the registry is not sent in the clear to whom it names.
            .filter(|url: &Url| url.scheme() == "https" || (plain && url.scheme() == "http"))
            .ok_or_else(|| {
                subject.answer(format!("tokens are at `{realm}`, which is no https URL"))
            })?;
        self.may_reach(&url, subject)?;
        let mut fields = vec![("scope", scope)];
        fields.extend(service.map(|service| ("service", service)));
        let request = if let Some(Login::Refresh(token)) = login {
            fields.extend([
                ("grant_type", "refresh_token"),
                ("client_id", "wisp"),
                ("refresh_token", token),
            ]);
            self.client.post(url).form(&fields)
        } else {
            let request = self.client.get(url).query(&fields);
            match login.and_then(Login::header) {
                Some(header) => request.header(AUTHORIZATION, header),
                None => request,
            }
        };
        let response = request
            .send()
            .await
            .map_err(|error| subject.failed(&error))?;
        let response = match response.status().as_u16() {
            // Token servers have many words for "no".
            400 | 404 => {
                return Err(Error::Unauthorized {
                    host: subject.host.clone(),
                    what: subject.what.clone(),
                    authenticated: login.is_some(),
                    said: subject.said(response).await,
                });
            }
            _ => subject.success(response, login.is_some()).await?,
        };
        let body = subject.body(response, LONGEST).await?;
        let given: Given = serde_json::from_slice(&body)
            .map_err(|_| subject.answer("its token server answers no token"))?;
        let header = given
            .token
            .or(given.access_token)
            .and_then(|token| secret(&format!("Bearer {token}")))
            .ok_or_else(|| subject.answer("its token server answers no token"))?;
        // Whatever isn't a number of seconds is as good as not said.
        let lifetime = given.expires_in.and_then(|seconds| seconds.as_u64());
        Ok(Token {
            header,
            lifetime: lifetime.map_or(LIFETIME, Duration::from_secs),
        })
    }
}

#[derive(Deserialize)]
struct Given {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn challenge(headers: &[&str]) -> Option<Challenge> {
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(WWW_AUTHENTICATE, HeaderValue::from_str(header).unwrap());
        }
        Challenge::of(&map)
    }

    /// Would fail if a login were sent in another form than the registry asks for, or a token asked for elsewhere.
    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: service.map(Into::into),
            })
        };
        assert_eq!(
            challenge(&[
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull""#
            ]),
            bearer("https://auth.docker.io/token", Some("registry.docker.io"))
        );
        assert_eq!(
            challenge(&[
                r#"Basic realm="x""#,
                r#"bearer Realm = "https://a/\"b" , x"#
            ]),
            bearer("https://a/\"b", None)
        );
        assert_eq!(challenge(&[r#"Basic realm="x""#]), Some(Challenge::Basic));
        // Tokens can't be had there, which is told with the realm.
        assert_eq!(challenge(&[r#"Bearer realm=""#]), bearer("", None));
        for none in [
            &["Bearer"][..],
            &["Bearer realm"],
            &["Bearer service=\"x\""],
            &["Digest realm=\"x\""],
            &[],
        ] {
            assert_eq!(challenge(none), None, "{none:?}");
        }
    }
}

//! Who is asking? Credentials of registries in the form of Docker's `config.json`, which is also what a Secret of type
//! kubernetes.io/dockerconfigjson holds.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::Error;
use crate::reference::{Reference, canonical};

/// The most logins that are tried for one image: a registry may lock out whoever guesses, with all who ask from the same address.
const MOST: usize = 16;

/// Logins for registries. Their `Debug` shows no secret.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    logins: Vec<(String, Login)>,
}

/// One way to log in.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Login {
    /// A user and a password, or a token in the place of one.
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// An OAuth2 refresh token (`identitytoken`), which is exchanged for an access token.
    Refresh(String),
    /// An access token (`registrytoken`), sent as it is.
    Bearer(String),
}

/// `config.json`.
#[derive(Deserialize)]
struct Config {
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl Credentials {
    /// Adds the logins of a `config.json`; entries without a secret are left out.
    ///
    /// # Errors
    /// When `json` is none. The error tells none of it.
    pub fn add_docker_config(&mut self, json: &[u8]) -> Result<(), Error> {
        let refused = |why: &str| Error::Credentials {
            why: why.to_owned(),
        };
        let config: Config = serde_json::from_slice(json).map_err(|_| {
            refused("expected JSON as Docker's config.json has it: {\"auths\": {\"registry\": {\"auth\": …}}}")
        })?;
        for (registry, entry) in config.auths {
            let Some(login) = entry.login().ok_or_else(|| {
                refused(&format!(
                    "`auth` of `{registry}` is not the base64 of `user:password`"
                ))
            })?
            else {
                continue;
            };
            self.logins.push((place(&registry).to_owned(), login));
        }
        Ok(())
    }

    /// Adds a login with a password for `registry`: a host, with a port and a path where it needs them.
    pub fn add(&mut self, registry: &str, user: &str, password: &str) {
        let login = if user == "<token>" {
            Login::Refresh(password.to_owned())
        } else {
            Login::Password {
                user: user.to_owned(),
                password: password.to_owned(),
            }
        };
        self.logins.push((place(registry).to_owned(), login));
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.logins.is_empty()
    }

    /// Whether there are any for where `image` is.
    #[must_use]
    pub fn covers(&self, image: &Reference) -> bool {
        !self.of(image).is_empty()
    }

    /// The logins for where `image` is, those for the longest path first, as the kubelet tries them, and the first of them.
    pub(crate) fn of(&self, image: &Reference) -> Vec<&Login> {
        let mut found: Vec<_> = self
            .logins
            .iter()
            .filter(|(place, _)| covers(place, image))
            .collect();
        found.sort_by_key(|(place, _)| std::cmp::Reverse(place.len()));
        found.truncate(MOST);
        found.into_iter().map(|(_, login)| login).collect()
    }
}

impl Entry {
    /// `None` where `auth` can't be read, `Some(None)` where there is nothing to log in with.
    fn login(self) -> Option<Option<Login>> {
        if let Some(token) = self.registrytoken.filter(|token| !token.is_empty()) {
            return Some(Some(Login::Bearer(token)));
        }
        if let Some(token) = self.identitytoken.filter(|token| !token.is_empty()) {
            return Some(Some(Login::Refresh(token)));
        }
        if let (Some(user), Some(password)) = (self.username, self.password) {
            return Some(Some(Login::Password { user, password }));
        }
        let Some(auth) = self.auth.filter(|auth| !auth.is_empty()) else {
            return Some(None);
        };
        let text = String::from_utf8(STANDARD.decode(auth.trim()).ok()?).ok()?;
        let (user, password) = text.split_once(':')?;
        Some(Some(Login::Password {
            user: user.to_owned(),
            password: password.trim_end_matches(['\0', '\n']).to_owned(),
        }))
    }
}

/// The host and path of a key of `auths`, which may be a URL with the API's version at its end.
fn place(key: &str) -> &str {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key
        .strip_suffix("/v1")
        .or_else(|| key.strip_suffix("/v2"))
        .unwrap_or(key);
    canonical(key)
}

/// Whether a login for `place` is one for `image`: the same host and port, where `*` stands for one label's part, and a
/// path that the repository is in.
fn covers(place: &str, image: &Reference) -> bool {
    let (host, path) = place.split_once('/').unwrap_or((place, ""));
    let labels: Vec<&str> = host.split('.').collect();
    let actual: Vec<&str> = image.registry().split('.').collect();
    let same_host = labels.len() == actual.len()
        && labels
            .iter()
            .zip(actual)
            .all(|(pattern, label)| matches(pattern, label));
    let same_path = path.is_empty()
        || image
            .repository()
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    same_host && same_path
}

/// Whether `label` matches `pattern`, which may have one `*`.
fn matches(pattern: &str, label: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == label,
        Some((start, end)) => {
            label.len() >= start.len() + end.len()
                && label.starts_with(start)
                && label.ends_with(end)
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(…)",
            Self::Refresh(_) => "Refresh(…)",
            Self::Bearer(_) => "Bearer(…)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passwords(config: &str, image: &str) -> Vec<String> {
        let mut credentials = Credentials::default();
        credentials.add_docker_config(config.as_bytes()).unwrap();
        credentials
            .of(&image.parse().unwrap())
            .into_iter()
            .map(|login| match login {
                Login::Password { user, password } => format!("{user}:{password}"),
                Login::Refresh(token) => format!("refresh {token}"),
                Login::Bearer(token) => format!("bearer {token}"),
            })
            .collect()
    }

    /// Would fail if passwords could be tried out on a registry, from this address, by as many ways to name it as there are.
    #[test]
    fn a_few_logins_are_tried() {
        let entry = |count: usize| {
            let slashes = "/".repeat(count);
            format!(r#""r.io{slashes}": {{"username": "u", "password": "{count}"}}"#)
        };
        let entries: Vec<_> = (0..100).map(entry).collect();
        let more = r#""r.io/team": {"username": "t", "password": "x"}"#;
        let config = format!(r#"{{"auths": {{{}, {more}}}}}"#, entries.join(", "));
        let found = passwords(&config, "r.io/team/a");
        assert_eq!((found.len(), &*found[0]), (MOST, "t:x"));
    }

    /// Would fail if a password went to a registry or repository that it is not for.
    #[test]
    fn a_login_is_for_its_registry_and_path_alone() {
        // echo -n u:p:w | base64
        let config = r#"{"auths": {
            "r.io": {"auth": "dTpwOnc="},
            "r.io/team": {"username": "t", "password": "x"},
            "*.azure.io": {"identitytoken": "i", "auth": "PHRva2VuPjo="},
            "https://index.docker.io/v1/": {"username": "d", "password": "y"},
            "10.0.0.1:5000": {"registrytoken": "z"},
            "empty.io": {}
        }}"#;
        let of = |image| passwords(config, image);
        assert_eq!(of("r.io/other/a"), ["u:p:w"]);
        assert_eq!(of("r.io/team/a"), ["t:x", "u:p:w"]);
        assert_eq!(of("r.io/teams/a"), ["u:p:w"]);
        assert_eq!(of("x.azure.io/a"), ["refresh i"]);
        assert_eq!(of("digits"), ["d:y"]);
        assert_eq!(of("10.0.0.1:5000/a"), ["bearer z"]);
        for image in [
            "r.io.evil.io/a",
            "azure.io/a",
            "a.b.azure.io/a",
            "10.0.0.1/a",
            "empty.io/a",
        ] {
            assert!(of(image).is_empty(), "{image}");
        }
    }

    /// Would fail if an error or a debug line showed a secret.
    #[test]
    fn no_secret_is_shown() {
        let mut credentials = Credentials::default();
        for bad in [
            r#"{"auths": {"r.io": {"auth": "hunter2!"}}}"#,
            r#"{"auths": {"r.io": {"password": ["hunter2!"]}}}"#,
            "hunter2!",
        ] {
            let error = credentials.add_docker_config(bad.as_bytes()).unwrap_err();
            assert_eq!(error.reason(), "InvalidCredentials");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        credentials.add("r.io", "u", "hunter2!");
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}

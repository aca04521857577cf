//! What does an image's name say? The grammar of the OCI distribution specification 1.1, with Docker's short forms.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// Where an OCI artifact is: a registry, a repository in it, and a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// What a name without a registry is short for.
const DOCKER: &str = "docker.io";
/// The host that answers for it.
const DOCKER_HOST: &str = "registry-1.docker.io";
/// The longest repository that registries take.
const LONGEST: usize = 255;

impl Reference {
    /// The registry's host, with its port where it has one: `registry.example.com:5000`.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The path within the registry: `vision/digits`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; absent where only a digest was given.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The manifest's SHA-256, in lower-case hex, where it was given.
    #[must_use]
    pub fn sha256(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// The same artifact, by its manifest's SHA-256 alone: what a tag is pinned to.
    #[must_use]
    pub fn pinned(&self, sha256: &str) -> Self {
        Self {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            tag: None,
            digest: Some(sha256.to_owned()),
        }
    }

    /// Another tag of the same repository.
    ///
    /// # Errors
    /// When `tag` is none.
    pub fn tagged(&self, tag: &str) -> Result<Self, Error> {
        format!("{}/{}:{tag}", self.registry, self.repository).parse()
    }

    /// What stands in a URL for the manifest: the digest where there is one, which then wins over the tag.
    pub(crate) fn manifest(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(sha256), _) => format!("sha256:{sha256}"),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// The host that answers for the registry.
    pub(crate) fn host(&self) -> &str {
        if self.registry == DOCKER {
            DOCKER_HOST
        } else {
            &self.registry
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(sha256) = &self.digest {
            write!(f, "@sha256:{sha256}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = Error;

    /// Reads `[registry/]repository[:tag][@sha256:…]`. Without tag and digest it means the tag `latest`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let no = |why| Error::Reference {
            text: text.to_owned(),
            why,
        };
        if text.contains("://") {
            return Err(no("it is written without a scheme"));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => {
                let sha256 = digest
                    .strip_prefix("sha256:")
                    .filter(|sha256| is_sha256(sha256))
                    .ok_or_else(|| {
                        no("its digest is not `sha256:` and 64 lower-case hexadecimal digits")
                    })?;
                (name, Some(sha256.to_owned()))
            }
            None => (text, None),
        };
        // A colon after the last slash is a tag's, one before it a port's.
        let path = name.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match name.get(path..).and_then(|last| last.find(':')) {
            Some(colon) => (
                name.get(..path + colon).unwrap_or_default(),
                name.get(path + colon + 1..),
            ),
            None => (name, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(no(
                "a tag has at most 128 letters, digits, `_`, `.` and `-`, and doesn't begin with `.` or `-`",
            ));
        }
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (canonical(first), rest)
            }
            _ => (DOCKER, name),
        };
        let repository = if registry == DOCKER && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        if !is_authority(registry) {
            return Err(no(
                "its registry is neither a host name nor an address, with or without a port",
            ));
        }
        if repository.len() > LONGEST || !repository.split('/').all(is_component) {
            return Err(no(
                "a repository has lower-case letters and digits, joined by `.`, `_`, `-` or `/`, and at most 255 of them",
            ));
        }
        let tag = match (tag, &digest) {
            (None, None) => Some("latest".to_owned()),
            (tag, _) => tag.map(str::to_owned),
        };
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag,
            digest,
        })
    }
}

/// The registry by the name that images are known by: Docker's has others, with the same images and logins.
pub(crate) fn canonical(registry: &str) -> &str {
    match registry {
        "index.docker.io" | DOCKER_HOST => DOCKER,
        other => other,
    }
}

/// Whether `text` is 64 lower-case hexadecimal digits.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.starts_with(edge)
        && text.ends_with(edge)
        && text.chars().all(|c| edge(c) || "._-".contains(c))
        && text
            .split(edge)
            .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|c| c == b'-'))
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
fn is_tag(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=128).contains(&text.len())
        && text.chars().all(inner)
        && !text.starts_with('.')
        && !text.starts_with('-')
}

fn is_authority(text: &str) -> bool {
    !text.contains('@')
        && text
            .parse::<http::uri::Authority>()
            .is_ok_and(|authority| !authority.host().is_empty() && port_is_valid(&authority))
}

fn port_is_valid(authority: &http::uri::Authority) -> bool {
    let after = authority
        .as_str()
        .strip_prefix(authority.host())
        .unwrap_or_default();
    after.is_empty() || authority.port_u16().is_some_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Reference {
        text.parse().unwrap()
    }

    #[test]
    fn names_are_read_as_docker_and_kubernetes_read_them() {
        let sha256 = "a".repeat(64);
        for (text, registry, repository, manifest) in [
            ("digits", "docker.io", "library/digits", "latest"),
            ("vision/digits:1.4", "docker.io", "vision/digits", "1.4"),
            ("docker.io/digits", "docker.io", "library/digits", "latest"),
            (
                "index.docker.io/vision/digits",
                "docker.io",
                "vision/digits",
                "latest",
            ),
            (
                "registry-1.docker.io/digits:2",
                "docker.io",
                "library/digits",
                "2",
            ),
            ("localhost/x:1", "localhost", "x", "1"),
            ("10.200.0.2:5000/x", "10.200.0.2:5000", "x", "latest"),
            (
                "[::1]:5000/a/b__c/d--e:v_1",
                "[::1]:5000",
                "a/b__c/d--e",
                "v_1",
            ),
            ("ghcr.io/a/b:t", "ghcr.io", "a/b", "t"),
        ] {
            let reference = parsed(text);
            assert_eq!(reference.registry(), registry, "{text}");
            assert_eq!(reference.repository(), repository, "{text}");
            assert_eq!(reference.manifest(), manifest, "{text}");
            assert_eq!(parsed(&reference.to_string()), reference, "{text}");
        }
        let both = parsed(&format!("r.io/a:1@sha256:{sha256}"));
        assert_eq!(both.manifest(), format!("sha256:{sha256}"));
        assert_eq!(both.tag(), Some("1"));
        assert_eq!(
            parsed("r.io/a:1").pinned(&sha256).to_string(),
            format!("r.io/a@sha256:{sha256}")
        );
        assert_eq!(parsed("digits").host(), "registry-1.docker.io");
    }

    #[test]
    fn what_could_be_another_path_or_host_is_refused() {
        for text in [
            "",
            ":1",
            "https://r.io/a",
            "r.io/",
            "r.io//a",
            "r.io/../a",
            "r.io/a/..",
            "r.io/A",
            "r.io/a:",
            "r.io/a:-x",
            "r.io/a:b/c:d:e",
            "r.io/a?x=1",
            "r.io/a#x",
            "r.io/a%2e",
            "user:pw@r.io/a",
            "r.io:0/a",
            "r.io:x/a",
            "r.io/a@sha256:abc",
            "r.io/a@sha512:00",
            "r.io/a b",
            &format!("r.io/{}", "a".repeat(256)),
            &format!("r.io/a:{}", "t".repeat(129)),
            &format!("r.io/a@sha256:{}", "A".repeat(64)),
        ] {
            let error = text.parse::<Reference>().unwrap_err();
            assert_eq!(error.reason(), "InvalidReference");
            assert!(!error.is_transient());
            assert!(error.to_string().contains(text), "{error}");
        }
    }
}

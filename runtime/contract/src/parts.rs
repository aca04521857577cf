//! Artifacts that come with an Assignment, in the same body: a host that was sent them fetches nothing.

use std::fmt::{self, Display};
use std::str::FromStr;

/// What the body of `POST /assign` consists of, where it is more than the Assignment: the value of
/// [`crate::headers::PARTS`]. The Assignment comes first, and then each artifact's bytes, with nothing in between.
///
/// It is written `1234 SHA256:5678 …`: the Assignment's length in bytes, and each artifact's digest in lower-case hex and
/// length in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// Bytes of the Assignment.
    pub assignment: u64,
    /// Of each artifact the SHA-256, in lower-case hex, and how many bytes it has.
    pub artifacts: Vec<(String, u64)>,
}

/// Why a text is no [`Parts`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no parts: expected `LENGTH SHA256:LENGTH …`")]
pub struct PartsError(String);

impl Display for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.assignment.fmt(f)?;
        for (sha256, length) in &self.artifacts {
            write!(f, " {sha256}:{length}")?;
        }
        Ok(())
    }
}

impl FromStr for Parts {
    type Err = PartsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut words = text.split(' ');
            let assignment = words.next()?.parse().ok()?;
            let artifact = |word: &str| {
                let (sha256, length) = word.split_once(':')?;
                let is_digest = sha256.len() == 64
                    && sha256
                        .bytes()
                        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
                let length = length.parse().ok()?;
                is_digest.then(|| (sha256.to_owned(), length))
            };
            Some(Self {
                assignment,
                artifacts: words.map(artifact).collect::<Option<_>>()?,
            })
        };
        parse().ok_or_else(|| PartsError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_round_trip_and_what_is_none_is_named() {
        let parts = Parts {
            assignment: 12,
            artifacts: vec![("0f".repeat(32), 34), ("a1".repeat(32), 0)],
        };
        assert_eq!(parts.to_string().parse(), Ok(parts));
        for bad in [
            "",
            "x",
            "1  ",
            "1 abc:2",
            &format!("1 {}:x", "0f".repeat(32)),
            &format!("1 {}", "0F".repeat(32)),
            "-1",
        ] {
            let error = bad.parse::<Parts>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{bad}`")), "{error}");
        }
    }
}

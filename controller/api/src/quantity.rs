//! How many bytes: Kubernetes quantities such as `64Mi`.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What the schema demands of a text. It admits exactly what [`Bytes`] parses, sizes that don't fit 63 bits aside.
pub(crate) const PATTERN: &str = r"^[0-9]+(\.[0-9]+)?(([KMGTPE]i)|[kMGTPE]|([eE][0-9]{1,2}))?$";

/// A number of bytes, written as a Kubernetes quantity, <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>:
/// a plain number, with a decimal suffix (`k`, `M`, `G`, `T`, `P`, `E`, `e3`), or with a binary one (`Ki`, `Mi`, `Gi`, `Ti`, `Pi`, `Ei`).
/// A fraction of a byte is rounded up, as Kubernetes does. At most 2⁶³ − 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// Why a text is no number of bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It isn't written as one.
    #[error("`{0}` is no size: expected a number of bytes, such as `1000`, `64Mi` or `1.5G`")]
    Syntax(String),
    /// It is larger than 2⁶³ − 1.
    #[error("`{0}` is too large: at most 8Ei - 1 bytes")]
    TooLarge(String),
}

const SUFFIXES: [(&str, u64); 12] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];

impl Bytes {
    /// `count` times 1,048,576 bytes.
    #[must_use]
    pub const fn mebi(count: u32) -> Self {
        Self((count as u64) << 20)
    }
}

impl FromStr for Bytes {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || QuantityError::Syntax(text.to_owned());
        let too_large = || QuantityError::TooLarge(text.to_owned());
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(end);
        let (whole, fraction) = match number.split_once('.') {
            Some((_, "")) => return Err(syntax()),
            Some((whole, fraction)) => (whole, fraction),
            None => (number, ""),
        };
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) {
            return Err(syntax());
        }
        let unit = multiplier(suffix)
            .ok_or_else(syntax)?
            .ok_or_else(too_large)?;
        let mut bytes = whole
            .parse::<u128>()
            .ok()
            .and_then(|whole| whole.checked_mul(unit))
            .ok_or_else(too_large)?;
        if !fraction.is_empty() {
            // More than 20 decimals of the largest unit are less than a byte: they only round up.
            let (counted, rest) = fraction.split_at(fraction.len().min(20));
            let scale = 10_u128.pow(u32::try_from(counted.len()).unwrap_or(20));
            let part = counted
                .parse::<u128>()
                .map_err(|_| syntax())?
                .checked_mul(unit)
                .ok_or_else(too_large)?;
            let inexact = part % scale != 0 || rest.bytes().any(|byte| byte != b'0');
            bytes = bytes
                .saturating_add(part / scale)
                .saturating_add(u128::from(inexact));
        }
        i64::try_from(bytes)
            .map(|bytes| Self(bytes.unsigned_abs()))
            .map_err(|_| too_large())
    }
}

/// The factor that a suffix stands for: `None` where it is none, `Some(None)` where it is out of range.
fn multiplier(suffix: &str) -> Option<Option<u128>> {
    if suffix.is_empty() {
        return Some(Some(1));
    }
    if let Some((_, unit)) = SUFFIXES.iter().find(|(name, _)| *name == suffix) {
        return Some(Some(u128::from(*unit)));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    if exponent.is_empty()
        || exponent.len() > 2
        || !exponent.bytes().all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    // 10¹⁹ is beyond 2⁶³ already.
    Some(
        exponent
            .parse::<u32>()
            .ok()
            .filter(|exponent| *exponent < 19)
            .and_then(|exponent| 10_u128.checked_pow(exponent)),
    )
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let divides = |unit: &u64| self.0 != 0 && self.0.is_multiple_of(*unit);
        let binary = SUFFIXES
            .iter()
            .take(6)
            .rev()
            .find(|(_, unit)| divides(unit));
        match binary.or_else(|| SUFFIXES.iter().rev().find(|(_, unit)| divides(unit))) {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, such as 1000, 64Mi or 1.5G")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Bytes, E> {
                self.visit_str(&bytes.to_string())
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Bytes, E> {
                self.visit_str(&bytes.to_string())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Bytes".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "x-kubernetes-int-or-string": true, "pattern": PATTERN, "maxLength": 32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_mean_what_they_mean_in_kubernetes() {
        for (text, bytes) in [
            ("0", 0),
            ("1000", 1000),
            ("64Mi", 64 << 20),
            ("1.5Gi", 3 << 29),
            ("1.5G", 1_500_000_000),
            ("100k", 100_000),
            ("2e3", 2000),
            ("1E", 1_000_000_000_000_000_000),
            ("7Ei", 7 << 60),
            ("0.5", 1),
            ("1.0000000000000000000000001Ki", 1025),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_its_text() {
        for text in [
            "", "-1", "+1", "Mi", "64mi", "64MiB", "64 Mi", "1.", ".5", "1.2.3", "1e", "1e-3",
            "1e100", "5m", "0x10", "١",
        ] {
            let error = text.parse::<Bytes>().unwrap_err();
            assert!(
                matches!(&error, QuantityError::Syntax(quoted) if quoted == text),
                "{text}: {error}"
            );
        }
        for text in [
            "8Ei",
            "9223372036854775808",
            "1e19",
            "1e99",
            "999999999999999999999999999999999999999999999999",
            "99999999999999999999Ei",
        ] {
            assert!(
                matches!(text.parse::<Bytes>(), Err(QuantityError::TooLarge(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn a_size_is_printed_as_it_would_be_written() {
        for text in [
            "0", "1", "1023", "64Mi", "1536Mi", "8Gi", "100k", "3M", "1025",
        ] {
            assert_eq!(text.parse::<Bytes>().unwrap().to_string(), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_size_survives_being_printed(bytes in 0..i64::MAX.unsigned_abs()) {
            proptest::prop_assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<Bytes>();
        }
    }
}

//! How long: Go-style durations such as `1m30s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration as StdDuration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// What the schema demands of a text.
pub(crate) const PATTERN: &str = r"^(0|([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h))+)$";

/// A span of time, written as Go's `time.ParseDuration` reads it, <https://pkg.go.dev/time#ParseDuration>, but never
/// negative: numbers with the units `h`, `m`, `s`, `ms`, `us`, `ns`, one after another, such as `10s`, `1m30s`, `2.5ms`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub StdDuration);

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// It isn't written as one.
    #[error("`{0}` is no duration: expected numbers with units, such as `10s`, `1m30s` or `2ms`")]
    Syntax(String),
    /// It has a number without its unit.
    #[error("`{0}` has no unit: expected one of h, m, s, ms, us, ns, such as `{0}s`")]
    NoUnit(String),
    /// It is longer than 2⁶³ − 1 nanoseconds, Go's limit.
    #[error("`{0}` is too long: at most 2562047h")]
    TooLong(String),
}

const UNITS: [(&str, u64); 7] = [
    ("h", 3_600_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("µs", 1_000),
    ("ns", 1),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
];

impl Duration {
    /// `count` seconds.
    #[must_use]
    pub const fn from_secs(count: u64) -> Self {
        Self(StdDuration::from_secs(count))
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || DurationError::Syntax(text.to_owned());
        let too_long = || DurationError::TooLong(text.to_owned());
        if text == "0" {
            return Ok(Self::default());
        }
        let mut rest = text;
        let mut nanos = 0_u128;
        while !rest.is_empty() {
            let end = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(rest.len());
            let (number, after) = rest.split_at(end);
            let (whole, fraction) = match number.split_once('.') {
                Some((_, "")) => return Err(syntax()),
                Some(parts) => parts,
                None => (number, ""),
            };
            if whole.is_empty() || fraction.contains('.') {
                return Err(syntax());
            }
            if after.is_empty() {
                return Err(if rest == text {
                    DurationError::NoUnit(text.to_owned())
                } else {
                    syntax()
                });
            }
            let (unit, factor) = UNITS
                .iter()
                .find(|(unit, _)| after.starts_with(unit))
                .ok_or_else(syntax)?;
            let factor = u128::from(*factor);
            let whole: u128 = whole.parse().map_err(|_| too_long())?;
            // Beyond 15 decimals even an hour's fraction is less than a nanosecond.
            let fraction = fraction.get(..15).unwrap_or(fraction);
            let scale = 10_u128.pow(u32::try_from(fraction.len()).unwrap_or(15));
            let part = if fraction.is_empty() {
                0
            } else {
                fraction.parse::<u128>().map_err(|_| syntax())?
            };
            nanos = whole
                .checked_mul(factor)
                .and_then(|whole| whole.checked_add(part * factor / scale))
                .and_then(|sum| sum.checked_add(nanos))
                .ok_or_else(too_long)?;
            rest = after.get(unit.len()..).unwrap_or_default();
        }
        if text.is_empty() {
            return Err(syntax());
        }
        i64::try_from(nanos)
            .map(|nanos| Self(StdDuration::from_nanos(nanos.unsigned_abs())))
            .map_err(|_| too_long())
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut nanos = self.0.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        for (unit, factor) in [
            ("h", 3_600_000_000_000_u128),
            ("m", 60_000_000_000),
            ("s", 1_000_000_000),
            ("ms", 1_000_000),
            ("us", 1_000),
            ("ns", 1),
        ] {
            if nanos >= factor {
                write!(f, "{}{unit}", nanos / factor)?;
                nanos %= factor;
            }
        }
        Ok(())
    }
}

impl From<Duration> for StdDuration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": PATTERN, "maxLength": 32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_mean_what_they_mean_in_go() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("10s", 10_000_000_000),
            ("2ms", 2_000_000),
            ("1m30s", 90_000_000_000),
            ("1h2m3s4ms5us6ns", 3_723_004_005_006),
            ("2.5ms", 2_500_000),
            ("1.5h", 5_400_000_000_000),
            ("3µs", 3_000),
            ("0.0000000000000000001h", 0),
        ] {
            assert_eq!(
                text.parse(),
                Ok(Duration(StdDuration::from_nanos(nanos))),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_its_text() {
        for text in [
            "", "s", "-1s", "+1s", "1d", "1 s", "1.s", ".5s", "1.2.3s", "1s2", "ten", "1S",
        ] {
            assert_eq!(
                text.parse::<Duration>(),
                Err(DurationError::Syntax(text.to_owned()))
            );
        }
        assert_eq!(
            "30".parse::<Duration>(),
            Err(DurationError::NoUnit("30".to_owned()))
        );
        for text in ["2562048h", "99999999999999999999999999999999999999999999h"] {
            assert_eq!(
                text.parse::<Duration>(),
                Err(DurationError::TooLong(text.to_owned()))
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_duration_survives_being_printed(nanos in 0..i64::MAX.unsigned_abs()) {
            let duration = Duration(StdDuration::from_nanos(nanos));
            proptest::prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<Duration>();
        }
    }
}

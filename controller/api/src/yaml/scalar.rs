//! What a plain scalar means.

use serde_json::Number;

use super::Value;

/// Resolves a plain scalar as go-yaml 2 does.
pub(super) fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "true" | "True" | "TRUE" => {
            return Value::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "false" | "False" | "FALSE" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    integer(text)
        .or_else(|| float(text))
        .map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let digits = digits.replace('_', "");
    let (digits, radix) = match digits.get(..2) {
        Some("0x") => (digits.get(2..)?, 16),
        Some("0o") => (digits.get(2..)?, 8),
        Some("0b") => (digits.get(2..)?, 2),
        _ if digits.len() > 1 && digits.starts_with('0') => (digits.get(1..)?, 8),
        _ => (digits.as_str(), 10),
    };
    if !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let magnitude = u64::from_str_radix(digits, radix).ok()?;
    if negative {
        0_i64.checked_sub_unsigned(magnitude).map(Number::from)
    } else {
        Some(magnitude.into())
    }
}

fn float(text: &str) -> Option<Number> {
    let shape = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    if shape && text.bytes().any(|byte| byte.is_ascii_digit()) {
        text.parse::<f64>().ok().and_then(Number::from_f64)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_they_mean_to_kubectl() {
        for (text, value) in [
            ("", Value::Null),
            ("~", Value::Null),
            ("yes", Value::Bool(true)),
            ("off", Value::Bool(false)),
            ("12", Value::Number(12.into())),
            ("-3", Value::Number((-3).into())),
            ("+3", Value::Number(3.into())),
            ("0x1F", Value::Number(31.into())),
            ("0o17", Value::Number(15.into())),
            ("017", Value::Number(15.into())),
            ("1_000", Value::Number(1000.into())),
            ("1.5", Value::Number(Number::from_f64(1.5).unwrap())),
            ("1e3", Value::Number(Number::from_f64(1000.0).unwrap())),
        ] {
            assert_eq!(plain(text), value, "{text}");
        }
        for text in [
            "64Mi",
            "10s",
            "1.4.0",
            "-",
            ".",
            "e",
            "0x",
            "08",
            "12:30",
            "2026-01-01",
            "nan",
            ".inf",
            "truer",
        ] {
            // `08` is no octal number; as a float it is 8, as go-yaml has it.
            if text == "08" {
                assert_eq!(plain(text), Value::Number(Number::from_f64(8.0).unwrap()));
            } else {
                assert_eq!(plain(text), Value::String(text.to_owned()), "{text}");
            }
        }
    }
}

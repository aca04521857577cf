//! Percent-encoding in paths and queries.

/// Decodes `%XX`, and `+` as a space in queries. What is no valid escape stays as it is; what is no UTF-8 is replaced.
pub(crate) fn decode(text: &str, plus_is_space: bool) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'%', [high, low, tail @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => {
                    decoded.push(high << 4 | low);
                    rest = tail;
                }
                _ => decoded.push(byte),
            },
            (b'+', _) if plus_is_space => decoded.push(b' '),
            _ => decoded.push(byte),
        }
    }
    String::from_utf8(decoded)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// The value of `name` in a query such as `a=1&b=2`, decoded; the first where there are several.
pub(crate) fn query_value(query: &str, name: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key, true) == name).then(|| decode(value, true))
    })
}

#[cfg(test)]
mod tests {
    use super::{decode, query_value};

    #[test]
    fn escapes_are_decoded_and_what_is_none_is_kept() {
        assert_eq!(decode("a%20b+c", false), "a b+c");
        assert_eq!(decode("a%20b+c", true), "a b c");
        assert_eq!(decode("100%", false), "100%");
        assert_eq!(decode("%zz%4", false), "%zz%4");
        assert_eq!(decode("%C3%A4", false), "ä");
        assert_eq!(decode("%FF", false), "\u{fffd}");
    }

    #[test]
    fn a_query_gives_its_first_value_of_that_name() {
        assert_eq!(
            query_value("a=1&b=x%26y&b=2&flag", "b").as_deref(),
            Some("x&y")
        );
        assert_eq!(query_value("a=1&flag", "flag").as_deref(), Some(""));
        assert_eq!(query_value("a=1", "b"), None);
    }
}

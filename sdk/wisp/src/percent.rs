//! Percent-encoding in paths, queries and forms.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::{Error, Result};

/// What is to be encoded wherever it stands: all that isn't unreserved (RFC 3986, section 2.3).
const RESERVED: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Text {
    Path,
    Query,
    Form,
}

impl Text {
    fn name(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Query => "query",
            Self::Form => "form",
        }
    }
}

/// Decodes `%XX`. What is no valid escape stays as it is; `None` where it is no UTF-8.
pub(crate) fn decode(text: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(text).decode_utf8().ok()
}

/// Likewise in a query or a form, where `+` is a space.
pub(crate) fn decode_query(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('+') {
        return decode(text);
    }
    let spaced = text.replace('+', " ");
    decode(&spaced).map(|text| Cow::Owned(text.into_owned()))
}

/// Encodes `text` so that it is one value, or one segment of a path.
pub(crate) fn encode(text: &str) -> Cow<'_, str> {
    utf8_percent_encode(text, &RESERVED).into()
}

/// Adds `name=value` to the query of `url`.
pub(crate) fn add_to_query(url: &mut String, name: &str, value: &str) {
    let fragment = url.find('#').map(|at| url.split_off(at));
    match url.split_once('?') {
        None => url.push('?'),
        // A `?` within a query is a part of a value.
        Some((_, query)) if query.is_empty() || query.ends_with('&') => {}
        Some(_) => url.push('&'),
    }
    url.extend([&*encode(name), "=", &*encode(value)]);
    url.push_str(fragment.as_deref().unwrap_or_default());
}

/// The pairs of a query such as `a=1&b=2`, as they stand there.
pub(crate) fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// The values of `name` in a query, parsed.
pub(crate) fn query_values<T: FromStr<Err: Display>>(
    query: Option<&str>,
    name: &str,
) -> impl Iterator<Item = Result<T>> {
    query
        .into_iter()
        .flat_map(pairs)
        .filter(move |(key, _)| decode_query(key).is_some_and(|key| key == name))
        .map(move |(_, raw)| {
            let value = decode_query(raw).ok_or_else(|| no_text(name, Text::Query, raw))?;
            parse(name, Text::Query, &value)
        })
}

/// The value of `name`, or the sentence on what is wrong with it.
pub(crate) fn parse<T: FromStr<Err: Display>>(name: &str, text: Text, value: &str) -> Result<T> {
    value.parse().map_err(|error| {
        let text = text.name();
        Error::bad_request(format!("`{name}` in the {text} is `{value}`: {error}"))
    })
}

/// A value that isn't UTF-8.
pub(crate) fn no_text(name: &str, text: Text, raw: &str) -> Error {
    let text = text.name();
    Error::bad_request(format!("`{name}` in the {text} is no UTF-8 text: `{raw}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_and_what_is_none_is_kept() {
        assert_eq!(decode("a%20b+c").unwrap(), "a b+c");
        assert_eq!(decode_query("a%20b+c%2B").unwrap(), "a b c+");
        assert_eq!(decode("100%").unwrap(), "100%");
        assert_eq!(decode("%zz%4").unwrap(), "%zz%4");
        assert_eq!(decode("%C3%A4").unwrap(), "ä");
        assert_eq!(decode("%FF"), None);
        assert_eq!(decode_query("+%FF"), None);
    }

    #[test]
    fn a_query_gives_its_values_of_that_name() {
        let values = |query, name| -> Vec<String> {
            query_values(Some(query), name)
                .collect::<Result<_>>()
                .unwrap()
        };
        assert_eq!(values("a=1&b=x%26y&%62=2&flag", "b"), ["x&y", "2"]);
        assert_eq!(values("a=1&&flag", "flag"), [""]);
        assert_eq!(values("a=1&=", ""), [""]);
        assert!(values("a=1", "b").is_empty());
        let refused = query_values::<String>(Some("a=1&b=%FF"), "b").next();
        assert_eq!(
            refused.unwrap().unwrap_err().detail(),
            "`b` in the query is no UTF-8 text: `%FF`"
        );
    }

    /// Would fail if what a user wrote came to be a part of the URL that it isn't.
    #[test]
    fn what_is_encoded_is_decoded_to_the_same() {
        let text = "a/b?c=d&e#f%20+ä..~";
        let encoded = encode(text);
        assert_eq!(encoded, "a%2Fb%3Fc%3Dd%26e%23f%2520%2B%C3%A4..~");
        assert_eq!(decode(&encoded).unwrap(), text);
        assert_eq!(decode_query(&encoded).unwrap(), text);
    }

    #[test]
    fn a_value_goes_into_the_query_wherever_that_is() {
        for (url, with) in [
            ("http://a/b", "http://a/b?q=x%20y"),
            ("http://a/b?", "http://a/b?q=x%20y"),
            ("http://a/b?c=1", "http://a/b?c=1&q=x%20y"),
            ("http://a/b?c=1&", "http://a/b?c=1&q=x%20y"),
            ("http://a/b?c=who?", "http://a/b?c=who?&q=x%20y"),
            ("http://a/b?c=1#?d", "http://a/b?c=1&q=x%20y#?d"),
            ("http://a/b#?d", "http://a/b?q=x%20y#?d"),
        ] {
            let mut url = url.to_owned();
            add_to_query(&mut url, "q", "x y");
            assert_eq!(url, with);
        }
    }
}

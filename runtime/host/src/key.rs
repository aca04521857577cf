//! Does the caller know the Assignment's key?

use http::{HeaderMap, HeaderName};
use subtle::ConstantTimeEq as _;
use wisp_contract::assignment::Key;
use wisp_contract::headers;

const KEY: HeaderName = HeaderName::from_static(headers::KEY);

/// Removes the key's header, so that no guest sees it, and compares it in a time that tells nothing about the key but
/// its length.
pub(crate) fn take_and_check(headers: &mut HeaderMap, key: Option<&Key>) -> bool {
    let given = headers.remove(KEY);
    let Some(key) = key else { return true };
    given.is_some_and(|given| bool::from(given.as_bytes().ct_eq(key.0.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_compared_whole_and_never_passed_on() {
        let key = Key("secret".into());
        for (given, known) in [
            (None, false),
            (Some("secre"), false),
            (Some("secreT"), false),
            (Some("secret"), true),
        ] {
            let mut map = HeaderMap::new();
            if let Some(given) = given {
                map.insert(KEY, given.parse().unwrap());
            }
            let mut other = map.clone();
            assert_eq!(take_and_check(&mut map, Some(&key)), known, "{given:?}");
            assert!(take_and_check(&mut other, None));
            assert!(map.is_empty() && other.is_empty());
        }
    }
}

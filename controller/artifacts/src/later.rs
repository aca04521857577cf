//! When may a server be asked again? As it says itself by `Retry-After` (RFC 9110, 10.2.3).

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::RETRY_AFTER;

/// How long after `now` the answer with these headers says that its server may be asked again; `None` where it says nothing of it,
/// or means a time that is over.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let after = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(now)
            .ok()?,
    };
    Some(after).filter(|after| !after.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if one of the two ways to say it weren't understood, or something else were taken for it.
    #[test]
    fn a_server_says_it_in_seconds_or_by_a_date() {
        // Sun, 06 Nov 1994 08:49:37 GMT
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let told = |text: &str| {
            let header = (RETRY_AFTER, text.parse().unwrap());
            retry_after(&HeaderMap::from_iter([header]), now).map(|after| after.as_secs())
        };
        assert_eq!(told("120"), Some(120));
        assert_eq!(told("Sun, 06 Nov 1994 08:51:37 GMT"), Some(120));
        for nothing in [
            "0",
            "-1",
            "1.5",
            "soon",
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:00:00 GMT",
        ] {
            assert_eq!(told(nothing), None, "{nothing}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}

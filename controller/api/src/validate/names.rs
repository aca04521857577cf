//! What a host name, an origin, a digest, an image reference may look like.

use std::net::IpAddr;

/// Whether `text` is a DNS name in lower case: labels of RFC 1123, at most 253 bytes, no final dot.
pub(super) fn is_dns_name(text: &str) -> bool {
    text.len() <= 253
        && !text.is_empty()
        && text.split('.').all(wisp_contract::assignment::is_dns_label)
}

/// Why `text` is no host that a Function may claim.
pub(super) fn host(text: &str) -> Result<(), String> {
    if is_dns_name(text) && text.parse::<IpAddr>().is_err() {
        return Ok(());
    }
    let why = if text.contains("://") {
        "write the name alone, without scheme"
    } else if text.contains(':') {
        "write the name alone, without port"
    } else if text.starts_with("*.") {
        "wildcards are not supported"
    } else if text.chars().any(|c| c.is_ascii_uppercase()) {
        "write it in lower case"
    } else {
        "expected a DNS name such as `digits.example.com`"
    };
    Err(format!("`{text}` is no host name: {why}"))
}

/// Why `text` is no origin that may be allowed.
pub(super) fn origin(text: &str) -> Result<(), String> {
    let no = |why: &str| Err(format!("`{text}` is no origin: {why}"));
    let Some(authority) = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
    else {
        return no("it must start with `https://` or `http://`");
    };
    if let Some(end) = authority.find(['/', '?', '#']) {
        let origin = text
            .get(..text.len() - authority.len() + end)
            .unwrap_or(text);
        return no(&format!("it has a path; write `{origin}`"));
    }
    if authority.contains('@') {
        return no("it must hold no credentials");
    }
    let (host, port) = match authority
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        Some((address, port)) if address.parse::<std::net::Ipv6Addr>().is_ok() => (
            None,
            port.strip_prefix(':').or((!port.is_empty()).then_some("?")),
        ),
        Some(_) => return no("what stands in brackets must be an IPv6 address"),
        None => match authority.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(authority), None),
        },
    };
    if let Some(port) = port
        && port
            .parse::<u16>()
            .ok()
            .filter(|number| *number > 0 && number.to_string() == *port)
            .is_none()
    {
        return no("the port must be a number from 1 to 65535");
    }
    match host {
        Some("*") => {
            no("`*` alone would allow everything; name a domain, such as `https://*.example.com`")
        }
        Some(host)
            if host
                .strip_prefix("*.")
                .is_some_and(|name| !name.contains('.')) =>
        {
            no(
                "`*.` must stand before a name of at least two labels, such as `https://*.example.com`",
            )
        }
        Some(host) if host.parse::<std::net::Ipv4Addr>().is_ok() => Ok(()),
        Some(host) if ends_with_number(host) => no(
            "a host that ends with a number must be an IPv4 address, such as `10.0.0.7`: four numbers from 0 to 255 without leading zeros",
        ),
        Some(host)
            if !is_dns_name(&host.strip_prefix("*.").unwrap_or(host).to_ascii_lowercase()) =>
        {
            no(
                "expected a host, such as `https://api.example.com`, `https://*.example.com` or `http://10.0.0.7:8080`",
            )
        }
        _ => Ok(()),
    }
}

/// Whether whoever resolves `host` would take it for an address, in one of the forms that have fewer numbers, or hexadecimal or
/// octal ones, <https://url.spec.whatwg.org/#ends-in-a-number-checker>.
fn ends_with_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit())
        || hex.is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Why `text` is no SHA-256.
pub(super) fn sha256(text: &str) -> Result<(), String> {
    if text.len() == 64
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    {
        return Ok(());
    }
    let digest = text.strip_prefix("sha256:").unwrap_or(text);
    let hint = if digest.len() < text.len() {
        "; write it without `sha256:`"
    } else {
        ""
    };
    Err(format!(
        "`{text}` is no SHA-256: expected 64 lower-case hexadecimal digits{hint}"
    ))
}

/// Why `text` is no URL to load from.
pub(super) fn url(text: &str) -> Result<(), String> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    let host = rest
        .and_then(|rest| rest.split(['/', '?', '#']).next())
        .unwrap_or_default();
    if host.is_empty() || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!(
            "`{text}` is no URL: expected `https://…` or `http://…`"
        ));
    }
    if host.contains('@') {
        return Err("a URL must hold no credentials".to_owned());
    }
    Ok(())
}

/// Why `text` is no reference to an OCI artifact.
pub(super) fn image(text: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/:@+[]".contains(c);
    if text.contains("://") {
        return Err(format!(
            "`{text}` is no image: write it without scheme, such as `registry.example.com/vision/digits:1.4`"
        ));
    }
    let name = text.split('@').next().unwrap_or(text);
    let valid = text.chars().all(allowed)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
        && text.ends_with(|c: char| c.is_ascii_alphanumeric() || "._-".contains(c))
        && !name.contains("//")
        && text.split_once('@').is_none_or(|(_, digest)| {
            digest
                .strip_prefix("sha256:")
                .is_some_and(|digest| sha256(digest).is_ok())
        });
    if valid {
        Ok(())
    } else {
        Err(format!(
            "`{text}` is no image: expected `registry/repository:tag` or `registry/repository@sha256:…`"
        ))
    }
}

/// Why `text` is no path within a volume.
pub(super) fn volume_path(text: &str) -> Result<(), String> {
    if text.starts_with('/') || text.split('/').any(|part| part == "..") {
        return Err(format!(
            "`{text}` is no path within the volume: it must be relative and hold no `..`"
        ));
    }
    Ok(())
}

/// Why `text` is no name of an environment variable.
pub(super) fn variable(text: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !text.is_empty()
        && text.chars().all(allowed)
        && !text.starts_with(|c: char| c.is_ascii_digit())
    {
        return Ok(());
    }
    Err(format!(
        "`{text}` is no variable's name: expected letters, digits, `_`, `-` and `.`, not starting with a digit"
    ))
}

/// Why `text` is no name of a model.
pub(super) fn model(text: &str) -> Result<(), String> {
    let edge = |c: char| c.is_ascii_alphanumeric();
    let allowed = |c: char| edge(c) || "._-/".contains(c);
    if text.len() <= 128
        && text.starts_with(edge)
        && text.ends_with(edge)
        && text.chars().all(allowed)
    {
        return Ok(());
    }
    Err(format!(
        "`{text}` is no model's name: at most 128 letters, digits, `.`, `_`, `-` and `/`, starting and ending with a letter or digit"
    ))
}

/// Why `text` is no name of a Kubernetes object.
pub(super) fn object(text: &str) -> Result<(), String> {
    if is_dns_name(text) {
        Ok(())
    } else {
        Err(format!(
            "`{text}` is no object's name: expected a DNS name in lower case, at most 253 characters"
        ))
    }
}

/// Why `text` is no name of a label or annotation, of which `what` is one.
pub(super) fn key(what: &str, text: &str) -> Result<(), String> {
    let (domain, name) = match text.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, text),
    };
    if !name.is_empty() && is_label_text(name) && domain.is_none_or(is_dns_name) {
        return Ok(());
    }
    Err(format!(
        "`{text}` is no name of {what}: expected at most 63 letters, digits, `-`, `_` and `.`, first and last a letter or digit, perhaps after a domain in lower case and `/`, such as `example.com/team`"
    ))
}

/// Why `text` is no value of a label.
pub(super) fn label_value(text: &str) -> Result<(), String> {
    if is_label_text(text) {
        return Ok(());
    }
    Err(format!(
        "`{text}` is no value of a label: expected at most 63 letters, digits, `-`, `_` and `.`, first and last a letter or digit"
    ))
}

/// Whether `text` may be a label's value, which may be empty.
fn is_label_text(text: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    text.is_empty()
        || (text.len() <= 63
            && text.starts_with(edge)
            && text.ends_with(edge)
            && text.chars().all(|c| edge(c) || "-_.".contains(c)))
}

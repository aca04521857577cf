//! How do images get into a registry? skopeo copies them, from an archive or from where other tools keep theirs.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Image;
use crate::{files, layout, shell};

/// Puts `image` into the registry at `registry`, under its own name or `name`, and gives the reference that nodes pull.
/// `image` is an archive, or the name of an image that `cargo xtask images` built or that buildah, podman or docker has.
///
/// # Errors
/// When there is no such image, or the registry does not take it.
pub fn load(image: &str, name: Option<&str>, registry: &str) -> Result<String> {
    let archive = if image.contains("-archive:") {
        Some(image.to_owned())
    } else if Path::new(image).is_file() {
        Some(format!("{}:{image}", archive_kind(Path::new(image))?))
    } else {
        None
    };
    if let Some(source) = archive {
        let own = match name {
            Some(name) => name.to_owned(),
            None => inspect_name(&source)?,
        };
        return put(&source, registry, &own);
    }
    let places = places(image);
    let source = places
        .iter()
        .find(|source| exists(source))
        .with_context(|| {
            format!(
                "there is no image {image}; asked were {}",
                places.join(", ")
            )
        })?;
    put(source, registry, name.unwrap_or(image))
}

/// Copies an image to where the nodes look for `name`, and to where it is called so with the registry's own name before.
fn put(source: &str, registry: &str, name: &str) -> Result<String> {
    let path = path_of(name);
    if !path.contains('/') {
        // `x:1` is short for docker.io/library/x:1.
        push(source, registry, &format!("library/{path}"), false)?;
    }
    push(source, registry, path, false)
}

fn exists(source: &str) -> bool {
    Command::new("skopeo")
        .args(["inspect", "--raw", source])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Where an image of this name may be.
fn places(image: &str) -> Vec<String> {
    let mut places = Vec::new();
    let built = files::repository()
        .join("target/images")
        .join(format!("{}.tar", image.replace(':', "-")));
    if built.is_file() {
        places.push(format!("oci-archive:{}", built.display()));
    }
    places.push(format!("containers-storage:{image}"));
    // What buildah and podman call an image that was given no registry's name.
    places.push(format!("containers-storage:localhost/{image}"));
    if Path::new("/var/run/docker.sock").exists() {
        places.push(format!("docker-daemon:{image}"));
    }
    places
}

/// The part of a reference that a mirror of its registry knows it by: without the registry's name.
fn path_of(name: &str) -> &str {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains('.') || first.contains(':') || first == "localhost" =>
        {
            rest
        }
        _ => name,
    }
}

fn archive_kind(path: &Path) -> Result<&'static str> {
    let list = shell::run(Command::new("tar").arg("-tf").arg(path))?;
    if list
        .lines()
        .any(|line| line.trim_start_matches("./") == "oci-layout")
    {
        Ok("oci-archive")
    } else if list
        .lines()
        .any(|line| line.trim_start_matches("./") == "manifest.json")
    {
        Ok("docker-archive")
    } else {
        bail!(
            "{} is no image archive: neither oci-layout nor manifest.json is in it",
            path.display()
        )
    }
}

fn inspect_name(source: &str) -> Result<String> {
    let Some((kind, path)) = source.split_once(':') else {
        bail!("{source:?} names no image")
    };
    let member = if kind == "oci-archive" {
        "index.json"
    } else {
        "manifest.json"
    };
    let text = shell::run(Command::new("tar").args(["-xOf", path, member]))?;
    let value: serde_json::Value = serde_json::from_str(&text)?;
    let name = if kind == "oci-archive" {
        value.pointer("/manifests/0/annotations/org.opencontainers.image.ref.name")
    } else {
        value.pointer("/0/RepoTags/0")
    };
    let name = name.and_then(serde_json::Value::as_str);
    match name {
        Some(name) if name.contains(':') => Ok(name.to_owned()),
        _ => bail!("{path} does not say the image's name: give it with --as NAME:TAG"),
    }
}

/// Copies an image, for all platforms that it is for, to `registry/name`, as it is: its digest stays.
fn push(source: &str, registry: &str, name: &str, verify: bool) -> Result<String> {
    let reference = format!("{registry}/{name}");
    let mut command = Command::new("skopeo");
    command.args([
        "copy",
        "--all",
        "--quiet",
        "--preserve-digests",
        "--insecure-policy",
    ]);
    command.arg(format!("--dest-tls-verify={verify}"));
    shell::run(command.arg(source).arg(format!("docker://{reference}")))
        .with_context(|| format!("cannot push {reference}"))?;
    Ok(reference)
}

/// Pushes an image that was built to a registry of the user's own; a registry on this machine may speak plain HTTP.
///
/// # Errors
/// When the registry does not take it.
pub fn push_to(image: &Image, registry: &str) -> Result<String> {
    push(
        &format!("oci-archive:{}", image.archive.display()),
        registry,
        &image.name,
        !is_here(registry),
    )
}

/// Whether a registry, `HOST[:PORT][/PATH]`, is on this machine: on its loopback, or one of a cluster of ours.
fn is_here(registry: &str) -> bool {
    let authority = registry.split('/').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || layout::is_ours(address),
        Ok(IpAddr::V6(address)) => address.is_loopback(),
        Err(_) => host == "localhost",
    }
}

#[cfg(test)]
mod tests {
    use super::{is_here, path_of};

    /// Would fail if a registry elsewhere could be spoken to by whoever is in between.
    #[test]
    fn only_a_registry_on_this_machine_may_speak_plain_http() {
        for here in [
            "localhost",
            "localhost:5000/wisp",
            "127.0.0.1:5000",
            "127.1.2.3",
            "[::1]:5000/wisp",
            "10.200.0.2:5000",
            "10.239.0.2:5000/wisp",
        ] {
            assert!(is_here(here), "{here}");
        }
        for elsewhere in [
            "localhost.example.com",
            "127.example.com",
            "10.example.com/wisp",
            "10.0.0.1:5000",
            "10.240.0.2:5000",
            "ghcr.io/wisp-dev",
            "example.com/10.200.0.2",
            "",
        ] {
            assert!(!is_here(elsewhere), "{elsewhere}");
        }
    }

    #[test]
    fn a_mirror_knows_an_image_without_its_registry() {
        assert_eq!(
            path_of("ghcr.io/wisp-dev/wisp-runtime:1"),
            "wisp-dev/wisp-runtime:1"
        );
        assert_eq!(path_of("localhost/x:1"), "x:1");
        assert_eq!(path_of("10.200.0.2:5000/x:1"), "x:1");
        assert_eq!(path_of("vision/digits:1.4"), "vision/digits:1.4");
        assert_eq!(path_of("digits:1.4"), "digits:1.4");
    }
}

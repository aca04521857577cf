//! Can this machine run a cluster, and if not, what mends it?

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::images::Platform;
use crate::shell;

/// A program or file that a cluster needs, and the Debian package that has it.
const NEEDED: [(&str, &[&str]); 10] = [
    ("containernetworking-plugins", &["/usr/lib/cni/bridge"]),
    (
        "catatonit",
        &["/usr/bin/catatonit", "/usr/libexec/catatonit/catatonit"],
    ),
    ("nftables", &["/usr/sbin/nft"]),
    ("conntrack", &["/usr/sbin/conntrack"]),
    ("iproute2", &["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"]),
    ("iptables", &["/usr/sbin/iptables"]),
    ("libseccomp-dev", &["/usr/include/seccomp.h"]),
    // Asked by cgo where libseccomp is.
    ("pkg-config", &["/usr/bin/pkg-config"]),
    ("util-linux", &["/usr/bin/nsenter"]),
    ("gcc", &["/usr/bin/gcc"]),
];

/// What the images need beside that.
const IMAGES: [(&str, &[&str]); 2] = [
    ("buildah", &["/usr/bin/buildah"]),
    ("skopeo", &["/usr/bin/skopeo"]),
];

/// Where the static first process lies.
pub(crate) fn catatonit() -> Result<&'static str> {
    ["/usr/bin/catatonit", "/usr/libexec/catatonit/catatonit"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .context("catatonit is not installed")
}

/// Checks everything that a cluster needs of the machine, and installs missing packages where that is possible.
///
/// # Errors
/// With every reason why a cluster cannot run here, and what mends it.
pub(crate) fn ensure() -> Result<()> {
    refuse(reasons())?;
    install(&[&NEEDED[..], &IMAGES[..]].concat())
}

/// Checks what [`ensure`] checks, and changes nothing.
///
/// # Errors
/// As [`ensure`], but for packages that it would install.
pub(crate) fn check() -> Result<()> {
    refuse(reasons())?;
    let missing = missing();
    if !missing.is_empty() && !can_install() {
        return refuse(vec![lacks(&missing)]);
    }
    Ok(())
}

/// The oldest Go that fetches, or asks for, the one that a `go.mod` names: <https://go.dev/doc/toolchain>.
const GO: (u32, u32) = (1, 21);

/// The version in `go version go1.26.2 linux/amd64`, where there is one: a Go of somebody's own may call itself anything.
fn version_of_go(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split(' ').nth(2)?.strip_prefix("go")?.split('.');
    let major = numbers.next()?.parse().ok()?;
    // 1.26rc1 is one, too.
    let minor = numbers.next()?;
    let end = minor
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(minor.len());
    Some((major, minor.get(..end)?.parse().ok()?))
}

/// Why a cluster cannot run here, apart from packages: empty if it can.
pub(crate) fn reasons() -> Vec<String> {
    let mut reasons = Vec::new();
    if !cfg!(target_os = "linux") {
        reasons.push("not Linux: run this in a Linux virtual machine, or set KUBECONFIG to a cluster of your own".to_owned());
        return reasons;
    }
    // Also where all is built: what there is is known by the Go that built it.
    let go = Command::new("go").arg("version").output();
    let go = go.ok().filter(|output| output.status.success());
    let needs = "the cluster's programs are built from their Go modules; install Go 1.26 or newer (https://go.dev/dl), and put it on the PATH";
    match go {
        None => reasons.push(format!("no Go: {needs}")),
        Some(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            if version_of_go(&said).is_some_and(|version| version < GO) {
                reasons.push(format!("Go is too old ({}): {needs}", said.trim()));
            }
        }
    }
    if !rustix::process::geteuid().is_root() {
        reasons.push(
            "not root: nodes are network namespaces with cgroups of their own; run this with sudo -E, or set KUBECONFIG to a cluster of your own"
                .to_owned(),
        );
        return reasons;
    }
    let try_namespaces = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "true"])
        .output();
    match try_namespaces {
        Ok(output) if output.status.success() => {}
        Ok(output) => reasons.push(format!(
            "no network, mount and pid namespaces can be made ({}): in a container, give it --privileged",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => reasons.push(format!("unshare cannot be started ({error}): install util-linux")),
    }
    if crate::cgroups::hierarchies().is_empty() {
        reasons.push("no cgroup hierarchy is mounted: mount cgroup2 at /sys/fs/cgroup".to_owned());
    }
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.lines().any(|line| line.ends_with("overlay")) {
        let loaded = Command::new("modprobe")
            .arg("overlay")
            .output()
            .is_ok_and(|output| output.status.success());
        if !loaded {
            reasons.push("the kernel has no overlayfs: load the module `overlay`".to_owned());
        }
    }
    reasons
}

/// What [`ensure`] does, for the image builder alone, which needs no namespaces of its own.
pub(crate) fn ensure_image_tools() -> Result<()> {
    install(&IMAGES)
}

/// Sees to it that programs for another machine's platform can be built here: its C compiler, which links them, its C library
/// and Rust's standard library.
///
/// # Errors
/// When one is missing and can't be installed.
pub fn ensure_compiler(platform: Platform) -> Result<()> {
    install(&platform.packages())?;
    let target = platform.target();
    let sysroot = shell::run(Command::new("rustc").args(["--print", "sysroot"]))?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib").join(target);
    if !library.join("lib").is_dir() {
        shell::run(Command::new("rustup").args(["target", "add", target])).with_context(|| {
            format!("Rust's target {target} is missing: install it the way this Rust was installed")
        })?;
    }
    Ok(())
}

fn refuse(reasons: Vec<String>) -> Result<()> {
    if reasons.is_empty() {
        return Ok(());
    }
    bail!("no cluster can run here:\n  - {}", reasons.join("\n  - "))
}

/// The packages that [`ensure`] would install.
pub(crate) fn missing() -> Vec<&'static str> {
    absent(&[&NEEDED[..], &IMAGES[..]].concat())
}

fn absent(wanted: &[(&'static str, &[&str])]) -> Vec<&'static str> {
    wanted
        .iter()
        .filter(|(_, paths)| !paths.iter().any(|path| Path::new(path).exists()))
        .map(|(package, _)| *package)
        .collect()
}

fn install(wanted: &[(&'static str, &[&str])]) -> Result<()> {
    let missing = absent(wanted);
    if missing.is_empty() {
        return Ok(());
    }
    install_packages(&missing)
}

/// Installs Debian packages, by `apt-get` as root.
///
/// # Errors
/// When they can't be installed; where that is for want of root or of apt, with the line to run.
pub fn install_packages(packages: &[&str]) -> Result<()> {
    if !can_install() {
        bail!(lacks(packages));
    }
    let list = packages.join(" ");
    eprintln!("installing {list}");
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    shell::run(apt().args(["update", "-qq"]))?;
    shell::run(
        apt()
            .args(["install", "-qq", "--yes", "--no-install-recommends"])
            .args(packages),
    )
    .with_context(|| format!("cannot install {list}"))?;
    Ok(())
}

fn can_install() -> bool {
    Path::new("/usr/bin/apt-get").exists() && rustix::process::geteuid().is_root()
}

fn lacks(packages: &[&str]) -> String {
    let list = packages.join(" ");
    format!(
        "missing: {list}. On Debian or Ubuntu: sudo sh -c 'apt-get update && apt-get install --yes --no-install-recommends {list}'"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if Debian 12's Go passed, which can't read these `go.mod`, or one that is new enough didn't.
    #[test]
    fn a_go_that_is_too_old_is_known() {
        let of = |said: &str| version_of_go(&format!("go version {said} linux/amd64\n"));
        assert_eq!(of("go1.19.8"), Some((1, 19)));
        assert_eq!(of("go1.26rc1"), Some((1, 26)));
        assert_eq!(of("go1.26"), Some((1, 26)));
        assert_eq!(of("devel +a1b2c3"), None);
        assert!(of("go1.19.8") < Some(GO));
        assert!(of("go1.26.8") > Some(GO));
    }
}

//! A host for 64-bit Arm on a machine that is none: emulated by qemu.

use std::path::{Path, PathBuf};
use std::process::Command;

use wisp_skip::cache;

use crate::build::cross;

/// The host, and what it runs on.
#[derive(Debug)]
pub struct Arm64 {
    program: PathBuf,
    /// ONNX Runtime for it.
    pub onnxruntime: PathBuf,
}

const TARGET: &str = "aarch64-unknown-linux-gnu";
const NAMESPACES: [&str; 2] = ["--map-root-user", "--mount"];
const QEMU: &str = "/usr/bin/qemu-aarch64-static";
/// Where Debian's cross compiler has Arm's C library.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";

/// ONNX Runtime reads of the processor in sysfs, where qemu shows that of this machine; of an x86-64 it expects what an
/// Arm has, and ends by a fault. So it sees two processors of which nothing is known.
const HIDE: &str = "cpu=/sys/devices/system/cpu && mount -t tmpfs none $cpu && \
    for list in possible present online; do echo 0-1 > $cpu/$list; done && exec \"$@\"";

/// A host for Arm, where there is what emulates one: `cargo xtask test` installs it. Elsewhere there is nothing to test,
/// which CI doesn't accept.
///
/// # Panics
/// When something is missing and this is CI, or the host doesn't build.
#[must_use]
pub fn arm64() -> Option<Arm64> {
    if cfg!(target_arch = "aarch64") {
        eprintln!("skipped: this machine is an Arm itself");
        return None;
    }
    let onnxruntime = cache()?.join("arm64/onnxruntime/1.31.1/libonnxruntime.so");
    if let Some(lack) = lack(&onnxruntime) {
        wisp_skip::skip(format!("{lack}: run cargo xtask test"));
        return None;
    }
    Some(Arm64 {
        program: cross("wisp-runtime", TARGET),
        onnxruntime,
    })
}

/// What keeps a host from being built and emulated here.
fn lack(onnxruntime: &Path) -> Option<String> {
    let output = |command: &mut Command| {
        let output = command.output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    let target = ["--print", "target-libdir", "--target", TARGET];
    let target = output(Command::new("rustc").args(target)).unwrap_or_default();
    let libraries = Path::new(LIBRARIES).join("lib");
    let needed = [
        Path::new(QEMU),
        Path::new("/usr/bin/aarch64-linux-gnu-gcc"),
        &libraries.join("crt1.o"),
        &libraries.join("libstdc++.so.6"),
        onnxruntime,
        Path::new(&target),
    ];
    if let Some(file) = needed.into_iter().find(|file| !file.exists()) {
        return Some(format!("{} is missing", file.display()));
    }
    let namespaces = output(Command::new("unshare").args([&NAMESPACES[..], &["true"]].concat()));
    namespaces
        .is_none()
        .then(|| "no mount namespace can be made".to_owned())
}

impl Arm64 {
    /// The host's program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The command that starts it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(NAMESPACES)
            .args(["sh", "-c", HIDE, "sh"])
            .args([QEMU, "-L", LIBRARIES])
            .arg(&self.program);
        command
    }
}

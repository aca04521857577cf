//! Pods for 64-bit Arm on nodes that are none: the kernel has qemu run their programs.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result};
use wisp_cluster::images::{self, Platform, Programs};
use wisp_integration::Arm64;

use crate::install::Installation;

/// As long as this is held, the kernel has programs for Arm run by qemu, in every container.
#[derive(Debug)]
pub struct Emulated {
    entry: PathBuf,
    /// It has the file system.
    holder: Child,
    /// One run at a time has the name.
    _turn: fs::File,
    /// The image of the host for Arm.
    pub image: String,
}

/// <https://docs.kernel.org/admin-guide/binfmt-misc.html>
const FOLDER: &str = "/proc/sys/fs/binfmt_misc";
/// Mounts the folder where nobody else sees it, and holds it until its input ends, as it does when this process does.
const HOLD: &str = r#"mount -t binfmt_misc none "$0" && echo mounted && read -r _"#;
const NAME: &str = "wisp-tests-aarch64";
/// An executable ELF file, static or not, of e_machine 183. `F`: qemu is opened now, so that a container needs none.
const RULE: &str = concat!(
    r":wisp-tests-aarch64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00",
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff",
    ":/usr/bin/qemu-aarch64-static:F",
);

impl Emulated {
    /// Has the kernel do so, and pushes the host's image. `None` where the kernel can't, which CI doesn't accept.
    ///
    /// # Errors
    /// When qemu can't be registered, or the image can't be built.
    pub fn start(wisp: &Installation, arm: &Arm64) -> Result<Option<Self>> {
        let turn = fs::File::create(std::env::temp_dir().join(NAME))?;
        turn.lock()?;
        let mut holder = Command::new("unshare")
            .args(["--mount", "sh", "-c", HOLD, FOLDER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start unshare")?;
        let mut said = String::new();
        if let Some(output) = holder.stdout.take() {
            BufReader::new(output).read_line(&mut said)?;
        }
        let folder = PathBuf::from(format!("/proc/{}/root{FOLDER}", holder.id()));
        let mut emulated = Self {
            entry: folder.join(NAME),
            holder,
            _turn: turn,
            image: String::new(),
        };
        if said.is_empty() {
            wisp_skip::skip("the kernel has no binfmt_misc");
            return Ok(None);
        }
        if emulated.entry.exists() {
            // Of tests that were killed.
            fs::write(&emulated.entry, "-1")?;
        }
        fs::write(folder.join("register"), RULE).context("qemu can't be registered")?;
        let output = tempfile::tempdir()?;
        let programs = Programs::default()
            .with_for(Platform::Arm64, "wisp-runtime", arm.program())
            .with_for(Platform::Arm64, "libonnxruntime.so", &arm.onnxruntime);
        let source = wisp_cluster::repository().join("deploy/images/runtime");
        let built = images::build_for(
            &[Platform::Arm64],
            &source,
            &programs,
            "arm64",
            output.path(),
        )?;
        emulated.image = wisp.cluster().push(&built)?;
        Ok(Some(emulated))
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        let _ = fs::write(&self.entry, "-1");
        // The end of its input would do, but this is seen to happen.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

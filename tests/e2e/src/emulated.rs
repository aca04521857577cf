//! Pods for 64-bit Arm on nodes that are none: the kernel has qemu run their programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use wisp_cluster::images::{self, Platform, Programs};
use wisp_integration::Arm64;

use crate::install::{Installation, repository};

/// As long as this is held, the kernel has programs for Arm run by qemu, in every container.
#[derive(Debug)]
pub struct Emulated {
    entry: PathBuf,
    /// Whether the folder was mounted for this.
    is_mounted: bool,
    /// One run at a time has the name.
    _turn: fs::File,
    /// The image of the host for Arm.
    pub image: String,
}

/// <https://docs.kernel.org/admin-guide/binfmt-misc.html>
const FOLDER: &str = "/proc/sys/fs/binfmt_misc";
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
        let register = Path::new(FOLDER).join("register");
        let is_mounted = !register.exists();
        if is_mounted {
            let mounted = Command::new("mount")
                .args(["-t", "binfmt_misc", "none", FOLDER])
                .status()?;
            if !mounted.success() {
                ensure!(
                    std::env::var_os("CI").is_none(),
                    "the kernel has no binfmt_misc"
                );
                eprintln!("skipped: the kernel has no binfmt_misc");
                return Ok(None);
            }
        }
        let entry = Path::new(FOLDER).join(NAME);
        if entry.exists() {
            // Of tests that were killed.
            fs::write(&entry, "-1")?;
        }
        fs::write(&register, RULE).context("qemu can't be registered")?;
        let mut emulated = Self {
            entry,
            is_mounted,
            _turn: turn,
            image: String::new(),
        };
        let output = tempfile::tempdir()?;
        let programs = Programs::default()
            .with_for(Platform::Arm64, "wisp-runtime", arm.program())
            .with_for(Platform::Arm64, "libonnxruntime.so", &arm.onnxruntime);
        let source = repository().join("deploy/images/runtime");
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
        if self.is_mounted {
            let _ = Command::new("umount").arg(FOLDER).status();
        }
    }
}

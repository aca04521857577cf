//! Which machines is an image for?

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// A kind of machine, by the name that [OCI images](https://github.com/opencontainers/image-spec/blob/main/image-index.md)
/// and Docker's `--platform` give it.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(try_from = "String")]
pub enum Platform {
    /// x86-64.
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

/// Why a text names no [`Platform`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no images are built for {0:?}: expected linux/amd64 or linux/arm64")]
pub struct PlatformError(String);

impl Platform {
    /// This machine's.
    pub const HERE: Platform = if cfg!(target_arch = "aarch64") {
        Platform::Arm64
    } else {
        Platform::Amd64
    };

    /// What OCI, Go and Debian call its processor.
    #[must_use]
    pub fn architecture(self) -> &'static str {
        match self {
            Platform::Amd64 => "amd64",
            Platform::Arm64 => "arm64",
        }
    }

    /// What Rust calls it.
    #[must_use]
    pub fn target(self) -> &'static str {
        match self {
            Platform::Amd64 => "x86_64-unknown-linux-gnu",
            Platform::Arm64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// What cargo is told to build for it on another machine, with Debian's C compiler to link.
    #[must_use]
    pub fn cross_build(self) -> [String; 3] {
        let target = self.target();
        let linker = match self {
            Platform::Amd64 => "x86_64-linux-gnu-gcc",
            Platform::Arm64 => "aarch64-linux-gnu-gcc",
        };
        [
            format!("--target={target}"),
            "--config".to_owned(),
            format!("target.{target}.linker={linker:?}"),
        ]
    }

    /// The packages that have that compiler and the C library that it links with, and a file of each.
    pub(crate) fn packages(self) -> [(&'static str, &'static [&'static str]); 2] {
        match self {
            Platform::Amd64 => [
                ("gcc-x86-64-linux-gnu", &["/usr/bin/x86_64-linux-gnu-gcc"]),
                (
                    "libc6-dev-amd64-cross",
                    &["/usr/x86_64-linux-gnu/lib/crt1.o"],
                ),
            ],
            Platform::Arm64 => [
                ("gcc-aarch64-linux-gnu", &["/usr/bin/aarch64-linux-gnu-gcc"]),
                (
                    "libc6-dev-arm64-cross",
                    &["/usr/aarch64-linux-gnu/lib/crt1.o"],
                ),
            ],
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.architecture())
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Platform, PlatformError> {
        [Platform::Amd64, Platform::Arm64]
            .into_iter()
            .find(|platform| platform.to_string() == text)
            .ok_or_else(|| PlatformError(text.to_owned()))
    }
}

impl TryFrom<String> for Platform {
    type Error = PlatformError;

    fn try_from(text: String) -> Result<Platform, PlatformError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_is_read_as_it_is_written() {
        for platform in [Platform::Amd64, Platform::Arm64] {
            assert_eq!(platform.to_string().parse(), Ok(platform));
        }
        let error = "arm64".parse::<Platform>().unwrap_err().to_string();
        assert!(
            error.contains("\"arm64\"") && error.contains("linux/arm64"),
            "{error}"
        );
    }
}

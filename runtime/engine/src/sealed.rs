//! Files that are nowhere but in memory, and that nobody can change once they are whole: what a process without a
//! writable disk keeps the bytes in that it fetched.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use sha2::{Digest, Sha256};

/// A file in memory that is being written.
#[derive(Debug)]
pub struct Unsealed {
    file: File,
    sha256: Sha256,
    length: u64,
}

/// A file in memory that nobody can change.
#[derive(Debug)]
pub struct Sealed {
    file: File,
    sha256: String,
    length: u64,
}

impl Unsealed {
    /// An empty one. `name` shows in `/proc`, for people.
    ///
    /// # Errors
    /// When the system has no file descriptor left, or no such files (Linux before 3.17).
    pub fn new(name: &str) -> io::Result<Self> {
        let file = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        Ok(Self {
            file: file.into(),
            sha256: Sha256::new(),
            length: 0,
        })
    }

    /// Bytes that were written.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// From here on nobody can change it.
    ///
    /// # Errors
    /// When the system refuses to seal it.
    pub fn seal(self) -> io::Result<Sealed> {
        fcntl_add_seals(
            &self.file,
            SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
        )?;
        Ok(Sealed {
            file: self.file,
            sha256: hex::encode(self.sha256.finalize()),
            length: self.length,
        })
    }
}

impl Write for Unsealed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.sha256.update(bytes.get(..written).unwrap_or_default());
        self.length += u64::try_from(written).unwrap_or(u64::MAX);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sealed {
    /// The digest of its bytes, in lower-case hex.
    #[must_use]
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// How many bytes it has.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// A path by which this process can open it as long as this value lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_has_a_digest_and_a_path_and_does_not_change() {
        let mut file = Unsealed::new("test").unwrap();
        file.write_all(b"ab").unwrap();
        file.write_all(b"c").unwrap();
        assert_eq!(file.length(), 3);
        let sealed = file.seal().unwrap();
        // echo -n abc | sha256sum
        assert_eq!(
            sealed.sha256(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(sealed.length(), 3);
        assert_eq!(std::fs::read(sealed.path()).unwrap(), b"abc");
        assert!(
            File::options()
                .write(true)
                .open(sealed.path())
                .and_then(|mut file| file.write_all(b"x"))
                .is_err()
        );
    }
}

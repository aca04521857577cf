//! Which machine code for GPUs does a library carry?
//!
//! CUDA's compiler puts a *fat binary* into a library for every source file: a header, and an entry of machine code for
//! each architecture. A device loads an entry of its own architecture when a kernel of that source file is first called,
//! and never looks at the others'. What a pack for one architecture doesn't need becomes zeros, which compress to
//! nothing; not a byte moves, and nothing outside the entries changes.

use anyhow::{Context, Result, bail};

const MAGIC: u32 = 0xBA55_ED50;
const HEADER: usize = 16;

/// An entry of machine code.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    /// Where its architecture is told.
    label: usize,
    /// Such as 90 for compute capability 9.0.
    architecture: u32,
    /// Where its machine code is.
    code: std::ops::Range<usize>,
}

/// What is left of a library.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Source files whose machine code for the architecture is there.
    pub(crate) kept: usize,
    /// Source files of which there is none any more.
    pub(crate) dropped: usize,
    /// Bytes of machine code that are there, and that were.
    pub(crate) bytes: usize,
    pub(crate) of: usize,
}

/// Leaves the machine code of one architecture, and of that only the source files that were compiled for the `oldest`, too,
/// where one is named. What ONNX Runtime has only for newer ones are kernels of language models: FlashAttention, XQA, and
/// Hopper's products for mixtures of experts. They are most of the library. A device finds of them what the oldest one
/// always found: no entry of its own.
///
/// # Errors
/// Where the library has no fat binaries, or none for `architecture`.
pub(crate) fn prune(library: &mut [u8], architecture: u32, oldest: Option<u32>) -> Result<Kept> {
    let mut kept = Kept::default();
    for entries in fat_binaries(library)? {
        let for_all =
            oldest.is_none_or(|oldest| entries.iter().any(|entry| entry.architecture == oldest));
        let mut has_any = false;
        for entry in entries {
            kept.of += entry.code.len();
            let is_wanted = entry.architecture == architecture;
            if is_wanted && for_all {
                kept.bytes += entry.code.len();
                has_any = true;
                continue;
            }
            library
                .get_mut(entry.code)
                .context("an entry was read before")?
                .fill(0);
            if is_wanted {
                // The device would load the zeros. Of another's entry it sees that it isn't its own.
                let label = library.get_mut(entry.label..entry.label + 4);
                label
                    .context("a label was read before")?
                    .copy_from_slice(&foreign(architecture).to_le_bytes());
            }
        }
        if has_any {
            kept.kept += 1;
        } else {
            kept.dropped += 1;
        }
    }
    if kept.kept == 0 {
        bail!("the library has no machine code for sm_{architecture}");
    }
    Ok(kept)
}

/// One whose code a device of this architecture doesn't run, and which the library names, too.
fn foreign(architecture: u32) -> u32 {
    if architecture / 10 == 12 { 75 } else { 120 }
}

fn fat_binaries(library: &[u8]) -> Result<Vec<Vec<Entry>>> {
    let mut found = Vec::new();
    let mut at = 0;
    let magic = MAGIC.to_le_bytes();
    while let Some(next) = find(library, &magic, at) {
        at = next + magic.len();
        // The same four bytes may be anything else; a header has version 1 and its own length.
        if number(library, next + 4, 2)? != 1 || number(library, next + 6, 2)? != HEADER {
            continue;
        }
        let begin = next + HEADER;
        let end = begin
            .checked_add(number(library, next + 8, 8)?)
            .filter(|end| *end <= library.len())
            .context("a fat binary is longer than the library")?;
        found.push(entries(library, begin, end)?);
        at = end;
    }
    if found.is_empty() {
        bail!("the library holds no machine code for GPUs");
    }
    Ok(found)
}

fn entries(library: &[u8], mut at: usize, end: usize) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    while at < end {
        let header = number(library, at + 4, 4)?;
        let length = number(library, at + 8, 8)?;
        let code = at
            .checked_add(header)
            .and_then(|begin| Some(begin..begin.checked_add(length)?))
            .filter(|code| code.end <= end && code.end > at)
            .context("an entry is longer than its fat binary")?;
        entries.push(Entry {
            label: at + 28,
            architecture: u32::try_from(number(library, at + 28, 4)?)?,
            code: code.clone(),
        });
        at = code.end;
    }
    Ok(entries)
}

/// A little-endian number of up to eight bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> Result<usize> {
    let bytes = bytes.get(at..at + length).context("the library is cut")?;
    let number = bytes
        .iter()
        .rev()
        .fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    Ok(usize::try_from(number)?)
}

fn find(bytes: &[u8], what: &[u8], from: usize) -> Option<usize> {
    let (first, _) = what.split_first()?;
    let mut at = from;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| byte == first)?;
        if bytes.get(at..)?.starts_with(what) {
            return Some(at);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fat_binary(architectures: &[u32]) -> Vec<u8> {
        let mut inner = Vec::new();
        for architecture in architectures {
            let mut header = vec![0; 64];
            header[0] = 2;
            header[4] = 64;
            header[8] = 8;
            header[28..32].copy_from_slice(&architecture.to_le_bytes());
            inner.extend(header);
            inner.extend([*architecture as u8; 8]);
        }
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend([1, 0, 16, 0]);
        bytes.extend((inner.len() as u64).to_le_bytes());
        bytes.extend(inner);
        bytes
    }

    /// What a device of this architecture finds in each fat binary.
    fn seen(library: &[u8], architecture: u32) -> Vec<Vec<u8>> {
        let all = fat_binaries(library).unwrap();
        let of = |entries: Vec<Entry>| {
            let own = entries
                .into_iter()
                .find(|entry| entry.architecture == architecture);
            own.map_or_else(Vec::new, |entry| library[entry.code].to_vec())
        };
        all.into_iter().map(of).collect()
    }

    #[test]
    fn one_architecture_is_left_where_the_oldest_has_the_same_kernels() {
        let mut library = b"text before, with the magic P\xed\x55\xba in it\0\0".to_vec();
        library.extend(fat_binary(&[75, 80, 90]));
        library.extend(b"between");
        library.extend(fat_binary(&[80, 90, 120]));
        library.extend(fat_binary(&[90]));
        let before = library.clone();
        let kept = prune(&mut library, 90, Some(75)).unwrap();
        assert_eq!(
            kept,
            Kept {
                kept: 1,
                dropped: 2,
                bytes: 8,
                of: 56
            }
        );
        assert_eq!(seen(&library, 90), [vec![90; 8], vec![], vec![]]);
        assert_eq!(seen(&library, 80), [vec![0; 8], vec![0; 8], vec![]]);
        assert_eq!(library.len(), before.len());
        let mut whole = before.clone();
        prune(&mut whole, 90, None).unwrap();
        assert_eq!(seen(&whole, 90), vec![vec![90; 8]; 3]);
        assert_eq!(library[..60], before[..60], "nothing before it changes");
    }

    #[test]
    fn what_it_cannot_read_it_does_not_touch() {
        let message = |mut bytes: Vec<u8>| prune(&mut bytes, 90, Some(75)).unwrap_err().to_string();
        assert!(message(b"ELF".to_vec()).contains("no machine code for GPUs"));
        assert!(message(fat_binary(&[75, 80])).contains("sm_90"));
        let mut cut = fat_binary(&[75, 90]);
        cut.truncate(100);
        assert!(message(cut).contains("longer than the library"));
        let mut long = fat_binary(&[75, 90]);
        long[16 + 8] = 0xff;
        assert!(message(long).contains("longer than its fat binary"));
    }
}

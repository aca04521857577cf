//! What kind of file is a model? Told by its bytes, without loading it.

use std::io::{Read, Seek, SeekFrom};

/// First bytes of files that people take for ONNX models, and what to do.
const OTHERS: [(&[u8], &str); 6] = [
    (b"GGUF", "a GGUF model, which this host doesn't run"),
    (
        b"PK\x03\x04",
        "a zip archive, such as a PyTorch checkpoint: export the model to ONNX",
    ),
    (
        b"\x89HDF",
        "an HDF5 file, such as a Keras model: convert it with tf2onnx",
    ),
    (b"\x80", "a Python pickle: export the model to ONNX"),
    (b"\0asm", "a WebAssembly module"),
    (
        b"version https://git-lfs",
        "a Git LFS pointer: fetch the file itself with `git lfs pull`",
    ),
];

/// As many first bytes as [`check`] looks at.
pub const HEAD: usize = 32;

/// The field of [`ModelProto`](https://github.com/onnx/onnx/blob/main/onnx/onnx.proto) that no model lacks.
const GRAPH: u64 = 7;

/// Models have a few: a file that has more is made to take time.
const MOST_FIELDS: usize = 1 << 16;

/// Says what a file is that is no ONNX model, where its first bytes tell.
///
/// # Errors
/// When they do: what it is, and what to do.
pub fn check(head: &[u8]) -> Result<(), String> {
    if head.is_empty() {
        return Err("empty".to_owned());
    }
    if head.get(4..8) == Some(b"TFL3") {
        return Err("a TensorFlow Lite model: convert it with tf2onnx".to_owned());
    }
    OTHERS
        .iter()
        .find(|(magic, _)| head.starts_with(magic))
        .map_or(Ok(()), |(_, what)| Err((*what).to_owned()))
}

/// Whether a file that begins so has ONNX Runtime's own format.
#[must_use]
pub fn is_ort_format(head: &[u8]) -> bool {
    head.get(4..8) == Some(b"ORTM")
}

/// The same as [`check`], and whether all fields of a file of `length` bytes are there: one that was cut off has lost some.
///
/// # Errors
/// When it is no model: what it is instead. Errors of `file` itself stay such.
pub fn check_whole(
    file: &mut (impl Read + Seek),
    length: u64,
) -> std::io::Result<Result<(), String>> {
    let mut head = Vec::new();
    file.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    if let Err(what) = check(&head) {
        return Ok(Err(what));
    }
    if is_ort_format(&head) {
        return Ok(Ok(()));
    }
    let none = || Ok(Err("no ONNX model, or only a part of one".to_owned()));
    let mut at = 0;
    let mut has_graph = false;
    let mut fields = 0;
    while at < length {
        fields += 1;
        if fields > MOST_FIELDS {
            return none();
        }
        file.seek(SeekFrom::Start(at))?;
        let mut field = Vec::new();
        file.by_ref().take(20).read_to_end(&mut field)?;
        let Some((number, size)) = field_size(&field) else {
            return none();
        };
        has_graph |= number == GRAPH;
        at = match at.checked_add(size) {
            Some(next) if next <= length => next,
            _ => return none(),
        };
    }
    if has_graph { Ok(Ok(())) } else { none() }
}

/// The number of the field that begins here, and how many bytes it has in all,
/// <https://protobuf.dev/programming-guides/encoding/>.
fn field_size(bytes: &[u8]) -> Option<(u64, u64)> {
    let (tag, of_tag) = varint(bytes)?;
    let rest = bytes.get(of_tag..)?;
    let content = match tag & 7 {
        0 => varint(rest)?.1 as u64,
        1 => 8,
        2 => {
            let (length, of_length) = varint(rest)?;
            length.checked_add(of_length as u64)?
        }
        5 => 4,
        _ => return None,
    };
    let number = tag >> 3;
    (number > 0).then_some((number, content.checked_add(of_tag as u64)?))
}

/// A number, and how many bytes it is written in.
fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut number = 0_u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((number, index + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn other_files_are_named() {
        for (bytes, word) in [
            (&b"GGUF\x03"[..], "GGUF"),
            (b"PK\x03\x04..", "PyTorch"),
            (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
            (b"version https://git-lfs.github.com/spec/v1", "LFS"),
            (b"", "empty"),
        ] {
            let error = check(bytes).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        assert_eq!(check(&[8, 10, 0x3a]), Ok(()));
    }

    #[test]
    fn a_model_that_was_cut_off_or_is_none_is_told() {
        let judge = |bytes: &[u8]| {
            let length = bytes.len() as u64;
            check_whole(&mut Cursor::new(bytes), length).unwrap()
        };
        // `ir_version` 10, `producer_name` "me", a graph of 300 bytes, an `opset_import`.
        let graph = vec![0; 300];
        let model = [
            &[0x08, 10, 0x12, 2][..],
            b"me",
            &[0x3a, 0xac, 0x02],
            &graph,
            &[0x42, 2, 0x10, 21],
        ]
        .concat();
        assert_eq!(judge(&model), Ok(()));
        for length in [1, 3, 5, 8, 9, 200, model.len() - 1] {
            let error = judge(&model[..length]).unwrap_err();
            assert!(error.contains("a part of one"), "{length}: {error}");
        }
        let texts: [&[u8]; 4] = [b"<!DOCTYPE html>", b"hello", &[0x08, 10], &[0xff; 64]];
        for text in texts {
            judge(text).unwrap_err();
        }
        let many = [0x08, 0].repeat(MOST_FIELDS + 1);
        judge(&[&model[..], &many].concat()).unwrap_err();
        assert!(judge(b"\x89HDF\r\n").unwrap_err().contains("Keras"));
        assert_eq!(judge(b"\x18\0\0\0ORTM...."), Ok(()));
    }
}

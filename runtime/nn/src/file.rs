//! What kind of file is a model?

use wisp_contract::config::ModelFormat;

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

/// Says what is wrong with a file that is no ONNX model, where its first bytes tell.
pub(crate) fn check(format: ModelFormat, bytes: &[u8]) -> Result<(), String> {
    match format {
        ModelFormat::Autodetect | ModelFormat::Onnx => {}
    }
    if bytes.is_empty() {
        return Err("empty".to_owned());
    }
    if bytes.get(4..8) == Some(b"TFL3") {
        return Err("a TensorFlow Lite model: convert it with tf2onnx".to_owned());
    }
    OTHERS
        .iter()
        .find(|(magic, _)| bytes.starts_with(magic))
        .map_or(Ok(()), |(_, what)| Err((*what).to_owned()))
}

/// ONNX Runtime's own format, which it tells by these bytes.
pub(crate) fn is_ort_format(bytes: &[u8]) -> bool {
    bytes.get(4..8) == Some(b"ORTM")
}

#[cfg(test)]
mod tests {
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
            let error = check(ModelFormat::Autodetect, bytes).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        assert_eq!(check(ModelFormat::Autodetect, &[8, 10, 0x3a]), Ok(()));
    }
}

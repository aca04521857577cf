//! Where are CUDA's libraries?
//!
//! The dynamic linker finds few of them: Python packages have them in folders of their own.

use std::path::{Path, PathBuf};

/// What ONNX Runtime's CUDA provider is linked with, and what it looks for when a model needs it: cuDNN has the
/// convolutions, and compiles some of them with NVRTC.
const LIBRARIES: [&str; 9] = [
    "libcuda.so.1",
    "libcudart.so.13",
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libcurand.so.10",
    "libcudnn.so.9",
    "libcufft.so.12",
    "libnvrtc.so.13",
    "libnvJitLink.so.13",
];
/// Where they are without a Python environment.
const USUAL: [&str; 5] = [
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
    "/usr/local/cuda/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib64",
];
/// Deeper than any Python environment.
const DEPTH: u32 = 12;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// The folders, for `LD_LIBRARY_PATH`.
    pub(crate) folders: Vec<PathBuf>,
    /// The libraries that are nowhere.
    pub(crate) missing: Vec<&'static str>,
}

/// Looks into `first`, then into the usual folders, then into everything below `roots`.
pub(crate) fn find(first: &[PathBuf], roots: &[PathBuf]) -> Found {
    let mut found = Found {
        folders: Vec::new(),
        missing: LIBRARIES.to_vec(),
    };
    let usual = USUAL.iter().map(PathBuf::from);
    for folder in first.iter().cloned().chain(usual) {
        found.look_into(&folder);
    }
    for root in roots {
        found.walk(root, DEPTH);
    }
    found
}

impl Found {
    fn look_into(&mut self, folder: &Path) {
        let before = self.missing.len();
        self.missing.retain(|name| !folder.join(name).exists());
        if self.missing.len() < before {
            self.folders.push(folder.to_owned());
        }
    }

    fn walk(&mut self, folder: &Path, depth: u32) {
        if depth == 0 || self.missing.is_empty() {
            return;
        }
        let mut folders: Vec<PathBuf> = std::fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            // They hold libraries to link with, and those of other drivers.
            .filter(|path| !path.ends_with("stubs") && !path.ends_with("compat"))
            .collect();
        folders.sort();
        for folder in folders {
            self.look_into(&folder);
            self.walk(&folder, depth - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_found_where_packages_have_them_and_not_where_stubs_are() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        for library in LIBRARIES {
            make(&format!("cuda/stubs/{library}"));
            make(&format!("cuda/compat/{library}"));
        }
        make("venv/lib/python3.12/site-packages/nvidia/cu13/lib/libcublas.so.13");
        make("venv/lib/python3.12/site-packages/nvidia/cu13/lib/libcublasLt.so.13");
        make("venv/lib/python3.12/site-packages/nvidia/cudnn/lib/libcudnn.so.9");
        make("first/libcublas.so.13");
        let found = find(&[root.path().join("first")], &[root.path().to_owned()]);
        let own: Vec<_> = found
            .folders
            .iter()
            .filter_map(|folder| folder.strip_prefix(root.path()).ok()?.to_str())
            .collect();
        let packages = "venv/lib/python3.12/site-packages/nvidia";
        let lib = |name: &str| format!("{packages}/{name}/lib");
        assert_eq!(own, ["first", &lib("cu13"), &lib("cudnn")]);
        assert!(!found.missing.contains(&"libcublasLt.so.13"), "{found:?}");
        let again = find(&found.folders, &[root.path().to_owned()]);
        assert_eq!(again, found, "it would start itself anew for ever");
        let everywhere = find(&[root.path().join("cuda/stubs")], &[]);
        assert_eq!(everywhere.missing, [""; 0]);
    }
}

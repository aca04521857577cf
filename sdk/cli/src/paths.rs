//! Where things are on this machine.

use std::path::{Path, PathBuf};

/// The folder for what can be made again: `given`, else `$WISP_CACHE`, else `$XDG_CACHE_HOME/wisp`, else `~/.cache/wisp`,
/// else one in the folder for temporary files. It is absolute: manifests that name files in it stand elsewhere.
pub(crate) fn cache(given: Option<&Path>) -> PathBuf {
    let named = named_cache(given);
    std::path::absolute(&named).unwrap_or(named)
}

fn named_cache(given: Option<&Path>) -> PathBuf {
    if let Some(given) = given {
        return given.to_owned();
    }
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(cache) = variable("WISP_CACHE") {
        return cache;
    }
    variable("XDG_CACHE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| variable("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("wisp")
}

/// `path` as a person in the current folder would write it.
pub(crate) fn display(path: &Path) -> String {
    let short = std::env::current_dir()
        .ok()
        .and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned));
    match short {
        Some(short) if short.as_os_str().is_empty() => ".".to_owned(),
        Some(short) => short.display().to_string(),
        None => path.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if `$WISP_CACHE/models/m.onnx` in a manifest meant a file below the manifest's folder.
    #[test]
    fn the_cache_is_the_same_from_every_folder() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(cache(Some(Path::new("cache"))), here.join("cache"));
        assert_eq!(cache(Some(Path::new("/cache"))), Path::new("/cache"));
    }
}

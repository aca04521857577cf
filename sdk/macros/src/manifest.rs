//! What the crate being compiled says in its Cargo.toml.

use std::path::PathBuf;

/// Whether the crate being compiled depends on `package` itself, under that name.
pub(crate) fn depends_on(package: &str) -> bool {
    std::env::var_os("CARGO_MANIFEST_DIR")
        .map(|folder| PathBuf::from(folder).join("Cargo.toml"))
        .and_then(|file| std::fs::read_to_string(file).ok())
        .is_some_and(|manifest| lists(&manifest, package))
}

fn lists(manifest: &str, package: &str) -> bool {
    let mut in_dependencies = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(table) = line
            .strip_prefix('[')
            .and_then(|line| line.split(']').next())
        {
            let table = table.trim();
            in_dependencies = table == "dependencies"
                || (table.starts_with("target.") && table.ends_with(".dependencies"));
            if let Some((parent, name)) = table.rsplit_once('.')
                && (parent == "dependencies"
                    || (parent.starts_with("target.") && parent.ends_with(".dependencies")))
                && name.trim_matches('"') == package
            {
                return true;
            }
        } else if in_dependencies {
            let key = line
                .split(['=', '.'])
                .next()
                .unwrap_or_default()
                .trim()
                .trim_matches('"');
            if key == package {
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::lists;

    #[test]
    fn a_dependency_is_found_in_each_of_its_spellings() {
        for manifest in [
            "[dependencies]\nlog = \"0.4\"",
            "[dependencies]\nwisp = { path = \"x\" }\nlog.workspace = true",
            "[dependencies.log]\nversion = \"0.4\"",
            "[target.'cfg(unix)'.dependencies]\nlog = \"0.4\"",
        ] {
            assert!(lists(manifest, "log"), "{manifest}");
        }
    }

    #[test]
    fn what_is_no_dependency_of_the_crate_itself_is_not_found() {
        for manifest in [
            "[package]\nname = \"log\"",
            "[dev-dependencies]\nlog = \"0.4\"",
            "[dependencies]\nlogger = \"1\"\n[features]\nlog = []",
            "[dependencies]\n# log = \"0.4\"",
        ] {
            assert!(!lists(manifest, "log"), "{manifest}");
        }
    }
}

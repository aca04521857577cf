//! By which links is a file reached?

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// As many links as Linux follows in one path: they could lead in circles.
const LINKS: usize = 40;

/// Where a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    /// The links on it, each by where it is.
    pub(super) links: BTreeSet<PathBuf>,
    /// Where it ends: without links and `..`, whether something is there or not.
    pub(super) end: PathBuf,
}

impl Way {
    /// The way that `path` is now.
    pub(super) fn of(path: &Path) -> Self {
        let parts = |path: &Path| -> Vec<OsString> {
            let parts = path.components().rev();
            parts.map(|part| part.as_os_str().to_owned()).collect()
        };
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut unread = parts(&absolute);
        let mut way = Self {
            links: BTreeSet::new(),
            end: PathBuf::new(),
        };
        let mut followed = 0;
        while let Some(part) = unread.pop() {
            if part == ".." {
                way.end.pop();
                continue;
            }
            // The root takes the place of all before it.
            let next = way.end.join(part);
            match std::fs::read_link(&next) {
                Ok(target) if followed < LINKS => {
                    followed += 1;
                    unread.extend(parts(&target).into_iter().filter(|part| part != "."));
                    way.links.insert(next);
                }
                _ => way.end = next,
            }
        }
        way
    }

    /// All that may change so that the path leads to something else.
    pub(super) fn places(&self) -> impl Iterator<Item = &Path> {
        self.links.iter().chain([&self.end]).map(PathBuf::as_path)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Would fail if only the first or the last of several links were known, or a circle were followed for ever.
    #[test]
    fn every_link_on_the_way_is_known() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("v1/src")).unwrap();
        symlink("v1", root.join("current")).unwrap();
        symlink(root.join("./current/src"), root.join("src")).unwrap();
        symlink("circle", root.join("circle")).unwrap();
        let way = |path: &str| {
            let way = Way::of(&root.join(path));
            let below = |path: &Path| path.strip_prefix(&root).unwrap().display().to_string();
            let links: Vec<_> = way.links.iter().map(|link| below(link)).collect();
            (links.join(" "), below(&way.end))
        };
        let said = |links: &str, end: &str| (links.to_owned(), end.to_owned());
        assert_eq!(
            way("v1/../src/lib.rs"),
            said("current src", "v1/src/lib.rs")
        );
        assert_eq!(way("v1/src"), said("", "v1/src"));
        assert_eq!(way("gone/model"), said("", "gone/model"));
        assert_eq!(way("circle/a"), said("circle", "circle/a"));
        assert!(Way::of(&root.join("src")).places().count() == 3);
    }
}

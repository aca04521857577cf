//! Which folders changed?

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::ModifyKind;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// How long it must be quiet after a change: editors write a file in several steps.
const QUIET: Duration = Duration::from_millis(80);
/// The longest to wait for quiet.
const LONGEST: Duration = Duration::from_secs(1);

/// Watches functions' folders.
pub(crate) struct Watch {
    watcher: RecommendedWatcher,
    interests: Arc<Mutex<Interests>>,
    changes: mpsc::UnboundedReceiver<PathBuf>,
    watched: BTreeSet<PathBuf>,
}

/// What belongs to which function's folder.
#[derive(Debug, Default)]
struct Interests {
    folders: BTreeSet<PathBuf>,
    /// Folders that functions' folders come to lie in.
    roots: BTreeSet<PathBuf>,
    /// Files elsewhere: models, components, and the sources of crates that a project depends on by path.
    files: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    /// What was removed or has another name now: what comes in its place isn't watched yet.
    gone: BTreeSet<PathBuf>,
}

impl Interests {
    /// The functions' folders that a change of `path` concerns.
    fn concerned(&self, path: &Path) -> Vec<PathBuf> {
        let inside = self.folders.iter().filter(|folder| {
            path.strip_prefix(folder)
                .is_ok_and(|rest| !rest.iter().any(|part| is_ignored(&part.to_string_lossy())))
        });
        let roots = self.roots.iter().filter(|root| {
            path.strip_prefix(root).is_ok_and(|rest| {
                rest.iter().count() <= 2
                    && !rest.iter().any(|part| is_ignored(&part.to_string_lossy()))
            })
        });
        inside
            .chain(roots)
            .chain(self.files.get(path).into_iter().flatten())
            .cloned()
            .collect()
    }
}

/// Folders that builds write to, and files that editors make for a moment.
fn is_ignored(part: &str) -> bool {
    part.starts_with('.')
        || part.ends_with('~')
        || part == "target"
        || part == "node_modules"
        || part == "Cargo.lock"
        // vim probes with this name whether it may write.
        || part == "4913"
}

impl Watch {
    /// # Errors
    /// When the system can't tell of changes.
    pub(crate) fn start() -> notify::Result<Self> {
        let interests = Arc::new(Mutex::new(Interests::default()));
        let (sender, changes) = mpsc::unbounded_channel();
        let seen = Arc::clone(&interests);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            let Ok(event) = event else { return };
            if matches!(
                event.kind,
                EventKind::Access(_) | EventKind::Modify(ModifyKind::Metadata(_))
            ) {
                return;
            }
            let mut interests = seen.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(
                event.kind,
                EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))
            ) {
                interests.gone.extend(event.paths.iter().cloned());
            }
            if event.need_rescan() {
                // More happened than was told: any folder may be another.
                let elsewhere = interests.files.keys().filter_map(|file| file.parent());
                let all = interests.folders.iter().chain(&interests.roots);
                let all: Vec<_> = all.cloned().collect();
                let gone: Vec<_> = elsewhere.map(Path::to_owned).chain(all.clone()).collect();
                interests.gone.extend(gone);
                all.into_iter().for_each(|folder| drop(sender.send(folder)));
                return;
            }
            for folder in event
                .paths
                .iter()
                .flat_map(|path| interests.concerned(path))
            {
                let _ = sender.send(folder);
            }
        })?;
        Ok(Self {
            watcher,
            interests,
            changes,
            watched: BTreeSet::new(),
        })
    }

    /// Watches a function's folder, the sources in it, and `files` elsewhere. Called again after each change: new
    /// folders are watched, too.
    ///
    /// # Errors
    /// When a folder can't be watched: too many are, usually.
    pub(crate) fn add(&mut self, folder: &Path, files: &[PathBuf]) -> notify::Result<()> {
        let mut dirs = BTreeSet::new();
        sources(folder, &mut dirs, 0);
        {
            let mut interests = self
                .interests
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            interests.folders.insert(folder.to_owned());
            for file in files {
                interests
                    .files
                    .entry(file.clone())
                    .or_default()
                    .insert(folder.to_owned());
                dirs.extend(file.parent().map(Path::to_owned));
            }
        }
        self.watch(dirs)
    }

    /// Watches those of `dirs` that are there and aren't watched. One that was removed and made anew must be watched anew.
    fn watch(&mut self, dirs: impl IntoIterator<Item = PathBuf>) -> notify::Result<()> {
        let gone = {
            let mut interests = self
                .interests
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut interests.gone)
        };
        self.watched
            .retain(|dir| dir.is_dir() && !dir.ancestors().any(|above| gone.contains(above)));
        for dir in dirs {
            if dir.is_dir() && !self.watched.contains(&dir) {
                match self.watcher.watch(&dir, RecursiveMode::NonRecursive) {
                    Ok(()) => drop(self.watched.insert(dir)),
                    // It is gone already.
                    Err(_) if !dir.exists() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Watches a folder for functions' folders that come and go in it. Called again after each change.
    ///
    /// # Errors
    /// As [`Watch::add`].
    pub(crate) fn add_root(&mut self, root: &Path) -> notify::Result<()> {
        self.interests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .roots
            .insert(root.to_owned());
        let mut dirs = vec![root.to_owned()];
        for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
            if entry.path().is_dir() && !is_ignored(&entry.file_name().to_string_lossy()) {
                dirs.push(entry.path());
            }
        }
        self.watch(dirs)
    }

    /// The folders that changed, as soon as it is quiet again.
    pub(crate) async fn changed(&mut self) -> BTreeSet<PathBuf> {
        let mut folders = BTreeSet::new();
        match self.changes.recv().await {
            Some(folder) => folders.insert(folder),
            None => return std::future::pending().await,
        };
        let settle = async {
            while let Ok(Some(folder)) = tokio::time::timeout(QUIET, self.changes.recv()).await {
                folders.insert(folder);
            }
        };
        let _ = tokio::time::timeout(LONGEST, settle).await;
        folders
    }
}

/// The folder and those below it that may hold sources.
fn sources(folder: &Path, found: &mut BTreeSet<PathBuf>, depth: usize) {
    // Links could lead in circles.
    if depth > 16 {
        return;
    }
    found.insert(folder.to_owned());
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir && !is_ignored(&entry.file_name().to_string_lossy()) {
            sources(&entry.path(), found, depth + 1);
        }
    }
}

/// The sources that Cargo compiled into `wasm`, from the list beside it that rustc wrote for make.
pub(crate) fn compiled_from(wasm: &Path) -> Vec<PathBuf> {
    let list = std::fs::read_to_string(wasm.with_extension("d")).unwrap_or_default();
    let Some((_, sources)) = list.split_once(": ") else {
        return Vec::new();
    };
    let line = sources.lines().next().unwrap_or_default();
    // Spaces in names are written `\ `.
    line.replace("\\ ", "\0")
        .split(' ')
        .filter(|path| !path.is_empty())
        .map(|path| path.replace('\0', " ").into())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_builds_and_editors_write_concerns_nobody() {
        let mut interests = Interests::default();
        interests.folders.insert("/w/hello".into());
        interests
            .files
            .insert("/m/model.onnx".into(), BTreeSet::from(["/w/hello".into()]));
        let concerned = |path: &str| !interests.concerned(Path::new(path)).is_empty();
        for path in [
            "/w/hello/src/lib.rs",
            "/w/hello/function.yaml",
            "/w/hello/Cargo.toml",
            "/m/model.onnx",
            "/w/hello/labels.txt",
        ] {
            assert!(concerned(path), "{path}");
        }
        for path in [
            "/w/hello/target/x",
            "/w/hello/.wisp/kv.redb",
            "/w/hello/src/.lib.rs.swp",
            "/w/hello/src/lib.rs~",
            "/w/hello/src/4913",
            "/w/hello/Cargo.lock",
            "/w/other/src/lib.rs",
            "/m/other.onnx",
        ] {
            assert!(!concerned(path), "{path}");
        }
    }

    #[test]
    fn sources_of_other_crates_are_read_from_cargos_list() {
        let folder = tempfile::tempdir().unwrap();
        let wasm = folder.path().join("hello.wasm");
        std::fs::write(
            wasm.with_extension("d"),
            "/t/hello.wasm: /w/hello/src/lib.rs /sdk/my\\ folder/lib.rs\n",
        )
        .unwrap();
        assert_eq!(
            compiled_from(&wasm),
            [
                Path::new("/w/hello/src/lib.rs"),
                Path::new("/sdk/my folder/lib.rs")
            ]
        );
        assert!(compiled_from(&folder.path().join("none.wasm")).is_empty());
    }

    #[tokio::test]
    async fn a_change_in_a_new_folder_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().canonicalize().unwrap();
        let mut watch = Watch::start().unwrap();
        watch.add(&folder, &[]).unwrap();
        std::fs::create_dir(folder.join("src")).unwrap();
        assert_eq!(watch.changed().await, BTreeSet::from([folder.clone()]));
        watch.add(&folder, &[]).unwrap();
        std::fs::write(folder.join("src/lib.rs"), "").unwrap();
        assert_eq!(watch.changed().await, BTreeSet::from([folder.clone()]));
    }

    /// Would fail if nothing were seen any more after a branch was switched that has a folder, to one that hasn't, and back.
    #[tokio::test]
    async fn a_folder_that_was_gone_is_watched_again() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().canonicalize().unwrap();
        let (sources, deep) = (folder.join("src"), folder.join("src/routes"));
        std::fs::create_dir_all(&deep).unwrap();
        let mut watch = Watch::start().unwrap();
        watch.add(&folder, &[]).unwrap();
        let all = BTreeSet::from([folder.clone()]);
        let removed = || {
            std::fs::remove_dir_all(&sources).unwrap();
            std::fs::create_dir_all(&deep).unwrap();
        };
        let renamed = || {
            std::fs::rename(&sources, folder.join("aside")).unwrap();
            std::fs::rename(folder.join("aside"), &sources).unwrap();
        };
        for change in [&removed as &dyn Fn(), &renamed] {
            change();
            assert_eq!(watch.changed().await, all);
            watch.add(&folder, &[]).unwrap();
            for dir in [&sources, &deep] {
                std::fs::write(dir.join("lib.rs"), "").unwrap();
                let seen = tokio::time::timeout(Duration::from_secs(10), watch.changed());
                assert_eq!(seen.await.as_ref(), Ok(&all), "{}", dir.display());
            }
        }
    }
}

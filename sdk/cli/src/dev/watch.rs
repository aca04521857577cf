//! Which folders changed?

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::ModifyKind;
use notify::{Event, EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;

mod way;

use way::Way;

/// What a function's folder is made of elsewhere.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    /// Files, and folders with all that is in them.
    pub(crate) files: Vec<PathBuf>,
    /// Whether that is all. Of a build that failed more than it takes may be known, and not all that it takes.
    pub(crate) is_all: bool,
}

/// How long it must be quiet after a change: editors write a file in several steps.
const QUIET: Duration = Duration::from_millis(80);
/// The longest to wait for quiet.
const LONGEST: Duration = Duration::from_secs(1);

/// Watches functions' folders.
pub(crate) struct Watch {
    watcher: Box<dyn Watcher + Send>,
    interests: Arc<Mutex<Interests>>,
    changes: mpsc::UnboundedReceiver<PathBuf>,
    watched: BTreeSet<PathBuf>,
    /// What can't be watched, and was told.
    unwatched: BTreeSet<PathBuf>,
}

/// A folder that can't be watched, and why: what changes in it goes unseen.
pub(crate) type Unwatched = (PathBuf, notify::Error);

/// What belongs to which function's folder. All paths are what links and `..` in them lead to: the system tells of a
/// change by one path, however many lead there.
#[derive(Debug, Default)]
struct Interests {
    folders: BTreeSet<PathBuf>,
    /// Folders that functions' folders come to lie in: by where they are, and by where links in them lead to. One may lie
    /// in another.
    roots: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    /// Files elsewhere: models, components, the sources of crates that a project depends on by path, and links that lead to
    /// any of these. Of a folder all that is in it counts.
    files: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    /// By the paths that were named: the links on the way, and what must come for there to be something at its end.
    ways: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    /// What was removed or has another name now: what comes in its place isn't watched yet.
    gone: BTreeSet<PathBuf>,
}

impl Interests {
    /// The functions' folders that a change of `path` concerns.
    fn concerned(&self, path: &Path) -> Vec<PathBuf> {
        let within = |folder: &Path| {
            let rest = path.strip_prefix(folder).ok()?;
            let is_ours = !rest.iter().any(|part| is_ignored(&part.to_string_lossy()));
            is_ours.then(|| rest.iter().count())
        };
        let inside = self
            .folders
            .iter()
            .filter(|folder| within(folder).is_some());
        let roots = self.roots.iter().flat_map(|(dir, roots)| {
            let depth = within(dir);
            roots.iter().filter(move |root| {
                // A folder in the root, and a file in that.
                let deepest = if dir == *root { 2 } else { 1 };
                depth.is_some_and(|depth| depth <= deepest)
            })
        });
        let elsewhere = path.ancestors().filter_map(|above| {
            let of = self.files.get(above)?;
            (above == path || within(above).is_some()).then_some(of)
        });
        let named = self
            .ways
            .iter()
            .filter(|(_, places)| places.contains(path))
            .map(|(named, _)| named);
        inside
            .chain(roots)
            .chain(elsewhere.flatten())
            .chain(named)
            .cloned()
            .collect()
    }

    /// Whether what is watched may lie at or below `path`.
    fn is_above(&self, path: &Path) -> bool {
        let dirs = self.folders.iter().chain(self.roots.keys());
        dirs.clone().any(|dir| path.starts_with(dir))
            || dirs
                .chain(self.files.keys())
                .chain(self.ways.values().flatten())
                .any(|watched| watched.starts_with(path))
            || path.ancestors().any(|above| self.files.contains_key(above))
    }
}

/// Folders that builds write to, and files that editors make for a moment.
fn is_ignored(part: &str) -> bool {
    part.starts_with('.')
        || part.ends_with('~')
        || part == "target"
        || is_target_to_be(part)
        || part == "node_modules"
        || part == "Cargo.lock"
        // vim probes with this name whether it may write.
        || part == "4913"
}

/// What `cargo` calls its `target` until it is one: six random letters and digits more. A word has capitals at its beginning alone.
fn is_target_to_be(part: &str) -> bool {
    let is_random = |rest: &str| {
        let mut rest = rest.bytes().enumerate();
        rest.len() == 6
            && rest.clone().all(|(_, byte)| byte.is_ascii_alphanumeric())
            && rest.any(|(at, byte)| byte.is_ascii_digit() || at > 0 && byte.is_ascii_uppercase())
    };
    part.strip_prefix("target").is_some_and(is_random)
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
                // Much comes and goes beside a folder that may be anywhere.
                let gone = event.paths.iter().filter(|path| interests.is_above(path));
                let gone: Vec<_> = gone.cloned().collect();
                interests.gone.extend(gone);
            }
            if event.need_rescan() {
                // More happened than was told: any folder may be another.
                let places = interests.ways.values().flatten();
                let elsewhere = interests.files.keys().chain(places);
                let elsewhere = elsewhere.filter_map(|file| file.parent());
                let roots = interests.roots.values().flatten();
                let named = interests.ways.keys();
                let all = interests.folders.iter().chain(roots).chain(named);
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
            watcher: Box::new(watcher),
            interests,
            changes,
            watched: BTreeSet::new(),
            unwatched: BTreeSet::new(),
        })
    }

    /// Watches a function's folder, the sources in it, and what it is made of `elsewhere`; what it was made of before, too,
    /// unless that is all. Called again after each change: new folders are watched, too. Returns which can't be, each once.
    ///
    /// # Errors
    /// When the function's folder itself can't be watched: too many are, usually.
    pub(crate) fn add(
        &mut self,
        folder: &Path,
        elsewhere: &Elsewhere,
    ) -> notify::Result<Vec<Unwatched>> {
        let mut dirs = BTreeSet::new();
        sources(folder, &mut dirs, 0);
        {
            let mut interests = self
                .interests
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            interests.folders.insert(folder.to_owned());
            if elsewhere.is_all {
                interests.files.retain(|_, of| {
                    of.remove(folder);
                    !of.is_empty()
                });
            }
            for file in &elsewhere.files {
                let way = Way::of(file);
                if way.end.is_dir() {
                    sources(&way.end, &mut dirs, 0);
                }
                for place in way.places().map(nearest) {
                    dirs.extend(place.parent().map(Path::to_owned));
                    let of = interests.files.entry(place.to_owned()).or_default();
                    of.insert(folder.to_owned());
                }
            }
        }
        self.watch_all(folder, dirs)
    }

    /// Watches for the folder itself to be gone and come back.
    pub(crate) fn add_parent(&mut self, folder: &Path) {
        // Where that may not be watched, the folder is while it is there.
        let _ = self.watch(folder.parent().map(Path::to_owned));
    }

    /// Watches the links that lead to `named`, which is absolute, and for what it leads to, where that isn't there, to come:
    /// each is told as a change of `named`. Called again after each such change.
    pub(crate) fn add_links(&mut self, named: &Path) {
        let mut seen = BTreeSet::new();
        loop {
            let way = Way::of(named);
            let mut places = way.links;
            if !way.end.exists() {
                places.insert(nearest(&way.end).to_owned());
            }
            // What came before its folder was watched.
            if !places.iter().any(|place| seen.insert(place.clone())) {
                return;
            }
            self.interests
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .ways
                .insert(named.to_owned(), places.clone());
            for place in &places {
                // Where that may not be watched, a link leads for ever to where it led.
                let _ = self.watch(place.parent().map(Path::to_owned));
            }
        }
    }

    /// Watches a function's folder no more.
    pub(crate) fn remove(&mut self, folder: &Path) {
        let mut interests = self
            .interests
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        interests.folders.remove(folder);
        interests.files.retain(|_, of| {
            of.remove(folder);
            !of.is_empty()
        });
    }

    /// Watches `folder`, and those of `dirs` that may be; returns the others, which weren't returned before.
    fn watch_all(
        &mut self,
        folder: &Path,
        dirs: BTreeSet<PathBuf>,
    ) -> notify::Result<Vec<Unwatched>> {
        if let Some((_, error)) = self.watch([folder.to_owned()]).pop() {
            return Err(error);
        }
        let mut failed = self.watch(dirs);
        failed.retain(|(dir, _)| self.unwatched.insert(dir.clone()));
        Ok(failed)
    }

    /// Watches those of `dirs` that are there and aren't watched; returns those that can't be. One that was removed and made
    /// anew must be watched anew.
    fn watch(&mut self, dirs: impl IntoIterator<Item = PathBuf>) -> Vec<Unwatched> {
        let gone = {
            let mut interests = self
                .interests
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut interests.gone)
        };
        self.watched
            .retain(|dir| dir.is_dir() && !dir.ancestors().any(|above| gone.contains(above)));
        let mut failed = Vec::new();
        for dir in dirs {
            if dir.is_dir() && !self.watched.contains(&dir) {
                match self.watcher.watch(&dir, RecursiveMode::NonRecursive) {
                    Ok(()) => drop(self.watched.insert(dir)),
                    // It is gone already.
                    Err(_) if !dir.exists() => {}
                    Err(error) => failed.push((dir, error)),
                }
            }
        }
        failed
    }

    /// Watches a folder for functions' folders that come and go in it. Called again after each change. Returns which of them
    /// can't be watched, each once.
    ///
    /// # Errors
    /// When the folder itself can't be watched.
    pub(crate) fn add_root(&mut self, root: &Path) -> notify::Result<Vec<Unwatched>> {
        let mut dirs = BTreeSet::from([root.to_owned()]);
        let mut links = BTreeSet::new();
        for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
            if entry.path().is_dir()
                && !is_ignored(&entry.file_name().to_string_lossy())
                && let Ok(dir) = entry.path().canonicalize()
            {
                dirs.insert(dir);
                links.extend(Way::of(&entry.path()).links);
            }
        }
        {
            let mut interests = self
                .interests
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for dir in &dirs {
                let of = interests.roots.entry(dir.clone()).or_default();
                of.insert(root.to_owned());
            }
            for link in &links {
                let of = interests.files.entry(link.clone()).or_default();
                of.insert(root.to_owned());
            }
        }
        dirs.extend(
            links
                .iter()
                .filter_map(|link| Some(link.parent()?.to_owned())),
        );
        self.watch_all(root, dirs)
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

/// What has to come first for there to be something at `place`: the first folder on the way to it that isn't there, or that
/// itself.
fn nearest(place: &Path) -> &Path {
    let is_next = |path: &&Path| path.parent().is_none_or(Path::is_dir);
    place.ancestors().find(is_next).unwrap_or(place)
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

/// The links in a project's folder that lead to sources elsewhere: to a file, or to a folder with Rust in it.
pub(crate) fn linked(folder: &Path) -> Vec<PathBuf> {
    let mut dirs = BTreeSet::new();
    sources(folder, &mut dirs, 0);
    let entries = dirs.iter().filter_map(|dir| std::fs::read_dir(dir).ok());
    let links = entries.flatten().flatten().map(|entry| entry.path());
    links
        .filter(|path| path.is_symlink() && (path.is_file() || holds_rust(path)))
        .collect()
}

fn holds_rust(dir: &Path) -> bool {
    let is_rust = |path: PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(is_rust)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some of what a function is made of.
    fn some(files: &[PathBuf]) -> Elsewhere {
        Elsewhere {
            files: files.to_vec(),
            is_all: false,
        }
    }

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
            "/w/hello/targetmodels/x.onnx",
            "/w/hello/targetImages/x.png",
        ] {
            assert!(concerned(path), "{path}");
        }
        for path in [
            "/w/hello/target/x",
            "/w/hello/targetvMii4M",
            "/w/hello/targetvMii4M/CACHEDIR.TAG",
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

    #[tokio::test]
    async fn a_change_in_a_new_folder_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().canonicalize().unwrap();
        let mut watch = Watch::start().unwrap();
        watch.add(&folder, &Elsewhere::default()).unwrap();
        std::fs::create_dir(folder.join("src")).unwrap();
        assert_eq!(watch.changed().await, BTreeSet::from([folder.clone()]));
        watch.add(&folder, &Elsewhere::default()).unwrap();
        std::fs::write(folder.join("src/lib.rs"), "").unwrap();
        assert_eq!(watch.changed().await, BTreeSet::from([folder.clone()]));
    }

    /// Would fail if a change weren't seen of a model beside the project, which the manifest names with `..`; or only by
    /// one of two functions that name it differently; or of one that a link leads to.
    #[tokio::test]
    async fn a_file_is_seen_whatever_it_is_called() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let [a, b, models] = ["a", "b", "models"].map(|name| root.join(name));
        for dir in [&a, &b, &models] {
            std::fs::create_dir(dir).unwrap();
        }
        std::fs::write(models.join("m.onnx"), "1").unwrap();
        let link = b.join("model");
        std::os::unix::fs::symlink(models.join("m.onnx"), &link).unwrap();
        let mut watch = Watch::start().unwrap();
        watch.add(&a, &some(&[a.join("../models/m.onnx")])).unwrap();
        watch.add(&b, &some(std::slice::from_ref(&link))).unwrap();
        watch.add_root(&models).unwrap();
        std::fs::write(models.join("m.onnx"), "2").unwrap();
        let both = BTreeSet::from([a.clone(), b.clone()]);
        assert!(watch.changed().await.is_superset(&both));
        std::fs::remove_file(&link).unwrap();
        std::fs::write(&link, "3").unwrap();
        assert_eq!(watch.changed().await, BTreeSet::from([b]));
    }

    /// Would fail if a function went on with what a link led to, where another one is put in its place: the folder itself, a
    /// folder of its sources, or one that only leads to such a link.
    #[tokio::test]
    async fn a_link_that_leads_elsewhere_is_seen() {
        use std::os::unix::fs::symlink;
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let [project, releases, named] =
            ["project", "releases", "named"].map(|name| root.join(name));
        for dir in ["v1/src", "v2/src"] {
            std::fs::create_dir_all(releases.join(dir)).unwrap();
            std::fs::write(releases.join(dir).join("lib.rs"), "").unwrap();
        }
        std::fs::create_dir(&project).unwrap();
        symlink("v1", releases.join("current")).unwrap();
        symlink(releases.join("current/src"), project.join("src")).unwrap();
        symlink("project", &named).unwrap();
        let replace = |link: &Path, target: &str| {
            symlink(target, link.with_extension("new")).unwrap();
            std::fs::rename(link.with_extension("new"), link).unwrap();
        };
        let mut watch = Watch::start().unwrap();
        assert_eq!(linked(&project), [project.join("src")]);
        let compiled = some(&[project.join("src/lib.rs")]);
        watch.add(&project, &compiled).unwrap();
        watch.add_links(&named);
        let all = BTreeSet::from([project.clone()]);
        replace(&releases.join("current"), "v2");
        assert_eq!(watch.changed().await, all);
        watch.add(&project, &compiled).unwrap();
        std::fs::write(releases.join("v2/src/lib.rs"), "2").unwrap();
        assert_eq!(watch.changed().await, all);
        replace(&named, "releases");
        assert_eq!(watch.changed().await, BTreeSet::from([named]));
        watch.remove(&project);
        std::fs::write(project.join("Cargo.toml"), "").unwrap();
        let seen = tokio::time::timeout(Duration::from_millis(300), watch.changed());
        assert!(seen.await.is_err());
    }

    /// Would fail if a model weren't seen whose folder comes with it, as that of a cache.
    #[tokio::test]
    async fn a_file_is_seen_that_comes_with_its_folders() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let (project, models) = (root.join("project"), root.join("cache/models"));
        std::fs::create_dir(&project).unwrap();
        let named = Elsewhere {
            files: vec![models.join("m.onnx")],
            is_all: true,
        };
        let mut watch = Watch::start().unwrap();
        let all = BTreeSet::from([project.clone()]);
        watch.add(&project, &named).unwrap();
        std::fs::write(root.join("other"), "").unwrap();
        for dir in [root.join("cache"), models.clone()] {
            std::fs::create_dir(&dir).unwrap();
            assert_eq!(watch.changed().await, all);
            watch.add(&project, &named).unwrap();
        }
        std::fs::write(models.join("other"), "").unwrap();
        std::fs::write(models.join("m.onnx"), "").unwrap();
        assert_eq!(watch.changed().await, all);
        watch.add(&project, &named).unwrap();
        std::fs::write(models.join("another"), "").unwrap();
        let seen = tokio::time::timeout(Duration::from_millis(300), watch.changed());
        assert!(seen.await.is_err(), "only the file itself counts");
    }

    /// Would fail if what is mended in a crate that a project depends on weren't seen, where that never compiled.
    #[tokio::test]
    async fn a_folder_elsewhere_is_seen_with_all_in_it() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let (project, dependency) = (root.join("project"), root.join("words"));
        std::fs::create_dir_all(dependency.join("src")).unwrap();
        std::fs::create_dir(&project).unwrap();
        let mut watch = Watch::start().unwrap();
        let named = project.join("../words");
        watch.add(&project, &some(&[named])).unwrap();
        std::fs::write(dependency.join("src/lib.rs"), "").unwrap();
        assert_eq!(watch.changed().await, BTreeSet::from([project]));
    }

    /// Would fail if a project that failed once were built again ever after for what it isn't made of; or if what one of two
    /// isn't made of any more weren't seen for the other.
    #[tokio::test]
    async fn what_was_watched_for_a_failure_is_no_longer_once_it_is_mended() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let [a, b, words] = ["a", "b", "words"].map(|name| root.join(name));
        for dir in [&a, &b, &words] {
            std::fs::create_dir(dir).unwrap();
        }
        let used = words.join("lib.rs");
        let mut watch = Watch::start().unwrap();
        watch.add(&a, &some(std::slice::from_ref(&words))).unwrap();
        watch.add(&b, &some(std::slice::from_ref(&words))).unwrap();
        let all = Elsewhere {
            files: vec![used.clone()],
            is_all: true,
        };
        watch.add(&a, &all).unwrap();
        std::fs::write(words.join("README.md"), "").unwrap();
        assert_eq!(watch.changed().await, BTreeSet::from([b.clone()]));
        std::fs::write(&used, "").unwrap();
        assert_eq!(watch.changed().await, BTreeSet::from([a, b]));
    }

    /// Would fail if of two roots, one in the other, only one were told what comes in them.
    #[tokio::test]
    async fn a_root_may_lie_in_another() {
        let root = tempfile::tempdir().unwrap();
        let outer = root.path().canonicalize().unwrap();
        let inner = outer.join("inner");
        std::fs::create_dir(&inner).unwrap();
        for order in [[&outer, &inner], [&inner, &outer]] {
            let mut watch = Watch::start().unwrap();
            for root in order {
                watch.add_root(root).unwrap();
            }
            // What both may hold a function by: a manifest in the one is a manifest in a folder of the other.
            std::fs::write(inner.join("function.yaml"), "").unwrap();
            let both = BTreeSet::from([inner.clone(), outer.clone()]);
            assert_eq!(watch.changed().await, both);
            // What only the inner one may.
            let new = inner.join("new");
            std::fs::create_dir(&new).unwrap();
            assert!(watch.changed().await.contains(&inner));
            watch.add_root(&outer).unwrap();
            watch.add_root(&inner).unwrap();
            std::fs::write(new.join("function.yaml"), "").unwrap();
            assert_eq!(watch.changed().await, BTreeSet::from([inner.clone()]));
            std::fs::remove_dir_all(&new).unwrap();
        }
    }

    /// Would fail if one model in a place that may not be watched ended it all, or were told again with each edit.
    #[tokio::test]
    async fn what_may_not_be_watched_is_told_once() {
        struct Refusing(Box<dyn Watcher + Send>, PathBuf);
        impl Watcher for Refusing {
            fn new<F: notify::EventHandler>(_: F, _: notify::Config) -> notify::Result<Self> {
                unreachable!()
            }
            fn watch(&mut self, path: &Path, mode: RecursiveMode) -> notify::Result<()> {
                if path == self.1 {
                    return Err(notify::Error::generic("permission denied"));
                }
                self.0.watch(path, mode)
            }
            fn unwatch(&mut self, path: &Path) -> notify::Result<()> {
                self.0.unwatch(path)
            }
            fn kind() -> notify::WatcherKind {
                unreachable!()
            }
        }
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let [project, secret, open] = ["project", "secret", "open"].map(|name| root.join(name));
        for dir in [&project, &secret, &open] {
            std::fs::create_dir(dir).unwrap();
        }
        let mut watch = Watch::start().unwrap();
        watch.watcher = Box::new(Refusing(watch.watcher, secret.clone()));
        let models = some(&[secret.join("m.onnx"), open.join("m.onnx")]);
        let mut add = || watch.add(&project, &models).unwrap();
        let told: Vec<_> = add().into_iter().map(|(dir, _)| dir).collect();
        assert_eq!(told, std::slice::from_ref(&secret));
        assert!(add().is_empty());
        std::fs::write(open.join("m.onnx"), "").unwrap();
        assert_eq!(watch.changed().await, BTreeSet::from([project]));
        assert!(watch.add(&secret, &Elsewhere::default()).is_err());
    }

    /// Would fail if a link were lost that is put where nothing is yet, or if all were taken for it that comes later in what it
    /// led through.
    #[tokio::test]
    async fn a_link_may_lead_to_what_comes_later() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let named = root.join("current");
        std::os::unix::fs::symlink("releases/v2", &named).unwrap();
        let mut watch = Watch::start().unwrap();
        let all = BTreeSet::from([named.clone()]);
        watch.add_links(&named);
        for dir in ["releases", "releases/v2"] {
            std::fs::create_dir(root.join(dir)).unwrap();
            assert_eq!(watch.changed().await, all);
            watch.add_links(&named);
        }
        std::fs::create_dir(root.join("releases/v3")).unwrap();
        let seen = tokio::time::timeout(Duration::from_millis(300), watch.changed());
        assert!(seen.await.is_err());
    }

    /// Would fail if a folder that was named, and that came back later, were never seen again.
    #[tokio::test]
    async fn a_folder_that_comes_back_is_seen() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().canonicalize().unwrap().join("hello");
        std::fs::create_dir(&folder).unwrap();
        let mut watch = Watch::start().unwrap();
        watch.add(&folder, &Elsewhere::default()).unwrap();
        watch.add_parent(&folder);
        let all = BTreeSet::from([folder.clone()]);
        std::fs::remove_dir(&folder).unwrap();
        assert_eq!(watch.changed().await, all);
        watch.add(&folder, &Elsewhere::default()).unwrap();
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(watch.changed().await, all);
        watch.add(&folder, &Elsewhere::default()).unwrap();
        std::fs::write(folder.join("function.yaml"), "").unwrap();
        assert_eq!(watch.changed().await, all);
    }

    /// Would fail if nothing were seen any more after a branch was switched that has a folder, to one that hasn't, and back.
    #[tokio::test]
    async fn a_folder_that_was_gone_is_watched_again() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().canonicalize().unwrap();
        let (sources, deep) = (folder.join("src"), folder.join("src/routes"));
        std::fs::create_dir_all(&deep).unwrap();
        let mut watch = Watch::start().unwrap();
        watch.add(&folder, &Elsewhere::default()).unwrap();
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
            watch.add(&folder, &Elsewhere::default()).unwrap();
            for dir in [&sources, &deep] {
                std::fs::write(dir.join("lib.rs"), "").unwrap();
                let seen = tokio::time::timeout(Duration::from_secs(10), watch.changed());
                assert_eq!(seen.await.as_ref(), Ok(&all), "{}", dir.display());
            }
        }
    }
}

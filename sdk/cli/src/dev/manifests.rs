//! Which functions are in these folders, and what do their manifests say?

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use wisp_api::{Function, Manifest, ManifestError, Objects, Place, Values, parse_manifests};
use wisp_contract::FunctionId;

use crate::failure::{Explain, chain};
use crate::paths;
use crate::terminal::{Terminal, harmless};

/// A folder with functions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Folder {
    /// Absolute.
    pub(crate) dir: PathBuf,
    /// The manifests that functions are read from; all of the folder's where it is absent.
    only: Option<BTreeSet<PathBuf>>,
}

impl Folder {
    /// Its YAML, and the files that were named, whatever they are called.
    fn yaml(&self) -> Result<Vec<PathBuf>, ManifestsError> {
        let is_named = |path: &PathBuf| self.only.as_ref().is_some_and(|only| only.contains(path));
        let mut paths = list(&self.dir)?;
        paths.retain(|path| is_yaml(path) || is_named(path));
        Ok(paths)
    }

    /// Whether somebody, or its name, says that a Function is in this file of it.
    fn names(&self, path: &Path) -> bool {
        match &self.only {
            Some(only) => only.contains(path),
            None => is_function_file(path),
        }
    }

    /// Whether functions are read from this file of it.
    fn reads(&self, path: &Path) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(path))
    }
}

/// A function as its manifest has it: valid, and what it takes from Secrets and ConfigMaps known.
#[derive(Debug, Clone)]
pub(crate) struct Declared {
    /// Its name.
    pub(crate) id: FunctionId,
    /// Everything else.
    pub(crate) function: Function,
    /// What it takes from Secrets and ConfigMaps, and its variables.
    pub(crate) values: Values,
    /// Whether its component is built from the folder's Cargo project.
    pub(crate) is_project: bool,
}

/// Why there is nothing to run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestsError {
    #[error("there is no {}", .0.display())]
    Missing(PathBuf),
    #[error("{} could not be read", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} holds no function: there is no function.yaml in it, nor in a folder below it", .0.display())]
    Empty(PathBuf),
    #[error("{file} is wrong:\n{}", indented(error))]
    Wrong { file: String, error: ManifestError },
    #[error("{file} is wrong:\n{}\nwhich may be in what can't be read:\n{}", indented(error), passed.join("\n"))]
    WrongBeside {
        file: String,
        error: ManifestError,
        /// What was passed over, and why.
        passed: Vec<String>,
    },
    #[error("{} is wrong: it declares no Function", .0.display())]
    NoFunction(PathBuf),
    #[error("{} is wrong: it is no text in UTF-8", .0.display())]
    NoText(PathBuf),
    #[error("the function {id} is declared twice: in {} and in {}", first.display(), second.display())]
    Twice {
        id: FunctionId,
        first: PathBuf,
        second: PathBuf,
    },
}

impl Explain for ManifestsError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Empty(_) => Some("start a project with `wisp new NAME`".to_owned()),
            Self::Twice { .. } => Some("give one of them another name or namespace".to_owned()),
            Self::NoFunction(_) => Some(
                "a Function begins with `apiVersion: wisp.dev/v1alpha1` and `kind: Function`"
                    .to_owned(),
            ),
            Self::NoText(_) => Some("save it as UTF-8".to_owned()),
            _ => None,
        }
    }
}

impl ManifestsError {
    /// Whether it is that this user may not read something.
    fn is_denied(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied)
    }
}

fn indented(error: &ManifestError) -> String {
    error
        .mistakes()
        .iter()
        .map(|mistake| format!("  {mistake}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The folders with functions that `paths` name: manifests, folders with manifests, folders of such folders. What this user
/// may not read there is passed over and told to `pass`.
///
/// # Errors
/// When a path isn't there or holds no function.
pub(crate) fn discover(
    paths: &[PathBuf],
    mut pass: impl FnMut(&ManifestsError),
) -> Result<Vec<Folder>, ManifestsError> {
    let mut found = Found::default();
    for path in paths {
        found.add(path)?.iter().for_each(&mut pass);
    }
    Ok(found.folders())
}

/// Tells people what is passed over.
pub(crate) fn note(terminal: &Terminal) -> impl FnMut(&ManifestsError) {
    move |passed| {
        let note = terminal.err.yellow("note:");
        let passed = harmless(&chain(passed));
        terminal.note(&format!("{note} {passed}: it is passed over"));
    }
}

/// As [`discover`], of those paths that are there and hold functions: some did.
pub(crate) fn found(paths: &[PathBuf]) -> Vec<Folder> {
    let mut found = Found::default();
    for path in paths {
        let _ = found.add(path);
    }
    found.folders()
}

/// Folders, of each either the files that were named or all: what isn't in a folder's manifests is no longer its, so that
/// there is one of each, however many of its files are named.
#[derive(Default)]
struct Found(BTreeMap<PathBuf, Option<BTreeSet<PathBuf>>>);

impl Found {
    /// Returns what may not be read, where functions are beside it.
    fn add(&mut self, path: &Path) -> Result<Vec<ManifestsError>, ManifestsError> {
        let found = path
            .canonicalize()
            .map_err(|_| ManifestsError::Missing(path.to_owned()))?;
        if found.is_file() {
            let dir = found.parent().unwrap_or(Path::new("/")).to_owned();
            let named = self.0.entry(dir).or_insert_with(|| Some(BTreeSet::new()));
            if let Some(named) = named {
                named.insert(found);
            }
            return Ok(Vec::new());
        }
        let mut denied = Vec::new();
        let mut declares = |dir: &Path| match declares_functions(dir) {
            Err(error) if error.is_denied() => {
                denied.push(error);
                Ok(false)
            }
            declares => declares,
        };
        if declares(&found)? {
            self.0.insert(found, None);
            return Ok(denied);
        }
        let mut is_empty = true;
        for child in children(&found)? {
            if declares(&child)? {
                // A link and what it leads to are one folder.
                self.0.insert(child.canonicalize().unwrap_or(child), None);
                is_empty = false;
            }
        }
        if is_empty {
            let empty = ManifestsError::Empty(path.to_owned());
            return Err(denied.into_iter().next().unwrap_or(empty));
        }
        Ok(denied)
    }

    fn folders(self) -> Vec<Folder> {
        let folder = |(dir, only)| Folder { dir, only };
        self.0.into_iter().map(folder).collect()
    }
}

/// The folders in `dir` that functions may be in.
fn children(dir: &Path) -> Result<Vec<PathBuf>, ManifestsError> {
    let mut children = list(dir)?;
    children.retain(|child| child.is_dir() && !is_hidden(child));
    Ok(children)
}

/// The folders that `paths` lead to, whether functions are in them or not: those that they name, those of files that they
/// name, and those in folders that they name.
pub(crate) fn reached(paths: &[PathBuf]) -> BTreeSet<PathBuf> {
    let mut reached = BTreeSet::new();
    for path in paths.iter().filter_map(|path| path.canonicalize().ok()) {
        if path.is_file() {
            reached.extend(path.parent().map(Path::to_owned));
        } else {
            let children = children(&path).unwrap_or_default();
            reached.extend(
                children
                    .iter()
                    .filter_map(|child| child.canonicalize().ok()),
            );
            reached.insert(path);
        }
    }
    reached
}

/// Those of `paths` that are folders of functions' folders: others may come in them.
pub(crate) fn roots(paths: &[PathBuf]) -> Vec<PathBuf> {
    paths
        .iter()
        .filter_map(|path| path.canonicalize().ok())
        .filter(|path| path.is_dir())
        .filter(|path| match declares_functions(path) {
            Ok(declares) => !declares,
            Err(error) => error.is_denied(),
        })
        .collect()
}

/// All functions of `folders`, `cache` being the folder for what can be made again.
///
/// # Errors
/// The first folder's mistakes, or that a function is declared twice.
pub(crate) fn read_all(
    folders: &[Folder],
    cache: &Path,
) -> Result<Vec<(Folder, Vec<Declared>)>, ManifestsError> {
    let mut seen: BTreeMap<FunctionId, PathBuf> = BTreeMap::new();
    let mut all = Vec::new();
    for folder in folders {
        let declared = read(folder, cache)?;
        for Declared { id, .. } in &declared {
            if let Some(first) = seen.insert(id.clone(), folder.dir.clone()) {
                return Err(ManifestsError::Twice {
                    id: id.clone(),
                    first,
                    second: folder.dir.clone(),
                });
            }
        }
        all.push((folder.clone(), declared));
    }
    Ok(all)
}

/// The functions of one folder.
///
/// # Errors
/// Every mistake of one file.
pub(crate) fn read(folder: &Folder, cache: &Path) -> Result<Vec<Declared>, ManifestsError> {
    let is_project = folder.dir.join("Cargo.toml").is_file();
    let mut manifests: Vec<(PathBuf, Manifest)> = Vec::new();
    let mut passed = Vec::new();
    for path in folder.yaml()? {
        let is_named = folder.names(&path);
        let Some(text) = text(&path, is_named)? else {
            continue;
        };
        // Other tools keep their YAML in such folders, too: only what names wisp is held to its rules.
        let ours = is_named || mentions_functions(&text);
        match parse_manifests(&text) {
            Ok(found) => {
                if is_named && !found.iter().any(|found| found.function().is_some()) {
                    return Err(ManifestsError::NoFunction(path));
                }
                manifests.extend(found.into_iter().map(|manifest| (path.clone(), manifest)))
            }
            Err(error) if ours => {
                return Err(ManifestsError::Wrong {
                    file: paths::display(&path),
                    error,
                });
            }
            Err(error) if mentions_values(&text) => {
                passed.push(format!("{}:\n{}", paths::display(&path), indented(&error)));
            }
            Err(_) => {}
        }
    }
    let objects = Objects::new(manifests.iter().map(|(_, manifest)| manifest));
    let mut declared = Vec::new();
    for (path, manifest) in &manifests {
        let Some(function) = manifest.function() else {
            continue;
        };
        if !folder.reads(path) {
            continue;
        }
        manifest
            .validate_for(Place::Local {
                project: is_project,
            })
            .map_err(|error| ManifestsError::Wrong {
                file: paths::display(path),
                error,
            })?;
        let values = objects.values(function).map_err(|error| {
            let (file, error) = (paths::display(path), manifest.locate(error));
            if passed.is_empty() {
                ManifestsError::Wrong { file, error }
            } else {
                let passed = passed.clone();
                ManifestsError::WrongBeside {
                    file,
                    error,
                    passed,
                }
            }
        })?;
        // A valid Function has a name.
        let Ok(id) = function.id() else { continue };
        declared.push(Declared {
            id,
            function: function.clone().with_cache(cache),
            values,
            is_project,
        });
    }
    Ok(declared)
}

/// The manifests of one folder that hold functions, each with what else it holds.
///
/// # Errors
/// Every mistake of one file.
pub(crate) fn of_functions(
    folder: &Folder,
) -> Result<Vec<(PathBuf, Vec<Manifest>)>, ManifestsError> {
    let mut found = Vec::new();
    for path in folder.yaml()? {
        if !folder.reads(&path) {
            continue;
        }
        let is_named = folder.names(&path);
        let Some(text) = text(&path, is_named)?.filter(|text| is_named || mentions_functions(text))
        else {
            continue;
        };
        let manifests = parse_manifests(&text).map_err(|error| ManifestsError::Wrong {
            file: paths::display(&path),
            error,
        })?;
        if manifests
            .iter()
            .any(|manifest| manifest.function().is_some())
        {
            found.push((path, manifests));
        } else if is_named {
            return Err(ManifestsError::NoFunction(path));
        }
    }
    Ok(found)
}

/// Whether a Function is in one of the folder's files, as far as they may be read, or is meant to be.
fn declares_functions(dir: &Path) -> Result<bool, ManifestsError> {
    let mut denied = None;
    for path in list(dir)?.into_iter().filter(|path| is_yaml(path)) {
        if is_function_file(&path) {
            return Ok(true);
        }
        match text(&path, false) {
            Ok(text) if text.as_deref().is_some_and(declares_function) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.is_denied() => denied = Some(error),
            Err(error) => return Err(error),
        }
    }
    denied.map_or(Ok(false), Err)
}

/// Whether a Function is in the text, or is likely to be in one that is wrong.
fn declares_function(text: &str) -> bool {
    mentions_functions(text)
        && parse_manifests(text).map_or(true, |manifests| {
            manifests
                .iter()
                .any(|manifest| manifest.function().is_some())
        })
}

/// Whether the file's name says that a Function is in it.
fn is_function_file(path: &Path) -> bool {
    matches!(
        path.file_name().and_then(|name| name.to_str()),
        Some("function.yaml" | "function.yml")
    )
}

/// Whether a Function is likely to be in it: objects of other kinds may name wisp, too, if only by a label.
fn mentions_functions(text: &str) -> bool {
    text.contains("wisp.dev/v") && text.to_lowercase().contains("function")
}

/// Whether a file without Functions may have what they take.
fn mentions_values(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    lines.any(|line| matches!(line, "kind: Secret" | "kind: ConfigMap"))
}

/// The file's text; `None` where it is gone meanwhile, or is no text and needn't be one.
fn text(path: &Path, is_named: bool) -> Result<Option<String>, ManifestsError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            if is_named {
                Err(ManifestsError::NoText(path.to_owned()))
            } else {
                Ok(None)
            }
        }
        Err(source) => Err(ManifestsError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, ManifestsError> {
    let read = |source| ManifestsError::Read {
        path: dir.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read)? {
        paths.push(entry.map_err(read)?.path());
    }
    paths.sort();
    Ok(paths)
}

fn is_yaml(path: &Path) -> bool {
    path.is_file()
        && path
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml")
        && !is_hidden(path)
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELLO: &str = "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {name: hello}\nspec:\n  component: {file: hello.wasm}\n";

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn names(root: &Path, path: &str) -> Result<Vec<String>, ManifestsError> {
        let folders = discover(&[root.join(path)], |_| {})?;
        let all = read_all(&folders, Path::new("/cache"))?;
        Ok(all
            .iter()
            .flat_map(|(_, declared)| declared)
            .map(|declared| declared.id.to_string())
            .collect())
    }

    #[test]
    fn functions_are_found_in_a_file_a_folder_and_a_folder_of_folders() {
        let other = HELLO.replace("hello", "other");
        let root = tree(&[
            ("a/function.yaml", HELLO),
            ("b/function.yaml", &other),
            ("c/notes.txt", ""),
            (".git/function.yaml", "x"),
        ]);
        let hello = vec!["default/hello".to_owned()];
        assert_eq!(names(root.path(), "a/function.yaml").unwrap(), hello);
        assert_eq!(names(root.path(), "a").unwrap(), hello);
        assert_eq!(
            names(root.path(), "").unwrap(),
            ["default/hello", "default/other"]
        );
        assert!(matches!(
            names(root.path(), "c").unwrap_err(),
            ManifestsError::Empty(_)
        ));
        assert!(matches!(
            names(root.path(), "d").unwrap_err(),
            ManifestsError::Missing(_)
        ));
    }

    /// Would fail if a Secret with a mistake were told to be missing, and nothing else, or other tools' files had to be right.
    #[test]
    fn what_was_passed_over_is_told_where_something_is_missing() {
        let wants = |name: &str| {
            let value = format!(
                "{{name: TOKEN, valueFrom: {{secretKeyRef: {{name: {name}, key: token}}}}}}"
            );
            format!("{HELLO}  env: [{value}]\n")
        };
        let secret = |name: &str, data: &str| {
            format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\n{data}: {{token: 'no base64'}}\n"
            )
        };
        let error = |function: &str, beside: &str| {
            let root = tree(&[("a/function.yaml", function), ("a/secrets.yaml", beside)]);
            names(root.path(), "a").map_err(|error| error.to_string())
        };
        let text = error(&wants("keys"), &secret("keys", "data")).unwrap_err();
        assert!(text.contains("there is no Secret `keys`"), "{text}");
        assert!(
            text.contains("secrets.yaml") && text.contains("stringData"),
            "{text}"
        );
        assert!(error(&wants("keys"), &secret("keys", "stringData")).is_ok());
        assert!(error(HELLO, &secret("keys", "data")).is_ok());
        let text = error(&wants("keys"), "a: {{ template }}").unwrap_err();
        assert!(!text.contains("secrets.yaml"), "{text}");
    }

    /// Would fail if two files of one folder were two folders: each would take the other's functions for removed. Or if
    /// a folder that is named, too, were read in part.
    #[test]
    fn files_of_one_folder_are_one_folder() {
        let file = |name: &str| HELLO.replace("hello", name);
        let (a, b, c) = (file("a"), file("b"), file("c"));
        let root = tree(&[("f/a.yaml", &a), ("f/b.yaml", &b), ("f/c.yaml", &c)]);
        let found = |paths: &[&str]| {
            let paths: Vec<_> = paths.iter().map(|path| root.path().join(path)).collect();
            let folders = discover(&paths, |_| {}).unwrap();
            assert_eq!(folders.len(), 1, "{folders:?}");
            let declared = read(&folders[0], Path::new("/cache")).unwrap();
            let ids: Vec<_> = declared.iter().map(|it| it.id.to_string()).collect();
            assert_eq!(of_functions(&folders[0]).unwrap().len(), ids.len());
            ids.join(" ")
        };
        assert_eq!(found(&["f/a.yaml"]), "default/a");
        assert_eq!(found(&["f/b.yaml", "f/a.yaml"]), "default/a default/b");
        for paths in [["f", "f/a.yaml"], ["f/a.yaml", "f"], ["f/a.yaml", ""]] {
            assert_eq!(found(&paths), "default/a default/b default/c");
        }
    }

    #[test]
    fn a_name_that_two_folders_declare_is_refused() {
        let root = tree(&[("a/function.yaml", HELLO), ("b/function.yaml", HELLO)]);
        assert!(matches!(
            names(root.path(), "").unwrap_err(),
            ManifestsError::Twice { .. }
        ));
    }

    #[test]
    fn values_come_from_objects_beside_the_function_and_other_yaml_is_left_alone() {
        let function = format!(
            "{HELLO}  env:\n  - {{name: TOKEN, valueFrom: {{secretKeyRef: {{name: keys, key: token}}}}}}\n"
        );
        let root = tree(&[
            ("function.yaml", &function),
            (
                "secrets.yaml",
                "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {token: t0ps3cret}\n",
            ),
            ("compose.yaml", "services: {web: {image: x}}\n"),
        ]);
        for path in ["", "function.yaml"] {
            let folders = discover(&[root.path().join(path)], |_| {}).unwrap();
            let declared = read(&folders[0], Path::new("/cache")).unwrap();
            assert_eq!(
                declared[0].values.env.0.get("TOKEN").map(String::as_str),
                Some("t0ps3cret")
            );
        }
        std::fs::remove_file(root.path().join("secrets.yaml")).unwrap();
        let error = names(root.path(), "").unwrap_err().to_string();
        assert!(error.contains("there is no Secret `keys`"), "{error}");
    }

    /// Would fail if a pool, or a policy that selects functions' pods, could not lie beside a function, below it or above.
    #[test]
    fn what_else_is_applied_may_lie_beside_a_function() {
        let pool = "apiVersion: wisp.dev/v1alpha1\nkind: RuntimePool\nmetadata: {name: warm}\nspec: {minReplicas: 2}\n";
        let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec: {podSelector: {matchLabels: {wisp.dev/function: hello}}}\n";
        let root = tree(&[
            ("a/function.yaml", &format!("{HELLO}---\n{policy}")),
            ("a/pool.yaml", pool),
            ("a/policy.yaml", policy),
            ("k8s/policy.yaml", policy),
            ("k8s/pool.yaml", pool),
            (
                "pool.yaml",
                &format!("# For all functions.\n{pool}---\n{policy}"),
            ),
        ]);
        assert_eq!(
            roots(&[root.path().to_owned()]),
            [root.path().canonicalize().unwrap()]
        );
        for path in ["", "a", "a/function.yaml"] {
            assert_eq!(names(root.path(), path).unwrap(), ["default/hello"]);
        }
        let folders = discover(&[root.path().join("a")], |_| {}).unwrap();
        assert_eq!(of_functions(&folders[0]).unwrap().len(), 1);
        for path in ["a/pool.yaml", "a/policy.yaml"] {
            let error = names(root.path(), path).unwrap_err();
            assert!(matches!(error, ManifestsError::NoFunction(_)), "{error}");
        }
        assert!(matches!(
            names(root.path(), "k8s").unwrap_err(),
            ManifestsError::Empty(_)
        ));
    }

    #[test]
    fn a_wrong_manifest_is_refused_with_its_lines() {
        let root = tree(&[("function.yaml", &HELLO.replace("component", "compnent"))]);
        let error = names(root.path(), "").unwrap_err().to_string();
        assert!(error.contains("did you mean `component`"), "{error}");
    }

    #[test]
    fn a_project_needs_no_component_and_everything_else_does() {
        let bare =
            "apiVersion: wisp.dev/v1alpha1\nkind: Function\nmetadata: {name: hello}\nspec: {}\n";
        let root = tree(&[("function.yaml", bare)]);
        assert!(matches!(
            names(root.path(), "").unwrap_err(),
            ManifestsError::Wrong { .. }
        ));
        std::fs::write(root.path().join("Cargo.toml"), "").unwrap();
        assert_eq!(names(root.path(), "").unwrap(), ["default/hello"]);
    }

    /// Would fail if `wisp deploy` or `wisp dev` passed over a file that was meant, and did nothing.
    #[test]
    fn a_file_that_is_meant_holds_a_function() {
        let said = |root: &Path, path: &str| -> [Option<String>; 2] {
            let folders = discover(&[root.join(path)], |_| {}).unwrap();
            [
                read(&folders[0], Path::new("/cache")).err(),
                of_functions(&folders[0]).err(),
            ]
            .map(|error| error.map(|error| error.to_string()))
        };
        for text in ["", &HELLO.replace("wisp.dev/", "wips.dev/")] {
            let root = tree(&[("function.yaml", text)]);
            for path in ["", "function.yaml"] {
                for said in said(root.path(), path) {
                    assert!(said.unwrap().contains("function.yaml is wrong"), "{text}");
                }
            }
        }
        let root = tree(&[
            ("function.yaml", HELLO),
            (
                "secrets.yaml",
                "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\n",
            ),
            ("notes.txt", "hello"),
        ]);
        assert_eq!(said(root.path(), ""), [None, None]);
        for path in ["secrets.yaml", "notes.txt"] {
            for said in said(root.path(), path) {
                assert!(said.unwrap().contains(path));
            }
        }
        let wide: Vec<u8> = HELLO.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let latin = HELLO.replace("hello.wasm", "h\u{e9}llo.wasm");
        let latin: Vec<u8> = latin.chars().map(|letter| letter as u8).collect();
        for bytes in [[&[0xff, 0xfe][..], &wide].concat(), latin] {
            std::fs::write(root.path().join("function.yaml"), bytes).unwrap();
            for said in said(root.path(), "") {
                assert!(
                    said.unwrap()
                        .contains("function.yaml is wrong: it is no text in UTF-8")
                );
            }
        }
    }
}

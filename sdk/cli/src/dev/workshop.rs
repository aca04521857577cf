//! Keeps what runs in step with the files: builds, compiles ahead, and hands each function's supervisor what is new.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use wisp_contract::FunctionId;
use wisp_engine::{Engines, Loader};
use wisp_gateway::{FunctionRoute, Gateway};

use super::console::{Console, Event};
use super::functions::Functions;
use super::manifests::{self, Declared, Folder, ManifestsError};
use super::prepare::{self, PrepareError, Project};
use super::replica::Launch;
use super::supervisor::Supervisor;
use super::watch::{self, Elsewhere, Unwatched, Watch};
use crate::cargo;
use crate::failure::chain;

/// How long a manifest may be gone before its functions are.
const GRACE: Duration = Duration::from_millis(500);

/// What reading a folder came to.
enum Reading {
    Declares(Vec<Declared>),
    /// What it declared before holds still.
    Wrong,
    Gone,
}

/// Everything that turning files into revisions takes.
pub(crate) struct Workshop {
    launch: Arc<Launch>,
    gateway: Arc<Gateway>,
    functions: Functions,
    console: Console,
    url: String,
    has_color: bool,
    loader: Arc<Loader>,
    engines: Arc<Engines>,
}

impl Workshop {
    pub(crate) fn new(
        launch: Launch,
        gateway: Arc<Gateway>,
        functions: Functions,
        console: Console,
        url: String,
        has_color: bool,
    ) -> Self {
        let loader = Arc::new(Loader::new(&launch.cache));
        let engines = Arc::new(Engines::for_compilation());
        Self {
            launch: Arc::new(launch),
            gateway,
            functions,
            console,
            url,
            has_color,
            loader,
            engines,
        }
    }

    /// Lets requests find all functions, before anything is built: who asks for one that is being built waits.
    pub(crate) fn announce_all(&self, declared: &[(Folder, Vec<Declared>)]) {
        for (folder, functions) in declared {
            for function in functions {
                self.announce(folder, function);
            }
        }
    }

    /// Prepares everything, then again what changes. `paths` are those that somebody named, made absolute. Ends only where the
    /// files can't be watched.
    ///
    /// # Errors
    /// When the files can't be watched.
    pub(crate) async fn run(
        self,
        paths: Vec<PathBuf>,
        mut folders: Vec<Folder>,
        declared: Vec<(Folder, Vec<Declared>)>,
        is_watching: bool,
    ) -> notify::Result<()> {
        let mut watch = if is_watching {
            Some(Watch::start()?)
        } else {
            None
        };
        let roots = manifests::roots(&paths);
        let mut named = named(&folders, &roots);
        if let Some(watch) = &mut watch {
            self.watch_above(watch, &paths, &roots, &named)?;
        }
        // All before the first build: what is changed meanwhile is built again.
        if let Some(watch) = &mut watch {
            for (folder, functions) in &declared {
                self.watch_folder(watch, folder, &may_take(folder, functions))?;
            }
        }
        for (folder, functions) in &declared {
            let elsewhere = self.make(folder, functions).await;
            if let Some(watch) = &mut watch {
                self.watch_folder(watch, folder, &elsewhere)?;
            }
        }
        let Some(mut watch) = watch else {
            return std::future::pending().await;
        };
        // Folders whose functions are to be let go, and those that came in their place and can't be read yet.
        let (mut leaving, mut unread) = (Vec::<Folder>::new(), BTreeSet::new());
        loop {
            let mut changed = watch.changed().await;
            // Before it is looked where they lead.
            for path in &paths {
                watch.add_links(path);
            }
            let mut came = BTreeSet::new();
            let is_known = |path: &PathBuf| folders.iter().any(|folder| folder.dir == *path);
            // A root, or a link that leads to what was named.
            if !changed.iter().all(is_known) {
                let left = unreached(&paths, &folders).await;
                folders.retain(|folder| !left.contains(folder));
                leaving.extend(left);
                for folder in manifests::found(&paths) {
                    leaving.retain(|left| left.dir != folder.dir);
                    if folders.contains(&folder) {
                        continue;
                    }
                    folders.retain(|known| known.dir != folder.dir);
                    came.insert(folder.dir.clone());
                    folders.push(folder);
                }
                let is_gone = |folder: &&Folder| !folder.dir.is_dir() && self.has_any(folder);
                let gone = folders.iter().filter(is_gone);
                changed.extend(gone.map(|folder| folder.dir.clone()));
                changed.extend(came.iter().cloned());
                unread.retain(|dir| folders.iter().any(|folder| folder.dir == *dir));
                let roots = manifests::roots(&paths);
                named.extend(self::named(&folders, &roots));
                self.watch_above(&mut watch, &paths, &roots, &named)?;
            }
            let concerned = folders
                .iter()
                .filter(|folder| changed.contains(&folder.dir));
            // What is gone may have come elsewhere.
            let (there, gone): (Vec<_>, Vec<_>) = concerned.partition(|folder| folder.dir.is_dir());
            let left: Vec<Folder> = leaving.iter().chain(gone.clone()).cloned().collect();
            for folder in there.into_iter().chain(gone) {
                self.watch_folder(&mut watch, folder, &may_be_made_of(&folder.dir))?;
                let mut elsewhere = Elsewhere::default();
                match self.read_again(folder).await {
                    Reading::Declares(declared) => {
                        unread.remove(&folder.dir);
                        leaving.retain(|left| left.dir != folder.dir);
                        let declared = self.without_others(folder, declared, &left);
                        for function in &declared {
                            self.announce(folder, function);
                        }
                        self.watch_folder(&mut watch, folder, &may_take(folder, &declared))?;
                        elsewhere = self.make(folder, &declared).await;
                    }
                    Reading::Wrong if came.contains(&folder.dir) => {
                        unread.insert(folder.dir.clone());
                    }
                    Reading::Wrong => {}
                    Reading::Gone => {
                        unread.remove(&folder.dir);
                        if !leaving.contains(folder) {
                            leaving.push(folder.clone());
                        }
                    }
                }
                self.watch_folder(&mut watch, folder, &elsewhere)?;
            }
            // Functions that came elsewhere have been taken over, and more may be where what came can't be read.
            if unread.is_empty() {
                for left in leaving.drain(..) {
                    self.forget(&left, &[]);
                    if !folders.iter().any(|folder| folder.dir == left.dir) {
                        watch.remove(&left.dir);
                    }
                }
            }
            if leaving.is_empty() {
                unread.clear();
            }
            // What somebody named is theirs again when it comes back.
            folders.retain(|folder| folder.dir.is_dir() || named.contains(&folder.dir));
        }
    }

    /// Watches a function's folder, and what it is made of elsewhere as far as that may be watched.
    fn watch_folder(
        &self,
        watch: &mut Watch,
        folder: &Folder,
        elsewhere: &Elsewhere,
    ) -> notify::Result<()> {
        self.note(watch.add(&folder.dir, elsewhere)?);
        Ok(())
    }

    /// Watches for what somebody named to come, to go, and to be elsewhere.
    fn watch_above(
        &self,
        watch: &mut Watch,
        paths: &[PathBuf],
        roots: &[PathBuf],
        named: &BTreeSet<PathBuf>,
    ) -> notify::Result<()> {
        for path in paths {
            watch.add_links(path);
        }
        for root in roots {
            self.note(watch.add_root(root)?);
        }
        for folder in named {
            watch.add_parent(folder);
        }
        Ok(())
    }

    fn note(&self, unwatched: Vec<Unwatched>) {
        for (dir, error) in unwatched {
            self.console.tell(Event::Note {
                message: format!(
                    "what changes in {} goes unseen: {}",
                    dir.display(),
                    chain(&error)
                ),
            });
        }
    }

    /// Reads a folder again.
    async fn read_again(&self, folder: &Folder) -> Reading {
        let mut read = manifests::read(folder, &self.launch.cache);
        // A file that is gone may only be on its way to its new content.
        let is_gone = |read: &Result<Vec<Declared>, _>| match read {
            Ok(declared) => self.missing(folder, declared).next().is_some(),
            Err(_) => !folder.dir.is_dir(),
        };
        if is_gone(&read) {
            tokio::time::sleep(GRACE).await;
            read = manifests::read(folder, &self.launch.cache);
        }
        match read {
            Ok(declared) => Reading::Declares(declared),
            Err(_) if !folder.dir.is_dir() => Reading::Gone,
            Err(error) => {
                self.console.tell(error.into());
                Reading::Wrong
            }
        }
    }

    /// Those that no other folder declares, but for those that were `left`: they would be taken over.
    fn without_others(
        &self,
        folder: &Folder,
        mut declared: Vec<Declared>,
        left: &[Folder],
    ) -> Vec<Declared> {
        declared.retain(|function| {
            let of = self.functions.folder(&function.id);
            let of = of.filter(|of| of.dir != folder.dir && !left.contains(of));
            // It may have been moved from there to here.
            let Some(first) = of.filter(|of| self.declares(of, &function.id)) else {
                return true;
            };
            let (id, first, second) = (function.id.clone(), first.dir, folder.dir.clone());
            self.console
                .tell(ManifestsError::Twice { id, first, second }.into());
            false
        });
        declared
    }

    /// Whether the manifests in `folder` declare the function, or can't tell.
    fn declares(&self, folder: &Folder, id: &FunctionId) -> bool {
        match manifests::read(folder, &self.launch.cache) {
            Ok(declared) => declared.iter().any(|function| function.id == *id),
            Err(_) => folder.dir.is_dir(),
        }
    }

    /// Lets requests find the function.
    fn announce(&self, folder: &Folder, declared: &Declared) {
        let id = &declared.id;
        let known = self.functions.get(id);
        let is_new = known.is_none();
        let supervisor = known.unwrap_or_else(|| {
            Supervisor::start(
                id.clone(),
                Arc::clone(&self.launch),
                Arc::clone(&self.gateway),
                self.console.clone(),
            )
        });
        self.functions
            .insert(id.clone(), supervisor, &declared.function, folder);
        let hosts = declared.function.spec.hosts.clone();
        let refused = self.gateway.insert_route(FunctionRoute {
            id: id.clone(),
            hosts: hosts.clone(),
            held: BTreeMap::new(),
            created: 0,
            limits: declared.function.limits(),
        });
        for host in refused {
            self.console.tell(Event::Note {
                message: format!("{id}: another function has the host {host}"),
            });
        }
        if is_new {
            let url = format!("{}/{}/{}/", self.url, id.namespace(), id.name());
            self.console.tell(Event::Function {
                function: id.to_string(),
                url,
                hosts,
            });
        }
    }

    /// Builds and prepares a folder's functions. Returns what they are made of, wherever it is.
    async fn make(&self, folder: &Folder, declared: &[Declared]) -> Elsewhere {
        let mut files: Vec<PathBuf> = declared
            .iter()
            .flat_map(|function| named_files(function, folder))
            .collect();
        let project = match self.build(folder, declared).await {
            Ok(project) => project,
            Err(error) => {
                self.failed(declared, &error);
                let mut elsewhere = may_be_made_of(&folder.dir);
                elsewhere.files.extend(files);
                return elsewhere;
            }
        };
        if let Some(project) = &project {
            files.extend(cargo::compiled_from(project.compiled()));
        }
        for function in declared {
            let (dir, project, function) = (folder.dir.clone(), project.clone(), function.clone());
            let (loader, engines) = (Arc::clone(&self.loader), Arc::clone(&self.engines));
            let (subject, console) = (function.clone(), self.console.clone());
            let made = blocking(move || {
                let tell = |event| console.tell(event);
                prepare::prepare(&function, &dir, project.as_ref(), &loader, &engines, tell)
            })
            .await;
            let Some(supervisor) = self.functions.get(&subject.id) else {
                continue;
            };
            match made {
                Ok(prepared) => supervisor.revise(Arc::new(prepared)),
                Err(error) => self.failed(std::slice::from_ref(&subject), &error),
            }
        }
        self.forget(folder, declared);
        Elsewhere {
            files,
            is_all: true,
        }
    }

    async fn build(
        &self,
        folder: &Folder,
        declared: &[Declared],
    ) -> Result<Option<Project>, PrepareError> {
        let builds: Vec<&FunctionId> = declared
            .iter()
            .filter(|function| function.is_project)
            .map(|function| &function.id)
            .collect();
        let Some(first) = builds.first() else {
            return Ok(None);
        };
        for id in &builds {
            if let Some(supervisor) = self.functions.get(id) {
                supervisor.building();
            }
        }
        self.console.tell(Event::Building {
            function: first.to_string(),
        });
        let (dir, has_color) = (folder.dir.clone(), self.has_color);
        let project = blocking(move || Project::build(&dir, has_color)).await?;
        self.console.tell(project.event(first.to_string()));
        Ok(Some(project))
    }

    fn failed(&self, declared: &[Declared], error: &PrepareError) {
        for (index, function) in declared.iter().enumerate() {
            let Some(supervisor) = self.functions.get(&function.id) else {
                continue;
            };
            supervisor.broken(error.sentence());
            // One project's compiler is quoted once.
            if index == 0 && !error.is_interrupted() {
                let (function, has_earlier) = (function.id.to_string(), supervisor.has_revision());
                self.console.tell(Event::BuildFailed {
                    function,
                    message: error.story(),
                    has_earlier,
                });
            }
        }
    }

    /// The functions that were the folder's and that it doesn't declare.
    fn missing(
        &self,
        folder: &Folder,
        declared: &[Declared],
    ) -> impl Iterator<Item = FunctionId> + use<'_> {
        let kept: BTreeSet<FunctionId> = declared
            .iter()
            .map(|function| function.id.clone())
            .collect();
        let dir = folder.dir.clone();
        self.functions.ids().into_iter().filter(move |id| {
            !kept.contains(id) && self.functions.folder(id).is_some_and(|of| of.dir == dir)
        })
    }

    /// Whether a function is the folder's.
    fn has_any(&self, folder: &Folder) -> bool {
        self.missing(folder, &[]).next().is_some()
    }

    /// Ends functions that the folder no longer declares.
    fn forget(&self, folder: &Folder, declared: &[Declared]) {
        for id in self.missing(folder, declared) {
            self.gateway.remove_route(&id);
            if let Some(supervisor) = self.functions.remove(&id) {
                self.console.tell(Event::Removed {
                    function: id.to_string(),
                });
                tokio::spawn(async move { supervisor.stop().await });
            }
        }
    }
}

/// The folders that somebody named, by themselves or by a file in them. Those that come and go with a root are found by it.
fn named(folders: &[Folder], roots: &[PathBuf]) -> BTreeSet<PathBuf> {
    let is_named = |folder: &&Folder| !roots.iter().any(|root| folder.dir.parent() == Some(root));
    let named = folders.iter().filter(is_named);
    named.map(|folder| folder.dir.clone()).collect()
}

/// Those of `folders` that are there and that `paths` don't lead to any more.
async fn unreached(paths: &[PathBuf], folders: &[Folder]) -> Vec<Folder> {
    let unreached = || -> Vec<Folder> {
        let reached = manifests::reached(paths);
        let is_left = |folder: &&Folder| folder.dir.is_dir() && !reached.contains(&folder.dir);
        folders.iter().filter(is_left).cloned().collect()
    };
    let left = unreached();
    if left.is_empty() {
        return left;
    }
    // A link that is gone may only be on its way to where it will lead.
    tokio::time::sleep(GRACE).await;
    unreached()
}

/// What the project in `dir`, where one is, may be made of: of a build that never was, or goes on still, there is no list.
fn may_be_made_of(dir: &Path) -> Elsewhere {
    let mut files = Vec::new();
    if dir.join("Cargo.toml").is_file() {
        files.extend(cargo::dependencies(dir));
        files.extend(watch::linked(dir));
    }
    Elsewhere {
        files,
        is_all: false,
    }
}

/// What a folder's functions may be made of, as far as that is known before they are made.
fn may_take(folder: &Folder, declared: &[Declared]) -> Elsewhere {
    let mut elsewhere = may_be_made_of(&folder.dir);
    let named = declared.iter();
    let named = named.flat_map(|function| named_files(function, folder));
    elsewhere.files.extend(named);
    elsewhere
}

/// The files that a function's manifest names: its models', and its component's. One that isn't there may be about to come.
fn named_files(declared: &Declared, folder: &Folder) -> Vec<PathBuf> {
    let spec = &declared.function.spec;
    let models = spec.models.iter();
    let models = models.filter_map(|model| model.source.file.as_ref());
    let component = spec.component.iter();
    let component = component.filter_map(|component| component.file.as_ref());
    let files = models.chain(component);
    files.map(|file| folder.dir.join(file)).collect()
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PrepareError> + Send + 'static,
) -> Result<T, PrepareError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(PrepareError::Interrupted(error.to_string())),
    }
}

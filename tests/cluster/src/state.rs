//! What has a cluster taken of the machine? Written before it is taken, so that whoever comes after a driver that was
//! killed finds all of it.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::files;
use crate::layout::{self, Layout};
use crate::process::Process;

/// The record of one cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// Marks the processes of this start of the cluster, see [`crate::process::MARK`].
    pub(crate) id: String,
    pub(crate) layout: Layout,
    /// Set when `up` came to its end.
    pub(crate) ready: bool,
    /// The processes that hold the namespaces, by part: `control`, `node1`, ….
    pub(crate) anchors: BTreeMap<String, Anchor>,
}

/// The processes that hold one part's namespaces.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Anchor {
    /// The parent outside; the namespaces' first process dies with it.
    pub(crate) outside: Process,
    /// The first process inside; everything inside dies with it.
    pub(crate) inside: Process,
    /// The inode of its pid namespace.
    pub(crate) namespace: String,
}

impl Anchor {
    /// Whether the namespaces still stand.
    pub(crate) fn alive(&self) -> bool {
        self.inside.alive()
    }
}

impl State {
    /// The record of a cluster that starts now.
    pub(crate) fn new(layout: Layout) -> Result<State> {
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid")
            .context("cannot read a random id")?;
        Ok(State {
            id: id.trim().to_owned(),
            layout,
            ready: false,
            anchors: BTreeMap::new(),
        })
    }

    /// The record of the cluster called `name`, if there is one.
    ///
    /// # Errors
    /// When the record cannot be read or understood.
    pub(crate) fn read(name: &str) -> Result<Option<State>> {
        let path = layout::folder(name)?.join("state.json");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let state = serde_json::from_str(&text)
                    .with_context(|| format!("{} is not a cluster's record", path.display()))?;
                Ok(Some(state))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes the record.
    pub(crate) fn write(&self) -> Result<()> {
        let folder = self.layout.folder()?;
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        files::replace(
            &folder.join("state.json"),
            &serde_json::to_string_pretty(self)?,
        )
    }

    /// The records of all clusters of this cache folder, whatever their condition.
    pub(crate) fn all() -> Result<Vec<State>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(files::clusters()?)? {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type()?.is_dir()
                && let Some(name) = name.to_str()
                && let Some(state) = State::read(name)?
            {
                found.push(state);
            }
        }
        found.sort_by(|a, b| a.layout.name.cmp(&b.layout.name));
        Ok(found)
    }

    /// What marks the processes of a part.
    pub(crate) fn mark(&self, part: &str) -> String {
        format!("{}/{part}", self.id)
    }

    /// Whether the cluster came up and none of its parts died since; a node that was killed on purpose has no anchor.
    pub(crate) fn healthy(&self) -> bool {
        self.ready
            && self.anchors.contains_key("control")
            && self.anchors.values().all(Anchor::alive)
    }
}

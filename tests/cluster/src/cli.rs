//! `cargo xtask cluster …`: what can be done with clusters by hand?

use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::components::Component;
use crate::kubectl::Kubectl;
use crate::lifecycle;
use crate::state::State;
use crate::{images, layout, locks, machine, programs, status};

/// A real Kubernetes on this machine, for the tests.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Build what is missing, start a cluster and print how to use it
    Up {
        /// How many nodes
        #[arg(long, default_value_t = 2)]
        nodes: u8,
        /// Which cluster
        #[command(flatten)]
        cluster: Name,
    },
    /// Take a cluster down with everything it made on this machine
    Down {
        /// Which cluster
        #[command(flatten)]
        cluster: Name,
        /// Every cluster of this cache folder
        #[arg(long, conflicts_with = "name")]
        all: bool,
        /// Wait until no test has used it for so many seconds, 0 when left out
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "0", require_equals = true)]
        when_unused: Option<u64>,
    },
    /// Show the components, their memory, the nodes and the pods
    Status {
        /// Which cluster
        #[command(flatten)]
        cluster: Name,
    },
    /// Show what a component said, or all of them
    Logs {
        /// One of those that `status` lists; all when it is left out
        component: Option<String>,
        /// Which cluster
        #[command(flatten)]
        cluster: Name,
        /// Go on as it says more
        #[arg(long, short)]
        follow: bool,
    },
    /// Put an image into the registry that the nodes pull from
    Load {
        /// One that `cargo xtask images` built, one of buildah's, podman's or docker's, or an archive of one (FILE.tar)
        image: String,
        /// The name to give it, if not its own
        #[arg(long = "as")]
        name_as: Option<String>,
        /// Which cluster
        #[command(flatten)]
        cluster: Name,
    },
    /// End a node as a power cut would
    KillNode {
        /// Its number
        node: u8,
        /// Which cluster
        #[command(flatten)]
        cluster: Name,
    },
    /// Start a node that was killed
    StartNode {
        /// Its number
        node: u8,
        /// Which cluster
        #[command(flatten)]
        cluster: Name,
    },
    /// End a component and start it again
    Restart {
        /// One of those that `status` lists, such as apiserver
        component: String,
        /// Give it no time to end by itself
        #[arg(long)]
        hard: bool,
        /// Which cluster
        #[command(flatten)]
        cluster: Name,
    },
    /// Say whether a cluster can run on this machine, and if not, why
    Check,
    /// Build all programs of a cluster, helm included, and print where they are
    Programs,
    /// Run kubectl of the cluster's version against it
    Kubectl {
        /// Which cluster
        #[command(flatten)]
        cluster: Name,
        /// kubectl's arguments, after --
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run helm against the cluster
    Helm {
        /// Which cluster
        #[command(flatten)]
        cluster: Name,
        /// helm's arguments, after --
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// Which cluster is meant.
#[derive(Clone, Debug, clap::Args)]
pub struct Name {
    /// The cluster's name: several stand side by side
    #[arg(long, default_value = "dev")]
    name: String,
}

/// Does what `command` says.
///
/// # Errors
/// With the reason and what mends it.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Up { nodes, cluster } => {
            let state = lifecycle::up(&cluster.name, nodes)?;
            say(&format!(
                "export KUBECONFIG={}\n",
                kubeconfig(&state)?.display()
            ))?;
        }
        Command::Down { all: true, .. } => {
            for state in State::all()? {
                lifecycle::down(&state.layout.name)?;
                eprintln!("cluster {} is down", state.layout.name);
            }
        }
        Command::Down {
            cluster,
            when_unused: Some(seconds),
            ..
        } => down_when_unused(&cluster.name, Duration::from_secs(seconds))?,
        Command::Down { cluster, .. } => {
            let start = Instant::now();
            if lifecycle::down(&cluster.name)? {
                eprintln!(
                    "cluster {} is down, in {:.1} s",
                    cluster.name,
                    start.elapsed().as_secs_f32()
                );
            } else {
                eprintln!("there is no cluster {}", cluster.name);
            }
        }
        Command::Status { cluster } => {
            say(&status::text(&lifecycle::known(&cluster.name)?)?)?;
        }
        Command::Logs {
            component,
            cluster,
            follow,
        } => logs(&cluster.name, component.as_deref(), follow)?,
        Command::Load {
            image,
            name_as,
            cluster,
        } => {
            let state = lifecycle::standing(&cluster.name)?;
            machine::ensure_image_tools()?;
            let reference = images::load(&image, name_as.as_deref(), &state.layout.registry())?;
            say(&format!("{reference}\n"))?;
        }
        Command::KillNode { node, cluster } => {
            lifecycle::kill_node(&cluster.name, node)?;
            eprintln!("node{node} is dead; start-node {node} starts it again");
        }
        Command::StartNode { node, cluster } => {
            let start = Instant::now();
            lifecycle::start_node(&cluster.name, node)?;
            eprintln!(
                "node{node} is ready, in {:.1} s",
                start.elapsed().as_secs_f32()
            );
        }
        Command::Restart {
            component,
            hard,
            cluster,
        } => {
            let start = Instant::now();
            lifecycle::restart(&cluster.name, &component, hard)?;
            eprintln!(
                "{component} runs again, after {:.1} s",
                start.elapsed().as_secs_f32()
            );
        }
        Command::Check => {
            machine::check()?;
            say("a cluster can run here\n")?;
            let missing = machine::missing();
            if !missing.is_empty() {
                say(&format!("`up` installs {}\n", missing.join(" ")))?;
            }
        }
        Command::Programs => {
            let built = programs::ensure()?;
            say(&format!(
                "{}\n{}\n{}\n",
                built.kube.display(),
                built.kubectl.display(),
                programs::helm()?.display()
            ))?;
        }
        Command::Kubectl { cluster, arguments } => {
            become_client(&cluster.name, |kubectl| Ok(kubectl.command()), &arguments)?;
        }
        Command::Helm { cluster, arguments } => become_client(
            &cluster.name,
            |kubectl| Ok(kubectl.client(&programs::helm()?)),
            &arguments,
        )?,
    }
    Ok(())
}

fn say(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        // `cluster status | head`
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn kubeconfig(state: &State) -> Result<PathBuf> {
    Ok(state.layout.folder()?.join("kubeconfig"))
}

/// Becomes a client of the cluster called `name`.
fn become_client(
    name: &str,
    client: impl FnOnce(&Kubectl) -> Result<process::Command>,
    arguments: &[String],
) -> Result<()> {
    let state = lifecycle::standing(name)?;
    let kubectl = Kubectl::new(&programs::kubectl()?, &state)?;
    let mut command = client(&kubectl)?;
    let error = command.args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", command.get_program().display()))
}

fn logs(name: &str, component: Option<&str>, follow: bool) -> Result<()> {
    let state = lifecycle::known(name)?;
    let folder = state.layout.folder()?;
    let mut files = Vec::new();
    match component {
        Some(component) => {
            let component = Component::parse(component, state.layout.nodes)?;
            files.push(layout::log(&folder, &component.name()));
        }
        None => {
            for entry in fs::read_dir(folder.join("logs"))? {
                files.push(entry?.path());
            }
            files.sort();
        }
    }
    if follow {
        let error = process::Command::new("tail")
            .args(["-n", "+1", "-F"])
            .args(&files)
            .exec();
        return Err(error).context("cannot start tail");
    }
    for file in &files {
        if files.len() > 1 {
            say(&format!(
                "==> {} <==\n",
                file.file_stem().unwrap_or_default().to_string_lossy()
            ))?;
        }
        say(&fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?)?;
    }
    Ok(())
}

/// Takes the cluster down once nobody has used it for `linger`.
fn down_when_unused(name: &str, linger: Duration) -> Result<()> {
    layout::check_name(name)?;
    let mut since: Option<Instant> = None;
    loop {
        // A test that comes in the meantime waits for this lock, and starts a new cluster.
        match locks::nobody(name)? {
            Some(_lock) => {
                if since.get_or_insert_with(Instant::now).elapsed() >= linger {
                    lifecycle::down(name)?;
                    return locks::forget_users(name);
                }
            }
            None => since = None,
        }
        sleep(Duration::from_millis(200));
    }
}

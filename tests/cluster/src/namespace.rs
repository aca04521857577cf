//! What holds a part of the cluster together? Each node, and the control plane, is a pid, mount and network namespace
//! of its own. When its first process dies, the kernel ends every process in it, and its mounts and links go with them:
//! that is both a node's failure and the tear-down.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::process::{self, MARK, Process};
use crate::state::{Anchor, State};
use crate::{layout, machine, shell};

/// Inside, the part's own folder on disk; short, because sockets' paths must be.
pub(crate) const OWN: &str = "/run/node";
/// Inside, the cluster's folder.
pub(crate) const CLUSTER: &str = "/run/cluster";

/// Runs as the first process: /run is fresh, /var is a layer of its own over the machine's, nothing that is mounted or
/// written there reaches the machine. What must lie on a real disk lies under [`OWN`]. The kernel settings that a kubelet
/// insists on setting are files of the node's own: they are the machine's, and would outlive the cluster.
const FIRST: &str = r#"set -e
mkdir -p "$OWN_FOLDER/upper" "$OWN_FOLDER/work"
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/node /run/cluster /run/lock /run/netns
mount --bind "$OWN_FOLDER" /run/node
mount --bind "$CLUSTER_FOLDER" /run/cluster
mount -t overlay -o lowerdir=/var,upperdir=/run/node/upper,workdir=/run/node/work overlay /var
for tunable in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    mkdir -p "/run/tunables/${tunable%/*}"
    cat "/proc/sys/$tunable" > "/run/tunables/$tunable"
    mount --bind "/run/tunables/$tunable" "/proc/sys/$tunable"
done
mount --make-rshared /
ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
touch /run/node/held
exec "$CATATONIT" -- sleep infinity
"#;

/// Makes the namespaces of `part` and returns what holds them.
pub(crate) fn hold(state: &State, part: &str) -> Result<Anchor> {
    let folder = state.layout.folder()?;
    let own = folder.join(part);
    fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
    fs::create_dir_all(folder.join("logs"))?;
    let held = own.join("held");
    let _ = fs::remove_file(&held);
    let log = layout::log(&folder, &format!("{part}-namespace"));
    let mut child = Command::new("unshare")
        .args([
            "--net",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "--propagation",
            "private",
        ])
        .args(["--", "sh", "-c", FIRST])
        .env(MARK, state.mark(part))
        .env("OWN_FOLDER", &own)
        .env("CLUSTER_FOLDER", &folder)
        .env("CATATONIT", machine::catatonit()?)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(fs::File::create(&log)?)
        .stderr(fs::File::create(&log)?)
        // Not in the driver's session: a Ctrl-C that ends the driver must not end nodes that stand.
        .process_group(0)
        .spawn()
        .context("cannot start unshare")?;
    let end = Instant::now() + Duration::from_secs(60);
    while !held.exists() {
        if child.try_wait()?.is_some() || Instant::now() > end {
            bail!(
                "cannot make the namespaces of {part}: {}",
                fs::read_to_string(&log)?.trim()
            );
        }
        sleep(Duration::from_millis(2));
    }
    let outside = Process::of(child.id().cast_signed()).context("unshare is gone")?;
    let inside = outside
        .children()
        .first()
        .copied()
        .context("the first process is gone")?;
    let namespace = inside
        .pid_namespace()
        .context("the first process is gone")?;
    Ok(Anchor {
        outside,
        inside,
        namespace,
    })
}

/// A command that runs in the network namespace of `anchor` and nothing else of it.
pub(crate) fn in_network(anchor: &Anchor, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/proc/{}/ns/net", anchor.inside.pid))
        .arg("--")
        .arg(program);
    command
}

/// A command that runs in all namespaces of `anchor`.
pub(crate) fn inside(anchor: &Anchor, program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--target={}", anchor.inside.pid))
        .args(["--net", "--mount", "--pid", "--"])
        .arg(program.as_ref())
        .current_dir("/");
    command
}

/// Starts a long-running component in all namespaces of `part`; its output goes to its log. Its parent, `nsenter`,
/// carries the mark `ID/PART/COMPONENT`, by which [`find`] finds it again.
pub(crate) fn start(
    state: &State,
    part: &str,
    component: &str,
    program: &Path,
    arguments: &[String],
    path: &str,
) -> Result<()> {
    let anchor = state
        .anchors
        .get(part)
        .with_context(|| format!("{part} does not run"))?;
    let log = layout::log(&state.layout.folder()?, component);
    let open = || OpenOptions::new().create(true).append(true).open(&log);
    inside(anchor, program)
        .args(arguments)
        .env_clear()
        .env("PATH", path)
        .env("HOME", OWN)
        .env(MARK, state.mark(&format!("{part}/{component}/")))
        .stdin(Stdio::null())
        .stdout(open()?)
        .stderr(open()?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {component}"))?;
    Ok(())
}

/// The process of a component that [`start`] started, if it runs.
pub(crate) fn find(state: &State, part: &str, component: &str) -> Option<Process> {
    let marked = process::marked(&state.mark(&format!("{part}/{component}/")));
    // The outermost of them is nsenter, its child is the component.
    marked
        .iter()
        .find(|process| process.name() == "nsenter")
        .and_then(|nsenter| nsenter.children().first().copied())
}

/// Ends everything in the namespaces of `anchor`, at once, as a power cut would.
pub(crate) fn cut(anchor: &Anchor) -> Result<()> {
    let inside = process::in_namespaces(&std::iter::once(anchor.namespace.clone()).collect());
    anchor.inside.signal(rustix::process::Signal::KILL);
    anchor.outside.signal(rustix::process::Signal::KILL);
    process::wait_gone(&inside, Duration::from_secs(60))
}

/// Runs `ip -batch` with `commands` in the machine's network namespace, or in that of `anchor`.
pub(crate) fn ip(anchor: Option<&Anchor>, commands: &str) -> Result<()> {
    let mut command = match anchor {
        Some(anchor) => in_network(anchor, "ip"),
        None => Command::new("ip"),
    };
    shell::feed(command.args(["-batch", "-"]), commands)?;
    Ok(())
}

//! Children that don't outlive this process, however it ends.
//!
//! Linux kills a child when the *thread* that forked it ends. So one thread, which ends with the process, forks them all.
//! What such a child has started itself isn't killed: for a child that starts others, such as Cargo, a shell waits for
//! this process' end, and ends their group.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use rustix::process::{Signal, getpid, getppid, set_parent_process_death_signal};

type Job = Box<dyn FnOnce() + Send>;

static THREAD: OnceLock<Result<Sender<Job>, String>> = OnceLock::new();

/// Starts a child that is killed when this process ends.
///
/// # Errors
/// When the program can't be started.
pub(crate) fn spawn(mut command: Command) -> io::Result<Child> {
    tie(&mut command);
    on_thread(move || command.spawn())?
}

/// As [`spawn`], for a child that the current Tokio runtime waits for. It is killed, too, when it is dropped.
///
/// # Errors
/// When the program can't be started.
///
/// # Panics
/// Outside a Tokio runtime.
pub(crate) fn spawn_async(mut command: Command) -> io::Result<tokio::process::Child> {
    tie(&mut command);
    let runtime = tokio::runtime::Handle::current();
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    on_thread(move || {
        let _guard = runtime.enter();
        command.spawn()
    })?
}

/// As [`spawn`], for a child that starts others: all of them are ended when this process ends, as long as the guard is
/// kept, and where there is no terminal. At a terminal they stay in this process' group, which a Ctrl-C there ends with
/// all in it: one of another group that asks for a password would be stopped for ever.
///
/// # Errors
/// When the program can't be started.
pub(crate) fn spawn_group(command: Command) -> io::Result<(Child, Group)> {
    if std::fs::File::open("/dev/tty").is_ok() {
        return Ok((spawn(command)?, Group(None)));
    }
    grouped(command)
}

fn grouped(mut command: Command) -> io::Result<(Child, Group)> {
    command.process_group(0);
    let child = spawn(command)?;
    let group = Group::of(&child);
    Ok((child, group))
}

/// Sees to the end of a group. Dropping it leaves the group alone.
#[derive(Debug)]
pub(crate) struct Group(Option<Child>);

impl Group {
    fn of(leader: &Child) -> Self {
        let mut waiter = Command::new("sh");
        waiter
            // Its input ends when this process does, whatever ended that.
            .args(["-c", r#"read -r _; kill -TERM "-$0""#])
            .arg(leader.id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        // Where there is no shell the leader is killed all the same.
        Self(waiter.spawn().ok())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(waiter) = &mut self.0 {
            // Before its input ends.
            let _ = waiter.kill();
            let _ = waiter.wait();
        }
    }
}

/// Lets the kernel kill the child when the thread that forks it ends.
fn tie(command: &mut Command) {
    let parent = getpid();
    let before_exec = move || {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have ended before the line above.
        if getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::ErrorKind::Interrupted.into())
        }
    };
    // SAFETY: between fork and exec only async-signal-safe functions may be called, and nothing that allocates or
    // locks. The closure makes two system calls, prctl and getppid, and moves one integer; its errors hold an errno or
    // an `ErrorKind`, which are no allocations.
    #[expect(
        unsafe_code,
        reason = "PR_SET_PDEATHSIG must be set by the child itself"
    )]
    unsafe {
        command.pre_exec(before_exec);
    }
}

fn on_thread<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let gone = || io::Error::other("the thread that starts programs is gone");
    let thread = THREAD.get_or_init(|| {
        let (sender, jobs) = channel::<Job>();
        let run = move || jobs.into_iter().for_each(|job| job());
        std::thread::Builder::new()
            .name("wisp-children".to_owned())
            .spawn(run)
            .map_err(|error| error.to_string())?;
        Ok(sender)
    });
    let (sender, result) = channel();
    let job = move || _ = sender.send(job());
    thread
        .as_ref()
        .map_err(|error| io::Error::other(error.clone()))?
        .send(Box::new(job))
        .map_err(|_| gone())?;
    result.recv().map_err(|_| gone())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read as _};

    use super::*;

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let mut child = std::thread::spawn(|| {
            let mut command = Command::new("cat");
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            spawn(command).unwrap()
        })
        .join()
        .unwrap();
        let mut input = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut input, b"still here\n").unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "still here\n");
        drop(input);
        assert!(child.wait().unwrap().success());
    }

    /// Would fail if the compilers that Cargo has started went on when this process was ended by SIGTERM.
    #[test]
    fn what_a_child_has_started_ends_with_this_process() {
        let mut command = Command::new("sh");
        command
            .args(["-c", "sleep 1000 & echo started; wait"])
            .stdout(Stdio::piped());
        let (mut child, mut group) = grouped(command).unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        // As when this process ends: nothing holds the other end.
        drop(group.0.as_mut().unwrap().stdin.take());
        // Both had it open.
        assert_eq!(output.read_to_string(&mut line).unwrap(), 0);
        assert!(!child.wait().unwrap().success());
    }

    /// Would fail if what is still needed were ended with the guard.
    #[test]
    fn a_guard_that_is_dropped_ends_nothing() {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let (mut child, group) = grouped(command).unwrap();
        drop(group);
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn what_is_no_program_is_an_error() {
        assert_eq!(
            spawn(Command::new("/nowhere/at-all")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}

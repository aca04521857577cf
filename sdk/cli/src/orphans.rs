//! Children that don't outlive this process, however it ends.
//!
//! Linux kills a child when the *thread* that forked it ends. So one thread, which ends with the process, forks them all.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
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
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

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

    #[test]
    fn what_is_no_program_is_an_error() {
        assert_eq!(
            spawn(Command::new("/nowhere/at-all")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}

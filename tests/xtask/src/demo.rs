//! The main job, end to end: a handler in Rust, to a Wasm component, served over HTTP with a real model.

use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::build;
use crate::command::{command, execute, output};
use crate::install;
use crate::steps::Steps;

/// The image that is sent; a digit from MNIST's test images.
const IMAGE: &str = "examples/digits/seven.png";
/// What it shows.
const DIGIT: u64 = 7;

/// Where a person finds the platform: where `wisp dev` listens, too.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8787);

/// How the demonstration runs.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The platform's address; a port of 0 is one that is free [default: 127.0.0.1:8787, or a free port where the platform
    /// ends after the answer]
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Stop the platform after the answer. So it is, too, where standard input is no terminal.
    #[arg(long)]
    once: bool,
}

/// Runs it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let is_terminal = std::io::stdin().is_terminal();
    let listen = address(options.listen, is_terminal && !options.once);
    // Before minutes of building.
    free(listen)?;
    let mut steps = Steps::default();
    steps.run(
        "install what is missing (Wasm target, ONNX Runtime)",
        || {
            install::wasm_target()?;
            install::onnxruntime().map(drop)
        },
    )?;
    let programs = steps.run(
        "build the host and the command line (ten to fifteen minutes the first time)",
        build::programs,
    )?;
    steps.run("build examples/digits into a component", || {
        execute(
            command(&programs.wisp)
                .args(["build", "examples/digits"])
                .stdout(std::io::stderr()),
        )
    })?;
    // As late as can be: others may take it meanwhile.
    let listen = with_port(listen)?;
    let mut platform = steps.run("start the platform: wisp dev examples/digits", || {
        Platform::start(&programs, listen)
    })?;
    steps.run(&format!("read a handwritten digit: {IMAGE}"), || {
        let answer = output(
            command(&programs.wisp)
                .args(["invoke", "digits", "--gateway", &format!("http://{listen}")])
                .args(["--data", &format!("@{IMAGE}")])
                .args(["--header", "content-type: image/png"]),
        )?;
        println!("{}", answer.trim_end());
        check(&answer)
    })?;
    steps.summary();
    if options.once {
        return platform.stop();
    }
    if !is_terminal {
        eprintln!("\nThe platform ends here: nobody is at a terminal to end it.");
        return platform.stop();
    }
    eprintln!("\n── Try it yourself");
    eprintln!(
        "   curl --data-binary @{IMAGE} -H 'content-type: image/png' http://{listen}/default/digits/"
    );
    eprintln!("   open http://{listen}/default/digits/ in a browser, and draw one");
    eprintln!(
        "   export PATH=\"{}:$PATH\"   # for the `wisp` command",
        programs.dir.display()
    );
    eprintln!("\nThe platform goes on until Ctrl-C.");
    platform.wait()
}

/// Where the platform listens: where nobody says, and nobody will ask it, two demonstrations shan't be in each other's way.
fn address(given: Option<SocketAddr>, goes_on: bool) -> SocketAddr {
    given.unwrap_or(if goes_on {
        LISTEN
    } else {
        SocketAddr::new(LISTEN.ip(), 0)
    })
}

/// The same with a port that nobody has just now, where it names none.
fn with_port(listen: SocketAddr) -> Result<SocketAddr> {
    if listen.port() != 0 {
        return Ok(listen);
    }
    let free = TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
    Ok(free.local_addr()?)
}

/// Whether the function read the digit.
fn check(answer: &str) -> Result<()> {
    let read: Option<Value> = serde_json::from_str(answer).ok();
    let digit = read.as_ref().and_then(|read| read.get("digit")?.as_u64());
    if digit != Some(DIGIT) {
        bail!(
            "{IMAGE} shows a {DIGIT}; the answer was `{}`",
            answer.trim_end()
        );
    }
    Ok(())
}

fn free(listen: SocketAddr) -> Result<()> {
    if TcpStream::connect_timeout(&listen, Duration::from_secs(1)).is_ok() {
        bail!("{listen} is taken by another program: choose an address with --listen");
    }
    Ok(())
}

/// A running `wisp dev`. It is ended when this is dropped.
struct Platform(Child);

impl Platform {
    fn start(programs: &build::Programs, listen: SocketAddr) -> Result<Self> {
        free(listen)?;
        let child = command(&programs.wisp)
            .args(["dev", "examples/digits", "--listen", &listen.to_string()])
            .stdin(Stdio::null())
            .stdout(std::io::stderr())
            .spawn()
            .context("cannot start wisp dev")?;
        let mut platform = Self(child);
        let start = Instant::now();
        while TcpStream::connect_timeout(&listen, Duration::from_millis(200)).is_err() {
            if let Some(status) = platform.0.try_wait()? {
                bail!("wisp dev ended: {status}");
            }
            if start.elapsed() > Duration::from_secs(60) {
                bail!("wisp dev doesn't listen on {listen} after a minute");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(platform)
    }

    fn wait(&mut self) -> Result<()> {
        self.0.wait().context("cannot wait for wisp dev")?;
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        if let (None, Some(pid)) = (
            self.0.try_wait()?,
            rustix::process::Pid::from_raw(self.0.id().cast_signed()),
        ) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        let status = self.0.wait()?;
        if !status.success() {
            bail!("wisp dev ended: {status}");
        }
        Ok(())
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        // An error here means that it has ended already.
        let _ = self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Would fail if any answer passed for the right one.
    #[test]
    fn only_the_right_digit_is_an_answer() {
        check("{\"digit\":7,\"confidence\":0.99}\n").unwrap();
        for wrong in [
            "{\"digit\":1}",
            "{\"digit\":\"7\"}",
            "{}",
            "7",
            "",
            "<p>7</p>",
        ] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }

    /// Would fail if a person didn't find the platform where the README has it, or a check needed that port.
    #[test]
    fn only_a_person_needs_the_port_of_the_readme() {
        assert_eq!(address(None, true).to_string(), "127.0.0.1:8787");
        let given = "127.0.0.1:1".parse().unwrap();
        for goes_on in [true, false] {
            assert_eq!(address(Some(given), goes_on), given);
        }
        assert_eq!(with_port(given).unwrap(), given);
        let free = with_port(address(None, false)).unwrap();
        assert!(free.ip().is_loopback() && free.port() != 0, "{free}");
    }
}

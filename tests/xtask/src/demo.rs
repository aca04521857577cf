//! The main job, end to end: a handler in Rust, to a Wasm component, served over HTTP with a real model.

use std::io::IsTerminal;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::build;
use crate::command::{command, execute};
use crate::install;
use crate::steps::Steps;

/// The image that is sent; a digit from MNIST's test images.
const IMAGE: &str = "examples/digits/seven.png";

/// How the demonstration runs.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The platform's address.
    #[arg(long, default_value = "127.0.0.1:8787")]
    listen: SocketAddr,
    /// Stop the platform after the answer. So it is, too, where standard input is no terminal.
    #[arg(long)]
    once: bool,
}

/// Runs it.
pub(crate) fn run(options: &Options) -> Result<()> {
    // Before minutes of building.
    free(options.listen)?;
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
    let mut platform = steps.run("start the platform: wisp dev examples/digits", || {
        Platform::start(&programs, options.listen)
    })?;
    steps.run(&format!("read a handwritten digit: {IMAGE}"), || {
        execute(
            command(&programs.wisp)
                .args([
                    "invoke",
                    "digits",
                    "--gateway",
                    &format!("http://{}", options.listen),
                ])
                .args(["--data", &format!("@{IMAGE}")])
                .args(["--header", "content-type: image/png"]),
        )
    })?;
    steps.summary();
    eprintln!("\n── Try it yourself");
    eprintln!(
        "   curl --data-binary @{IMAGE} -H 'content-type: image/png' http://{}/default/digits/",
        options.listen
    );
    eprintln!(
        "   open http://{}/default/digits/ in a browser, and draw one",
        options.listen
    );
    if options.once {
        return platform.stop();
    }
    if !std::io::stdin().is_terminal() {
        eprintln!("\nThe platform ends here: nobody is at a terminal to end it.");
        return platform.stop();
    }
    eprintln!(
        "   export PATH=\"{}:$PATH\"   # for the `wisp` command",
        programs.dir.display()
    );
    eprintln!("\nThe platform goes on until Ctrl-C.");
    platform.wait()
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

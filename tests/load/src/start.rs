//! How long a host takes from its start to its first answer, and what it needs while nobody asks.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::child::Child;
use crate::machine::Machine;
use crate::ports::free_port;
use crate::report::{Aim, Report, Row, Sample};
use crate::runtime::{Place, config};

/// How to measure.
#[derive(Debug, Clone)]
pub struct Options {
    /// The host. Its cache has the component compiled after the first start.
    pub place: Place,
    /// This program, which serves the baseline.
    pub this: PathBuf,
    /// A component that answers `/hello`.
    pub component: PathBuf,
    /// How often each is started, in turns.
    pub starts: u32,
}

const BENCH: &str = "start";
const PATH: &str = "/hello";
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries to connect: they would keep a core from the one that starts.
const PAUSE: Duration = Duration::from_micros(100);
/// After this a host has nothing left to do.
const SETTLED: Duration = Duration::from_millis(500);
/// After so many of the starts one looks at the memory.
const LOOKS: u32 = 3;
const MIB: f64 = 1_048_576.0;

/// Starts both in turns, and tells what was found.
///
/// # Errors
/// When a program is missing, or doesn't answer.
pub fn run(options: &Options) -> Result<Report> {
    let machine = Machine::here();
    let wisp = |data| -> Result<Command> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        options
            .place
            .command(Some(config(&options.component)), data, any)
    };
    let native = |data: SocketAddr| {
        let mut command = Command::new(&options.this);
        command
            .args(["hello", "--listen", &data.to_string()])
            .args(["--threads", &machine.cores.to_string()]);
        command
    };
    // The component is compiled with the first start, and found by all others.
    let data = free_port()?;
    drop(first_answer(&mut wisp(data)?, data)?);
    let (mut of_wisp, mut of_native) = (Sample::default(), Sample::default());
    let (mut wisp_idle, mut native_idle) = (Sample::default(), Sample::default());
    for start in 0..options.starts {
        let looks = start < LOOKS;
        let data = free_port()?;
        measure(
            &mut native(data),
            data,
            &mut of_native,
            looks.then_some(&mut native_idle),
        )?;
        let data = free_port()?;
        measure(
            &mut wisp(data)?,
            data,
            &mut of_wisp,
            looks.then_some(&mut wisp_idle),
        )?;
    }
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let (waiting, _output) = Child::start(&mut options.place.command(None, any, any)?)?;
    std::thread::sleep(SETTLED);
    let waiting = Sample(vec![waiting.memory()?.resident / MIB]);
    let row = |case: &str, metric: &str, sample: &Sample, unit: &str| {
        Row::new(BENCH, case, metric, sample, unit)
    };
    let (exec, memory) = ("exec to the first 200", "resident memory");
    Ok(Report {
        machine,
        run: format!("{} starts", options.starts),
        rows: vec![
            row("native hyper", exec, &of_native, "ms"),
            row("wisp-runtime", exec, &of_wisp, "ms")
                .against(of_native.median())
                .aiming(Aim::Below(8.0)),
            row("native hyper, idle", memory, &native_idle, "MiB"),
            row(
                "wisp-runtime, idle with a function",
                memory,
                &wisp_idle,
                "MiB",
            )
            .against(native_idle.median())
            .aiming(Aim::Below(20.0)),
            row("wisp-runtime, without a function", memory, &waiting, "MiB")
                .against(native_idle.median()),
        ],
    })
}

/// Starts `command` once, and looks at its memory where there is a sample for that.
fn measure(
    command: &mut Command,
    address: SocketAddr,
    times: &mut Sample,
    idle: Option<&mut Sample>,
) -> Result<()> {
    let (millis, child) = first_answer(command, address)?;
    times.0.push(millis);
    if let Some(idle) = idle {
        std::thread::sleep(SETTLED);
        idle.0.push(child.memory()?.resident / MIB);
    }
    Ok(())
}

/// Milliseconds from the start of `command` until it answers well on `address`.
fn first_answer(command: &mut Command, address: SocketAddr) -> Result<(f64, Child)> {
    let begun = Instant::now();
    let (child, mut output) = Child::start(command)?;
    std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    while !answers(address) {
        if begun.elapsed() > PATIENCE {
            bail!("no answer on {address}");
        }
        std::thread::sleep(PAUSE);
    }
    Ok((begun.elapsed().as_secs_f64() * 1e3, child))
}

fn answers(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(address)?;
        write!(stream, "GET {PATH} HTTP/1.1\r\nhost: load\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(status.ends_with(b"200"))
    };
    ask().unwrap_or(false)
}

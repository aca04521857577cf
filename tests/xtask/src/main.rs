//! `cargo xtask …`: the project's own commands.

mod bench;
mod build;
mod cache;
mod command;
mod demo;
mod fuzz;
mod generate;
mod gpu;
mod install;
mod javascript;
mod lanes;
mod models;
mod started;
mod steps;
mod test;

use clap::Parser;

/// wisp's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
enum Command {
    /// Build everything, start the platform and let it read a handwritten digit.
    Demo(demo::Options),
    /// Run every check: format, lints, dependencies, docs, generated files and all tests.
    Test(test::Options),
    /// Install what the other commands need: the Wasm target, ONNX Runtime and a few Debian packages.
    Setup,
    /// Fetch and convert the models of the examples into the cache.
    Models,
    /// A real Kubernetes on this machine, for the tests.
    #[command(subcommand)]
    Cluster(wisp_cluster::cli::Command),
    /// Build the product's images.
    Images(wisp_cluster::images::Arguments),
    /// Write the files that follow from others: the CRD, and what `kubectl apply` installs.
    Generate,
    /// Measure, with the baseline in the same run.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Let libFuzzer look for inputs that do harm.
    Fuzz(fuzz::Options),
    /// Check on a GPU what was packed here.
    #[command(subcommand)]
    Gpu(gpu::Gpu),
    /// Print the cache folder.
    Cache,
}

fn main() -> std::process::ExitCode {
    let result = match Command::parse() {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Setup => install::everything(),
        Command::Models => models::run(),
        Command::Cluster(command) => wisp_cluster::cli::run(command),
        Command::Images(arguments) => images(arguments),
        Command::Generate => generate::run(),
        Command::Bench(bench) => bench::run(&bench),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Gpu(gpu) => gpu::run(&gpu),
        Command::Cache => cache::dir().map(|dir| println!("{}", dir.display())),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            if error.is::<bench::Missed>() {
                std::process::ExitCode::from(bench::Missed::STATUS)
            } else {
                std::process::ExitCode::FAILURE
            }
        }
    }
}

fn images(mut arguments: wisp_cluster::images::Arguments) -> anyhow::Result<()> {
    arguments.check()?;
    if arguments.lack(install::LIBRARY)? {
        for platform in arguments.platforms() {
            let library = install::onnxruntime_for(platform)?;
            arguments.give(platform, install::LIBRARY, &library);
        }
    }
    if arguments.lack(install::PROVIDERS[1])? {
        // The image finds them in the cache.
        install::onnxruntime_gpu()?;
        install::cuda()?;
    }
    wisp_cluster::images::run(&arguments)
}

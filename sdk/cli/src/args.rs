//! What can be typed.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use wisp_api::DurationError;

mod cluster;

pub(crate) use cluster::{ClusterArgs, Delete, Deploy, Get, Logs, Push, RegistryArgs};

/// Where `wisp dev` listens and `wisp invoke` looks.
pub(crate) const GATEWAY: &str = "127.0.0.1:8787";

/// Wasm functions on your own machine and on Kubernetes: write, build, run, deploy, call
#[derive(Debug, Parser)]
#[command(name = "wisp", version, max_term_width = 100, infer_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// How results are printed
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Human, value_name = "FORMAT")]
    pub(crate) output: Format,

    /// When to colour (NO_COLOR is respected)
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub(crate) color: Color,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Human,
    /// For scripts: JSON on standard output, one object per line where there are several
    Json,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a project that builds as it is
    New(New),
    /// Build a project's component, check it, and run its initialisation ahead of time
    Build(Build),
    /// Run functions on this machine: a gateway, replicas that come and go, rebuild on save
    Dev(Dev),
    /// Build a project's component and push it to a registry
    Push(Push),
    /// Build, push and apply functions to a cluster, and wait until they are ready
    Deploy(Deploy),
    /// List a cluster's functions, or tell how one is
    Get(Get),
    /// Print what a function's replicas in a cluster log
    Logs(Logs),
    /// Send a request to a function and print the answer
    Invoke(Invoke),
    /// Delete functions from a cluster, and wait until their replicas are gone
    Delete(Delete),
    /// Print the completion script of a shell
    Completions(Completions),
}

/// Start a project that builds as it is
#[derive(Debug, clap::Args)]
pub(crate) struct New {
    /// The function's name, and the folder that is made: a-z, 0-9 and `-`
    pub(crate) name: String,

    /// What to start from
    #[arg(long, value_enum, default_value_t = Template::Http)]
    pub(crate) template: Template,

    /// The folder of the `wisp` crate [default: the one this program was built with]
    #[arg(long, value_name = "PATH")]
    pub(crate) sdk: Option<PathBuf>,
}

/// What a project starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Template {
    /// A handler with routes, JSON and configuration
    Http,
    /// A handler that runs a model
    Inference,
}

/// Build a project's component, check it, and run its initialisation ahead of time
#[derive(Debug, clap::Args)]
pub(crate) struct Build {
    /// The folder of the project's Cargo.toml
    #[arg(default_value = ".", value_hint = clap::ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
}

/// Run functions on this machine: a gateway, replicas that come and go, rebuild on save
#[derive(Debug, clap::Args)]
pub(crate) struct Dev {
    /// A function.yaml, a folder with one, or a folder of such folders
    #[arg(default_value = ".")]
    pub(crate) paths: Vec<PathBuf>,

    /// Where the gateway listens; port 0 takes any free one
    #[arg(long, default_value = GATEWAY, value_parser = listen, value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,

    /// The host that runs the functions [default: `wisp-runtime` beside this program, else on PATH]
    #[arg(
        long,
        env = "WISP_RUNTIME",
        hide_env_values = true,
        value_parser = path(),
        value_name = "FILE"
    )]
    runtime: Option<PathBuf>,

    /// The folder for what can be made again [default: `$XDG_CACHE_HOME/wisp` or `~/.cache/wisp`]
    #[arg(
        long,
        env = "WISP_CACHE",
        hide_env_values = true,
        value_parser = path(),
        value_name = "DIR"
    )]
    cache: Option<PathBuf>,

    /// Don't watch the files
    #[arg(long)]
    pub(crate) no_watch: bool,
}

impl Dev {
    /// The host that was named: a variable that is empty names none.
    pub(crate) fn runtime(&self) -> Option<&Path> {
        named(&self.runtime)
    }

    /// The folder for what can be made again that was named, likewise.
    pub(crate) fn cache(&self) -> Option<&Path> {
        named(&self.cache)
    }
}

fn named(path: &Option<PathBuf>) -> Option<&Path> {
    path.as_deref().filter(|path| !path.as_os_str().is_empty())
}

/// A path, which may be empty: clap takes an empty variable for a value.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Where to listen: an address with a port, or a port of this machine's own.
fn listen(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix("localhost:");
    let port = port.or_else(|| text.strip_prefix(':')).unwrap_or(text);
    match port.parse::<u16>() {
        Ok(port) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        Err(_) => text.parse().map_err(|_| {
            "expected an IP address and a port, such as 0.0.0.0:8787 or [::1]:8787, or a port alone"
                .to_owned()
        }),
    }
}

/// Send a request to a function and print the answer
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit status: 0 where the function answers 2xx, 22 where it answers anything else, \
                        1 where there is no answer."
)]
pub(crate) struct Invoke {
    /// A function's name, `namespace/name`, or an http:// or https:// URL
    #[arg(value_name = "NAME|URL")]
    pub(crate) target: String,

    /// The body: a text, `@FILE`, or `@-` for standard input
    #[arg(long, short, value_name = "TEXT|@FILE")]
    pub(crate) data: Option<String>,

    /// A header, `name: value`; may be given several times
    #[arg(long = "header", short = 'H', value_name = "HEADER")]
    pub(crate) headers: Vec<String>,

    /// The method [default: POST with --data, else GET]
    #[arg(long, short = 'X')]
    pub(crate) method: Option<String>,

    /// The path and query below the function's own
    #[arg(
        long,
        short,
        default_value = "",
        hide_default_value = true,
        value_name = "PATH"
    )]
    pub(crate) path: String,

    /// Print status and headers too, on standard error
    #[arg(long, short)]
    pub(crate) include: bool,

    /// The gateway that NAME is looked up at: HOST:PORT, or an http:// or https:// URL [default: $WISP_GATEWAY, else
    /// 127.0.0.1:8787]
    // Not clap's `env`: what stands in the environment is for look-ups on this machine, and contradicts nothing typed.
    #[arg(
        long,
        value_name = "ADDRESS",
        conflicts_with_all = ["cluster", "kubeconfig", "context", "namespace"]
    )]
    pub(crate) gateway: Option<String>,

    /// Ask the function NAME of a cluster: by its URL, or through a port that is forwarded to the gateway where its URL
    /// can't be reached from here. Any of the options on a cluster implies it, and so does `kubectl wisp`
    #[arg(long)]
    pub(crate) cluster: bool,

    /// How long to wait for the whole answer, such as 30s
    #[arg(long, default_value = "60s", value_parser = duration, value_name = "DURATION")]
    pub(crate) timeout: Duration,

    #[command(flatten)]
    pub(crate) target_cluster: ClusterArgs,
}

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
#[command(
    after_help = "For example: wisp completions bash > ~/.local/share/bash-completion/completions/wisp"
)]
pub(crate) struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

/// As manifests have it, `1m30s`.
pub(super) fn duration(text: &str) -> Result<Duration, DurationError> {
    text.parse().map(|wisp_api::Duration(duration)| duration)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    /// Would fail if what other tools take were refused, or something else than loopback were listened on unasked.
    #[test]
    fn a_port_alone_is_this_machine_s_own() {
        for text in ["8080", ":8080", "localhost:8080", "127.0.0.1:8080"] {
            assert_eq!(
                listen(text),
                Ok("127.0.0.1:8080".parse().unwrap()),
                "{text}"
            );
        }
        assert_eq!(listen("0.0.0.0:1"), Ok("0.0.0.0:1".parse().unwrap()));
        assert_eq!(listen("[::1]:1"), Ok("[::1]:1".parse().unwrap()));
        for bad in [
            "",
            "localhost",
            "localhost8080",
            "example.com:80",
            "127.0.0.1",
            "70000",
        ] {
            assert!(listen(bad).is_err(), "{bad}");
        }
    }

    /// Would fail if a variable that a script leaves empty were taken for a value.
    #[test]
    fn what_is_empty_names_nothing() {
        let parsed = |words: &[&str]| Args::try_parse_from(words).unwrap().command;
        let Command::Dev(dev) = parsed(&["wisp", "dev", "--cache", "", "--runtime", ""]) else {
            panic!()
        };
        assert_eq!((dev.cache(), dev.runtime()), (None, None));
        let deploy = ["wisp", "deploy", "--registry", "", "--cluster-registry", ""];
        let Command::Deploy(deploy) = parsed(&deploy) else {
            panic!()
        };
        assert_eq!((deploy.registry(), deploy.cluster_registry()), (None, None));
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
        for bad in ["", "5", "s", "-1s", "1d", "9999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn help() {
        let mut command = Args::command().term_width(100);
        insta::assert_snapshot!("help", command.render_help());
        for name in [
            "new",
            "build",
            "dev",
            "push",
            "deploy",
            "get",
            "logs",
            "invoke",
            "delete",
            "completions",
        ] {
            let help = command
                .find_subcommand_mut(name)
                .unwrap()
                .clone()
                .term_width(100)
                .render_help();
            insta::assert_snapshot!(format!("help_{name}"), help);
        }
    }
}

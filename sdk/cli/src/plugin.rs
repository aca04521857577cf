//! `kubectl wisp`: this program under the name `kubectl-wisp`, which a link beside it gives it. kubectl runs it with what
//! stands after `wisp`, and nothing of its own options.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::{CommandFactory as _, FromArgMatches as _};

use crate::args::{Args, Command};
use crate::invoke::is_url;

/// What kubectl looks for on PATH.
const NAME: &str = "kubectl-wisp";

/// Reads what was typed, or says what is wrong with it and ends the process.
pub(crate) fn parse() -> Args {
    read(std::env::args_os()).unwrap_or_else(|error| error.exit())
}

fn read(words: impl IntoIterator<Item = OsString>) -> Result<Args, clap::Error> {
    let words: Vec<OsString> = words.into_iter().collect();
    let is_plugin = words.first().is_some_and(|program| is_plugin(program));
    let command = if is_plugin {
        Args::command().bin_name("kubectl wisp")
    } else {
        Args::command()
    };
    let mut args = Args::from_arg_matches(&command.try_get_matches_from(words)?)?;
    // Who asks by kubectl for a name means a cluster's.
    if let Command::Invoke(invoke) = &mut args.command
        && is_plugin
        && invoke.gateway.is_none()
        && !is_url(&invoke.target)
    {
        invoke.cluster = true;
    }
    Ok(args)
}

fn is_plugin(program: &OsStr) -> bool {
    Path::new(program)
        .file_stem()
        .is_some_and(|name| name == NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_words(words: &[&str]) -> Result<Args, clap::Error> {
        read(words.iter().map(OsString::from))
    }

    /// Would fail if `kubectl wisp invoke` asked this machine, or `wisp invoke` a cluster.
    #[test]
    fn kubectl_means_a_cluster() {
        let asks_cluster = |words: &[&str]| match read_words(words).unwrap().command {
            Command::Invoke(invoke) => invoke.cluster,
            other => panic!("{other:?}"),
        };
        assert!(asks_cluster(&["/usr/bin/kubectl-wisp", "invoke", "digits"]));
        assert!(asks_cluster(&["kubectl-wisp.exe", "invoke", "digits"]));
        assert!(!asks_cluster(&["wisp", "invoke", "digits"]));
        assert!(asks_cluster(&["wisp", "invoke", "digits", "--cluster"]));
        assert!(!asks_cluster(&[
            "kubectl-wisp",
            "invoke",
            "digits",
            "--gateway",
            "g:1"
        ]));
        assert!(!asks_cluster(&["kubectl-wisp", "invoke", "http://x.test/"]));
    }

    #[test]
    fn its_help_shows_what_to_type() {
        let help = |program: &str| {
            read_words(&[program, "get", "--help"])
                .unwrap_err()
                .to_string()
        };
        assert!(
            help("kubectl-wisp").contains("Usage: kubectl wisp get"),
            "{}",
            help("kubectl-wisp")
        );
        assert!(help("wisp").contains("Usage: wisp get"), "{}", help("wisp"));
    }
}

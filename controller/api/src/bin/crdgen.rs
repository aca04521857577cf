//! Prints the CustomResourceDefinition of Function as YAML.

use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let yaml = match wisp_api::function_crd_yaml() {
        Ok(yaml) => yaml,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "crdgen: {error}");
            return ExitCode::FAILURE;
        }
    };
    match std::io::stdout().write_all(yaml.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "crdgen: standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

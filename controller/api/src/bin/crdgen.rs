//! Prints a CustomResourceDefinition as YAML: of Function, or of what the argument names.

use std::io::Write as _;
use std::process::ExitCode;

use wisp_api::Definition;

fn main() -> ExitCode {
    let wanted = std::env::args().nth(1);
    let wanted = wanted.as_deref().unwrap_or("function");
    let Some(definition) = Definition::ALL
        .into_iter()
        .find(|definition| definition.file() == wanted)
    else {
        let known = Definition::ALL.map(Definition::file).join(" or ");
        let _ = writeln!(
            std::io::stderr(),
            "crdgen: there is no definition `{wanted}`: expected {known}"
        );
        return ExitCode::FAILURE;
    };
    let written = definition
        .yaml()
        .map_err(|error| error.to_string())
        .and_then(|yaml| {
            std::io::stdout()
                .write_all(yaml.as_bytes())
                .map_err(|error| format!("standard output: {error}"))
        });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "crdgen: {error}");
            ExitCode::FAILURE
        }
    }
}

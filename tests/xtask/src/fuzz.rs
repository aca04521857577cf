//! What strangers hand to wisp, made up by libFuzzer, which looks for inputs that reach code that none reached before.

use std::path::Path;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;

use crate::command::{command, execute, workspace};
use crate::{build, cache, install};

/// cargo-bolero's version.
const CARGO_BOLERO: &str = "0.13.5";
/// Where what was found is kept, below the cache folder.
const CORPUS: &str = "fuzz";

/// What to fuzz.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which of them; each in its turn, where none is named.
    target: Option<Target>,
    /// For how many seconds each.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Target {
    /// A `function.yaml`.
    Manifest,
    /// What a guest does with wasi:nn.
    WasiNn,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::WasiNn => "wasi-nn",
        }
    }

    /// The test that `cargo test` runs on random bytes, and its package.
    fn test(self) -> (&'static str, &'static str) {
        match self {
            Self::Manifest => ("wisp-api", "manifest::tests::no_text_harms_its_reader"),
            Self::WasiNn => (
                "wisp-wasi-nn",
                "tests::arbitrary::no_calls_of_a_fuzzer_harm_the_host",
            ),
        }
    }
}

/// Fuzzes, and fails where an input does harm. It is kept beside the test, which tries it from then on.
pub(crate) fn run(options: &Options) -> Result<()> {
    let bolero = install::cargo_tool(
        "cargo-bolero",
        CARGO_BOLERO,
        &["--no-default-features", "--features", "libfuzzer"],
    )?;
    install::onnxruntime()?;
    let target = build::target()?;
    for fuzzed in Target::value_variants() {
        if options.target.is_some_and(|wanted| wanted != *fuzzed) {
            continue;
        }
        let corpus = cache::dir()?.join(CORPUS).join(fuzzed.name());
        std::fs::create_dir_all(&corpus)
            .with_context(|| format!("cannot make {}", corpus.display()))?;
        if *fuzzed == Target::Manifest {
            examples_into(&corpus)?;
        }
        let (package, test) = fuzzed.test();
        eprintln!("   fuzzing {} for {} s", fuzzed.name(), options.seconds);
        execute(
            command(&bolero)
                .args(["test", test, "--package", package])
                // Its sanitizers need a nightly Rust. Nothing here is unsafe but what calls ONNX Runtime, which they
                // don't see.
                .args(["--engine", "libfuzzer", "--sanitizer", "NONE"])
                .args(["-T", &format!("{}s", options.seconds)])
                .arg("--target-dir")
                .arg(target.join("fuzz"))
                .arg("--corpus-dir")
                .arg(&corpus),
        )?;
    }
    Ok(())
}

/// Begins with what people write.
fn examples_into(corpus: &Path) -> Result<()> {
    for example in ["classify", "digits", "embed", "hello", "stream"] {
        let from = workspace().join("examples").join(example);
        std::fs::copy(from.join("function.yaml"), corpus.join(example))
            .with_context(|| format!("the manifest of {example} can't be copied"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sources below a folder.
    fn sources(folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(sources(&path));
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(std::fs::read_to_string(path).unwrap());
            }
        }
        found
    }

    /// Would fail if a test that is fuzzed were called otherwise by now, or one weren't fuzzed: nothing else builds them as that
    /// needs.
    #[test]
    fn every_fuzzed_test_is_there() {
        let mut all = Vec::new();
        for folder in ["controller", "runtime", "sdk"] {
            all.extend(sources(&workspace().join(folder)));
        }
        all.retain(|text| text.contains("bolero::check!()"));
        let targets = Target::value_variants();
        assert_eq!(all.len(), targets.len());
        for target in targets {
            let (_, test) = target.test();
            let (_, name) = test.rsplit_once("::").unwrap();
            let begins = format!("#[test]\nfn {name}() {{\n");
            let is_there = all.iter().any(|text| text.contains(&begins));
            assert!(is_there, "no test is called {name}");
        }
    }
}

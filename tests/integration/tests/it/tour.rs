//! The README's way on one machine, typed line by line: its commands are read from there, and one that nothing here
//! knows is a failure.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use wisp_api::{Place, parse_manifests};
use wisp_integration::{Job, Readme, Terminal, binary, repository, target_folder};

/// The section that is gone through here.
const SECTION: &str = "A tour of five minutes";
/// And what goes through the others.
const ELSEWHERE: [(&str, &str); 2] = [
    ("Two commands", "these_two_commands_are_what_ci_runs"),
    ("On Kubernetes", "tests/e2e/tests/tour.rs"),
];

/// Would fail if somebody wrote commands into the README where no test looks for them.
#[test]
fn every_section_with_commands_is_gone_through() {
    let readme = Readme::read().unwrap();
    for section in readme.sections("sh") {
        let is_known = section == SECTION || ELSEWHERE.iter().any(|(known, _)| *known == section);
        assert!(
            is_known,
            "nothing goes through README.md's section {section:?}"
        );
    }
    for language in ["bash", "shell", "console"] {
        let sections = readme.sections(language);
        assert!(
            sections.is_empty(),
            "commands are marked `sh`: {sections:?}"
        );
    }
}

/// Would fail if CI went another way than whoever reads the README.
#[test]
fn these_two_commands_are_what_ci_runs() {
    let read = |file: &str| std::fs::read_to_string(repository().join(file)).unwrap();
    let readme = Readme::read().unwrap();
    assert_eq!(
        readme.commands("Two commands"),
        ["cargo xtask demo", "cargo xtask test"]
    );
    let ci = read(".ci/run");
    assert_eq!(ci.lines().last(), Some("exec cargo xtask test"));
    // Where less is said, tests skip what is missing.
    for line in ["export CI=true", "unset KUBECONFIG"] {
        assert!(ci.lines().any(|found| found == line), "{line}");
    }
    let checks: String = read("tests/xtask/src/test.rs").split_whitespace().collect();
    assert!(
        checks
            .contains(r#"execute(cargo().args(["run","--quiet","--package","xtask","--","demo","#)
    );
}

/// Would fail if the tour's commands didn't do, in this order, what the README says they do.
#[test]
fn the_tour_of_five_minutes_goes_as_the_readme_says() {
    let Some(mut tour) = Tour::prepare().unwrap() else {
        return;
    };
    let commands = Readme::read().unwrap().commands(SECTION);
    assert!(!commands.is_empty(), "README.md has no tour");
    for command in commands {
        tour.go(&command)
            .unwrap_or_else(|error| panic!("README.md: `{command}`: {error:#}"));
    }
    tour.end().unwrap();
}

struct Tour {
    /// Where `wisp dev` runs; it reaches nothing but itself, so that its fixed port is nobody else's.
    first: Terminal,
    /// "In another terminal": it shares the first one's network.
    second: Terminal,
    /// Where the machine's network is: what builds may have to download.
    outside: Terminal,
    /// What goes on in the first.
    dev: Option<Job>,
    folder: tempfile::TempDir,
    readme: Readme,
}

impl Tour {
    fn prepare() -> Result<Option<Self>> {
        let folder = tempfile::tempdir()?;
        // What the tour uses of the checkout. `wisp new` must not write there.
        std::os::unix::fs::symlink(
            repository().join("examples"),
            folder.path().join("examples"),
        )?;
        let open = |words: &[&str]| {
            let (program, arguments) = words.split_first().context("no program")?;
            let mut command = Command::new(program);
            command
                .args(arguments)
                .current_dir(folder.path())
                .env("CARGO_TARGET_DIR", target_folder().join("projects"));
            Terminal::open(command)
        };
        let mut outside = open(&["bash"])?;
        // Root needs no user namespace for a network of its own, and others may have one.
        let (unshare, enter): (&[&str], &[&str]) = if outside.run("id -u")?.trim() == "0" {
            (&["unshare", "--net"], &["nsenter", "--net"])
        } else {
            (
                &["unshare", "--map-root-user", "--net"],
                &["nsenter", "--preserve-credentials", "--user", "--net"],
            )
        };
        let mut first = open(&[unshare, &["bash"]].concat())?;
        if let Err(error) = first.run("ip link set lo up") {
            let needs = "a network of the test's own needs `unshare --net` and `ip`";
            wisp_skip::skip(format!("{needs}: {error:#}"));
            return Ok(None);
        }
        let id = first.id().to_string();
        let second = open(&[enter, &["--target", &id, "bash"]].concat())?;
        Ok(Some(Self {
            outside,
            first,
            second,
            dev: None,
            readme: Readme::read()?,
            folder,
        }))
    }

    /// Does what the README says at one of its lines.
    fn go(&mut self, command: &str) -> Result<()> {
        match command {
            r#"export PATH="$PWD/target/debug:$PATH""# => {
                // The programs are where this run's cargo puts them.
                let programs = binary("wisp-runtime").with_file_name("");
                ensure!(programs == binary("wisp").with_file_name(""));
                let target = target_folder().display().to_string();
                let command = command.replace("$PWD/target", &target);
                for terminal in [&mut self.first, &mut self.second, &mut self.outside] {
                    terminal.run(&command)?;
                }
            }
            "wisp new greeter" => {
                self.outside.run(command)?;
                let handler = self.read("greeter/src/lib.rs")?;
                let shown = self.readme.blocks(SECTION, "rust");
                let shown = shown.first().context("the README shows no handler")?;
                ensure!(
                    handler.contains(shown),
                    "the README shows\n{shown}and `wisp new` writes\n{handler}"
                );
                // "after half a minute without one it is gone"
                ensure!(
                    self.read("greeter/function.yaml")?
                        .contains("idleTimeout: 30s")
                );
            }
            "wisp build greeter" => {
                let text = self.outside.run(command)?;
                ensure!(text.contains("built greeter in "), "{text}");
            }
            "wisp dev greeter" => self.dev(command)?,
            "wisp invoke greeter --path hello/Ada"
            | "curl http://127.0.0.1:8787/default/greeter/hello/Ada" => {
                let text = self.second.run(command)?;
                ensure!(text.contains(r#"{"message":"Hello, Ada!"}"#), "{text}");
                if command.starts_with("curl") {
                    self.save_a_change()?;
                }
            }
            "wisp dev examples" => {
                self.end_dev()?;
                self.examples(command)?;
            }
            _ => bail!(
                "no test knows it: say in tests/integration/tests/it/tour.rs what must come of it"
            ),
        }
        Ok(())
    }

    /// Runs a `wisp dev` until it listens. Who asks before it has built a function waits for that.
    fn dev(&mut self, command: &str) -> Result<()> {
        let sign = "gateway http://127.0.0.1:8787";
        self.dev = Some(self.first.go_on(command, sign)?);
        Ok(())
    }

    fn end_dev(&mut self) -> Result<()> {
        if let Some(job) = self.dev.take() {
            let status = self.first.end(job)?;
            ensure!(status == 0, "`wisp dev` ended with {status}");
        }
        Ok(())
    }

    /// "Save a change to the handler and it is built and swapped in without failing a request." The change is the code
    /// that the README shows for a model, so that this compiles, too.
    fn save_a_change(&mut self) -> Result<()> {
        let blocks = self.readme.blocks(SECTION, "rust");
        let [_, model] = blocks.as_slice() else {
            bail!("the README shows {} pieces of Rust, not 2", blocks.len())
        };
        let file = "greeter/src/lib.rs";
        let changed = self
            .read(file)?
            .replace("{word}, {name}!", "{word} again, {name}!");
        let model = format!(
            "\n#[expect(dead_code, reason = \"it only has to compile\")]\nasync fn read(pixels: [f32; 784]) -> Result<Vec<f32>> {{\n{model}Ok(probabilities)\n}}\n"
        );
        std::fs::write(self.folder.path().join(file), changed + &model)?;
        let ask =
            "curl --silent --show-error --fail http://127.0.0.1:8787/default/greeter/hello/Ada";
        let changed = "Hello again, Ada!";
        // None of these requests may fail.
        self.second.run(&format!(
            "until answer=$({ask}) || exit; [[ $answer == *'{changed}'* ]]; do :; done"
        ))?;
        Ok(())
    }

    fn examples(&mut self, command: &str) -> Result<()> {
        // `wisp dev examples` needs what `cargo xtask models` fetches.
        let cache = PathBuf::from(
            self.outside
                .run("echo -n ${WISP_CACHE:-${XDG_CACHE_HOME:-~/.cache}/wisp}")?,
        );
        let models = [
            "models/efficientnet-lite0.onnx",
            "models/all-minilm-l6-v2.onnx",
        ];
        if let Some(model) = models.iter().find(|model| !cache.join(model).is_file()) {
            let text = format!("no {model} in {}: cargo xtask models", cache.display());
            wisp_skip::skip(format!("`{command}`: {text}"));
            return Ok(());
        }
        // The examples belong to the workspace, and are built into its own target folder.
        let target = match std::env::var("CARGO_TARGET_DIR") {
            Ok(folder) => format!("export CARGO_TARGET_DIR='{folder}'"),
            Err(_) => "unset CARGO_TARGET_DIR".to_owned(),
        };
        for terminal in [&mut self.first, &mut self.outside] {
            terminal.run(&target)?;
        }
        // Built where crates can be downloaded; `wisp dev` finds them built.
        self.outside
            .run("for example in examples/*/; do wisp build $example || exit; done")?;
        self.dev(command)?;
        // What is no page says which methods it has.
        let examples = [
            ("hello", "200"),
            ("digits", "200"),
            ("classify", "200"),
            ("embed", "405"),
            ("stream", "200"),
        ];
        for (name, expected) in examples {
            let link = format!("[{name}](examples/{name})");
            ensure!(
                self.readme.text().contains(&link),
                "the README has no {link}"
            );
            let code = self.second.run(&format!(
                "curl --silent --show-error --output /dev/null --write-out '%{{http_code}}' 'http://127.0.0.1:8787/default/{name}/'"
            ))?;
            ensure!(code == expected, "{name} answers {code}");
        }
        let page = "http://127.0.0.1:8787/default/digits/";
        ensure!(
            std::fs::read_to_string(repository().join("README.md"))?.contains(&format!("<{page}>"))
        );
        let text = self.second.run(&format!("curl --silent {page}"))?;
        ensure!(text.contains("<canvas"), "no page to draw on: {text}");
        // And what draws there is read.
        let text = self.second.run(&format!(
            "curl --silent --show-error --fail --data-binary @examples/digits/seven.png {page}"
        ))?;
        ensure!(text.contains(r#""digit":7"#), "{text}");
        Ok(())
    }

    fn end(mut self) -> Result<()> {
        self.end_dev()?;
        // What the README shows of a manifest is one.
        for yaml in self.readme.blocks(SECTION, "yaml") {
            for manifest in parse_manifests(yaml)? {
                manifest.validate_for(Place::Local { project: true })?;
            }
        }
        Ok(())
    }

    fn read(&self, file: impl AsRef<Path>) -> Result<String> {
        let path = self.folder.path().join(file);
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }
}

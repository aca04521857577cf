//! `wisp new`: a project that builds as it is.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::json;

use crate::args::{New, Template};
use crate::failure::{Explain, Failure};
use crate::terminal::Terminal;

/// The longest name of a Function, as its schema has it.
const MAX_NAME: usize = 52;

/// The crates that a project depends on.
const SDK_CRATES: [&str; 2] = ["wisp", "wisp-macros"];
/// The checkout that this program was built in.
const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../wisp");

/// A file of a template: where it goes and what is in it.
type File = (&'static str, &'static [u8]);

macro_rules! files {
    ($folder:literal: $($path:literal),*) => {
        &[$(($path, include_bytes!(concat!("../templates/", $folder, "/", $path)))),*]
    };
}

// Cargo leaves folders with a file `Cargo.toml` out of packages, and git reads `.gitignore`: both have another name here.
const HTTP: &[File] =
    files!("http": "Cargo.toml.in", "gitignore", "README.md", "function.yaml", "src/lib.rs");
const INFERENCE: &[File] =
    files!("inference": "Cargo.toml.in", "gitignore", "README.md", "function.yaml", "src/lib.rs");
/// The inference template's model, which is the one of `examples/digits`.
const MODEL: File = (
    "model.onnx",
    include_bytes!("../../../examples/digits/mnist.onnx"),
);

/// Why no project was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NewError {
    #[error(
        "`{0}` is no name for a function: it must start with a letter, hold only a-z, 0-9 and `-`, not end with `-`, \
         and be at most {MAX_NAME} characters long"
    )]
    Name(String),
    #[error("`{0}` is a word of the Rust language, which no package can be named")]
    Keyword(String),
    #[error(
        "`{0}` is a crate of the SDK, which the project depends on: no other can have its name"
    )]
    Taken(String),
    #[error("there already is a `{}`", .0.display())]
    Exists(PathBuf),
    #[error("the `wisp` crate is not in {}", .0.display())]
    Sdk(PathBuf),
    #[error("Cargo.toml can't name {}: the path is no text in UTF-8", .0.display())]
    NoText(PathBuf),
    #[error("{} could not be written", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Explain for NewError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Name(name) => suggestion(name).map(|name| format!("`{name}` would do")),
            Self::Keyword(name) | Self::Taken(name) => Some(format!("`{name}-fn` would do")),
            Self::Exists(_) => Some("choose another name, or remove it first".to_owned()),
            Self::Sdk(_) => Some("name the folder sdk/wisp of a checkout with --sdk".to_owned()),
            Self::NoText(_) => Some("rename the folder, or name another with --sdk".to_owned()),
            Self::Write { .. } => None,
        }
    }
}

/// Makes the project in a new folder of the current one.
pub(crate) fn run(args: &New, terminal: &Terminal) -> Result<ExitCode, Failure> {
    check_name(&args.name)?;
    let sdk = sdk(args.sdk.as_deref())?;
    let folder = PathBuf::from(&args.name);
    write(&folder, &args.name, args.template, &sdk)?;
    terminal.json(&json!({"name": args.name, "folder": folder, "sdk": sdk}))?;
    let paint = terminal.out;
    terminal.say(&format!(
        "{} the function {} in ./{}",
        paint.green("made"),
        paint.bold(&args.name),
        args.name
    ))?;
    terminal.say("")?;
    terminal.say(&format!("  cd {}", args.name))?;
    terminal.say(&format!(
        "  wisp dev               {}",
        paint.dim("# runs it, and rebuilds on save")
    ))?;
    let call = format!("wisp invoke {}", args.name);
    terminal.say(&format!(
        "  {call:<22} {}",
        paint.dim("# from another terminal")
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Checks a name as the Function's schema does, and as Cargo does.
fn check_name(name: &str) -> Result<(), NewError> {
    let fits = name.len() <= MAX_NAME
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !fits {
        return Err(NewError::Name(name.to_owned()));
    }
    const KEYWORDS: &[&str] = &[
        "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate",
        "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl",
        "in", "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub",
        "ref", "return", "self", "static", "struct", "super", "test", "trait", "true", "try",
        "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
    ];
    if SDK_CRATES.contains(&name) {
        return Err(NewError::Taken(name.to_owned()));
    }
    if KEYWORDS.contains(&name) {
        return Err(NewError::Keyword(name.to_owned()));
    }
    Ok(())
}

/// A name that is close and allowed.
fn suggestion(name: &str) -> Option<String> {
    let last = name.rsplit('/').find(|part| !part.is_empty())?;
    let spelled: String = last
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let trimmed = spelled.trim_start_matches(|c: char| !c.is_ascii_lowercase());
    let short: String = trimmed.chars().take(MAX_NAME).collect();
    let name = short.trim_end_matches('-');
    check_name(name).is_ok().then(|| name.to_owned())
}

/// The folder of the `wisp` crate, as a manifest can have it.
fn sdk(given: Option<&Path>) -> Result<String, NewError> {
    let path = given.unwrap_or(Path::new(SDK));
    let path = path
        .canonicalize()
        .map_err(|_| NewError::Sdk(path.to_owned()))?;
    let manifest = std::fs::read_to_string(path.join("Cargo.toml")).unwrap_or_default();
    let name = toml::from_str::<toml::Table>(&manifest)
        .ok()
        .and_then(|table| {
            table
                .get("package")?
                .get("name")?
                .as_str()
                .map(str::to_owned)
        });
    if name.as_deref() != Some("wisp") {
        return Err(NewError::Sdk(path));
    }
    let path = path.into_os_string().into_string();
    path.map_err(|path| NewError::NoText(path.into()))
}

fn write(folder: &Path, name: &str, template: Template, sdk: &str) -> Result<(), NewError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| NewError::Write { path, source }
    };
    match std::fs::create_dir(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(NewError::Exists(folder.to_owned()));
        }
        Err(source) => {
            return Err(NewError::Write {
                path: folder.to_owned(),
                source,
            });
        }
    }
    let (files, model) = match template {
        Template::Http => (HTTP, None),
        Template::Inference => (INFERENCE, Some(MODEL)),
    };
    for (path, content) in files.iter().copied().chain(model) {
        let path = folder.join(match path {
            "Cargo.toml.in" => "Cargo.toml",
            "gitignore" => ".gitignore",
            path => path,
        });
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed(parent))?;
        }
        let content = match std::str::from_utf8(content) {
            Ok(text) => fill(text, name, sdk).into_bytes(),
            Err(_) => content.to_vec(),
        };
        std::fs::write(&path, content).map_err(failed(&path))?;
    }
    Ok(())
}

fn fill(text: &str, name: &str, sdk: &str) -> String {
    let sdk = toml::Value::from(sdk).to_string();
    text.replace("{{name}}", name).replace("\"{{sdk}}\"", &sdk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_kubernetes_would_refuse_are_refused_with_a_way_out() {
        let said = |name: &str| check_name(name).map_err(|error| Failure::from(error).text());
        for good in ["hello", "a", "my-function-2", &"x".repeat(52)] {
            assert_eq!(said(good), Ok(()));
        }
        let bad = [
            "Hello World",
            "2fast",
            "end-",
            "über",
            "",
            "../up",
            "fn",
            &"x".repeat(53),
        ];
        let said: Vec<String> = bad.iter().map(|name| said(name).unwrap_err()).collect();
        insta::assert_snapshot!("names", said.join("\n"));
    }

    #[test]
    fn every_template_is_filled_in_whole() {
        let folder = tempfile::tempdir().unwrap();
        let sdk = sdk(None).unwrap();
        // In YAML the last two are texts only in quotes.
        let names = [
            ("plain", Template::Http),
            ("smart", Template::Inference),
            ("y", Template::Http),
            ("null", Template::Inference),
        ];
        for (name, template) in names {
            let project = folder.path().join(name);
            write(&project, name, template, &sdk).unwrap();
            let manifest: toml::Table =
                toml::from_str(&std::fs::read_to_string(project.join("Cargo.toml")).unwrap())
                    .unwrap();
            assert_eq!(manifest["package"]["name"].as_str(), Some(name));
            assert_eq!(
                manifest["dependencies"]["wisp"]["path"].as_str(),
                Some(&*sdk)
            );
            let function = std::fs::read_to_string(project.join("function.yaml")).unwrap();
            let manifests = wisp_api::parse_manifests(&function).unwrap();
            let function = manifests[0].function().unwrap();
            assert_eq!(function.metadata.name.as_deref(), Some(name));
            for file in [".gitignore", "README.md", "function.yaml", "src/lib.rs"] {
                let text = std::fs::read_to_string(project.join(file)).unwrap();
                assert!(
                    !text.contains("{{name}}") && !text.contains("{{sdk}}"),
                    "{name}/{file}"
                );
            }
            assert!(matches!(
                write(&project, name, template, &sdk),
                Err(NewError::Exists(_))
            ));
        }
    }

    /// Would fail if a project couldn't be built where the SDK is in somebody's home: names there may be of any script.
    #[test]
    fn the_sdk_may_be_at_any_path() {
        for sdk in [
            "/home/ada/my wisp",
            "/home/ada/Re\u{301}sume\u{301}/wisp",
            "/home/ada/\u{e42}\u{e1b}\u{e23}\u{e40}\u{e08}\u{e01}\u{e15}\u{e4c}/\u{2764}\u{fe0f}",
            "/it's \"w\\isp\"\n",
        ] {
            let filled: toml::Table = fill("a = \"{{sdk}}\"", "x", sdk).parse().unwrap();
            assert_eq!(filled["a"].as_str(), Some(sdk));
        }
    }

    /// Would fail if the project were to name another folder than the one that was meant.
    #[test]
    fn a_path_that_is_no_text_is_refused() {
        use std::os::unix::ffi::OsStrExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(std::ffi::OsStr::from_bytes(b"w\xe9sp"));
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("Cargo.toml"), "[package]\nname = \"wisp\"\n").unwrap();
        assert!(matches!(sdk(Some(&path)), Err(NewError::NoText(_))));
    }

    #[test]
    fn a_folder_that_is_no_sdk_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(sdk(Some(folder.path())), Err(NewError::Sdk(_))));
        assert!(matches!(
            sdk(Some(&folder.path().join("nowhere"))),
            Err(NewError::Sdk(_))
        ));
    }
}

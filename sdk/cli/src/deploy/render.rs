//! `wisp deploy --render`: what would be applied, for whoever applies it from a repository.

use std::process::ExitCode;

use serde_json::Value;

use super::{foreseen, read, upload};
use crate::args::Deploy;
use crate::dev::manifests::Folder;
use crate::failure::Failure;
use crate::terminal::Terminal;

/// Builds, pushes and prints.
pub(super) async fn run(
    folders: &[Folder],
    args: &Deploy,
    terminal: &Terminal,
) -> Result<ExitCode, Failure> {
    // On standard output are the manifests alone.
    let aside = terminal.aside();
    let mut plan = read(folders, args.cluster.namespace.as_deref(), args, &aside)?;
    foreseen(&plan, args)?;
    upload(&mut plan, args, &aside).await?;
    let beside = plan.beside.iter().map(|beside| &beside.written);
    let functions = plan.functions.iter().map(|function| &function.written);
    for object in beside.chain(functions) {
        terminal.json(object)?;
        let mut text = "---\n".to_owned();
        block(&mut text, object, 0);
        terminal.say(text.trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes `value` as YAML of block style, indented by so many spaces.
fn block(out: &mut String, value: &Value, indent: usize) {
    let margin = " ".repeat(indent);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (key, value) in fields {
                out.push_str(&format!("{margin}{}:", text(key)));
                match value {
                    Value::Object(fields) if !fields.is_empty() => {
                        out.push('\n');
                        block(out, value, indent + 2);
                    }
                    Value::Array(items) if !items.is_empty() => {
                        out.push('\n');
                        block(out, value, indent);
                    }
                    value => {
                        out.push(' ');
                        block(out, value, 0);
                    }
                }
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut inner = String::new();
                block(&mut inner, item, indent + 2);
                out.push_str(&format!("{margin}- {}", inner.trim_start_matches(' ')));
            }
        }
        Value::String(value) => out.push_str(&format!("{margin}{}\n", text(value))),
        // Null, booleans, numbers and what is empty are as in JSON.
        value => out.push_str(&format!("{margin}{value}\n")),
    }
}

/// A text that readers of YAML 1.1, as kubectl is one, and of YAML 1.2 take for that text: in quotes where any of them may
/// take it for something else.
fn text(text: &str) -> String {
    const OTHERS: [&str; 9] = ["y", "n", "yes", "no", "on", "off", "true", "false", "null"];
    let is_plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '/')
        && text
            .chars()
            .all(|letter| letter.is_ascii_alphanumeric() || "-_./:@".contains(letter))
        && !text.ends_with(':')
        && !OTHERS.contains(&&*text.to_ascii_lowercase());
    if is_plain {
        return text.to_owned();
    }
    // JSON's quotes and escapes are YAML's too, which has more letters that must be escaped.
    Value::from(text)
        .to_string()
        .chars()
        .map(|letter| match letter {
            '\u{7f}'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                format!("\\u{:04x}", u32::from(letter))
            }
            letter => letter.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wisp_api::parse_manifests;

    use super::*;

    fn yaml(value: &Value) -> String {
        let mut text = String::new();
        block(&mut text, value, 0);
        text
    }

    /// Would fail if kubectl took what is printed for something else than what `wisp deploy` applies.
    #[test]
    fn what_is_printed_is_read_as_what_it_was() {
        let texts = [
            "",
            "y",
            "No",
            "on",
            "True",
            "NULL",
            "~",
            "1",
            "1e3",
            "0o7",
            "0x1f",
            "1_0",
            "12:30:00",
            "2026-01-01",
            ".5",
            "-",
            "- a",
            "a: b",
            "a:",
            ":",
            "a #b",
            "#",
            " a",
            "a ",
            "a\nb\n",
            "\n",
            "a\tb",
            "\u{7f}\u{85}\u{2028}\u{2029}\u{feff}\u{1}",
            "it's \"a\\b\"",
            "%a",
            "@a",
            "`",
            "!!str a",
            "&a",
            "*a",
            "{a",
            "[a",
            "| a",
            "> a",
            "? a",
            "h\u{e9}llo \u{1f600}",
            "r.test:5000/a@sha256:0",
            "/a/b",
            "64Mi",
        ];
        let data: serde_json::Map<String, Value> = texts
            .iter()
            .map(|text| (format!("k{text}"), Value::from(*text)))
            .chain([("y".to_owned(), "z".into()), ("1".to_owned(), "z".into())])
            .collect();
        let objects = [
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data}),
            json!({"apiVersion": "a.test/v1", "kind": "Thing", "metadata": {"name": "t"}, "spec": {
                "none": {}, "empty": [], "number": -1.5, "is": true,
                "lists": [[1, [2, {"a": [], "b": {"c": {}}}]], {"d": [{"e": "f"}], "g": 0}, "h"],
            }}),
        ];
        for object in objects {
            let text = yaml(&object);
            let read = parse_manifests(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert_eq!(read[0].as_written(), object, "{text}");
        }
    }

    #[test]
    fn manifests_look_as_people_write_them() {
        let object = json!({
            "kind": "Function", "metadata": {"name": "y"},
            "spec": {"models": [{"name": "m", "source": {"image": "r.test/m@sha256:0"}}], "env": []},
        });
        assert_eq!(
            yaml(&object),
            "kind: Function\nmetadata:\n  name: \"y\"\nspec:\n  env: []\n  models:\n  - name: m\n    source:\n      \
             image: r.test/m@sha256:0\n"
        );
    }
}

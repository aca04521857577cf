//! From the parser's events to trees, within bounds that no text can exceed.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::{Entry, Node, Value, scalar};

/// The deepest nesting.
const MAX_DEPTH: usize = 64;
/// The most values in one text, those that aliases repeat counted each time.
const MAX_NODES: usize = 200_000;
/// The most bytes that anchors and aliases repeat, with so many for each value.
const MAX_REPEATED: usize = 16 << 20;
const NODE: usize = 64;

const TOO_MUCH: &str = "anchors and aliases repeat more than 16 MiB";

/// Why a text is no YAML that a manifest may be written in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct YamlError {
    pub(crate) line: usize,
    pub(crate) message: String,
}

/// The documents of `text`, those without content left out.
///
/// # Errors
/// The first [`YamlError`] of each text: what follows a syntax error means nothing.
pub(crate) fn compose(text: &str) -> Result<Vec<Node>, YamlError> {
    let mut composer = Composer {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        nodes: 0,
        bytes: 0,
        repeated: 0,
    };
    let mut documents = Vec::new();
    loop {
        match composer.next()? {
            (Event::StreamEnd, _) => return Ok(documents),
            (Event::DocumentStart(_), _) => {
                composer.anchors.clear();
                let first = composer.next()?;
                if matches!(first.0, Event::DocumentEnd) {
                    continue;
                }
                let node = composer.node(first, 0)?;
                if node.value != Value::Null {
                    documents.push(node);
                }
            }
            _ => {}
        }
    }
}

struct Composer<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Anchored>,
    nodes: usize,
    /// Bytes of keys and values so far, those that aliases repeat counted each time.
    bytes: usize,
    /// Bytes of copies.
    repeated: usize,
}

/// What an alias repeats.
struct Anchored {
    node: Node,
    nodes: usize,
    bytes: usize,
}

impl Anchored {
    /// What a copy of it takes.
    fn size(&self) -> usize {
        self.bytes + self.nodes * NODE
    }
}

impl<'a> Composer<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), YamlError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(syntax(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    /// The node that begins with `event`.
    fn node(&mut self, (event, span): (Event<'a>, Span), depth: usize) -> Result<Node, YamlError> {
        let line = span.start.line();
        let fail = |message: &str| {
            Err(YamlError {
                line,
                message: message.to_owned(),
            })
        };
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return fail(&format!("more than {MAX_NODES} values in one text"));
        }
        if depth > MAX_DEPTH {
            return fail(&format!("nested deeper than {MAX_DEPTH} levels"));
        }
        let before = (self.nodes, self.bytes);
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.bytes += text.len();
                (anchor, scalar_value(&text, style, tag.as_deref(), line)?)
            }
            Event::Alias(anchor) => {
                let Some(it) = self.anchors.get(&anchor) else {
                    return fail("an alias within the value that it stands for");
                };
                self.nodes += it.nodes;
                self.bytes += it.bytes;
                self.repeated += it.size();
                if self.nodes > MAX_NODES {
                    return fail(&format!(
                        "more than {MAX_NODES} values in one text, those that aliases repeat included"
                    ));
                }
                if self.repeated > MAX_REPEATED {
                    return fail(TOO_MUCH);
                }
                return Ok(Node {
                    value: it.node.value.clone(),
                    line,
                });
            }
            Event::SequenceStart(anchor, _) => {
                let mut items = Vec::new();
                loop {
                    let event = self.next()?;
                    if matches!(event.0, Event::SequenceEnd | Event::StreamEnd) {
                        break;
                    }
                    items.push(self.node(event, depth + 1)?);
                }
                (anchor, Value::Sequence(items))
            }
            Event::MappingStart(anchor, _) => (anchor, Value::Mapping(self.mapping(depth)?)),
            _ => return fail("a value was expected here"),
        };
        let node = Node { value, line };
        if anchor > 0 {
            let it = Anchored {
                node: node.clone(),
                nodes: self.nodes - before.0 + 1,
                bytes: self.bytes - before.1,
            };
            self.repeated += it.size();
            if self.repeated > MAX_REPEATED {
                return fail(TOO_MUCH);
            }
            self.anchors.insert(anchor, it);
        }
        Ok(node)
    }

    fn mapping(&mut self, depth: usize) -> Result<Vec<Entry>, YamlError> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut lines: HashMap<String, usize> = HashMap::new();
        let mut merged: Vec<Entry> = Vec::new();
        loop {
            let event = self.next()?;
            if matches!(event.0, Event::MappingEnd | Event::StreamEnd) {
                break;
            }
            let line = event.1.start.line();
            let is_merge =
                matches!(&event.0, Event::Scalar(text, ScalarStyle::Plain, _, _) if text == "<<");
            let key = match event.0 {
                Event::Scalar(text, ..) => text.into_owned(),
                _ => {
                    return Err(YamlError {
                        line,
                        message: "a key must be text".to_owned(),
                    });
                }
            };
            self.bytes += key.len();
            let event = self.next()?;
            let node = self.node(event, depth + 1)?;
            if is_merge {
                merged.extend(merge(node, line)?);
                continue;
            }
            if let Some(first) = lines.insert(key.clone(), line) {
                return Err(YamlError {
                    line,
                    message: format!("the key `{key}` is here twice: first on line {first}"),
                });
            }
            entries.push(Entry { key, line, node });
        }
        for entry in merged {
            if !lines.contains_key(&entry.key) {
                lines.insert(entry.key.clone(), entry.line);
                entries.push(entry);
            }
        }
        Ok(entries)
    }
}

/// What `<<` brings in: a mapping, or several, the first of which wins.
fn merge(node: Node, line: usize) -> Result<Vec<Entry>, YamlError> {
    match node.value {
        Value::Mapping(entries) => Ok(entries),
        Value::Sequence(items) => {
            let mut entries = Vec::new();
            for item in items {
                let Value::Mapping(more) = item.value else {
                    return Err(YamlError {
                        line,
                        message: "`<<` takes mappings only".to_owned(),
                    });
                };
                entries.extend(more);
            }
            Ok(entries)
        }
        _ => Err(YamlError {
            line,
            message: "`<<` takes mappings only".to_owned(),
        }),
    }
}

fn scalar_value(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
    line: usize,
) -> Result<Value, YamlError> {
    match tag {
        None if style == ScalarStyle::Plain => Ok(scalar::plain(text)),
        None => Ok(Value::String(text.to_owned())),
        Some(tag)
            if (tag.is_yaml_core_schema() && tag.suffix == "str")
                || (tag.handle.is_empty() && tag.suffix == "!") =>
        {
            Ok(Value::String(text.to_owned()))
        }
        Some(tag)
            if tag.is_yaml_core_schema()
                && matches!(tag.suffix.as_str(), "int" | "float" | "bool" | "null") =>
        {
            Ok(scalar::plain(text))
        }
        Some(tag) => Err(YamlError {
            line,
            message: format!(
                "the tag `{tag}` is unknown: only !!str, !!int, !!float, !!bool and !!null are"
            ),
        }),
    }
}

fn syntax(error: &ScanError) -> YamlError {
    YamlError {
        line: error.marker().line(),
        message: format!("no YAML: {}", error.info()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> serde_json::Value {
        let documents = compose(text).unwrap();
        assert_eq!(documents.len(), 1, "{text}");
        documents[0].to_json()
    }

    #[test]
    fn documents_keep_their_lines_and_empty_ones_are_left_out() {
        let documents =
            compose("# nothing\n---\na: 1\nb:\n- x: true\n---\n# still nothing\n---\nc: '2'\n")
                .unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(
            documents[0].to_json(),
            serde_json::json!({"a": 1, "b": [{"x": true}]})
        );
        assert_eq!(documents[0].get("b").unwrap().line, 5);
        assert_eq!(documents[1].entries()[0].line, 9);
        assert_eq!(documents[1].to_json(), serde_json::json!({"c": "2"}));
    }

    #[test]
    fn anchors_merges_and_tags_work() {
        assert_eq!(
            one("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\ntext: !!str 12\n"),
            serde_json::json!({"base": {"x": 1, "y": 2}, "use": {"y": 3, "x": 1}, "text": "12"})
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_line() {
        for (text, line, part) in [
            (
                "a: 1\nb: 2\na: 3\n",
                3,
                "`a` is here twice: first on line 1",
            ),
            ("a: [1\n", 2, "no YAML"),
            ("a:\n  ? [x]\n  : 1\n", 2, "a key must be text"),
            ("a: !!binary xx\n", 1, "unknown"),
            ("<<: 1\n", 1, "`<<` takes mappings only"),
            ("a: *nowhere\n", 1, "no YAML"),
        ] {
            let error = compose(text).unwrap_err();
            assert!(
                error.message.contains(part) && error.line == line,
                "{text:?}: {error:?}"
            );
        }
    }

    #[test]
    fn bombs_are_refused() {
        let deep = "[".repeat(5_000);
        assert!(compose(&deep).is_err());
        let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let alias = format!("*a{}", level - 1);
            laughs.push_str(&format!(
                "a{level}: &a{level} [{}]\n",
                [alias.as_str(); 10].join(", ")
            ));
        }
        let error = compose(&laughs).unwrap_err();
        assert!(error.message.contains("aliases"), "{error:?}");
    }

    /// Would fail if few values could take as much memory as a long one that they repeat, or each level that has a name kept it.
    #[test]
    fn large_bombs_are_refused() {
        let long = "x".repeat(1 << 20);
        let key = format!("- &a {{{}: 1}}\n", "x".repeat(1000));
        for (first, repeated) in [
            (format!("- &a {long}\n"), "- *a\n".repeat(100)),
            (key, "- *a\n".repeat(40_000)),
            (
                format!("- {}{long}{}\n", "&a [".repeat(60), "]".repeat(60)),
                String::new(),
            ),
            (
                format!(
                    "- {}{}{}\n",
                    "&a [".repeat(60),
                    "{},".repeat(10_000),
                    "]".repeat(60)
                ),
                String::new(),
            ),
        ] {
            let error = compose(&format!("{first}{repeated}")).unwrap_err();
            assert_eq!(error.message, TOO_MUCH);
        }
        let usual = format!("- &a {long}\n{}", "- *a\n".repeat(10));
        assert_eq!(compose(&usual).unwrap().len(), 1);
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in "[ -~\n\t€]{0,200}") {
            let _ = compose(&text);
        }

        #[test]
        fn no_yaml_like_text_panics(text in proptest::collection::vec("(a|b|: |- |\n|  |\\[|\\]|\\{|\\}|,|&x |\\*x|<<|'|\"|\\||>|!!str |---\n|\\?|#)", 0..60)) {
            let _ = compose(&text.concat());
        }
    }
}

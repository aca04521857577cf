//! YAML as a tree that knows its lines.
//!
//! Plain scalars mean what they mean to kubectl (`sigs.k8s.io/yaml`): YAML 1.1's `yes` and `off` are booleans, too.

mod compose;
mod scalar;

pub(crate) use compose::compose;

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    /// Counted from 1.
    pub(crate) line: usize,
}

/// A YAML value as far as JSON has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    String(String),
    Sequence(Vec<Node>),
    /// In the order of the text, no key twice.
    Mapping(Vec<Entry>),
}

/// One key of a mapping with its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// The key's line.
    pub(crate) line: usize,
    pub(crate) node: Node,
}

impl Node {
    /// The value under `key` of a mapping.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entries()
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.node)
    }

    /// A mapping's entries; none of anything else.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Mapping(entries) => entries,
            _ => &[],
        }
    }

    /// A string's text.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The same without lines.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(number) => number.clone().into(),
            Value::String(text) => text.as_str().into(),
            Value::Sequence(items) => items.iter().map(Node::to_json).collect(),
            Value::Mapping(entries) => entries
                .iter()
                .map(|entry| (entry.key.clone(), entry.node.to_json()))
                .collect(),
        }
    }

    /// What it is without what it holds: "a text", "a list".
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }

    /// What it is, for a sentence: "the text `abc`", "a list".
    pub(crate) fn describe(&self) -> String {
        const LONGEST: usize = 60;
        match &self.value {
            Value::Null | Value::Sequence(_) | Value::Mapping(_) => self.kind().to_owned(),
            Value::Bool(value) => format!("the boolean {value}"),
            Value::Number(number) => format!("the number {number}"),
            Value::String(text) if text.chars().count() > LONGEST => {
                format!(
                    "the text `{}…`",
                    text.chars().take(LONGEST).collect::<String>()
                )
            }
            Value::String(text) => format!("the text `{text}`"),
        }
    }
}

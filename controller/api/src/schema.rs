//! Whether a document has the shape its schema demands: every mistake at once, each with its line.

use serde_json::Value as Json;

use crate::mistake::{Mistake, listed, nearest};
use crate::yaml::{Node, Value};
use crate::{duration, quantity};

/// Appends what is wrong with `node`, found at `path`, to `mistakes`. `schema` is a structural schema as a
/// CustomResourceDefinition has it. What only patterns and rules say is left to [`crate::Function::validate`].
pub(crate) fn check(node: &Node, schema: &Json, path: &str, mistakes: &mut Vec<Mistake>) {
    let mut wrong = |message: String| mistakes.push(Mistake::at(node.line, path, message));
    if node.value == Value::Null {
        return; // As good as absent; the mapping around it asks for what is required.
    }
    if schema.get("x-kubernetes-int-or-string").is_some() {
        return match int_or_string(node, schema) {
            Ok(()) => {}
            Err(message) => wrong(message),
        };
    }
    if let Some(allowed) = schema.get("enum").and_then(Json::as_array) {
        let allowed: Vec<&str> = allowed.iter().filter_map(Json::as_str).collect();
        match node.as_str() {
            Some(text) if allowed.contains(&text) => {}
            Some(text) => {
                let hint = nearest(text, allowed.iter().copied())
                    .map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                wrong(format!(
                    "`{text}` is not allowed: expected {}{hint}",
                    listed(allowed, "or")
                ));
            }
            None => wrong(format!(
                "expected {}, found {}",
                listed(allowed, "or"),
                node.describe()
            )),
        }
        return;
    }
    match (schema.get("type").and_then(Json::as_str), &node.value) {
        (Some("object"), Value::Mapping(_)) => mapping(node, schema, path, mistakes),
        (Some("array"), Value::Sequence(items)) => {
            if let Some(message) = length(items.len(), schema, ["minItems", "maxItems"], "entries")
            {
                wrong(message);
            }
            if let Some(schema) = schema.get("items") {
                for (index, item) in items.iter().enumerate() {
                    let path = format!("{path}[{index}]");
                    if item.value == Value::Null {
                        mistakes.push(Mistake::at(item.line, path, "an entry without content"));
                    } else {
                        check(item, schema, &path, mistakes);
                    }
                }
            }
        }
        (Some("string"), Value::String(text)) => {
            let message = length(
                text.chars().count(),
                schema,
                ["minLength", "maxLength"],
                "characters",
            );
            let is_duration =
                schema.get("pattern").and_then(Json::as_str) == Some(duration::PATTERN);
            let parsed = if is_duration {
                text.parse::<duration::Duration>()
                    .err()
                    .map(|error| error.to_string())
            } else {
                None
            };
            if let Some(message) = parsed.or(message) {
                wrong(message);
            }
        }
        (Some("integer"), Value::Number(number)) => match number.as_i64() {
            Some(value) => {
                if let Some(message) = range(value, schema) {
                    wrong(message);
                }
            }
            None => wrong(format!(
                "{number} is no whole number that fits: expected {}",
                expected_range(schema)
            )),
        },
        (Some("number"), Value::Number(_)) | (Some("boolean"), Value::Bool(_)) | (None, _) => {}
        (Some(expected), _) => wrong(wrong_type(expected, node, schema)),
    }
}

fn mapping(node: &Node, schema: &Json, path: &str, mistakes: &mut Vec<Mistake>) {
    let properties = schema.get("properties").and_then(Json::as_object);
    let additional = schema.get("additionalProperties");
    let bounds = ["minProperties", "maxProperties"];
    if let Some(message) = length(node.entries().len(), schema, bounds, "entries") {
        mistakes.push(Mistake::at(node.line, path, message));
    }
    let open = schema.get("x-kubernetes-preserve-unknown-fields").is_some()
        || (properties.is_none() && additional.is_none());
    for entry in node.entries() {
        let path = join(path, &entry.key);
        if let Some(schema) = properties.and_then(|properties| properties.get(&entry.key)) {
            check(&entry.node, schema, &path, mistakes);
        } else if let Some(schema) = additional {
            check(&entry.node, schema, &path, mistakes);
        } else if !open {
            let known = || {
                properties
                    .into_iter()
                    .flat_map(|properties| properties.keys())
                    .map(String::as_str)
            };
            let hint = match nearest(&entry.key, known()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", listed(known(), "and")),
            };
            mistakes.push(Mistake::at(
                entry.line,
                path,
                format!("unknown field; {hint}"),
            ));
        }
    }
    for required in schema
        .get("required")
        .and_then(Json::as_array)
        .into_iter()
        .flatten()
        .filter_map(Json::as_str)
    {
        if node
            .get(required)
            .is_none_or(|node| node.value == Value::Null)
        {
            mistakes.push(Mistake::at(
                node.line,
                join(path, required),
                "required, but missing",
            ));
        }
    }
}

fn int_or_string(node: &Node, schema: &Json) -> Result<(), String> {
    let text = match &node.value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => {
            return Err(format!(
                "expected a number, or text such as `64Mi`, found {}",
                node.describe()
            ));
        }
    };
    if schema.get("pattern").and_then(Json::as_str) == Some(quantity::PATTERN) {
        text.parse::<quantity::Bytes>()
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

fn length(actual: usize, schema: &Json, [min, max]: [&str; 2], unit: &str) -> Option<String> {
    let bound = |name: &str| {
        schema
            .get(name)
            .and_then(Json::as_u64)
            .and_then(|bound| usize::try_from(bound).ok())
    };
    let (min, max) = (bound(min).unwrap_or(0), bound(max));
    if actual < min {
        Some(if actual == 0 {
            "must not be empty".to_owned()
        } else {
            format!("{actual} {unit}: at least {min} are needed")
        })
    } else {
        max.filter(|max| actual > *max)
            .map(|max| format!("{actual} {unit}: at most {max} are allowed"))
    }
}

fn bounds(schema: &Json) -> (i64, i64) {
    let bound = |name: &str| schema.get(name).and_then(Json::as_f64);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "bounds are small whole numbers of our own schema; larger ones saturate"
    )]
    let bound = |name: &str, default: i64| bound(name).map_or(default, |bound| bound as i64);
    let (least, most) = match schema.get("format").and_then(Json::as_str) {
        Some("int32") => (i64::from(i32::MIN), i64::from(i32::MAX)),
        _ => (i64::MIN, i64::MAX),
    };
    (bound("minimum", least), bound("maximum", most))
}

fn range(value: i64, schema: &Json) -> Option<String> {
    let (min, max) = bounds(schema);
    (value < min || value > max).then(|| {
        format!(
            "{value} is out of range: expected {}",
            expected_range(schema)
        )
    })
}

fn expected_range(schema: &Json) -> String {
    let (min, max) = bounds(schema);
    if schema.get("minimum").is_some() || schema.get("maximum").is_some() {
        format!("{min} to {max}")
    } else {
        "a whole number".to_owned()
    }
}

fn wrong_type(expected: &str, node: &Node, schema: &Json) -> String {
    let what = match expected {
        "object" => "a mapping".to_owned(),
        "array" => "a list".to_owned(),
        "boolean" => "true or false".to_owned(),
        "integer" if schema.get("maximum").is_some() => {
            format!("a whole number, {}", expected_range(schema))
        }
        "integer" => "a whole number".to_owned(),
        "string" if schema.get("pattern").and_then(Json::as_str) == Some(duration::PATTERN) => {
            "a duration such as `10s`".to_owned()
        }
        "string" => "text".to_owned(),
        other => other.to_owned(),
    };
    let hint = match &node.value {
        Value::Number(_) | Value::Bool(_) if what == "text" => "; put it in quotes",
        _ => "",
    };
    let is_secret = schema.get("format").and_then(Json::as_str) == Some("password");
    let found = if is_secret {
        node.kind().to_owned()
    } else {
        node.describe()
    };
    format!("expected {what}, found {found}{hint}")
}

/// The path of `key` below `path`.
pub(crate) fn join(path: &str, key: &str) -> String {
    let simple = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    match (path.is_empty(), simple) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (_, false) => format!("{path}[{key:?}]"),
    }
}

/// The line of the field at `path` in `root`, or of the nearest thing around it.
pub(crate) fn locate(root: &Node, path: &str) -> usize {
    let (mut node, mut line) = (root, root.line);
    for segment in path.split(['.', '[']) {
        let index = segment
            .strip_suffix(']')
            .and_then(|index| index.parse::<usize>().ok());
        let found = match (&node.value, index) {
            (Value::Sequence(items), Some(index)) => items.get(index).map(|item| (item, item.line)),
            _ => node
                .entries()
                .iter()
                .find(|entry| entry.key == segment)
                .map(|entry| (&entry.node, entry.line)),
        };
        match found {
            Some((next, at)) => (node, line) = (next, at),
            None => break,
        }
    }
    line
}

//! What is asked for: OpenAI's fields, as far as they change the answer. `model` and `user`, which its clients send, don't.

use serde_json::Value;
use wisp::Error;

use crate::{MAX_INPUTS, WIDTH};

/// A request that can be answered.
#[derive(Debug)]
pub(crate) struct Ask {
    /// 1 to `MAX_INPUTS` texts, none of them empty.
    pub(crate) texts: Vec<String>,
    pub(crate) encoding: Encoding,
}

/// How a vector is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Float,
    Base64,
}

impl Ask {
    /// # Errors
    /// A 400 that names the field, what it holds and what is allowed.
    pub(crate) fn new(body: Value) -> Result<Self, Error> {
        let Value::Object(mut fields) = body else {
            return Err(Error::bad_request(format!(
                "the body is {}; expected an object with `input`",
                kind(&body)
            )));
        };
        // An absent field and null are the same to OpenAI's clients.
        let mut take = |name| fields.remove(name).unwrap_or_default();
        check_dimensions(&take("dimensions"))?;
        Ok(Self {
            encoding: encoding(&take("encoding_format"))?,
            texts: texts(take("input"))?,
        })
    }
}

fn texts(input: Value) -> Result<Vec<String>, Error> {
    let texts = match input {
        Value::Null => {
            return Err(Error::bad_request(format!(
                "`input` is missing; expected a text, or an array of 1 to {MAX_INPUTS} texts"
            )));
        }
        Value::Array(items) => {
            if !(1..=MAX_INPUTS).contains(&items.len()) {
                return Err(Error::bad_request(format!(
                    "`input` holds {} texts, allowed are 1 to {MAX_INPUTS}",
                    items.len()
                )));
            }
            let items = items.into_iter().enumerate();
            items
                .map(|(at, item)| text(&format!("input[{at}]"), item))
                .collect::<Result<_, _>>()?
        }
        one => vec![text("input", one)?],
    };
    Ok(texts)
}

fn text(field: &str, value: Value) -> Result<String, Error> {
    let hint = match value {
        Value::String(text) if text.is_empty() => {
            return Err(Error::bad_request(format!(
                "`{field}` is an empty text; expected at least one character"
            )));
        }
        Value::String(text) => return Ok(text),
        // OpenAI's own models take these too.
        Value::Number(_) => ", since token ids are not taken",
        _ => "",
    };
    Err(Error::bad_request(format!(
        "`{field}` is {}; expected a text{hint}",
        kind(&value)
    )))
}

fn encoding(value: &Value) -> Result<Encoding, Error> {
    match value {
        Value::Null => Ok(Encoding::Float),
        Value::String(name) if name == "float" => Ok(Encoding::Float),
        Value::String(name) if name == "base64" => Ok(Encoding::Base64),
        other => Err(Error::bad_request(format!(
            "`encoding_format` is {}; allowed are \"float\" and \"base64\"",
            shown(other)
        ))),
    }
}

fn check_dimensions(value: &Value) -> Result<(), Error> {
    if value.is_null() || value.as_u64() == u64::try_from(WIDTH).ok() {
        return Ok(());
    }
    Err(Error::bad_request(format!(
        "`dimensions` is {}; allowed is only {WIDTH}, which is what the model has",
        shown(value)
    )))
}

/// A value as the client wrote it, where that is short.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.len() > 40 {
        kind(value).to_owned()
    } else {
        text
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn takes_what_openais_clients_send() {
        let ask = Ask::new(json!({"input": "a", "model": "x", "user": "y"})).unwrap();
        assert_eq!(
            (ask.texts, ask.encoding),
            (vec!["a".into()], Encoding::Float)
        );
        let body = json!({"input": ["a", " "], "dimensions": 384, "encoding_format": "base64"});
        let ask = Ask::new(body).unwrap();
        assert_eq!((ask.texts.len(), ask.encoding), (2, Encoding::Base64));
        let ask = Ask::new(json!({"input": "a", "dimensions": null, "encoding_format": null}));
        assert_eq!(ask.unwrap().encoding, Encoding::Float);
    }

    #[test]
    fn says_which_field_holds_what_and_what_is_allowed() {
        for (body, detail) in [
            (
                json!([1]),
                "the body is an array; expected an object with `input`",
            ),
            (
                json!({"text": "x"}),
                "`input` is missing; expected a text, or an array of 1 to 64 texts",
            ),
            (
                json!({"input": [1, 2, 3]}),
                "`input[0]` is a number; expected a text, since token ids are not taken",
            ),
            (
                json!({"input": ["x", ["y"]]}),
                "`input[1]` is an array; expected a text",
            ),
            (
                json!({"input": ""}),
                "`input` is an empty text; expected at least one character",
            ),
            (
                json!({"input": ["x", ""]}),
                "`input[1]` is an empty text; expected at least one character",
            ),
            (
                json!({"input": "x", "dimensions": 256}),
                "`dimensions` is 256; allowed is only 384, which is what the model has",
            ),
            (
                json!({"input": "x", "encoding_format": "int8"}),
                "`encoding_format` is \"int8\"; allowed are \"float\" and \"base64\"",
            ),
        ] {
            let error = Ask::new(body).unwrap_err();
            assert_eq!((error.status().as_u16(), error.detail()), (400, detail));
        }
    }
}

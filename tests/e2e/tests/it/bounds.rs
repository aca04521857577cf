//! The bounds of every field, as the API server holds to them.
//!
//! The cases are made from the schema itself, so that a field that is new has its cases, too.

use anyhow::{Result, ensure};
use serde_json::{Map, Value, json};
use wisp_e2e::{Api, NAMESPACE, Verdict, installed};

use crate::rules::schema;

/// Kubernetes' own types: it checks what is in them when pods are made.
const FOREIGN: [&str; 4] = [
    "spec.pod.affinity",
    "spec.pod.resources",
    "spec.pod.tolerations",
    "spec.pod.topologySpreadConstraints",
];

/// A step from an object to what is in it.
#[derive(Clone, Copy)]
enum Step<'a> {
    Field(&'a str),
    Item,
    Entry,
}

/// A spec with one thing wrong.
struct Case {
    spec: Value,
    /// The field that the API server must name.
    field: String,
    /// What it must say of it.
    said: String,
}

impl Case {
    fn is_told(&self, verdict: &Verdict) -> bool {
        if self.field.is_empty() {
            return verdict.status == 400 && verdict.message.contains(&self.said);
        }
        let mut causes = verdict.causes.iter();
        verdict.status == 422
            && causes.any(|(field, message)| *field == self.field && message.contains(&self.said))
    }
}

struct Cases<'a> {
    spec: &'a Value,
    cases: Vec<Case>,
}

impl<'a> Cases<'a> {
    /// Adds the cases of all that is in `schema`, which is found by `steps`.
    fn walk(&mut self, schema: &'a Value, steps: &[Step<'a>]) {
        let field = field(steps);
        self.of_type(schema, steps, &field);
        self.of_bounds(schema, steps, &field);
        if FOREIGN.contains(&field.as_str()) {
            return;
        }
        let with = |step| [steps, &[step]].concat();
        if let Some(properties) = schema["properties"].as_object() {
            for (name, property) in properties {
                self.walk(property, &with(Step::Field(name)));
            }
            let mut unknown = sample(schema, 0);
            unknown["surprise"] = json!(1);
            let said = format!("unknown field \"{field}.surprise\"");
            self.add(steps, unknown, String::new(), said);
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            let mut without = sample(schema, 0);
            without.as_object_mut().map(|object| object.remove(name));
            let missing = format!("{field}.{name}");
            self.add(steps, without, missing, "Required value".to_owned());
        }
        if schema["items"].is_object() {
            self.walk(&schema["items"], &with(Step::Item));
        }
        if schema["additionalProperties"].is_object() {
            self.walk(&schema["additionalProperties"], &with(Step::Entry));
        }
    }

    fn of_type(&mut self, schema: &'a Value, steps: &[Step<'a>], field: &str) {
        if schema["x-kubernetes-int-or-string"] == true {
            let said = "must be of type integer,string".to_owned();
            self.add(steps, json!(true), field.to_owned(), said);
            return;
        }
        let Some(kind) = schema["type"].as_str() else {
            return;
        };
        let others = [json!("text"), json!(5), json!([]), json!({})];
        for other in others {
            let is_same = match kind {
                "string" => other.is_string(),
                "integer" | "number" => other.is_number(),
                "array" => other.is_array(),
                "object" => other.is_object(),
                _ => false,
            };
            if !is_same {
                // Of an object it says `int32`, else `integer`.
                let said = format!("must be of type {}", kind.trim_end_matches("eger"));
                self.add(steps, other, field.to_owned(), said);
            }
        }
    }

    fn of_bounds(&mut self, schema: &'a Value, steps: &[Step<'a>], field: &str) {
        let mut add = |wrong: Value, said: String| self.add(steps, wrong, field.to_owned(), said);
        let number = |key: &str| {
            #[expect(clippy::cast_possible_truncation, reason = "they are whole numbers")]
            let whole = |value: f64| value as i64;
            schema[key].as_i64().or(schema[key].as_f64().map(whole))
        };
        if let Some(most) = number("maximum") {
            add(json!(most + 1), format!("less than or equal to {most}"));
            add(json!(i64::MAX), format!("less than or equal to {most}"));
        }
        if let Some(least) = number("minimum") {
            add(
                json!(least - 1),
                format!("greater than or equal to {least}"),
            );
            add(json!(i64::MIN), format!("greater than or equal to {least}"));
        }
        if let Some(most) = number("maxLength") {
            let long = "a".repeat(usize::try_from(most).unwrap_or(0) + 1);
            add(json!(long), format!("{most} "));
        }
        if number("minLength").is_some_and(|least| least > 0) {
            add(json!(""), format!("at least {} chars", schema["minLength"]));
        }
        if let Some(pattern) = schema["pattern"].as_str() {
            for wrong in ["!", "\n", "é", "-"] {
                // `-` alone is a name that variables may have.
                if !(wrong == "-" && pattern.starts_with("^[-")) {
                    let least = number("minLength").and_then(|least| usize::try_from(least).ok());
                    let wrong = wrong.repeat(least.unwrap_or(1));
                    add(json!(wrong), format!("should match '{pattern}'"));
                }
            }
        }
        for allowed in schema["enum"].as_array().into_iter().flatten() {
            add(
                json!("other"),
                format!("supported values: {}", schema["enum"][0]),
            );
            add(json!("OTHER"), allowed.to_string());
        }
        let items = &schema["items"];
        if let Some(most) = number("maxItems") {
            let many: Vec<Value> = (0..=most).map(|index| sample(items, index)).collect();
            add(json!(many), format!("at most {most} items"));
        }
        if schema["x-kubernetes-list-type"].is_string() {
            let twice = json!([sample(items, 0), sample(items, 0)]);
            let second = format!("{field}[1]");
            self.add(steps, twice, second, "Duplicate value".to_owned());
        }
    }

    fn add(&mut self, steps: &[Step<'a>], wrong: Value, field: String, said: String) {
        let mut spec = build(self.spec, steps, wrong);
        let is_elsewhere = !matches!(steps.first(), None | Some(Step::Field("component")));
        if is_elsewhere
            && self.spec["properties"]["component"].is_object()
            && let Some(spec) = spec.as_object_mut()
        {
            spec.insert("component".to_owned(), json!({"image": "r/x:1"}));
        }
        self.cases.push(Case { spec, field, said });
    }
}

/// How the API server writes where something is.
fn field(steps: &[Step<'_>]) -> String {
    let mut field = "spec".to_owned();
    for step in steps {
        match step {
            Step::Field(name) => field = format!("{field}.{name}"),
            Step::Item => field.push_str("[0]"),
            Step::Entry => field.push_str(".a"),
        }
    }
    field
}

/// The least that `schema` admits, with `number` in its names.
fn sample(schema: &Value, number: i64) -> Value {
    match schema["type"].as_str() {
        Some("object") => {
            let required = schema["required"].as_array().into_iter().flatten();
            let fields = required.filter_map(Value::as_str);
            fields
                .map(|name| (name.to_owned(), sample(&schema["properties"][name], number)))
                .collect::<Map<_, _>>()
                .into()
        }
        Some("array") => json!([]),
        Some("integer") => json!(1),
        Some("boolean") => json!(true),
        _ if schema["pattern"]
            .as_str()
            .is_some_and(|it| it.contains("https?")) =>
        {
            json!(format!("https://a{number}"))
        }
        _ => json!(format!("a{number}")),
    }
}

/// A value of `schema` with `wrong` in the place that `steps` lead to.
fn build(schema: &Value, steps: &[Step<'_>], wrong: Value) -> Value {
    let Some((first, rest)) = steps.split_first() else {
        return wrong;
    };
    match first {
        Step::Field(name) => {
            let mut object = sample(schema, 0);
            object[*name] = build(&schema["properties"][*name], rest, wrong);
            object
        }
        Step::Item => json!([build(&schema["items"], rest, wrong)]),
        Step::Entry => json!({"a": build(&schema["additionalProperties"], rest, wrong)}),
    }
}

/// Would fail if a bound of the schema weren't held to, or its sentence named neither the field nor the bound.
#[tokio::test(flavor = "multi_thread")]
async fn every_bound_of_every_field_is_held_to_and_told() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let api = Api::open(wisp.cluster())?;
    let mut wrong = Vec::new();
    for (file, kind, least) in [
        ("function", "Function", 300),
        ("runtimepool", "RuntimePool", 40),
    ] {
        let schema = schema(wisp, file)?;
        let spec = &schema["properties"]["spec"];
        let mut all = Cases {
            spec,
            cases: Vec::new(),
        };
        all.walk(spec, &[]);
        ensure!(all.cases.len() > least, "{} cases", all.cases.len());
        for case in all.cases {
            let manifest = json!({
                "apiVersion": "wisp.dev/v1alpha1", "kind": kind,
                "metadata": {"name": "wrong"}, "spec": case.spec,
            });
            let verdict = api
                .judge(NAMESPACE, &format!("{file}s"), manifest.to_string())
                .await?;
            if !case.is_told(&verdict) {
                let spec: String = case.spec.to_string().chars().take(300).collect();
                wrong.push(format!(
                    "{spec}\n{}: {}\n→ {verdict:?}",
                    case.field, case.said
                ));
            }
        }
    }
    ensure!(
        wrong.is_empty(),
        "{} cases:\n{}",
        wrong.len(),
        wrong.join("\n\n")
    );
    Ok(())
}

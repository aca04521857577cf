use serde_json::{Value, json};

use super::*;

const KEY: &str = include_str!("../../../artifacts/tests/cosign/cosign.pub");
const OTHER: &str = include_str!("../../../artifacts/tests/cosign/other.pub");

fn read(policy: &Value) -> Result<Policy, String> {
    let environment = |name: &str| (name == "WISP_SIGNATURE_KEY_1_0").then(|| OTHER.to_owned());
    Policy::read(&policy.to_string(), environment).map_err(|error| error.to_string())
}

fn image(policy: &Policy, namespace: &str, image: &str) -> String {
    match policy.image(namespace, &image.parse().unwrap()) {
        Verdict::Allowed => "allowed".to_owned(),
        Verdict::Refused(why) => why,
        Verdict::Signed(demands) => {
            let names = demands
                .iter()
                .map(|(by, keys)| format!("{by}: {}", keys.len()));
            names.collect::<Vec<_>>().join(", ")
        }
    }
}

fn other(policy: &Policy, namespace: &str) -> String {
    match policy.other(namespace, "a URL") {
        Verdict::Refused(why) => why,
        verdict => format!("{verdict:?}"),
    }
}

/// Would fail if an image got around a rule that is for it, or one were asked for what no rule says.
#[test]
fn every_rule_that_is_for_an_image_is_to_be_satisfied() {
    let policy = read(&json!({"rules": [
        {"name": "ours", "images": [{"glob": "r.io/vision/*"}], "authorities": [{"key": {"data": KEY}}, {"key": {"data": OTHER}}]},
        {"name": "team", "images": [{"glob": "**"}], "namespaces": ["team-*"],
         "authorities": [{"key": {"secretRef": {"name": "cosign", "key": "cosign.pub"}}}]},
        {"name": "bad", "images": [{"glob": "r.io/bad/**"}], "authorities": [{"static": {"action": "fail"}}]},
        {"name": "free", "images": [{"glob": "r.io/free"}], "authorities": [{"static": {"action": "pass"}}, {"key": {"data": KEY}}]},
    ]}))
    .unwrap();
    let ours = "the rule `ours` of the signature policy: 2";
    let team = "the rule `team` of the signature policy: 1";
    for (namespace, name, expected) in [
        ("a", "r.io/vision/digits:1", ours.to_owned()),
        ("a", "R.io/vision/digits", ours.to_owned()),
        ("a", "r.io/vision/deep/digits:1", "allowed".to_owned()),
        ("team-a", "r.io/vision/digits:1", format!("{ours}, {team}")),
        ("team-a", "else.io/x", team.to_owned()),
        ("team-a", "r.io/free", team.to_owned()),
        ("a", "r.io/free", "allowed".to_owned()),
        ("a", "else.io/x", "allowed".to_owned()),
        (
            "a",
            "r.io/bad/x/y:1",
            "the rule `bad` of the signature policy refuses r.io/bad/x/y".to_owned(),
        ),
    ] {
        assert_eq!(
            image(&policy, namespace, name),
            expected,
            "{namespace} {name}"
        );
    }
    assert!(!policy.is_empty());
    assert_eq!(other(&policy, "team-a"), "Allowed");
}

/// Would fail if what no rule is for were let pass where everything else is refused.
#[test]
fn the_default_is_for_what_no_rule_is_for() {
    let policy = read(&json!({"default": "deny", "rules": [
        {"name": "ours", "images": [{"glob": "r.io/**"}], "authorities": [{"key": {"data": KEY}}]},
        {"name": "maps", "namespaces": ["tools"], "otherSources": "allow"},
        {"name": "none", "namespaces": ["prod", "tools-2"], "otherSources": "deny"},
    ]}))
    .unwrap();
    assert!(image(&policy, "a", "r.io/x").starts_with("the rule `ours`"));
    let text = image(&policy, "a", "else.io/x");
    assert!(
        text.contains("no rule") && text.contains("else.io/x") && text.contains("`a`"),
        "{text}"
    );
    assert_eq!(other(&policy, "tools"), "Allowed");
    let text = other(&policy, "prod");
    assert!(
        text.contains("the rule `none`") && text.contains("a URL"),
        "{text}"
    );
    assert!(other(&policy, "a").starts_with("the signature policy refuses a URL"));

    let nothing = Policy::default();
    assert!(nothing.is_empty());
    assert_eq!(read(&json!({})), Ok(nothing));
}

/// Would fail if a mistake made a rule that is for nothing, or had to be found one by one.
#[test]
fn every_mistake_is_told_at_once() {
    let text = read(&json!({"rules": [
        {"name": "a", "images": [{"glob": "r.io/a:1"}, {"glob": "library/nginx"}, {"glob": "r.io"}, {"glob": "R.io/a"}],
         "authorities": [{"key": {"data": "none"}}, {"key": {"configMapRef": {"name": "keys"}}}]},
        {"name": "b", "namespaces": ["a/b"]},
        {"name": "c", "images": [{"glob": "**"}]},
    ]}))
    .unwrap_err();
    insta::assert_snapshot!(text, @r"
    rules[0] `a`: images[0].glob: expected a registry and a repository, without tag and digest
    rules[0] `a`: images[1].glob: expected the registry first, such as `docker.io/library/nginx`, or `**` for all
    rules[0] `a`: images[2].glob: it matches no repository: expected `r.io/**` for all of a registry
    rules[0] `a`: images[3].glob: no name has a 'R'
    rules[0] `a`: authorities[0].key: expected `-----BEGIN PUBLIC KEY-----` and what follows, as cosign.pub has it
    rules[0] `a`: authorities[1].key: `keys`: the variable WISP_SIGNATURE_KEY_0_1 isn't set
    rules[1] `b`: it is for nothing: expected images or otherSources
    rules[1] `b`: namespaces[0]: no name has a '/'
    rules[2] `c`: images and authorities belong together
    ");
    for wrong in [
        json!({"rule": []}),
        json!({"default": "refuse"}),
        json!({"rules": [{"name": "a", "images": ["r.io/**"]}]}),
        json!({"rules": [{"name": "a", "images": [{"glob": "**"}], "authorities": [{"key": {"kms": "x"}}]}]}),
    ] {
        assert!(read(&wrong).is_err(), "{wrong}");
    }
}

/// Would fail if a pattern matched more or less than it says.
#[test]
fn patterns_match_as_people_know_them() {
    for (glob, matches, others) in [
        (
            "r.io/a",
            &["r.io/a"][..],
            &["r.io/ab", "r.io/a/b", "xr.io/a", "r.io/"][..],
        ),
        ("r.io/*", &["r.io/a", "r.io/abc"], &["r.io/a/b", "r.io"]),
        ("r.io/**", &["r.io/a", "r.io/a/b"], &["q.io/a", "r.iox/a"]),
        ("r.io/*/b", &["r.io/a/b"], &["r.io/a/a/b", "r.io/a/bc"]),
        (
            "r.io/**/b",
            &["r.io/a/b", "r.io/a/a/b", "r.io/b/b/b"],
            &["r.io/b", "r.io/a/c"],
        ),
        (
            "r.io/a*c*e",
            &["r.io/ace", "r.io/abcde", "r.io/acece"],
            &["r.io/ac/e", "r.io/aced"],
        ),
        (
            "*.r.io:5000/a",
            &["x.r.io:5000/a"],
            &["x.r.io/a", "r.io:5000/a"],
        ),
        ("**", &["r.io/a", "docker.io/library/a"], &[]),
        ("**a*", &["r.io/a", "r.io/b/ab"], &["r.io/b", "r.io/a/b"]),
    ] {
        let glob = Glob::of_images(glob).unwrap();
        for name in matches {
            assert!(glob.matches(name), "{glob:?} {name}");
        }
        for name in others {
            assert!(!glob.matches(name), "{glob:?} {name}");
        }
    }
}

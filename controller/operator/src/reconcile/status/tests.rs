use serde_json::json;
use wisp_contract::problem::Fault;

use super::super::hosts::Owner;
use super::*;
use crate::resolve::ResolveError;

fn function(status: Option<FunctionStatus>) -> Function {
    let mut function: Function = serde_json::from_value(json!({
        "apiVersion": "wisp.dev/v1alpha1", "kind": "Function",
        "metadata": {"name": "f", "namespace": "n", "generation": 3}, "spec": {"component": {"image": "i"}},
    }))
    .unwrap();
    function.status = status;
    function
}

fn plan(latest: &str, serving: &str) -> Plan {
    Plan {
        latest: latest.into(),
        serving: serving.into(),
        scaled_at: None,
    }
}

fn at(second: i64) -> Time {
    Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap())
}

fn counts<const N: usize>(of: [(&str, u32); N]) -> BTreeMap<String, u32> {
    of.map(|(revision, count)| (revision.to_owned(), count))
        .into()
}

fn observed<'a>(function: &'a Function, plan: &'a Plan) -> Observed<'a> {
    Observed {
        function,
        resolved: Some(Ok(())),
        stage: Stage::default(),
        not_applied: None,
        plan: Some(plan),
        desired: 0,
        alive: BTreeMap::new(),
        ready: BTreeMap::new(),
        trouble: None,
        records: &[],
        hosts: Vec::new(),
        hosts_taken: &[],
        service: Some(ServiceName::Held),
        url: "http://g/n/f/".into(),
        device: None,
        now: at(100),
    }
}

fn failed(message: &str) -> Trouble {
    Trouble {
        reason: "StartFailed",
        message: message.into(),
        fault: Fault::Function,
        is_final: true,
        since: None,
    }
}

/// `status reason` of a condition.
fn told(status: &FunctionStatus, kind: &str) -> String {
    let found = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == kind)
        .unwrap();
    format!("{} {}", found.status, found.reason)
}

#[test]
fn a_function_is_ready_when_it_can_answer() {
    let mut function = function(None);
    let plan = plan("a", "a");
    let base = observed(&function, &plan);
    let cases = [
        (
            Observed {
                resolved: None,
                ..base.clone()
            },
            "Unknown Resolving",
        ),
        (
            Observed {
                plan: None,
                ..base.clone()
            },
            "Unknown Applying",
        ),
        (base.clone(), "True Sleeping"),
        (
            Observed {
                desired: 1,
                alive: counts([("a", 1)]),
                ..base.clone()
            },
            "True Waking",
        ),
        (
            Observed {
                desired: 1,
                ready: counts([("a", 1)]),
                ..base.clone()
            },
            "True Serving",
        ),
        (
            Observed {
                desired: 1,
                trouble: Some(failed("x")),
                ..base.clone()
            },
            "False StartFailed",
        ),
        // One replica of several is in trouble.
        (
            Observed {
                desired: 2,
                ready: counts([("a", 1)]),
                trouble: Some(failed("x")),
                ..base.clone()
            },
            "True Serving",
        ),
        (
            Observed {
                not_applied: Some("quota".into()),
                ..base
            },
            "False NotApplied",
        ),
    ];
    for (observed, expected) in cases {
        assert_eq!(told(&status(&observed), "Ready"), expected);
    }
    function.spec.scaling.min_replicas = 1;
    let observed = Observed {
        desired: 1,
        ..observed(&function, &plan)
    };
    assert_eq!(told(&status(&observed), "Ready"), "Unknown Starting");
}

/// Would fail if nobody learned why a function stays slow that has fewer replicas than its load wants, or were told it again
/// with each pod that is tried.
#[test]
fn what_keeps_a_function_from_growing_is_told_once() {
    let (first, plan) = (function(None), plan("a", "a"));
    let refused = Trouble {
        reason: "PodsRefused",
        fault: Fault::Platform,
        ..failed("exceeded quota")
    };
    let base = |function, trouble: Option<&Trouble>, ready| Observed {
        desired: 10,
        ready: counts([("a", ready)]),
        trouble: trouble.cloned(),
        ..observed(function, &plan)
    };
    let scaled = |status: &FunctionStatus| {
        let mut all = status.conditions.iter();
        all.any(|one| one.type_ == "Scaled")
            .then(|| told(status, "Scaled"))
    };
    // Its pods are on their way.
    assert_eq!(scaled(&status(&base(&first, None, 1))), None);
    let short = status(&base(&first, Some(&refused), 1));
    assert_eq!(told(&short, "Ready"), "True Serving");
    let messages = short.conditions[2..4].iter().map(|one| &*one.message);
    let expected = "1 of 10 replicas serve; exceeded quota";
    assert_eq!(messages.collect::<Vec<_>>(), [expected; 2]);
    assert_eq!(scaled(&short).as_deref(), Some("False PodsRefused"));

    let then = function(Some(short.clone()));
    let between = status(&base(&then, None, 1));
    assert_eq!(between.conditions[3], short.conditions[3]);
    let none = status(&base(&then, Some(&refused), 0));
    assert_eq!(scaled(&none).as_deref(), Some("False PodsRefused"));
    assert_eq!(none.conditions[3].message, none.conditions[2].message);
    let grown = status(&base(&then, None, 10));
    assert_eq!(scaled(&grown).as_deref(), Some("True AsWanted"));
    let asleep = status(&observed(&then, &plan));
    assert_eq!(scaled(&asleep).as_deref(), Some("True AsWanted"));
}

/// Would fail if a function that can't start were called ready because nothing is left of its pods.
#[test]
fn a_failure_is_told_until_a_replica_serves_or_another_revision_is_made() {
    let (first, a, b) = (function(None), plan("a", "a"), plan("b", "b"));
    let failure = status(&Observed {
        desired: 1,
        trouble: Some(failed("no model")),
        ..observed(&first, &a)
    });
    let later = function(Some(failure));
    let asleep = status(&observed(&later, &a));
    assert_eq!(told(&asleep, "Ready"), "False StartFailed");
    let again = Observed {
        desired: 1,
        alive: counts([("a", 1)]),
        ..observed(&later, &a)
    };
    assert_eq!(told(&status(&again), "Ready"), "False StartFailed");
    let serves = Observed {
        desired: 1,
        ready: counts([("a", 1)]),
        ..observed(&later, &a)
    };
    assert_eq!(told(&status(&serves), "Ready"), "True Serving");
    assert_eq!(
        told(&status(&observed(&later, &b)), "Ready"),
        "True Sleeping"
    );
}

#[test]
fn a_revision_that_takes_over_tells_how_far_it_is_and_who_serves() {
    let function = function(None);
    let plan = plan("new", "old");
    let base = Observed {
        desired: 2,
        ready: counts([("old", 2), ("new", 1)]),
        ..observed(&function, &plan)
    };
    let rolling = status(&base);
    assert_eq!(told(&rolling, "Ready"), "Unknown RollingOut");
    assert!(
        rolling.conditions[2]
            .message
            .contains("1 of 2 replicas of new"),
        "{:?}",
        rolling.conditions[2]
    );
    let broken = status(&Observed {
        trouble: Some(failed("no model")),
        ..base
    });
    assert_eq!(told(&broken, "Ready"), "False StartFailed");
    assert!(
        broken.conditions[2]
            .message
            .contains("no model; meanwhile old and new serve")
    );
    assert_eq!(
        (broken.revision.as_deref(), broken.ready_replicas),
        (Some("old"), 3)
    );
}

/// Would fail if who waits for others' components weren't told that it isn't the registry that is waited for.
#[test]
fn what_goes_on_is_told_by_its_stage() {
    let (mut function, plan) = (function(None), plan("a", "a"));
    let model = json!({"name": "m", "source": {"image": "r/m:1"}});
    function.spec.models = vec![serde_json::from_value(model).unwrap()];
    for (stage, expected) in [
        (Stage::Fetching, ["Unknown Fetching", "Unknown NotFetched"]),
        (
            Stage::Preparing,
            ["Unknown Preparing", "Unknown NotFetched"],
        ),
        (Stage::Prepared, ["True Fetched", "Unknown Fetching"]),
    ] {
        let status = status(&Observed {
            resolved: None,
            stage,
            ..observed(&function, &plan)
        });
        let found = ["ComponentReady", "ModelsReady"].map(|kind| told(&status, kind));
        assert_eq!(found, expected, "{stage:?}");
        assert_eq!(told(&status, "Ready"), "Unknown Resolving");
    }
}

#[test]
fn what_cannot_be_resolved_is_told_by_its_part() {
    let function = function(None);
    let plan = plan("a", "a");
    let error = |part| ResolveError {
        part,
        reason: "NotFound",
        message: "it isn't there".into(),
        is_transient: false,
        retry_after: None,
        model: None,
    };
    let cases = [
        (
            Part::Component,
            ["False NotFound", "True NoModels", "False NotFound"],
        ),
        (
            Part::Models,
            ["True Fetched", "True NoModels", "False NotFound"],
        ),
        (
            Part::Function,
            ["Unknown NotFetched", "True NoModels", "False NotFound"],
        ),
    ];
    for (part, expected) in cases {
        let error = error(part);
        let status = status(&Observed {
            resolved: Some(Err(&error)),
            ..observed(&function, &plan)
        });
        let found = ["ComponentReady", "ModelsReady", "Ready"].map(|kind| told(&status, kind));
        assert_eq!(found, expected, "{part:?}");
    }
}

/// Would fail if every reconciliation wrote a status.
#[test]
fn what_did_not_change_is_told_with_the_same_words_and_times() {
    let (first, plan) = (function(None), plan("a", "a"));
    let before = status(&observed(&first, &plan));
    let second = function(Some(before.clone()));
    let later = status(&Observed {
        now: at(200),
        ..observed(&second, &plan)
    });
    assert_eq!(later, before);
    let serving = status(&Observed {
        now: at(200),
        ready: counts([("a", 1)]),
        ..observed(&second, &plan)
    });
    assert_eq!(serving.conditions[2].last_transition_time, at(100));
}

#[test]
fn names_that_are_others_are_told() {
    let mut function = function(None);
    function.spec.hosts = vec!["a.example".into()];
    let plan = plan("a", "a");
    let mut base = observed(&function, &plan);
    assert_eq!(told(&status(&base), "HostsReady"), "True Claimed");
    let taken = [Taken {
        host: "a.example".to_owned(),
        owner: Owner::First("x/older".parse().unwrap()),
    }];
    base.hosts_taken = &taken;
    base.service = Some(ServiceName::Refused("a quota".to_owned()));
    let refused = self::status(&base);
    assert_eq!(told(&refused, "ServiceReady"), "False Refused");
    assert!(refused.conditions[4].message.ends_with(": a quota"));
    base.service = Some(ServiceName::Taken);
    let status = status(&base);
    assert_eq!(told(&status, "HostsReady"), "False HostTaken");
    assert_eq!(told(&status, "ServiceReady"), "False NameTaken");
    assert!(
        status.conditions[3]
            .message
            .contains("a.example is x/older's")
    );
    assert_eq!(told(&status, "Ready"), "True Sleeping");
}

/// Would fail if the owner of a function whose own name leads elsewhere weren't told, as it claims no hosts.
#[test]
fn a_name_of_ones_own_that_is_anothers_is_told() {
    let (function, plan) = (function(None), plan("a", "a"));
    let mut base = observed(&function, &plan);
    let is_told = |status: FunctionStatus| {
        status
            .conditions
            .iter()
            .any(|one| one.type_ == "HostsReady")
    };
    assert!(!is_told(status(&base)));
    let taken = [Taken {
        host: "f.n".to_owned(),
        owner: Owner::Gateway,
    }];
    base.hosts_taken = &taken;
    assert_eq!(told(&status(&base), "HostsReady"), "False HostTaken");
}

/// Would fail if the page on what to watch lacked a reason that something here says, be it of what can't be fetched or prepared.
/// What keeps pods from serving is asked beside [`Trouble`].
#[test]
fn every_reason_is_told() {
    let page = include_str!("../../../docs/watching.md");
    let (conditions, _) = page.split_once("## Metrics").unwrap();
    let others = ["True", "False", "Unknown", "Claimable", "Opaque"];
    let is_word = |text: &&str| {
        let is_begun = text.starts_with(|first: char| first.is_ascii_uppercase());
        is_begun && text.chars().all(|c| c.is_ascii_alphabetic())
    };
    let mut all = std::collections::BTreeSet::new();
    for source in [
        include_str!("../../../../artifacts/src/error.rs"),
        include_str!("../../artifacts/admit.rs"),
        include_str!("../../artifacts/store.rs"),
        include_str!("../../pool/status.rs"),
        include_str!("../../resolve/error.rs"),
        include_str!("../../resolve/gather.rs"),
        include_str!("../../resolve/locate.rs"),
        include_str!("../status.rs"),
        include_str!("ready.rs"),
        include_str!("scaled.rs"),
    ] {
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        all.extend(code.split('"').filter(is_word));
    }
    for known in [
        "NotFound",
        "NotModel",
        "ApiUnavailable",
        "NoSource",
        "RollingOut",
    ] {
        assert!(all.contains(known), "{known} is said no more");
    }
    for word in all.iter().filter(|word| !others.contains(word)) {
        assert!(conditions.contains(&format!("`{word}`")), "{word}");
    }
}

use wisp_contract::log::GUEST_LOG;

use super::*;
use crate::terminal::Paint;

fn events() -> Vec<Event> {
    let function = || "default/hello".to_owned();
    vec![
        Event::Listening {
            url: "http://127.0.0.1:8787".to_owned(),
            version: "0.1.0",
        },
        Event::Function {
            function: function(),
            url: "http://127.0.0.1:8787/default/hello/".to_owned(),
            hosts: vec!["hello.test".to_owned()],
        },
        Event::Building {
            function: function(),
        },
        Event::Built {
            function: function(),
            millis: 1234,
            bytes: 90_000,
            init_millis: Some(4.7),
            notes: vec!["a note".to_owned()],
        },
        Event::Replica {
            function: function(),
            replica: 0,
            state: ReplicaState::Ready,
            pid: 77,
            millis: 12,
            reason: None,
        },
        Event::Log {
            function: function(),
            replica: 0,
            level: Level::Info,
            target: GUEST_LOG.to_owned(),
            message: "greeting ada\nagain".to_owned(),
            request_id: Some("r1".to_owned()),
            cause: None,
        },
        Event::Request {
            function: Some(function()),
            request_id: "r1".to_owned(),
            method: "GET".to_owned(),
            path: "/default/hello/ada".to_owned(),
            status: 200,
            millis: 1.25,
            activate_millis: 35.0,
            reason: None,
        },
        Event::Request {
            function: None,
            request_id: "r2".to_owned(),
            method: "GET".to_owned(),
            path: "/nope".to_owned(),
            status: 404,
            millis: 0.1,
            activate_millis: 0.0,
            reason: Some("no-such-function"),
        },
        Event::Replica {
            function: function(),
            replica: 1,
            state: ReplicaState::Failed,
            pid: 78,
            millis: 3,
            reason: Some("no such model".to_owned()),
        },
        Event::BuildFailed {
            function: function(),
            message: "error: expected `;`\n --> src/lib.rs:3".to_owned(),
            has_earlier: true,
        },
        Event::Invalid {
            file: "function.yaml".to_owned(),
            message: "line 5: spec.modles: unknown field".to_owned(),
        },
        Event::Stopping,
    ]
}

#[test]
fn what_people_see() {
    let mut style = Style::new(Paint::NONE);
    let lines: Vec<String> = events()
        .iter()
        .flat_map(|event| style.render(event))
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn what_scripts_read() {
    let lines: Vec<String> = events()
        .iter()
        .map(|event| serde_json::to_string(event).unwrap())
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

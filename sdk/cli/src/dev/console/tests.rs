use wisp_contract::log::GUEST_LOG;

use super::*;
use crate::args::{Color, Format};
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

/// Would fail if what a component, or a file of somebody else's, is called could move the terminal's cursor.
#[test]
fn what_strangers_wrote_does_nothing_to_a_terminal() {
    let text = || "\x1b[2J".to_owned();
    let built = Event::Built {
        function: "default/hello".to_owned(),
        millis: 1,
        bytes: 1,
        init_millis: None,
        notes: vec![text()],
    };
    let invalid = Event::Invalid {
        file: text(),
        message: text(),
    };
    let mut style = Style::new(Paint::NONE);
    for event in [built, invalid] {
        let lines = style.render(&event).join("\n");
        assert!(lines.contains("[2J") && !lines.contains('\x1b'), "{lines}");
    }
}

/// Takes nothing until it is told to.
struct Stopped {
    go: Receiver<()>,
    taken: Sender<Vec<u8>>,
}

impl Write for Stopped {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _ = self.go.recv();
        let _ = self.taken.send(bytes.to_owned());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Would fail if a terminal that takes nothing stopped those who tell, and the end with them; if what it doesn't take
/// filled the memory; or if what matters were dropped with what doesn't.
#[test]
fn nobody_waits_for_a_terminal_that_takes_nothing() {
    let (go, stopped) = channel();
    let (taken, out) = channel();
    let terminal = Terminal::detect(Format::Human, Color::Never);
    let console = Console::to(Stopped { go: stopped, taken }, terminal).unwrap();
    let note = || Event::Note {
        message: "a line".to_owned(),
    };
    (0..3 * BACKLOG).for_each(|_| console.tell(note()));
    (0..2 * BACKLOG).for_each(|_| {
        console.tell(Event::Removed {
            function: "f".to_owned(),
        });
    });
    // Gone, the sender lets all through.
    drop(go);
    console.flush();
    drop(console);
    let text: Vec<u8> = out.into_iter().flatten().collect();
    let text = String::from_utf8(text).unwrap();
    let lines = |what: &str| text.lines().filter(|line| line.contains(what)).count();
    assert_eq!(lines("removed"), 2 * BACKLOG);
    // The thread may have taken some before it wrote.
    let shown = lines("a line");
    assert!((BACKLOG..=2 * BACKLOG + 1).contains(&shown), "{shown}");
    assert!(lines("lines are not shown") > 0);
}

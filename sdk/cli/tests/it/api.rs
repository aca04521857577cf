//! What an API server says to the few requests that the command line makes. Each test says what is there; what is asked
//! is remembered.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::{Value, json};

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) body: Vec<u8>,
    pub(crate) at: Instant,
}

/// An answer: a status and a body. A body that is kept open ends when the client goes.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
    pub(crate) stays_open: bool,
}

impl Answer {
    pub(crate) fn json(value: &Value) -> Self {
        Self::text(value.to_string())
    }

    pub(crate) fn text(body: impl Into<String>) -> Self {
        Self {
            status: 200,
            body: body.into(),
            stays_open: false,
        }
    }

    /// Events of a watch, each an object, which then goes on in silence.
    pub(crate) fn events(events: &[Value]) -> Self {
        let lines = events.iter().map(|event| format!("{event}\n"));
        Self {
            status: 200,
            body: lines.collect(),
            stays_open: true,
        }
    }

    /// A refusal as Kubernetes words it.
    pub(crate) fn status(code: u16, kind: &str, name: &str, message: &str) -> Self {
        let reason = if code == 404 { "NotFound" } else { "Unknown" };
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
            "reason": reason, "message": message, "details": {"kind": kind, "name": name},
        });
        Self {
            status: code,
            ..Self::json(&status)
        }
    }
}

/// The played API server.
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Api {
    /// Answers by `respond`; every request has a connection of its own.
    pub(crate) fn new(respond: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (remembered, respond) = (Arc::clone(&asked), Arc::new(respond));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (remembered, respond) = (Arc::clone(&remembered), Arc::clone(&respond));
                std::thread::spawn(move || serve(stream, &remembered, &*respond));
            }
        });
        Self { address, asked }
    }

    pub(crate) fn kubeconfig(&self) -> String {
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "vision"}}],
        })
        .to_string()
    }

    /// What was applied so far, and not only tried.
    pub(crate) fn applied(&self) -> Vec<Asked> {
        let mut asked = self.asked("PATCH");
        asked.retain(|asked| !asked.path.contains("dryRun=All"));
        asked
    }

    /// What was asked so far by `method`.
    pub(crate) fn asked(&self, method: &str) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked
            .iter()
            .filter(|asked| asked.method == method)
            .cloned()
            .collect()
    }
}

fn serve(
    mut stream: TcpStream,
    remembered: &Mutex<Vec<Asked>>,
    respond: &dyn Fn(&Asked) -> Answer,
) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut first = String::new();
    reader.read_line(&mut first).ok()?;
    let mut words = first.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let asked = Asked {
        method,
        path,
        body,
        at: Instant::now(),
    };
    let answer = respond(&asked);
    remembered.lock().unwrap().push(asked);
    let length = if answer.stays_open {
        String::new()
    } else {
        format!("content-length: {}\r\n", answer.body.len())
    };
    write!(
        stream,
        "HTTP/1.1 {} x\r\ncontent-type: application/json\r\nconnection: close\r\n{length}\r\n{}",
        answer.status, answer.body
    )
    .ok()?;
    if answer.stays_open {
        // Until the client goes.
        let _ = reader.read(&mut [0]);
    }
    Some(())
}

use std::time::Duration;

use bytes::Bytes;
use wasmtime_wasi::cli::StdoutStream as _;
use wasmtime_wasi::p2::StreamError;

use super::*;
use crate::sink::Memory;

fn logs(rate: u64, line: usize) -> (Logs, Arc<Memory>) {
    let sink = Arc::new(Memory::default());
    let options = Options {
        rate: NonZeroU64::new(rate).unwrap(),
        line: NonZeroUsize::new(line).unwrap(),
    };
    (
        Logs::new(&"ns/fun".parse().unwrap(), options, sink.clone()),
        sink,
    )
}

fn at(start: Now, millis: u64) -> Now {
    Now {
        instant: start.instant + Duration::from_millis(millis),
        timestamp: start.timestamp,
    }
}

/// Lines with what time makes different taken out.
fn golden(sink: &Memory) -> String {
    let mut text = String::new();
    for json in sink.lines() {
        let mut line: Line<'_> = serde_json::from_str(&json).unwrap();
        assert!(
            line.ts.ends_with('Z') && line.ts.len() == "2026-01-02T03:04:05.000000Z".len(),
            "{}",
            line.ts
        );
        line.ts = "…".into();
        text.push_str(&serde_json::to_string(&line).unwrap());
        text.push('\n');
    }
    text
}

#[test]
fn both_streams_in_both_flavours_become_lines_of_their_request() {
    let (logs, sink) = logs(1000, 100);
    let instance = logs.instance(Some("r-1".into()));
    let mut out = instance.stdout().p2_stream();
    let mut error = instance.stderr().p2_stream();
    out.write(Bytes::from_static(b"hel")).unwrap();
    error.write(Bytes::from_static(b"panicked\n")).unwrap();
    out.write(Bytes::from_static(b"lo\nbad \xff utf-8\n"))
        .unwrap();
    drop(instance);
    out.write(Bytes::from_static(b"no end")).unwrap();
    drop(error);
    assert_eq!(
        sink.lines().len(),
        3,
        "a stream that is still open keeps its line"
    );
    drop(out);
    insta::assert_snapshot!(golden(&sink), @r#"
    {"ts":"…","level":"warn","target":"guest.stderr","message":"panicked","function":"ns/fun","requestId":"r-1"}
    {"ts":"…","level":"info","target":"guest.stdout","message":"hello","function":"ns/fun","requestId":"r-1"}
    {"ts":"…","level":"info","target":"guest.stdout","message":"bad � utf-8","function":"ns/fun","requestId":"r-1"}
    {"ts":"…","level":"info","target":"guest.stdout","message":"no end","function":"ns/fun","requestId":"r-1"}
    "#);
}

#[tokio::test]
async fn wasi_0_3_streams_write_the_same_lines() {
    use tokio::io::AsyncWriteExt as _;
    let (logs, sink) = logs(1000, 100);
    let instance = logs.instance(None);
    Box::into_pin(instance.stdout().async_stream())
        .write_all(b"one\ntw")
        .await
        .unwrap();
    Box::into_pin(instance.stdout().async_stream())
        .write_all(b"o\n")
        .await
        .unwrap();
    let messages: Vec<_> = sink
        .lines()
        .iter()
        .map(|json| {
            serde_json::from_str::<Line<'_>>(json)
                .unwrap()
                .message
                .into_owned()
        })
        .collect();
    assert_eq!(messages, ["one", "two"]);
}

#[test]
fn a_line_longer_than_the_cap_is_cut_and_says_so() {
    let (logs, sink) = logs(10_000, 8);
    let instance = logs.instance(None);
    let now = Now::read();
    instance.write(Std::Out, b"0123456789abcdef\nshort\n", now);
    instance.log(Level::Info, "ctx", "ééééé", None, now);
    insta::assert_snapshot!(golden(&sink), @r#"
    {"ts":"…","level":"info","target":"guest.stdout","message":"01234567… [8 more bytes cut: a line is at most 8 bytes]","function":"ns/fun","cutBytes":8}
    {"ts":"…","level":"info","target":"guest.stdout","message":"short","function":"ns/fun"}
    {"ts":"…","level":"info","target":"guest.log","message":"éééé… [2 more bytes cut: a line is at most 8 bytes]","function":"ns/fun","context":"ctx","cutBytes":2}
    "#);
}

#[test]
fn output_over_the_rate_is_dropped_counted_and_reported_once() {
    let (logs, sink) = logs(1380, 50);
    let start = Now::read();
    let (flood, other) = (
        logs.instance(Some("flood".into())),
        logs.instance(Some("other".into())),
    );
    for _ in 0..1000 {
        flood.write(Std::Out, b"123456789\n", start);
    }
    assert_eq!(sink.lines().len(), 10, "one second's worth");
    other.write(Std::Out, b"shares the bucket\n", start);
    assert_eq!(sink.lines().len(), 10);
    assert_eq!(logs.dropped_bytes(), 990 * 10 + 18);
    logs.report();
    flood.write(Std::Out, b"later\n", at(start, 1000));
    // Would fail if requests that lose lines in turns logged a line each: these are not bounded by the rate.
    for turn in 0..100 {
        let short = logs.instance(Some("short".into()));
        (0..100).for_each(|_| short.write(Std::Out, b"123456789\n", at(start, 1001 + turn)));
    }
    assert_eq!(
        sink.lines().len(),
        10 + 1 + 10,
        "the rate's, and what was dropped"
    );
    logs.report();
    logs.report();
    insta::assert_snapshot!(golden(&sink).lines().skip(10).filter(|line| !line.ends_with("\"short\"}")).collect::<Vec<_>>().join("\n"), @r#"
    {"ts":"…","level":"warn","target":"wisp_wasi_logging::instance","message":"dropped 9918 bytes in 991 lines of the guest's output: a replica may log 1380 bytes per second (limits.logRate)","function":"ns/fun","droppedBytes":9918,"droppedLines":991}
    {"ts":"…","level":"info","target":"guest.stdout","message":"later","function":"ns/fun","requestId":"flood"}
    {"ts":"…","level":"warn","target":"wisp_wasi_logging::instance","message":"dropped 99910 bytes in 9991 lines of the guest's output: a replica may log 1380 bytes per second (limits.logRate)","function":"ns/fun","requestId":"short","droppedBytes":99910,"droppedLines":9991}
    "#);
    // Would fail if what was dropped last were never told.
    flood.write(Std::Out, b"again\n", at(start, 1101));
    drop((flood, other, logs));
    assert!(
        golden(&sink)
            .trim_end()
            .ends_with("\"droppedBytes\":6,\"droppedLines\":1}")
    );
}

/// Would fail if a guest could hold its thread for as long as the host takes for all that it has in memory.
#[test]
fn more_than_is_permitted_at_once_is_refused() {
    let (logs, sink) = logs(1 << 20, 100);
    let mut stream = logs.instance(None).stdout().p2_stream();
    let permit = stream.check_write().unwrap();
    stream.write(vec![b'x'; permit].into()).unwrap();
    let refused = stream.write(vec![b'\n'; permit + 1].into());
    assert!(matches!(refused, Err(StreamError::Trap(_))), "{refused:?}");
    assert_eq!(sink.lines().len(), 0);
}

#[test]
fn an_instance_that_is_used_again_logs_for_its_next_request() {
    let (logs, sink) = logs(1000, 100);
    let instance = logs.instance(Some("first".into()));
    instance.write(Std::Out, b"of the first", Now::read());
    instance.set_request_id(Some("second".into()));
    instance.write(Std::Out, b"of the second", Now::read());
    instance.flush();
    let ids: Vec<_> = sink
        .lines()
        .iter()
        .map(|json| {
            let line: Line<'_> = serde_json::from_str(json).unwrap();
            format!("{}: {}", line.request_id.unwrap(), line.message)
        })
        .collect();
    assert_eq!(ids, ["first: of the first", "second: of the second"]);
}

#[test]
fn escapes_are_what_json_adds() {
    for text in [
        "",
        "plain é 漢",
        "\"\\/\n\r\t\u{8}\u{c}",
        "\0\u{1}\u{1b}[0m\u{1f}\u{7f}\u{2028}",
    ] {
        let json = serde_json::to_string(text).unwrap();
        assert_eq!(
            escapes(text),
            (json.len() - 2 - text.len()) as u64,
            "{json}"
        );
    }
}

/// Would fail if the rate were of the text alone: what is written of control characters is six times as much.
#[test]
fn the_rate_is_of_what_is_written() {
    const RATE: u64 = 10_000;
    let (logs, sink) = logs(RATE, 1000);
    let instance = logs.instance(None);
    let now = Now::read();
    for _ in 0..100 {
        instance.write(Std::Out, &[&[1; 500][..], b"\n"].concat(), now);
        instance.log(Level::Info, &"\u{2}".repeat(500), "", None, now);
    }
    let written: usize = sink.lines().iter().map(String::len).sum();
    assert!(
        written > 3000 && written as u64 <= RATE,
        "{written} bytes of {RATE}"
    );
}

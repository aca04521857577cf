//! Cold starts as a collector sees them.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use http::Method;
use wisp_e2e::{PATIENCE, Span, installed};
use wisp_integration::{component, request};

use crate::pools::{pool, stands_by};

const TRACE: [u8; 16] = *b"a cold start, 16";

/// Would fail if a phase of a cold start were not told, told of another trace than the client's, or part of the wrong one;
/// or if the function were not told the trace.
#[tokio::test(flavor = "multi_thread")]
async fn a_cold_start_is_one_trace_from_the_client_to_the_pod() -> Result<()> {
    let Some(wisp) = installed() else {
        return Ok(());
    };
    let Some(collector) = wisp.collector() else {
        wisp_skip::skip("pods of a cluster elsewhere may have no way to a collector here");
        return Ok(());
    };
    let _stays = wisp.with_operator().await;
    let space = wisp.space("traces")?;
    let image = space
        .push_component("hello", &component("fixture-p2"))
        .await?;
    space.apply(&pool("warm", 1, 1))?;
    space.apply(&wisp_e2e::Space::function("hello", &image, ""))?;
    space.condition("hello", "Ready", "True")?;
    stands_by(&space, "warm", 1)?;

    let trace = hex::encode(TRACE);
    let mut sent = request(Method::GET, &space.path("hello", "hello"), "")?;
    let parent = format!("00-{trace}-00f067aa0ba902b7-01");
    sent.headers_mut().insert("traceparent", parent.parse()?);
    let answer = space.client().fetch(sent).await?;
    ensure!(answer.status == 200, "{answer:?}");

    // What is part of what.
    let expected = [
        ("request", "00f067aa0ba902b7"),
        ("activate", "request"),
        ("wake", "activate"),
        ("claim", "wake"),
        ("assign", "wake"),
        ("fetch", "assign"),
        ("load", "assign"),
    ];
    let began = std::time::Instant::now();
    let spans = loop {
        let spans: BTreeMap<String, Span> = collector
            .spans(TRACE)
            .into_iter()
            .map(|span| (span.name.clone(), span))
            .collect();
        if spans.len() == expected.len() {
            break spans;
        }
        ensure!(began.elapsed() < PATIENCE, "{spans:?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    for (name, parent) in expected {
        let span = spans
            .get(name)
            .with_context(|| format!("{name}: {spans:?}"))?;
        let parent = spans
            .get(parent)
            .map_or_else(|| parent.to_owned(), |parent| hex::encode(&parent.span_id));
        ensure!(
            hex::encode(&span.parent_span_id) == parent,
            "{name}: {spans:?}"
        );
        ensure!(
            span.start_time_unix_nano <= span.end_time_unix_nano,
            "{span:?}"
        );
    }
    let attributes = format!("{:?}", spans["request"].attributes);
    ensure!(
        attributes.contains("faas.coldstart") && attributes.contains(space.name()),
        "{attributes}"
    );
    Ok(())
}

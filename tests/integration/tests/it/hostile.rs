//! Guests that mean harm: what their clients are told, and that nobody else notices them.
#![expect(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::time::Duration;

use wisp_contract::FunctionConfig;
use wisp_contract::config::Instances;
use wisp_contract::problem::Fault;
use wisp_integration::{Host, component, refused};

/// More than any of these hosts needs, and less than any of these guests asks for.
const ENOUGH: u64 = 400 << 20;

fn in_a_minute(config: &mut FunctionConfig) {
    config.limits.timeout = Duration::from_secs(60);
}

fn reused(config: &mut FunctionConfig) {
    config.instances = Instances::Reuse {
        max_requests: NonZeroU32::new(1000).unwrap(),
        max_concurrent: NonZeroU32::MIN,
        idle_timeout: Duration::from_secs(600),
    };
}

fn shared(config: &mut FunctionConfig) {
    reused(config);
    if let Instances::Reuse { max_concurrent, .. } = &mut config.instances {
        *max_concurrent = NonZeroU32::new(8).unwrap();
    }
}

/// Would fail if a guest that computes kept its thread, or went on for a client that is gone.
#[tokio::test]
async fn guests_that_compute_for_ever_leave_time_for_others_and_end_with_their_clients() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let loops = 8.max(2 * cores);
    for package in ["fixture-p2", "fixture-p3"] {
        let component = component(package);
        let host = Host::ready(&component, |config| {
            in_a_minute(config);
            config.limits.concurrency = NonZeroUsize::new(loops + 8).unwrap();
        });
        let host = host.await.unwrap();
        let client = host.client();
        let running: Vec<_> = (0..loops)
            .map(|_| tokio::spawn(async move { client.get("/loop").await }))
            .collect();
        host.until(|status| status.in_flight as usize == loops)
            .await
            .unwrap();
        for _ in 0..10 {
            assert_eq!(client.get("/hello").await.unwrap().text(), "hello\n");
        }
        host.until(|status| status.in_flight as usize == loops)
            .await
            .unwrap();
        for client in running {
            client.abort();
        }
        host.until_idle().await.unwrap();
    }
}

/// Each kind of instance has its own way to end, and each end has to be told apart.
#[tokio::test]
async fn what_breaks_a_guest_is_told_whatever_instance_it_breaks() {
    type Change = fn(&mut FunctionConfig);
    // Ways to end without an answer.
    let p2 = vec![("/no-response", "no-response"), ("/exit?0", "no-response")];
    let p3 = vec![("/exit?0", "no-response")];
    let together = vec![("/exit?0", "exited")];
    let kinds: [(&str, Change, _); 5] = [
        ("fixture-p2", |_| {}, p2.clone()),
        ("fixture-p2", reused, p2),
        ("fixture-p3", |_| {}, p3.clone()),
        ("fixture-p3", reused, p3),
        ("fixture-p3", shared, together),
    ];
    for (package, change, ways) in kinds {
        let host = Host::ready(&component(package), change).await.unwrap();
        for (path, reason) in [
            ("/trap", "trapped"),
            ("/panic", "trapped"),
            ("/recurse", "stack-exhausted"),
            ("/allocate", "memory-exceeded"),
            ("/error-code", "error-code"),
            ("/handles?10000", "handles-exceeded"),
            ("/exit?3", "exited"),
        ]
        .into_iter()
        .chain(ways)
        {
            let answer = host.client().get(path).await.unwrap();
            let problem = refused(&host, &answer, 502, reason, Fault::Function).await;
            let allowed = match path {
                "/allocate" => "67108864 are allowed (limits.memory)",
                "/handles?10000" => "1024 are allowed (limits.handles)",
                _ => "",
            };
            assert!(problem.detail.contains(allowed), "{}", problem.detail);
        }
        let few = host.client().get("/handles?100").await.unwrap();
        assert_eq!(few.text(), "100");
        assert!(host.peak_memory().unwrap() < ENOUGH);
    }
}

/// Would fail if a line were kept until its end.
#[tokio::test]
async fn a_line_without_an_end_takes_no_memory() {
    let host = Host::ready(&component("fixture-p2"), |_| {}).await.unwrap();
    let answer = host.client().get("/endless-line?600").await.unwrap();
    assert_eq!(answer.text(), "no end in sight\n");
    assert!(
        host.peak_memory().unwrap() < ENOUGH,
        "{} of 600 MiB",
        host.peak_memory().unwrap()
    );
    let line = host
        .line("cut", |line| line.fields.contains_key("cutBytes"))
        .await
        .unwrap();
    assert!(line.message.ends_with("a line is at most 16384 bytes]"));
}

#[tokio::test]
async fn a_flood_through_the_logging_interface_is_dropped_and_counted() {
    let host = Host::ready(&component("fixture-sdk"), |config| {
        config.limits.log_rate = NonZeroU64::new(10_000).unwrap();
    })
    .await
    .unwrap();
    let answer = host.client().get("/log-flood").await.unwrap();
    assert!(answer.status.is_success(), "{answer:?}");
    host.line("dropped", |line| line.fields.contains_key("droppedBytes"))
        .await
        .unwrap();
    let written = host.log().iter().map(String::len).sum::<usize>();
    assert!(
        written < 400_000,
        "{written} bytes of the flood were written"
    );
    let again = host.client().get("/hello/you").await.unwrap();
    assert_eq!(again.text(), "hello you");
}

/// A client would wait for the rest, or take the beginning of something else for it.
#[tokio::test]
async fn a_response_of_another_length_than_it_declares_breaks_off() {
    let host = Host::ready(&component("fixture-p2"), |_| {}).await.unwrap();
    for length in [0, 3, 11, 100_000] {
        for client in [host.client(), host.client().http2()] {
            let answer = client.get(&format!("/wrong-length?{length}")).await;
            let is_problem = answer.as_ref().is_ok_and(|answer| answer.status == 502);
            assert!(answer.is_err() || is_problem, "{length}: {answer:?}");
            assert_eq!(client.get("/hello").await.unwrap().text(), "hello\n");
        }
    }
    let right = host.client().get("/wrong-length?10").await.unwrap();
    assert_eq!(right.text(), "xxxxxxxxxx");
}

/// Would fail if what a guest gave up, or declared and didn't write, passed for its whole answer where that is known before any
/// of it is sent, or if the log blamed its client.
#[tokio::test]
async fn an_answer_that_is_not_whole_is_a_problem_where_that_is_known_in_time() {
    for (package, path) in [
        ("fixture-p2", "/give-up"),
        ("fixture-p2", "/give-up?0"),
        ("fixture-p2", "/give-up?14"),
        ("fixture-p2", "/give-up?20"),
        ("fixture-p2", "/wrong-length-anyway?0"),
        ("fixture-p2", "/wrong-length-anyway?3"),
        ("fixture-p2", "/wrong-length-anyway?11"),
        ("fixture-p2", "/declare?10"),
        ("fixture-p3", "/declare"),
    ] {
        let host = Host::ready(&component(package), |_| {}).await.unwrap();
        for client in [host.client(), host.client().http2()] {
            let answer = client.get(path).await.unwrap();
            refused(&host, &answer, 502, "invalid-body", Fault::Function).await;
            assert_eq!(client.get("/hello").await.unwrap().text(), "hello\n");
        }
    }
    let host = Host::ready(&component("fixture-p2"), |_| {}).await.unwrap();
    for whole in ["/wrong-length-anyway?10", "/declare?0"] {
        let answer = host.client().get(whole).await.unwrap();
        assert_eq!(answer.status, 200, "{whole}");
    }
}

/// Would fail if a body that ends early passed for whole, or its client were blamed.
#[tokio::test]
async fn an_answer_that_ends_early_is_its_functions_fault() {
    let host = Host::ready(&component("fixture-p3"), |_| {}).await.unwrap();
    for length in [0, 4] {
        for client in [host.client(), host.client().http2()] {
            let path = format!("/short?{length}");
            let answer = client.get(&path).await;
            let is_problem = answer.as_ref().is_ok_and(|answer| answer.status == 502);
            assert!(answer.is_err() || is_problem, "{path}: {answer:?}");
            let id = answer.ok().and_then(|answer| {
                let id = answer.headers.get("x-request-id")?.to_str().ok()?;
                Some(id.to_owned())
            });
            let of_answer = |line: &wisp_contract::log::Line<'_>| {
                line.event.as_deref() == Some("request")
                    && id
                        .as_deref()
                        .is_none_or(|id| line.request_id.as_deref() == Some(id))
            };
            let line = host.line(&path, of_answer).await.unwrap();
            assert_eq!(line.fields["reason"], "invalid-body", "{path}");
        }
    }
    let whole = host.client().get("/short?10").await.unwrap();
    assert_eq!(whole.text(), "xxxxxxxxxx");
}

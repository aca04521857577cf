//! A request to a function, and where its time went.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use http::{HeaderValue, Method, Request};
use uuid::Uuid;
use wisp_integration::{Answer, request};
use wisp_load::Sample;

use crate::bench::Bench;

/// Spans come within this.
const TOLD_WITHIN: Duration = Duration::from_secs(6);

/// What is asked of a function, and what must be answered.
#[derive(Clone, Copy)]
pub(crate) struct Question {
    pub(crate) method: Verb,
    pub(crate) media_type: &'static str,
    pub(crate) body: &'static [u8],
    pub(crate) word: &'static str,
}

/// A method of HTTP.
#[derive(Clone, Copy)]
pub(crate) enum Verb {
    Get,
    Post,
}

impl Question {
    /// The request to `path`.
    pub(crate) fn request(&self, path: &str) -> Result<Request<wisp_integration::Body>> {
        let method = match self.method {
            Verb::Get => Method::GET,
            Verb::Post => Method::POST,
        };
        let mut request = request(method, path, self.body)?;
        let media_type = HeaderValue::from_static(self.media_type);
        request.headers_mut().insert("content-type", media_type);
        Ok(request)
    }

    /// Whether it is answered as it must be.
    pub(crate) fn check(&self, function: &str, answer: &Answer) -> Result<()> {
        ensure!(
            answer.status == 200 && answer.text().contains(self.word),
            "{function}: {answer:?}"
        );
        Ok(())
    }
}

/// Milliseconds from a client's first byte to the last of the answer, and what the answers say of where they went.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) total: Sample,
    pub(crate) phases: BTreeMap<String, Sample>,
    /// Milliseconds that the same takes when it is asked of a function that is awake.
    pub(crate) awake: Sample,
    /// Milliseconds that a plain Deployment took in between.
    pub(crate) plain: Sample,
    asked: Vec<Asked>,
}

/// A request that was answered.
pub(crate) struct Asked {
    trace: [u8; 16],
    began: SystemTime,
    pub(crate) millis: f64,
    pub(crate) answer: Answer,
}

impl Found {
    pub(crate) fn add(&mut self, asked: Asked) {
        self.total.0.push(asked.millis);
        for (phase, millis) in timings(&asked.answer) {
            self.phases.entry(phase).or_default().0.push(millis);
        }
        self.asked.push(asked);
    }
}

impl Bench<'_> {
    /// Asks a function once, and takes the time from the request's first byte to the answer's last.
    pub(crate) async fn ask(&self, function: &str, question: Question) -> Result<Asked> {
        let mut request = question.request(&self.space.path(function, ""))?;
        let (trace, span) = (Uuid::new_v4(), Uuid::new_v4().as_u64_pair().0);
        let parent = format!("00-{}-{span:016x}-01", trace.simple());
        request.headers_mut().insert("traceparent", parent.parse()?);
        let connection = self.space.client().open().await?;
        let (began, clock) = (SystemTime::now(), Instant::now());
        let answer = connection.fetch(request).await?;
        let millis = clock.elapsed().as_secs_f64() * 1e3;
        question.check(function, &answer)?;
        Ok(Asked {
            trace: trace.into_bytes(),
            began,
            millis,
            answer,
        })
    }

    /// When the steps of what was asked began and ended, in milliseconds from the request's first byte, by their names.
    pub(crate) async fn steps(&self, found: &Found) -> BTreeMap<String, (Sample, Sample)> {
        // They are told from time to time.
        tokio::time::sleep(TOLD_WITHIN).await;
        let mut steps: BTreeMap<String, (Sample, Sample)> = BTreeMap::new();
        for asked in &found.asked {
            let after = |nanos: u64| {
                let at = UNIX_EPOCH + Duration::from_nanos(nanos);
                at.duration_since(asked.began)
                    .unwrap_or_default()
                    .as_secs_f64()
                    * 1e3
            };
            for span in self
                .wisp
                .collector()
                .into_iter()
                .flat_map(|to| to.spans(asked.trace))
            {
                let (begins, ends) = steps.entry(span.name).or_default();
                begins.0.push(after(span.start_time_unix_nano));
                ends.0.push(after(span.end_time_unix_nano));
            }
        }
        steps
    }

    /// Asks functions at once, each once.
    pub(crate) async fn ask_all(&self, functions: &[String], question: Question) -> Result<Found> {
        let asked = functions.iter().map(|name| self.ask(name, question));
        let mut found = Found::default();
        for asked in futures::future::try_join_all(asked).await? {
            found.add(asked);
        }
        Ok(found)
    }
}

/// The durations of a response's `server-timing`, in milliseconds, <https://www.w3.org/TR/server-timing/>.
fn timings(answer: &Answer) -> Vec<(String, f64)> {
    let values = answer.headers.get_all("server-timing").iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|metric| {
            let (name, rest) = metric.trim().split_once(';')?;
            Some((name.to_owned(), rest.strip_prefix("dur=")?.parse().ok()?))
        })
        .collect()
}

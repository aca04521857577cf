//! A request to a function, and where its time went.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Result, ensure};
use http::{HeaderValue, Method, Request};
use wisp_integration::{Answer, request};
use wisp_load::Sample;

use crate::bench::Bench;

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
}

impl Found {
    pub(crate) fn add(&mut self, took: f64, answer: &Answer) {
        self.total.0.push(took);
        for (phase, millis) in timings(answer) {
            self.phases.entry(phase).or_default().0.push(millis);
        }
    }
}

impl Bench<'_> {
    /// Asks a function once. Returns the milliseconds from the request's first byte to the answer's last, and the answer.
    pub(crate) async fn ask(&self, function: &str, question: Question) -> Result<(f64, Answer)> {
        let request = question.request(&self.space.path(function, ""))?;
        let connection = self.space.client().open().await?;
        let began = Instant::now();
        let answer = connection.fetch(request).await?;
        let took = began.elapsed().as_secs_f64() * 1e3;
        question.check(function, &answer)?;
        Ok((took, answer))
    }

    /// Asks functions at once, each once.
    pub(crate) async fn ask_all(&self, functions: &[String], question: Question) -> Result<Found> {
        let asked = functions.iter().map(|name| self.ask(name, question));
        let mut found = Found::default();
        for (took, answer) in futures::future::try_join_all(asked).await? {
            found.add(took, &answer);
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

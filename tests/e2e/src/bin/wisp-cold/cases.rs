//! The cases, one after another.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::json;
use wisp_e2e::{Operator, Stopped, repository};
use wisp_load::{Aim, Row, Sample};

use crate::ask::{Found, Question, Verb};
use crate::bench::{Bench, IDLE, percentile};

/// Words of a person who says hello.
pub(crate) const HELLO: Question = Question {
    method: Verb::Get,
    media_type: "text/plain",
    body: b"",
    word: "Hello",
};
const DIGIT: Question = Question {
    method: Verb::Post,
    media_type: "image/png",
    body: include_bytes!("../../../../../examples/digits/seven.png"),
    word: "\"digit\":7",
};
const PHOTO: Question = Question {
    method: Verb::Post,
    media_type: "image/jpeg",
    body: include_bytes!("../../../../../examples/classify/flower.jpg"),
    word: "daisy",
};
/// The cases' names, or what those of several have in common.
pub(crate) const NAMES: [&str; 12] = [
    "hello, pool",
    "digits, pool",
    "javascript of 12 MB, pool",
    "EfficientNet",
    "operator just restarted",
    "operator just killed",
    "API server and registry down",
    "8 functions at once, pool of 3",
    "8 functions at once again, pool of 3 to 8",
    "pool empty",
    "functions in one second, pool of 10",
    "pods that stand by",
];
/// Pods that stand by where functions are woken one by one.
const STANDING: usize = 2;

/// A case: what is asked of which functions.
struct Case<'a> {
    name: &'a str,
    /// What the plain Deployment is called that it is held against.
    plain: &'a str,
    question: Question,
    p50: Aim,
    p99: Option<Aim>,
}

/// What was found so far; a long run shows it as it comes.
#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn extend(&mut self, rows: impl IntoIterator<Item = Row>) {
        for row in rows {
            eprintln!(
                "{}, {}: {:.2} {}",
                row.case, row.metric, row.value, row.unit
            );
            self.0.push(row);
        }
    }
}

/// Whether some case's name holds this.
///
/// # Errors
/// When none does, with all names.
pub(crate) fn check(only: &str) -> Result<()> {
    let is_there = NAMES.iter().any(|name| name.contains(only));
    ensure!(
        is_there,
        "no case's name holds `{only}`: there are {}",
        NAMES.map(|name| format!("`{name}`")).join(", ")
    );
    Ok(())
}

/// Runs those that are asked for.
pub(crate) async fn run(bench: &Bench<'_>) -> Result<Vec<Row>> {
    let [
        of_hello,
        of_digits,
        of_javascript,
        of_photos,
        restarted,
        killed,
        down,
        at_once,
        again,
        empty,
        in_one_second,
        _,
    ] = NAMES;
    let wanted = |name: &str| name.contains(&bench.options.only);
    let component = |name: &str| bench.options.components.join(name);
    let hello = bench
        .space
        .push_component("hello", &component("hello.wasm"))
        .await?;
    let hellos = bench.turns("hello", &hello, "")?;
    let mut rows = Rows::default();

    let alone = json!({"minReplicas": STANDING, "maxReplicas": 2 * STANDING});
    bench.pool("warm", alone.clone()).await?;
    let case = Case {
        name: of_hello,
        plain: "hello",
        question: HELLO,
        p50: Aim::Below(5.0),
        p99: Some(Aim::Below(25.0)),
    };
    if wanted(case.name) {
        rows.extend(case.run(bench, &hellos).await?);
    }
    let case = Case {
        name: of_digits,
        plain: "digits",
        question: DIGIT,
        p50: Aim::Below(10.0),
        p99: None,
    };
    if wanted(case.name) {
        let image = bench
            .space
            .push_component("digits", &component("digits.wasm"))
            .await?;
        let model = repository().join("examples/digits/mnist.onnx");
        let model = bench.space.push_model("mnist", model).await?;
        let model = format!("  models: [{{name: mnist, source: {{image: '{model}'}}}}]\n");
        let functions = bench.turns("digits", &image, &model)?;
        rows.extend(case.run(bench, &functions).await?);
    }
    let case = Case {
        name: of_javascript,
        plain: "javascript",
        question: Question {
            word: "JavaScript",
            ..HELLO
        },
        p50: Aim::Below(30.0),
        p99: None,
    };
    if wanted(case.name) {
        let file = component("javascript.wasm");
        let image = bench.space.push_component("javascript", &file).await?;
        let functions = bench.turns("javascript", &image, "")?;
        rows.extend(case.run(bench, &functions).await?);
    }
    if wanted(of_photos) {
        photos(bench, &mut rows).await?;
    }
    let cluster = bench.wisp.cluster();
    let case = restarted;
    if wanted(case) {
        let trouble = || bench.end_operator();
        rows.extend(troubled(bench, case, &hellos, trouble).await?);
    }
    let case = killed;
    if wanted(case) {
        let trouble = || Operator::find(bench.wisp)?.kill();
        rows.extend(troubled(bench, case, &hellos, trouble).await?);
    }
    let case = down;
    if wanted(case) && cluster.name().is_some() {
        let trouble = || Stopped::of(cluster, &["apiserver", "registry"]);
        rows.extend(troubled(bench, case, &hellos, trouble).await?);
    }
    if wanted(at_once) {
        bench
            .pool("three", json!({"minReplicas": 3, "maxReplicas": 3}))
            .await?;
        rows.extend(eight(bench, at_once, &hellos, 3).await?);
    }
    if wanted(again) {
        let grows = json!({"minReplicas": 3, "maxReplicas": hellos.len()});
        bench.pool("three", grows).await?;
        bench.asleep(&hellos, 3).await?;
        bench.ask_all(&hellos, HELLO).await?;
        rows.extend(eight(bench, again, &hellos, hellos.len()).await?);
    }
    if wanted(empty) {
        bench
            .pool("none", json!({"minReplicas": 0, "maxReplicas": 0}))
            .await?;
        rows.extend([unpooled(bench, empty, &hellos).await?]);
    }
    if wanted(in_one_second) {
        rows.extend(many(bench, in_one_second, &hello).await?);
    }
    rows.extend(crate::idle::rows(bench).await?);
    Ok(rows.0)
}

/// Wakes functions that have no pool, in turns with a plain Deployment.
async fn unpooled(bench: &Bench<'_>, case: &str, hellos: &[String]) -> Result<Row> {
    let (mut ours, mut theirs) = (Sample::default(), Sample::default());
    let plain = bench.make_plain(&hellos[0]).await?;
    for name in hellos.iter().cycle().take(bench.options.plain.get()) {
        bench.asleep(hellos, 0).await?;
        ours.0.push(bench.ask(name, HELLO).await?.millis);
        bench.asleep(hellos, 0).await?;
        theirs.0.extend(bench.wake_plain(&plain, HELLO).await?);
    }
    bench.remove_plain()?;
    let baseline = percentile(&theirs, 50.0);
    let p50 = Bench::percentile(case, &ours, 50.0).against(baseline);
    Ok(p50.aiming(Aim::Below(1.1 * baseline)))
}

/// Wakes functions, each just after `trouble` came and as long as what it gives lives; in turns with a plain Deployment,
/// which nothing troubles.
async fn troubled<T>(
    bench: &Bench<'_>,
    case: &str,
    hellos: &[String],
    trouble: impl Fn() -> Result<T>,
) -> Result<[Row; 2]> {
    let mut found = Found::default();
    let plain = bench.make_plain(&hellos[0]).await?;
    for name in hellos.iter().cycle().take(bench.options.plain.get()) {
        let before = bench.asleep(hellos, STANDING).await?;
        let troubled = trouble()?;
        found.add(bench.ask(name, HELLO).await?);
        drop(troubled);
        bench.taken(name, &before).await?;
        bench.asleep(hellos, STANDING).await?;
        found.plain.0.extend(bench.wake_plain(&plain, HELLO).await?);
    }
    bench.remove_plain()?;
    let baseline = percentile(&found.plain, 50.0);
    Ok(
        [50.0, 99.0]
            .map(|percent| Bench::percentile(case, &found.total, percent).against(baseline)),
    )
}

impl Case<'_> {
    async fn run(&self, bench: &Bench<'_>, functions: &[String]) -> Result<Vec<Row>> {
        let found = bench.wake(functions, self.question, STANDING).await?;
        let mut rows = self.rows(&found);
        rows.extend(self.steps(&bench.steps(&found).await));
        Ok(rows)
    }

    /// From when to when the steps go on.
    fn steps(&self, steps: &BTreeMap<String, (Sample, Sample)>) -> Vec<Row> {
        let row = |step: &String, (begins, ends): &(Sample, Sample)| {
            [("begins", begins), ("ends", ends)].map(|(what, sample)| {
                Bench::row(self.name, &format!("`{step}` {what} after"), sample, "ms")
            })
        };
        steps
            .iter()
            .flat_map(|(step, times)| row(step, times))
            .collect()
    }

    /// Beside a plain Deployment of the same, whose rows are the first.
    fn rows(&self, found: &Found) -> Vec<Row> {
        let baseline = percentile(&found.plain, 50.0);
        let case = format!("{}, plain Deployment", self.plain);
        let plain = [50.0, 99.0].map(|percent| Bench::percentile(&case, &found.plain, percent));
        let of = |percent| Bench::percentile(self.name, &found.total, percent).against(baseline);
        let p99 = match self.p99 {
            // Of fewer it is the greatest, which is more.
            Some(aim) if found.total.0.len() >= 100 => of(99.0).aiming(aim),
            _ => of(99.0),
        };
        let awake = format!("p50 of {} when awake", found.awake.0.len());
        let awake = Bench::row(self.name, &awake, &found.awake, "ms");
        let mut rows = plain.to_vec();
        rows.extend([of(50.0).aiming(self.p50), p99, awake]);
        rows.extend(found.phases.iter().map(|(phase, sample)| {
            Bench::row(self.name, &format!("p50 of `{phase}`"), sample, "ms")
        }));
        rows
    }
}

/// A model of 18 MB, from the store; and kept in the pool's pods.
async fn photos(bench: &Bench<'_>, rows: &mut Rows) -> Result<()> {
    let component = bench.options.components.join("classify.wasm");
    let image = bench.space.push_component("classify", &component).await?;
    let file = bench.options.models.join("efficientnet-lite0.onnx");
    let model = bench.space.push_model("efficientnet", file).await?;
    let models =
        format!("  models: [{{name: efficientnet-lite0, source: {{image: '{model}'}}}}]\n");
    let functions = bench.turns("classify", &image, &models)?;
    let case = |name, plain, aim| Case {
        name,
        plain,
        question: PHOTO,
        p50: aim,
        p99: None,
    };
    let found = bench.wake(&functions, PHOTO, STANDING).await?;
    // The aims are for what a wake-up adds to what the function computes: a picture is decoded and scaled, too.
    let aim = |found: &Found, added: f64| Aim::Below(added + found.awake.median());
    let of_store = case(
        "EfficientNet from the store",
        "EfficientNet",
        aim(&found, 100.0),
    );
    rows.extend(of_store.rows(&found));
    let pool = json!({
        "minReplicas": STANDING, "maxReplicas": STANDING,
        "models": [{"name": "efficientnet-lite0", "source": {"image": model}}],
    });
    bench.pool("models", pool).await?;
    let found = bench.wake(&functions, PHOTO, STANDING).await?;
    let kept = case(
        "EfficientNet kept in the pool",
        "EfficientNet once more",
        aim(&found, 15.0),
    );
    rows.extend(kept.rows(&found));
    bench
        .pool(
            "warm",
            json!({"minReplicas": STANDING, "maxReplicas": 2 * STANDING}),
        )
        .await
}

/// Wakes all functions at once, in turns with as many plain Deployments, each time when so many pods are `standing` by.
async fn eight(
    bench: &Bench<'_>,
    case: &str,
    hellos: &[String],
    standing: usize,
) -> Result<Vec<Row>> {
    let (mut all, mut slowest) = (Sample::default(), Sample::default());
    let (mut all_plain, mut slowest_plain) = (Sample::default(), Sample::default());
    for _ in 0..(bench.options.wakes.get() / hellos.len()).clamp(1, 25) {
        bench.asleep(hellos, standing).await?;
        let found = bench.ask_all(hellos, HELLO).await?;
        slowest.0.push(percentile(&found.total, 100.0));
        all.0.extend(found.total.0);
        bench.asleep(hellos, standing).await?;
        let plain = bench.plain_at_once(&hellos[0], hellos.len()).await?;
        slowest_plain.0.push(percentile(&plain, 100.0));
        all_plain.0.extend(plain.0);
    }
    let p50 = Bench::percentile(case, &all, 50.0).against(percentile(&all_plain, 50.0));
    let slowest = Bench::row(case, "slowest of the eight", &slowest, "ms");
    let slowest = slowest.against(slowest_plain.median());
    Ok(vec![p50, slowest.aiming(Aim::Below(600.0))])
}

async fn many(bench: &Bench<'_>, case: &str, hello: &str) -> Result<Vec<Row>> {
    let many = bench.options.many.get();
    let case = format!("{many} {case}");
    // As little as a pod of the pool, or a hundred of them would not fit on two small nodes.
    let small =
        "  pod: {resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {memory: 256Mi}}}\n";
    // None falls asleep before the last is awake, as the Deployments don't.
    let functions = bench.functions("many", many, hello, "10m", small)?;
    bench
        .pool("ten", json!({"minReplicas": 10, "maxReplicas": 10}))
        .await?;
    bench.asleep(&functions, 10).await?;
    // All or none: one that fails ends the run.
    let found = bench.ask_all(&functions, HELLO).await?;
    bench.functions("many", many, hello, IDLE, small)?;
    bench.asleep(&functions, 0).await?;
    let plain = bench.plain_at_once(&functions[0], many).await?;
    let row = |metric: &str, percent: f64| {
        let value = |sample| Sample(vec![percentile(sample, percent)]);
        Bench::row(&case, metric, &value(&found.total), "ms").against(percentile(&plain, percent))
    };
    let names = functions.iter().map(String::as_str);
    let arguments: Vec<&str> = ["delete", "fn", "--wait=false"]
        .into_iter()
        .chain(names)
        .collect();
    bench.space.kubectl(&arguments)?;
    Ok(vec![
        row("p50", 50.0),
        row("until the last is answered", 100.0),
    ])
}

//! What hosts found out about models, for the hosts that load them next: trying a model takes longer than loading it.
//!
//! Who may make pods in a namespace may have one say anything. So its pods are believed in that namespace alone, and however much
//! they say, what is known in others stays.

use std::collections::HashMap;
use std::mem::discriminant;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;
use wisp_contract::assignment::{Assignment, artifact_named};
use wisp_contract::config::{Model, Trial, Tried};
use wisp_contract::status::HostStatus;

use crate::artifacts::{self, Artifacts, Learned};
use crate::live::lock;

/// The most models that are remembered.
const MOST: usize = 4096;
/// The most of one namespace.
const OF_NAMESPACE: usize = 256;
/// How long it counts. What was measured in a bad moment, or on a machine that is no more, shouldn't count for ever.
const COUNTS: Duration = Duration::from_hours(24);

/// The most kinds of hosts that are remembered of one model.
const KINDS: usize = 16;
/// The most bytes of a reason that are remembered: an Assignment has all of them. The runtime's own words may be quoted in it.
const REASON: usize = 256;
/// The most bytes that the name of a processor's instructions has.
const PROCESSOR: usize = 64;

/// How often a host is asked that tries models while it serves.
const ASKED_EVERY: Duration = Duration::from_secs(1);
/// How many times at most: a host tries for half as long.
const ASKED: u32 = 90;
/// How many times in a row it may give no answer.
const UNANSWERED: u32 = 3;

/// What is known of models, by namespaces and the names of their files: those of artifacts hold their digests.
#[derive(Debug, Default)]
pub(super) struct Trials {
    known: Mutex<artifacts::Trials>,
    changed: Notify,
}

impl Trials {
    /// Brings back what earlier processes knew, and has what is learned from now on noted for later ones. Never returns.
    pub(super) async fn keep(&self, artifacts: &dyn Artifacts) {
        let at = seconds(SystemTime::now());
        for (namespace, models) in artifacts.trials().await {
            for (file, earlier) in models {
                let mut known = lock(&self.known);
                let known = entry(&mut known, &namespace, file, at);
                for learned in earlier.into_iter().take(KINDS.saturating_sub(known.len())) {
                    // What was learned meanwhile is newer.
                    let is_of_its_kind =
                        |known: &Learned| known.tried.is_of_the_kind_of(&learned.tried);
                    if !known.iter().any(is_of_its_kind) {
                        known.push(learned);
                    }
                }
            }
        }
        loop {
            self.changed.notified().await;
            let known = lock(&self.known).clone();
            if let Err(error) = artifacts.note_trials(known).await {
                let error = error.message;
                tracing::warn!(error, "what hosts found out about models isn't kept");
            }
        }
    }

    /// Remembers what a host says that took `assignment`.
    pub(super) fn learn(&self, assignment: &Assignment, status: &HostStatus, now: SystemTime) {
        let at = seconds(now);
        let models = &assignment.config.models;
        for model in models.iter().filter(|model| is_stored(model)) {
            let told = status.models.iter().find(|told| told.name == model.name);
            let Some(tried) = told.and_then(|told| bounded(told.tried.clone()?)) else {
                continue;
            };
            // It says what it was told, too.
            if model.trials.contains(&tried) {
                continue;
            }
            let file = model.file.display().to_string();
            let counts = |learned: &Learned| counts(learned, at);
            let mut known = lock(&self.known);
            let of_model = entry(&mut known, assignment.function.namespace(), file, at);
            // Reasons hold times that were measured: no two are alike.
            let is_known = of_model.iter().any(|other| {
                other.tried.is_of_the_kind_of(&tried)
                    && discriminant(&other.tried.trial) == discriminant(&tried.trial)
                    && other.at.saturating_add(COUNTS.as_secs() / 2) >= at
            });
            if is_known {
                continue;
            }
            of_model.retain(|other| counts(other) && !other.tried.is_of_the_kind_of(&tried));
            of_model.push(Learned { tried, at });
            if of_model.len() > KINDS {
                // `sort_by_key` keeps the order of those of one second.
                of_model.sort_by_key(|learned| learned.at);
                of_model.remove(0);
            }
            drop(known);
            self.changed.notify_one();
        }
    }

    /// Remembers what the host that took `assignment` finds while it serves, until it tries no model any more. `ask` gives
    /// what it says of itself. It isn't asked for ever, nor where it is gone.
    pub(super) async fn follow<F>(&self, assignment: &Assignment, ask: impl Fn() -> F)
    where
        F: Future<Output = Option<HostStatus>>,
    {
        let mut unanswered = 0;
        for _ in 0..ASKED {
            tokio::time::sleep(ASKED_EVERY).await;
            if let Some(status) = ask().await {
                self.learn(assignment, &status, SystemTime::now());
                if !status.tries_models() {
                    return;
                }
                unanswered = 0;
            } else {
                unanswered += 1;
                if unanswered >= UNANSWERED {
                    return;
                }
            }
        }
    }

    /// Tells the host that takes `assignment` what is known.
    pub(super) fn tell(&self, assignment: &mut Assignment, now: SystemTime) {
        let known = lock(&self.known);
        let known = known.get(assignment.function.namespace());
        let now = seconds(now);
        let models = &mut assignment.config.models;
        for model in models.iter_mut().filter(|model| is_stored(model)) {
            let of_model = known.and_then(|known| known.get(&model.file.display().to_string()));
            let recent = of_model
                .into_iter()
                .flatten()
                .filter(|learned| counts(learned, now));
            model.trials = recent.map(|learned| learned.tried.clone()).collect();
        }
    }
}

/// Whether it has the same bytes wherever its file has the same name.
fn is_stored(model: &Model) -> bool {
    artifact_named(&model.file).is_some()
}

/// What is known of a model in a namespace. Where it is one more, others make room for it.
fn entry<'a>(
    known: &'a mut artifacts::Trials,
    namespace: &str,
    file: String,
    at: u64,
) -> &'a mut Vec<Learned> {
    let models = known.get(namespace);
    if !models.is_some_and(|models| models.contains_key(&file)) {
        make_room(known, namespace, at);
    }
    let models = known.entry(namespace.to_owned()).or_default();
    models.entry(file).or_default()
}

/// Makes room for one more model of `namespace` where there is none: what no longer counts goes, and if that isn't enough, the
/// model of which nothing was heard for longest. It is the namespace's own, or where all have too many together, of that which has
/// most.
fn make_room(known: &mut artifacts::Trials, namespace: &str, at: u64) {
    let is_full = |known: &artifacts::Trials| {
        let of_namespace = known.get(namespace).map_or(0, HashMap::len);
        let all = known.values().map(HashMap::len).sum::<usize>();
        (of_namespace >= OF_NAMESPACE, all >= MOST)
    };
    if is_full(known) == (false, false) {
        return;
    }
    for models in known.values_mut() {
        models.retain(|_, of_model| of_model.iter().any(|learned| counts(learned, at)));
    }
    known.retain(|_, models| !models.is_empty());
    let gives = match is_full(known) {
        (false, false) => return,
        (true, _) => known.get_mut(namespace),
        (false, true) => {
            let most = known
                .iter_mut()
                .max_by_key(|(name, models)| (models.len(), *name == namespace));
            most.map(|(_, models)| models)
        }
    };
    let Some(models) = gives else { return };
    let last = |of_model: &Vec<Learned>| of_model.iter().map(|learned| learned.at).max();
    let oldest = models.iter().min_by_key(|(_, of_model)| last(of_model));
    if let Some(oldest) = oldest.map(|(file, _)| file.clone()) {
        models.remove(&oldest);
    }
}

/// As much of it as is remembered, unless no host says so.
fn bounded(mut tried: Tried) -> Option<Tried> {
    if let Trial::Alone(why) | Trial::Spread(why) = &mut tried.trial {
        why.truncate(why.floor_char_boundary(REASON));
    }
    (tried.processor.len() <= PROCESSOR).then_some(tried)
}

/// Whether it still does at `now`, in seconds since 1970.
fn counts(learned: &Learned, now: u64) -> bool {
    learned.at.saturating_add(COUNTS.as_secs()) >= now
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::ready;
    use std::num::NonZeroUsize;

    use serde_json::json;
    use wisp_contract::config::{Trial, Tried};

    use super::*;
    use crate::artifacts::StoreArtifacts;
    use crate::signatures::Policy;

    fn assignment(file: &str) -> Assignment {
        assignment_of("a/b", file)
    }

    fn assignment_of(function: &str, file: &str) -> Assignment {
        serde_json::from_value(json!({
            "function": function, "revision": "1",
            "config": {"component": {"file": "artifact:0"}, "models": [{"name": "m", "file": file}]},
        }))
        .unwrap()
    }

    fn status(tried: &Tried) -> HostStatus {
        serde_json::from_value(json!({
            "phase": "ready", "inFlight": 0, "queued": 0,
            "models": [{
                "name": "m", "backend": "onnxruntime", "device": "cpu", "batched": false,
                "tried": tried, "inputs": [], "outputs": [], "loadMillis": 3,
            }],
        }))
        .unwrap()
    }

    fn told(trials: &Trials, file: &str, now: SystemTime) -> Vec<Tried> {
        told_to("a/b", trials, file, now)
    }

    fn told_to(function: &str, trials: &Trials, file: &str, now: SystemTime) -> Vec<Tried> {
        let mut assignment = assignment_of(function, file);
        trials.tell(&mut assignment, now);
        assignment.config.models.remove(0).trials
    }

    fn alone() -> Tried {
        Tried {
            processor: "x86-64-v3".to_owned(),
            cores: NonZeroUsize::MIN,
            trial: Trial::Alone("it doesn't pay".to_owned()),
        }
    }

    /// Would fail if a model were tried by every host, never again, or what was found out of one were told of another.
    #[test]
    fn what_one_host_found_is_told_to_those_that_load_the_same_bytes() {
        let trials = Trials::default();
        let now = UNIX_EPOCH + 2 * COUNTS;
        assert_eq!(told(&trials, "artifact:1", now), []);
        trials.learn(&assignment("artifact:1"), &status(&alone()), now);
        trials.learn(&assignment("/mnt/models/0/m.onnx"), &status(&alone()), now);
        assert_eq!(told(&trials, "artifact:1", now), [alone()]);
        assert_eq!(told(&trials, "artifact:2", now), []);
        // What a volume holds may change.
        assert_eq!(told(&trials, "/mnt/models/0/m.onnx", now), []);

        // Who was told says it again, which is nothing new.
        let mut again = assignment("artifact:1");
        trials.tell(&mut again, now);
        trials.learn(&again, &status(&alone()), now + COUNTS);
        assert_eq!(told(&trials, "artifact:1", now + COUNTS), [alone()]);
        let second = Duration::from_secs(1);
        assert_eq!(told(&trials, "artifact:1", now + COUNTS + second), []);
    }

    /// Would fail if what a host finds while it serves were not known, or were asked for for ever.
    #[tokio::test(start_paused = true)]
    async fn what_a_host_finds_while_it_serves_is_known_then() {
        let trials = Trials::default();
        let now = SystemTime::now();
        let (asked, ends_after) = (Cell::new(0), Cell::new(3));
        let ask = || async {
            asked.set(asked.get() + 1);
            let mut status = status(&alone());
            if asked.get() < ends_after.get() {
                let model = &mut status.models[0];
                (model.trying, model.tried) = (true, None);
            }
            Some(status)
        };
        trials.follow(&assignment("artifact:1"), ask).await;
        assert_eq!(asked.get(), 3);
        assert_eq!(told(&trials, "artifact:1", now), [alone()]);

        let began = tokio::time::Instant::now();
        ends_after.set(u32::MAX);
        trials.follow(&assignment("artifact:2"), ask).await;
        assert_eq!(began.elapsed(), ASKED * ASKED_EVERY);
        trials
            .follow(&assignment("artifact:2"), || ready(None))
            .await;
        assert_eq!(began.elapsed(), (ASKED + UNANSWERED) * ASKED_EVERY);
        assert_eq!(told(&trials, "artifact:2", now), []);
    }

    /// Would fail if of a model that hosts of several kinds load only what the last of them found were known, or what one
    /// found earlier were told beside what it found since.
    #[test]
    fn each_kind_of_host_counts_for_itself() {
        let trials = Trials::default();
        let now = SystemTime::now();
        let found = |processor: &str, cores: usize, trial: Trial| Tried {
            processor: processor.to_owned(),
            cores: NonZeroUsize::new(cores).unwrap(),
            trial,
        };
        let (before, since) = (found("a", 1, Trial::Joined), found("a", 1, alone().trial));
        let others = [found("a", 2, Trial::Joined), found("b", 1, Trial::Joined)];
        for tried in [&before, &others[0], &others[1], &since] {
            trials.learn(&assignment("artifact:1"), &status(tried), now);
        }
        let [two, b] = others;
        assert_eq!(told(&trials, "artifact:1", now), [two, b, since]);

        for cores in 1..100 {
            let tried = found("c", cores, Trial::Joined);
            trials.learn(&assignment("artifact:1"), &status(&tried), now);
        }
        let cores = told(&trials, "artifact:1", now)
            .iter()
            .map(|tried| tried.cores.get())
            .collect::<Vec<_>>();
        assert_eq!(cores, (100 - KINDS..100).collect::<Vec<_>>());
    }

    /// Would fail if who may make pods in one namespace decided how the models of others run.
    #[test]
    fn a_pod_is_believed_in_its_own_namespace_alone() {
        let trials = Trials::default();
        let now = SystemTime::now();
        trials.learn(
            &assignment_of("mallory/f", "artifact:1"),
            &status(&alone()),
            now,
        );
        assert_eq!(told(&trials, "artifact:1", now), []);
        assert_eq!(
            told_to("mallory/g", &trials, "artifact:1", now),
            [alone()],
            "another function of it"
        );
    }

    /// Would fail if what a pod says could make an Assignment larger than a host takes, or who was told a part of a reason were
    /// taken for one that says something new.
    #[test]
    fn what_is_said_at_length_is_cut_short_or_not_believed() {
        let trials = Trials::default();
        let now = UNIX_EPOCH + COUNTS;
        let spread = |why: String| Tried {
            trial: Trial::Spread(why),
            ..alone()
        };
        let nobody = Tried {
            processor: "x".repeat(PROCESSOR + 1),
            ..alone()
        };
        let long = spread("\u{e4}".repeat(REASON));
        for tried in [&nobody, &long] {
            trials.learn(&assignment("artifact:1"), &status(tried), now);
        }
        let short = spread("\u{e4}".repeat(REASON / 2));
        assert_eq!(
            told(&trials, "artifact:1", now),
            std::slice::from_ref(&short)
        );
        let mut again = assignment("artifact:1");
        trials.tell(&mut again, now);
        trials.learn(&again, &status(&short), now + COUNTS);
        let later = now + COUNTS + Duration::from_secs(1);
        assert_eq!(told(&trials, "artifact:1", later), []);
    }

    /// Would fail if what still counts were forgotten while there is what no longer does.
    #[test]
    fn what_no_longer_counts_makes_room() {
        let trials = Trials::default();
        let (then, now) = (UNIX_EPOCH, UNIX_EPOCH + 2 * COUNTS);
        let status = status(&alone());
        trials.learn(&assignment("artifact:recent"), &status, now);
        for number in 1..OF_NAMESPACE {
            let file = format!("artifact:{number}");
            trials.learn(&assignment(&file), &status, then);
        }
        assert_eq!(lock(&trials.known)["a"].len(), OF_NAMESPACE);
        trials.learn(&assignment("artifact:new"), &status, now);
        assert_eq!(lock(&trials.known)["a"].len(), 2);
        for file in ["artifact:recent", "artifact:new"] {
            assert_eq!(told(&trials, file, now), [alone()]);
        }
    }

    /// Would fail if one namespace's pods, or those of many, could have what is known in another forgotten, or if there were no
    /// bound.
    #[test]
    fn who_says_much_makes_room_for_it() {
        let trials = Trials::default();
        let status = status(&alone());
        let at = |seconds: usize| UNIX_EPOCH + Duration::from_secs(seconds as u64);
        trials.learn(&assignment("artifact:0"), &status, at(0));
        for namespace in 0..=MOST / OF_NAMESPACE {
            for number in 0..=OF_NAMESPACE {
                let (function, file) = (format!("m{namespace}/f"), format!("artifact:{number}"));
                trials.learn(&assignment_of(&function, &file), &status, at(number));
            }
        }
        let known = lock(&trials.known).clone();
        assert_eq!(known.values().map(HashMap::len).sum::<usize>(), MOST);
        assert!(known.values().all(|models| models.len() <= OF_NAMESPACE));
        assert_eq!(told(&trials, "artifact:0", at(0)), [alone()]);
        // Each lost what it had said first.
        for models in known.values().filter(|models| models.len() > 1) {
            assert!(!models.contains_key("artifact:0"));
            assert!(models.contains_key(&format!("artifact:{OF_NAMESPACE}")));
        }
    }

    /// Would fail if an operator that follows on one which believed every pod everywhere didn't start, or believed them, too.
    #[tokio::test]
    async fn what_was_noted_without_namespaces_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let policy = Policy::default();
        let store =
            StoreArtifacts::open(folder.path(), 1 << 20, None, Vec::new(), policy, None, None);
        let learned = Learned {
            tried: alone(),
            at: u64::MAX,
        };
        let before = json!({"artifact:1": [learned]});
        let note = folder.path().join("notes/trials.json");
        std::fs::write(note, before.to_string()).unwrap();
        assert!(store.unwrap().trials().await.is_empty());
    }

    /// Would fail if an operator forgot what it knew when it is restarted.
    #[tokio::test]
    async fn what_is_known_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let open = || {
            let policy = Policy::default();
            StoreArtifacts::open(folder.path(), 1 << 20, None, Vec::new(), policy, None, None)
                .unwrap()
        };
        let now = SystemTime::now();
        let (first, second) = (Trials::default(), Trials::default());
        first.learn(&assignment("artifact:1"), &status(&alone()), now);
        let store = open();
        let is_noted = async {
            while store.trials().await.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = first.keep(&store) => {}
            () = is_noted => {}
        }
        drop(store);
        let store = open();
        let is_told = async {
            while told(&second, "artifact:1", now) != [alone()] {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = second.keep(&store) => {}
            () = is_told => {}
        }
    }
}

use std::num::NonZeroUsize;

use wisp_contract::config::Limits;

use super::*;

fn id(text: &str) -> FunctionId {
    text.parse().unwrap()
}

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 8080))
}

fn directory() -> Directory {
    Directory::new(Root::new(&"k".repeat(32)).unwrap())
}

fn known(name: &str, uid: &str) -> Known {
    Known {
        route: FunctionRoute {
            id: id(name),
            hosts: Vec::new(),
            held: Default::default(),
            created: 100,
            limits: Limits {
                concurrency: NonZeroUsize::new(9).unwrap(),
                ..Limits::default()
            },
        },
        uid: uid.to_owned(),
    }
}

fn pod(name: &str, phase: Phase, last: u8) -> Pod {
    Pod {
        name: ("a".to_owned(), name.to_owned()),
        uid: format!("uid of {name}"),
        function: id("a/f"),
        address: Some(at(last)),
        concurrency: Some(4),
        created: 101,
        owner: None,
        phase,
    }
}

fn replica(last: u8) -> Replica {
    Replica {
        address: at(last),
        concurrency: 4,
    }
}

/// What changed, in few words.
fn words(changes: Vec<Change>) -> Vec<String> {
    let word = |change| match change {
        Change::Route(route) => format!("route {}", route.id),
        Change::Unroute(id) => format!("unroute {id}"),
        Change::Insert(id, endpoint) => {
            format!("insert {id} {} x{}", endpoint.address, endpoint.concurrency)
        }
        Change::Remove(id, address) => format!("remove {id} {address}"),
    };
    changes.into_iter().map(word).collect()
}

/// A directory that knows `a/f`, without a pod.
fn knowing() -> Directory {
    let mut directory = directory();
    assert_eq!(
        words(directory.function(Event::Apply(known("a/f", "1")))),
        ["route a/f"]
    );
    directory
}

const INSERTED: [&str; 1] = ["insert a/f 10.0.0.7:8080 x4"];
const REMOVED: [&str; 1] = ["remove a/f 10.0.0.7:8080"];
const NOTHING: [&str; 0] = [];

#[test]
fn a_pod_is_an_endpoint_from_ready_until_it_is_not_any_more() {
    let mut directory = knowing();
    let mut step = |phase| words(directory.pod(Event::Apply(pod("p", phase, 7))));
    assert_eq!(step(Phase::NotReady), NOTHING);
    assert_eq!(step(Phase::Ready), INSERTED);
    assert_eq!(
        step(Phase::Ready),
        NOTHING,
        "the same again changes nothing"
    );
    assert_eq!(step(Phase::NotReady), REMOVED);
    assert_eq!(step(Phase::Ready), INSERTED, "it recovered");
    assert_eq!(step(Phase::Leaving), REMOVED);
    assert_eq!(step(Phase::Leaving), NOTHING);
    let name = ("a".to_owned(), "p".to_owned());
    assert_eq!(words(directory.pod(Event::Delete(name))), NOTHING);
}

#[test]
fn a_pod_that_vanishes_while_ready_is_removed() {
    let mut directory = knowing();
    directory.pod(Event::Apply(pod("p", Phase::Ready, 7)));
    let name = ("a".to_owned(), "p".to_owned());
    assert_eq!(words(directory.pod(Event::Delete(name))), REMOVED);
}

#[test]
fn what_a_wake_up_named_is_not_removed_because_it_is_not_ready_yet() {
    let mut directory = knowing();
    let now = Instant::now();
    let f = id("a/f");
    directory.pod(Event::Apply(pod("p", Phase::NotReady, 7)));
    assert_eq!(words(directory.woken(&f, &[replica(7)], now)), INSERTED);
    assert_eq!(words(directory.woken(&f, &[replica(7)], now)), NOTHING);
    let mut step = |phase| words(directory.pod(Event::Apply(pod("p", phase, 7))));
    assert_eq!(step(Phase::NotReady), NOTHING);
    assert_eq!(step(Phase::Ready), NOTHING, "the watch confirms it");
    assert_eq!(step(Phase::NotReady), REMOVED);
}

#[test]
fn what_a_wake_up_named_goes_when_its_pod_breaks_before_it_was_ever_ready() {
    let mut directory = knowing();
    directory.woken(&id("a/f"), &[replica(7)], Instant::now());
    let mut step = |phase| words(directory.pod(Event::Apply(pod("p", phase, 7))));
    assert_eq!(step(Phase::NotReady), NOTHING);
    assert_eq!(step(Phase::Leaving), REMOVED);
}

#[test]
fn a_wake_up_that_names_a_leaving_pod_inserts_nothing() {
    let mut directory = knowing();
    directory.pod(Event::Apply(pod("p", Phase::Leaving, 7)));
    let woken = directory.woken(&id("a/f"), &[replica(7)], Instant::now());
    assert_eq!(words(woken), NOTHING);
    // But a new pod may have got the address of an old one.
    directory.pod(Event::Apply(pod("q", Phase::NotReady, 7)));
    let woken = directory.woken(&id("a/f"), &[replica(7)], Instant::now());
    assert_eq!(words(woken), INSERTED);
}

#[test]
fn an_endpoint_that_no_pod_stands_behind_is_not_kept() {
    let mut directory = knowing();
    let now = Instant::now();
    directory.woken(&id("a/f"), &[replica(7), replica(8)], now);
    directory.pod(Event::Apply(pod("p", Phase::NotReady, 8)));
    assert_eq!(words(directory.tick(now + ORPHAN / 2)), NOTHING);
    assert_eq!(words(directory.tick(now + ORPHAN)), REMOVED);
    assert_eq!(words(directory.tick(now + ORPHAN * 9)), NOTHING);
}

/// Would fail if replicas that serve were taken away because the API server is away, or those that are gone stayed once it is
/// back.
#[test]
fn what_a_wake_up_named_stays_while_no_watch_could_confirm_it() {
    let mut directory = knowing();
    let now = Instant::now();
    let f = id("a/f");
    directory.pods_failed(now);
    assert_eq!(words(directory.woken(&f, &[replica(7)], now)), INSERTED);
    assert_eq!(
        words(directory.tick(now + Duration::from_secs(20))),
        NOTHING
    );
    let mut now = now + Duration::from_secs(50);
    directory.pods_failed(now);
    directory.pods_answered(&Event::Init, now);
    assert_eq!(words(directory.tick(now + SILENCE)), NOTHING);
    now += Duration::from_secs(1);
    directory.pods_answered(&Event::InitDone, now);
    assert_eq!(words(directory.tick(now + ORPHAN / 2)), NOTHING);
    assert_eq!(words(directory.tick(now + ORPHAN)), REMOVED);

    // A watch that goes on where it was says nothing where there is nothing new.
    assert_eq!(words(directory.woken(&f, &[replica(7)], now)), INSERTED);
    directory.pods_failed(now);
    assert_eq!(words(directory.tick(now + SILENCE)), NOTHING);
    assert_eq!(words(directory.tick(now + SILENCE + ORPHAN)), REMOVED);
}

#[test]
fn pods_may_be_known_before_their_function() {
    let mut directory = directory();
    assert_eq!(
        words(directory.pod(Event::Apply(pod("p", Phase::Ready, 7)))),
        NOTHING
    );
    assert_eq!(
        words(directory.function(Event::Apply(known("a/f", "1")))),
        ["route a/f", INSERTED[0]]
    );
    assert_eq!(
        words(directory.function(Event::Apply(known("a/f", "1")))),
        NOTHING
    );
}

#[test]
fn a_function_made_anew_has_other_keys_and_none_of_the_pods_from_before() {
    let mut directory = knowing();
    let key_of = |changes: Vec<Change>| match changes.into_iter().next_back() {
        Some(Change::Insert(_, endpoint)) => endpoint.key.unwrap(),
        other => panic!("{other:?}"),
    };
    let before = key_of(directory.pod(Event::Apply(pod("p", Phase::Ready, 7))));
    assert_eq!(before, directory.keys.of(&id("a/f"), "1"));
    let mut anew = known("a/f", "2");
    anew.route.created = 200;
    assert_eq!(
        words(directory.function(Event::Apply(anew))),
        ["unroute a/f", "route a/f"]
    );
    let mut young = pod("q", Phase::Ready, 8);
    young.created = 201;
    assert_ne!(key_of(directory.pod(Event::Apply(young))), before);
    // The pod from before is still there, Ready, and of another function.
    let again = directory.pod(Event::Apply(pod("p", Phase::Ready, 7)));
    assert_eq!(words(again), NOTHING);
}

/// Would fail if pods from a pool, which stood by before their function came to be, were taken for those of a function
/// before it, or those for its own.
#[test]
fn a_pod_that_names_its_function_is_its_own_whatever_its_age() {
    let mut directory = knowing();
    let mut old = pod("p", Phase::Ready, 7);
    old.created = 1;
    // Not marked as the function's yet.
    assert_eq!(words(directory.pod(Event::Apply(old.clone()))), NOTHING);
    old.owner = Some("2".to_owned());
    assert_eq!(words(directory.pod(Event::Apply(old.clone()))), NOTHING);
    old.owner = Some("1".to_owned());
    assert_eq!(words(directory.pod(Event::Apply(old.clone()))), INSERTED);
    // The function is made anew: the pod stays with the one before.
    let mut anew = known("a/f", "2");
    anew.route.created = 200;
    assert_eq!(
        words(directory.function(Event::Apply(anew))),
        ["unroute a/f", "route a/f"]
    );
    assert_eq!(words(directory.pod(Event::Apply(old))), NOTHING);
    let mut young = pod("q", Phase::Ready, 8);
    (young.created, young.owner) = (201, Some("1".to_owned()));
    assert_eq!(words(directory.pod(Event::Apply(young))), NOTHING);
}

#[test]
fn a_list_removes_what_it_does_not_name_and_keeps_the_rest_untouched() {
    let mut directory = directory();
    for function in ["a/f", "a/g"] {
        directory.function(Event::Apply(known(function, "1")));
    }
    for (name, last) in [("p", 7), ("q", 8)] {
        directory.pod(Event::Apply(pod(name, Phase::Ready, last)));
    }
    assert!(!directory.is_synced());
    // The watch broke, and begins with a list; meanwhile nothing changes.
    assert_eq!(words(directory.pod(Event::Init)), NOTHING);
    let kept = directory.pod(Event::InitApply(pod("q", Phase::Ready, 8)));
    assert_eq!(words(kept), NOTHING);
    assert_eq!(words(directory.pod(Event::InitDone)), REMOVED);

    directory.function(Event::Init);
    directory.function(Event::Keep(id("a/f")));
    assert!(!directory.is_synced());
    assert_eq!(
        words(directory.function(Event::InitDone)),
        ["unroute a/g"],
        "one that cannot be read is there all the same"
    );
    assert!(directory.is_synced());
}

#[test]
fn an_address_that_another_pod_has_by_now_stays() {
    let mut directory = knowing();
    directory.pod(Event::Apply(pod("p", Phase::Ready, 7)));
    directory.pod(Event::Apply(pod("q", Phase::Ready, 7)));
    let name = ("a".to_owned(), "p".to_owned());
    assert_eq!(words(directory.pod(Event::Delete(name))), NOTHING);
    let name = ("a".to_owned(), "q".to_owned());
    assert_eq!(words(directory.pod(Event::Delete(name))), REMOVED);
}

#[test]
fn a_pod_of_the_same_name_is_another_pod() {
    let mut directory = knowing();
    directory.pod(Event::Apply(pod("p", Phase::Ready, 7)));
    let mut other = pod("p", Phase::NotReady, 8);
    other.uid = "another".to_owned();
    assert_eq!(words(directory.pod(Event::Apply(other))), REMOVED);
}

#[test]
fn without_an_annotation_the_functions_limit_counts() {
    let mut directory = knowing();
    let mut bare = pod("p", Phase::Ready, 7);
    bare.concurrency = None;
    assert_eq!(
        words(directory.pod(Event::Apply(bare))),
        ["insert a/f 10.0.0.7:8080 x9"]
    );
}

/// However events of pods and wake-ups are mixed, the gateway ends with exactly the pods that are Ready, once the watch
/// has told the last state of each and orphans had their time.
#[test]
fn in_the_end_the_ready_pods_are_the_endpoints() {
    let phases = [Phase::NotReady, Phase::Ready, Phase::Leaving];
    // A small generator of its own: the same sequences in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % bound).unwrap()
    };
    for _ in 0..500 {
        let (mut directory, mut now) = (knowing(), Instant::now());
        let mut has: BTreeSet<SocketAddr> = BTreeSet::new();
        let mut follow = |changes: Vec<Change>| {
            for change in changes {
                match change {
                    Change::Insert(_, endpoint) => assert!(has.insert(endpoint.address)),
                    Change::Remove(_, address) => assert!(has.remove(&address)),
                    other => panic!("{other:?}"),
                }
            }
            has.clone()
        };
        let mut last = [Phase::NotReady; 3];
        for _ in 0..20 {
            let which = next(3);
            let octet = u8::try_from(which).unwrap();
            if next(4) == 0 {
                follow(directory.woken(&id("a/f"), &[replica(octet)], now));
            } else {
                last[which] = phases[next(3)];
                let pod = pod(&which.to_string(), last[which], octet);
                follow(directory.pod(Event::Apply(pod)));
            }
            now += Duration::from_millis(100);
        }
        // Every pod comes to rest: Ready, or on its way out.
        for (which, phase) in last.iter_mut().enumerate() {
            if *phase == Phase::NotReady {
                *phase = Phase::Leaving;
            }
            let pod = pod(&which.to_string(), *phase, u8::try_from(which).unwrap());
            follow(directory.pod(Event::Apply(pod)));
        }
        let ended = follow(directory.tick(now + ORPHAN));
        let ready: BTreeSet<SocketAddr> = (0..3)
            .filter(|which| last[usize::from(*which)] == Phase::Ready)
            .map(at)
            .collect();
        assert_eq!(ended, ready);
    }
}

use proptest::prelude::*;

use super::*;
use crate::history::Load;

const SECOND: Duration = Duration::from_secs(1);

fn scaling(min: u32, max: u32, target: f64, idle: u64) -> Scaling {
    Scaling {
        min,
        max,
        target,
        idle_timeout: Duration::from_secs(idle),
    }
}

fn flying(in_flight: f64) -> Load {
    Load {
        in_flight,
        queued: 0.0,
        requests: in_flight.ceil() as u64,
    }
}

/// Ticks once a second with each load, taking over every decision; the replicas after each.
fn walk(scaling: &Scaling, start: u32, loads: impl IntoIterator<Item = Load>) -> Vec<u32> {
    let (mut history, mut now, mut current) = (History::default(), Instant::now(), start);
    let step = |load| {
        now += SECOND;
        history.record(now, load);
        let decision = decide(now, &history, scaling, current);
        history.follow(&decision);
        current = decision.replicas;
        current
    };
    loads.into_iter().map(step).collect()
}

#[test]
fn steady_load_gets_what_it_needs_and_keeps_it() {
    let replicas = walk(&scaling(0, 100, 8.0, 30), 1, vec![flying(32.0); 300]);
    assert!(replicas.iter().all(|count| *count == 4), "{replicas:?}");
}

#[test]
fn a_load_that_sways_about_a_multiple_of_the_target_moves_nothing() {
    let sway = (0..600).map(|second| flying(if second % 2 == 0 { 15.9 } else { 16.1 }));
    let replicas = walk(&scaling(0, 100, 8.0, 30), 2, sway);
    let changes = replicas
        .windows(2)
        .filter(|pair| pair[0] != pair[1])
        .count();
    assert!(changes <= 1, "{replicas:?}");
}

#[test]
fn it_sleeps_exactly_after_the_idle_timeout_and_not_a_tick_before() {
    let loads = [vec![flying(40.0); 10], vec![Load::default(); 40]].concat();
    let replicas = walk(&scaling(0, 100, 8.0, 30), 1, loads);
    // The last request was seen in tick 9.
    assert!(
        replicas[..39].iter().all(|count| *count >= 1),
        "{replicas:?}"
    );
    assert_eq!(replicas[39], 0, "{replicas:?}");
    assert!(replicas[40..].iter().all(|count| *count == 0));
}

#[test]
fn a_function_that_was_never_asked_has_its_least() {
    assert_eq!(
        decide(
            Instant::now(),
            &History::default(),
            &scaling(0, 5, 1.0, 30),
            3
        )
        .replicas,
        0
    );
    assert_eq!(
        decide(
            Instant::now(),
            &History::default(),
            &scaling(2, 5, 1.0, 30),
            0
        )
        .replicas,
        2
    );
}

#[test]
fn a_queue_is_acted_on_at_once() {
    let (mut history, now) = (History::default(), Instant::now());
    for second in 0..60 {
        history.record(now + SECOND * second, flying(8.0));
    }
    let now = now + SECOND * 60;
    history.record(
        now,
        Load {
            in_flight: 8.0,
            queued: 7.0,
            requests: 15,
        },
    );
    let decision = decide(now, &history, &scaling(0, 10, 8.0, 30), 1);
    assert_eq!((decision.replicas, decision.reason), (2, Reason::Queue));
}

#[test]
fn sudden_growth_is_seen_in_seconds_and_what_it_made_stays_a_minute() {
    let loads = [
        vec![flying(8.0); 60],
        vec![flying(80.0); 6],
        vec![flying(8.0); 70],
    ]
    .concat();
    let replicas = walk(&scaling(0, 100, 8.0, 30), 1, loads);
    assert!(replicas[..60].iter().all(|count| *count == 1));
    assert!(replicas[65] >= 10, "{replicas:?}");
    assert!(
        replicas[65..110].windows(2).all(|pair| pair[1] >= pair[0]),
        "nothing goes in a panic: {replicas:?}"
    );
    assert!(
        *replicas.last().unwrap() < 10,
        "and then it does: {replicas:?}"
    );
}

/// Would fail if the short window, whose load is only twice what there is carries, hid that of the long one.
#[test]
fn a_panic_never_wants_fewer_than_the_last_minute() {
    let (mut history, mut now) = (History::default(), Instant::now());
    for load in [vec![flying(320.0); 6], vec![flying(56.0); 6]].concat() {
        now += SECOND;
        history.record(now, load);
    }
    let decision = decide(now, &history, &scaling(0, 100, 8.0, 30), 3);
    assert!(decision.panic.is_some());
    // 188 at once in the last minute, 56 in the last seconds.
    assert_eq!(decision.replicas, 24);
}

#[test]
fn replicas_go_by_halves() {
    let loads = [vec![flying(640.0); 70], vec![flying(1.0); 200]].concat();
    let replicas = walk(&scaling(0, 100, 8.0, 600), 80, loads);
    assert!(
        replicas.windows(2).all(|pair| pair[1] * 2 >= pair[0]),
        "{replicas:?}"
    );
    assert_eq!(replicas.last(), Some(&1));
}

#[test]
fn what_is_no_number_counts_as_nothing() {
    let (mut history, now) = (History::default(), Instant::now());
    for bad in [f64::NAN, f64::INFINITY, -5.0] {
        history.record(
            now,
            Load {
                in_flight: bad,
                queued: bad,
                requests: 1,
            },
        );
        assert_eq!(
            decide(now, &history, &scaling(0, 9, f64::NAN, 30), 1).replicas,
            1
        );
    }
}

fn loads() -> impl Strategy<Value = Vec<Load>> {
    prop::collection::vec(
        prop_oneof![
            3 => (0.0..200.0_f64, 0.0..50.0_f64, 0..50_u64).prop_map(|(in_flight, queued, requests)| Load { in_flight, queued, requests }),
            2 => (0.0..200.0_f64).prop_map(flying),
            2 => Just(Load::default()),
        ],
        1..150,
    )
}

proptest! {
    #[test]
    fn never_outside_its_bounds(loads in loads(), min in 0..5_u32, more in 0..30_u32, target in 0.1..50.0_f64, start in 0..50_u32) {
        for count in walk(&scaling(min, min + more, target, 10), start, loads) {
            prop_assert!((min..=min + more).contains(&count));
        }
    }

    #[test]
    fn more_load_never_means_fewer(loads in loads(), extra in 0.0..100.0_f64, current in 0..40_u32, target in 0.1..50.0_f64) {
        let scaling = scaling(0, 1000, target, 3600);
        let start = Instant::now();
        let (mut less, mut more, mut now) = (History::default(), History::default(), start);
        for load in loads {
            now += SECOND;
            less.record(now, load);
            more.record(now, Load { in_flight: load.in_flight + extra, ..load });
        }
        prop_assert!(decide(now, &more, &scaling, current).replicas >= decide(now, &less, &scaling, current).replicas);
    }

    #[test]
    fn sleeps_after_the_idle_timeout_of_quiet_and_only_then(loads in loads(), idle in 1..90_u64) {
        let scaling = scaling(0, 50, 4.0, idle);
        let (mut history, mut now, mut current, mut last) = (History::default(), Instant::now(), 1_u32, None);
        for load in loads {
            now += SECOND;
            history.record(now, load);
            if load.requests > 0 || load.total() > 0.0 {
                last = Some(now);
            }
            let decision = decide(now, &history, &scaling, current);
            history.follow(&decision);
            current = decision.replicas;
            let quiet = last.is_none_or(|last| now - last >= Duration::from_secs(idle));
            prop_assert_eq!(current == 0, quiet);
        }
    }

    #[test]
    fn steady_load_never_flaps(load in 0.01..500.0_f64, target in 0.1..50.0_f64, start in 1..100_u32) {
        let replicas = walk(&scaling(0, 10_000, target, 30), start, vec![flying(load); 200]);
        let turns = replicas.windows(2).filter(|pair| pair[0] != pair[1]).map(|pair| pair[1] > pair[0]).collect::<Vec<_>>();
        prop_assert!(turns.windows(2).all(|pair| pair[0] == pair[1]), "it goes one way only: {:?}", replicas);
        prop_assert!(replicas[150..].windows(2).all(|pair| pair[0] == pair[1]), "and arrives: {:?}", replicas);
        prop_assert!(f64::from(*replicas.last().unwrap()) * target >= load - 1e-6, "where it is carried: {:?}", replicas);
    }

    #[test]
    fn nothing_goes_in_a_panic(loads in loads(), start in 0..50_u32) {
        let scaling = scaling(0, 100, 4.0, 3600);
        let (mut history, mut now, mut current) = (History::default(), Instant::now(), start);
        for load in loads {
            now += SECOND;
            history.record(now, load);
            let decision = decide(now, &history, &scaling, current);
            history.follow(&decision);
            prop_assert!(decision.panic.is_none() || decision.replicas >= current.min(100));
            current = decision.replicas;
        }
    }
}

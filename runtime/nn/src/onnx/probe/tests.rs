//! Models of both kinds on the real ONNX Runtime, on the CPU.

use super::*;
use crate::DType;
use crate::onnx::fixture;
use crate::onnx::session::plain;

/// What the trial shows of a model of `tests/data`; `None` where there is no ONNX Runtime.
fn verdict(model: &str) -> Option<Verdict> {
    let library = fixture::library()?;
    let mut lane = plain(&library, &fixture::request(model));
    Some(probe(&mut lane, false, &Abort::new(1)))
}

/// Would fail if rows were computed together that see each other: through a scale that is chosen for all of them, the
/// largest of them, or a mean that is hardly seen among numbers of one size, or not where they are none.
#[test]
fn rows_that_see_each_other_are_found_out() {
    for model in [
        "quantised",
        "quantised-within",
        "by-largest",
        "less-mean",
        "less-log-mean",
    ] {
        let Some(verdict) = verdict(model) else {
            return;
        };
        assert!(
            matches!(verdict, Verdict::Dependent(_)),
            "{model}: {verdict:?}"
        );
    }
}

/// Would fail if numbers that are far from the usual ones, and overflow or aren't taken, made rows look as if they saw each
/// other.
#[test]
fn rows_that_dont_are_taken_for_it() {
    for model in [
        "add",
        "network",
        "lookup",
        "types",
        "softmax",
        "logarithms",
        "to-index",
    ] {
        let Some(verdict) = verdict(model) else {
            return;
        };
        assert_eq!(verdict, Verdict::Independent(None), "{model}");
    }
}

/// Would fail if a model passed whose outputs would show nothing.
#[test]
fn what_gives_no_numbers_is_not_known() {
    let Some(verdict) = verdict("not-a-number") else {
        return;
    };
    assert!(matches!(verdict, Verdict::Unknown(_)), "{verdict:?}");
}

/// Would fail if a model that has to be prepared for first were taken for slow, or one that is slow waited for further.
#[test]
fn only_what_is_slow_twice_is_slow() {
    let (short, long) = (PATIENCE, PATIENCE + Duration::from_nanos(1));
    let never = || -> Result<Duration, String> { panic!("it needn't be asked again") };
    assert_eq!(is_slow(short, never), Ok(false));
    assert_eq!(is_slow(long, || Ok(short)), Ok(false));
    assert_eq!(is_slow(long, || Ok(long)), Ok(true));
    assert!(is_slow(long, || Err("it fails".to_owned())).is_err());
}

/// Would fail if somebody waited for a trial that takes long, or without end.
#[test]
fn what_takes_long_shows_at_once() {
    for (model, takes) in [("add", false), ("wide", true), ("endless", true)] {
        let Some(library) = fixture::library() else {
            return;
        };
        let mut lane = plain(&library, &fixture::request(model));
        let began = Instant::now();
        assert_eq!(takes_long(&mut lane), takes, "{model}");
        assert!(began.elapsed() < LONGEST, "{model}: {:?}", began.elapsed());
    }
}

/// Would fail if what is small were alike whatever it is, because another row is large.
#[test]
fn each_row_is_measured_by_itself() {
    let tensor = |numbers: [f32; 4]| {
        let data: Vec<u8> = numbers.into_iter().flat_map(f32::to_ne_bytes).collect();
        Tensor::new(DType::F32, [2, 2], data).unwrap()
    };
    let one = tensor([1000.0, 500.0, 1.0, 0.5]);
    let is_same = |other| are_alike(&one, &tensor(other), &SAME);
    assert!(is_same([1000.5, 500.0, 1.0, 0.5005]));
    assert!(!is_same([1000.0, 500.0, 1.0, 0.6]));
    assert!(!is_same([1002.0, 500.0, 1.0, 0.5]));
    let none = tensor([f32::NAN, f32::INFINITY, 1.0, 1.0]);
    assert!(alike(&none, &none));
    assert!(!alike(&one, &none) && !alike(&none, &one));
}

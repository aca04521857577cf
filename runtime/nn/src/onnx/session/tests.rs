//! What ONNX Runtime makes of a request.

use std::time::{Duration, Instant};

use super::make::some_of;
use super::*;
use crate::onnx::fixture;

/// Would fail if a model of which only the bytes are known could read files of the host, should it get that far: this one
/// names a file that is there.
#[test]
fn what_is_loaded_from_bytes_finds_no_files() {
    let Some(library) = fixture::library() else {
        return;
    };
    let mut request = fixture::request("outside-here");
    let error = on(&library, &request, Place::Cpu).map(drop).unwrap_err();
    assert!(error.contains("outside.bin"), "{error}");
    // A function's own model keeps what lies beside its file.
    request.beside = Some(fixture::file("outside"));
    on(&library, &request, Place::Cpu).unwrap();
}

/// Would fail if one GPU that can't be had kept a model off the others, or it weren't told why.
#[test]
fn what_can_be_had_is_had() {
    let of = |each: &[Result<u8, &str>], most| {
        let each: Vec<_> = each
            .iter()
            .map(|one| one.map_err(str::to_owned))
            .enumerate()
            .collect();
        some_of(each.into_iter(), most)
    };
    let reason = |why: &str| Some(why.to_owned());
    assert_eq!(of(&[Ok(1), Ok(2)], 9), Ok((vec![1, 2], None)));
    assert_eq!(
        of(&[Ok(1), Err("busy"), Ok(3), Err("lost")], 9),
        Ok((vec![1, 3], reason("GPU 1: busy; GPU 3: lost")))
    );
    // A guest's model gets one, which needn't be the first.
    assert_eq!(
        of(&[Err("busy"), Ok(2), Err("lost")], 1),
        Ok((vec![2], reason("GPU 0: busy")))
    );
    assert_eq!(
        of(&[Err("busy"), Err("lost")], 9),
        Err("GPU 0: busy; GPU 1: lost".to_owned())
    );
}

/// Would fail if a model whose weights lie beside it got a session for each core, each with a copy of them; or one did of
/// which nobody knows how much lies there.
#[test]
fn weights_in_files_beside_a_model_count() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outside.onnx");
    std::fs::copy(fixture::file("outside"), &path).unwrap();
    let sessions = |length: Option<u64>| {
        let weights = folder.path().join("outside.bin");
        match length {
            Some(length) => {
                let file = std::fs::File::create(&weights).unwrap();
                // No block of it is ever written.
                file.set_len(length).unwrap();
            }
            None => std::fs::remove_file(&weights).unwrap(),
        }
        let request = Request {
            beside: Some(path.clone()),
            cores: NonZeroUsize::new(8).unwrap(),
            max_sessions: usize::MAX,
            ..fixture::request("outside")
        };
        let request = surveyed(&request, Survey::of(&request).as_ref());
        let sessions = sessions_of(&request, false).sessions;
        (sessions, may_spread(sessions, request.length))
    };
    assert_eq!(sessions(Some(8)), (8, true));
    assert_eq!(sessions(Some(100 << 20)), (5, false));
    assert_eq!(sessions(Some(3 << 30)), (1, false));
    assert_eq!(sessions(None), (1, false));
}

/// Would fail if a model whose rows see each other were joined because a host that looked less closely said so.
#[test]
fn what_was_found_before_doesnt_count_where_operators_say_otherwise() {
    for (model, expected) in [("quantised", None), ("add", Some(Trial::Joined))] {
        let request = Request {
            trial: Some(Trial::Joined),
            ..fixture::request(model)
        };
        let request = surveyed(&request, Survey::of(&request).as_ref());
        assert_eq!(request.trial, expected, "{model}");
    }
}

/// Would fail if a model that takes long were tried while somebody waits, or a trial went on that nobody needs any more.
#[test]
fn what_takes_long_is_tried_later_for_as_long_as_it_is_needed() {
    let Some(library) = fixture::library() else {
        return;
    };
    let later = |model: &str| {
        let request = Request {
            max_rows: NonZeroU32::MAX,
            cores: NonZeroUsize::new(2).unwrap(),
            max_sessions: usize::MAX,
            tries_later: true,
            ..fixture::request(model)
        };
        let loaded = load(&library, &request);
        let loaded = loaded.unwrap_or_else(|refusal| panic!("{model}: {}", refusal.into_reason()));
        (loaded.tried.is_some(), loaded.later)
    };
    let (is_tried, again) = later("add");
    assert!(is_tried && again.is_none());
    let (is_tried, again) = later("endless");
    assert!(!is_tried);
    let (stop, began) = (Abort::new(1), Instant::now());
    let from_elsewhere = stop.clone();
    let trial = std::thread::spawn(move || again.unwrap()(&stop).map(drop));
    // It ends then, whatever it does at that moment.
    std::thread::sleep(Duration::from_millis(100));
    from_elsewhere.leave();
    let why = trial.join().unwrap();
    assert_eq!(why, Err("nobody needs it any more".to_owned()));
    // As long as it would be tried for.
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

//! Which sessions compute a model?

use std::sync::Arc;
use std::time::Duration;

use wisp_contract::config::Trial;

use super::make::{is_prepared, on, on_cpu};
use super::{Outlets, Refusal, Request, still_needed};
use crate::backend::{Lane, MoreLanes};
use crate::onnx::device::{OnDevice, Place};
use crate::onnx::lane::OnnxLane;
use crate::onnx::library::Library;
use crate::onnx::plan::{Plan, may_spread, plan, spreads};
use crate::onnx::probe::{PATIENCE, one_row};
use crate::onnx::sized::{SizedLane, sizes};
/// What computes a model.
pub(super) struct Set {
    pub(super) lanes: Vec<Box<dyn Lane>>,
    pub(super) solo: Option<Box<dyn Lane>>,
    pub(super) more: MoreLanes,
}

impl Set {
    /// Of these alone.
    pub(super) fn of(lanes: Vec<OnnxLane>) -> Self {
        Self {
            lanes: lanes.into_iter().map(boxed).collect(),
            solo: None,
            more: Box::new(std::iter::empty()),
        }
    }
}

fn boxed(lane: OnnxLane) -> Box<dyn Lane> {
    Box::new(lane)
}

/// How many sessions a model gets on the CPU, and with how many threads.
pub(super) fn sessions_of(request: &Request, is_joined: bool) -> Plan {
    let Plan { sessions, threads } = plan(request.cores, is_joined, request.length);
    match sessions.min(request.max_sessions) {
        // There is nothing to share the cores with.
        1 => plan(request.cores, true, request.length),
        sessions => Plan { sessions, threads },
    }
}

/// Whether it is measured if all cores are worth a session of their own, for a model whose calls aren't joined.
pub(super) fn measures(request: &Request) -> bool {
    let plan = sessions_of(request, false);
    let is_split = plan.threads < first_plan(request).threads;
    is_split && request.joins() && may_spread(plan.sessions, request.length)
}

/// The first session was made before it was known how many there are to be. One is needed to begin with; the others are
/// made later.
pub(super) fn spread_out(
    library: &Arc<Library>,
    request: &Request,
    mut lanes: Vec<OnnxLane>,
    is_joined: bool,
    all_cores: Option<Duration>,
    outlets: &Outlets,
) -> Result<Set, Refusal> {
    let plan = sessions_of(request, is_joined);
    let mut solo = None;
    if plan.threads < first_plan(request).threads {
        match &request.trial {
            Some(Trial::Spread(_)) => solo = lanes.pop(),
            None if measures(request) => {
                // What was measured a while ago may have been disturbed by what is no more.
                let again = lanes
                    .first_mut()
                    .and_then(|lane| one_row(lane, &request.stop));
                let of_all = all_cores.into_iter().chain(again).min();
                let pays = match of_all {
                    // One core would take longer than loading may.
                    Some(of_all) if of_all > PATIENCE => true,
                    Some(of_all) => {
                        still_needed(request)?;
                        let mut narrow = outlets.lane(on_cpu(library, request, plan.threads)?);
                        let of_one = one_row(&mut narrow, &request.stop);
                        lanes.push(narrow);
                        of_one.is_some_and(|of_one| spreads(of_all, of_one))
                    }
                    None => false,
                };
                let first = lanes.swap_remove(0);
                solo = pays.then_some(first);
            }
            _ => lanes.clear(),
        }
    }
    still_needed(request)?;
    if lanes.is_empty() && solo.is_none() {
        lanes.push(outlets.lane(on_cpu(library, request, plan.threads)?));
    }
    let missing = plan.sessions.saturating_sub(lanes.len());
    let (library, request, outlets) = (Arc::clone(library), request.clone(), outlets.clone());
    let more = (0..missing).map(move |_| {
        let session = on_cpu(&library, &request, plan.threads).map_err(Refusal::into_reason)?;
        Ok(boxed(outlets.lane(session)))
    });
    Ok(Set {
        lanes: lanes.into_iter().map(boxed).collect(),
        solo: solo.map(boxed),
        more: Box::new(more),
    })
}

/// Each GPU gets a second session, so that one computes while the other brings its numbers over; unless the memory that a
/// model may have is bounded, or it is large.
pub(super) fn side_by_side(
    library: &Arc<Library>,
    request: &Request,
    lanes: Vec<OnnxLane>,
    is_joined: bool,
    outlets: &Outlets,
) -> Set {
    let max_rows = is_joined.then(|| u64::from(request.max_rows.get()));
    let sizes = is_prepared(request)
        .then(|| sizes(&outlets.inputs, &outlets.outputs, max_rows))
        .flatten();
    let (again, kept) = (Arc::clone(library), request.clone());
    let finish = move |lane: OnnxLane| -> Box<dyn Lane> {
        let Some(sizes) = sizes.clone() else {
            return boxed(lane);
        };
        // One size is no reason for another session.
        let is_free = kept.gpu_memory.is_none() && sizes.count() > 1;
        let may_copy = is_free && may_copy(&kept, sizes.count());
        let (library, request) = (Arc::clone(&again), kept.clone());
        let make = move |place| on(&library, &request, place);
        Box::new(SizedLane::new(lane, sizes, may_copy, Box::new(make)))
    };
    let free = request.max_sessions.saturating_sub(lanes.len());
    let is_free = request.gpu_memory.is_none() && may_copy(request, 1);
    let more = if is_free { free } else { 0 };
    let places: Vec<Place> = lanes.iter().map(|lane| lane.session.place).collect();
    let lanes = lanes.into_iter().map(&finish).collect();
    let (library, request, outlets) = (Arc::clone(library), request.clone(), outlets.clone());
    let more = places.into_iter().take(more).map(move |place| {
        let session = on(&library, &request, place)?;
        Ok(finish(outlets.lane(OnDevice::new(session, place))))
    });
    Set {
        lanes,
        solo: None,
        more: Box::new(more),
    }
}

/// The plan of the session that is made first, to ask the model what it is.
pub(super) fn first_plan(request: &Request) -> Plan {
    sessions_of(request, !matches!(request.trial, Some(Trial::Alone(_))))
}

/// Whether a GPU may hold so many more copies of the weights. What lies in other files is taken for much.
fn may_copy(request: &Request, copies: usize) -> bool {
    request.beside.is_none() && may_spread(copies, request.length)
}

//! What a test says is around its function, per thread: `cargo test` runs each test on a thread of its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::LogLine;
use crate::Request;
use crate::handler::Answer;
use crate::nn::{Cause, Outputs, Tensor};

pub(crate) type FakeModel = dyn Fn(&Outputs) -> Result<Vec<(String, Tensor)>, Cause>;
pub(crate) type Upstream = dyn Fn(Request) -> Answer;

#[derive(Default)]
pub(crate) struct Fakes {
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) stores: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    pub(crate) upstreams: BTreeMap<String, Rc<Upstream>>,
    pub(crate) models: BTreeMap<String, Rc<FakeModel>>,
    pub(crate) logs: Vec<LogLine>,
}

thread_local! {
    static FAKES: RefCell<Fakes> = RefCell::default();
}

pub(crate) fn with<R>(work: impl FnOnce(&mut Fakes) -> R) -> R {
    FAKES.with_borrow_mut(work)
}

//! Inference: the test's models.

use std::rc::Rc;

use crate::nn::{Cause, Code, Outputs, Tensor};
use crate::test::fakes::{self, FakeModel};

pub(crate) struct Model {
    name: String,
    compute: Rc<FakeModel>,
}

pub(crate) fn open(name: &str) -> Result<Model, Cause> {
    match fakes::with(|fakes| fakes.models.get(name).cloned()) {
        Some(compute) => Ok(Model {
            name: name.to_owned(),
            compute,
        }),
        None => Err(Cause {
            code: Code::NotFound,
            detail: "this test has no fake of it".to_owned(),
        }),
    }
}

impl Model {
    #[expect(clippy::unused_async, reason = "one signature with the host's side")]
    pub(crate) async fn run(
        &self,
        inputs: Vec<(String, Tensor)>,
    ) -> Result<Vec<(String, Tensor)>, Cause> {
        (self.compute)(&Outputs::new(&self.name, inputs))
    }
}

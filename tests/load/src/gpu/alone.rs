//! ONNX Runtime without anything around it: a session that a loop calls.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use ort::ep::{CPU, CUDA};
use ort::session::Session;
use ort::value::TensorRef;
use wisp_contract::config::Device;

const SHAPE: [usize; 3] = [3, 224, 224];

/// A model that takes images.
pub(crate) struct Alone {
    session: Session,
}

impl Alone {
    /// Loads it with what ONNX Runtime does by default; on the GPU or not at all, where that is asked for.
    pub(crate) fn load(library: &Path, model: &Path, device: Device) -> Result<Self> {
        let environment = ort::init_from(library)?.with_telemetry(false).build()?;
        let provider = match device {
            Device::Gpu => CUDA::default().build().error_on_failure(),
            Device::Cpu | Device::Auto => CPU::default().build().error_on_failure(),
        };
        let make = || -> ort::Result<Session> {
            Session::builder(&environment)?
                .with_execution_providers([provider])?
                .commit_from_file(model)
        };
        Ok(Self { session: make()? })
    }

    /// The numbers of all classes for so many images.
    pub(crate) fn run(&mut self, images: &[f32]) -> Result<Vec<f32>> {
        let [planes, rows, columns] = SHAPE;
        let count = images.len() / (planes * rows * columns);
        let input = TensorRef::from_array_view(([count, planes, rows, columns], images))?;
        let outputs = self.session.run(ort::inputs!["input" => input])?;
        let logits = outputs.get("logits").context("no output `logits`")?;
        Ok(logits.try_extract_tensor::<f32>()?.1.to_vec())
    }

    /// Images per second, so many at once.
    pub(crate) fn per_second(&mut self, images: &[f32], time: Duration) -> Result<f64> {
        let count = images.len() / SHAPE.iter().product::<usize>();
        let begun = Instant::now();
        let mut done = 0;
        while begun.elapsed() < time {
            self.run(images)?;
            done += count;
        }
        Ok(done as f64 / begun.elapsed().as_secs_f64())
    }
}

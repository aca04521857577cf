//! `wasi:nn@0.2.0-rc-2024-10-28` for guests, on wisp's model store.
//!
//! The interface is upstream's, unchanged, <https://github.com/WebAssembly/wasi-nn>. What it leaves open:
//! - `load-by-name` opens the function's models, by the names in `spec.models`.
//! - `load` takes one buffer with an ONNX model that holds all its numbers itself. Its bytes count against the
//!   instance's tensor budget for as long as the graph lives, or an execution context that was made from it.
//! - A tensor's constructor can't fail in this interface. So a tensor whose bytes don't fit its shape, or that exceeds
//!   the budget, says so when it is used in `compute`; one that exceeds the budget holds no data, and one with more
//!   than [`wisp_nn::MAX_RANK`] dimensions holds neither data nor dimensions.
//! - `wasi:nn` has names for `f16`, `f32`, `f64`, `bf16`, `u8`, `i32` and `i64` only. A model with an input or output of
//!   another type can't be opened: the error names it.
//! - A scalar output has dimensions `[1]`, as the interface asks for.
//!
//! Every function works in fibers only, so it can be linked on engines with and without the component model's
//! concurrency, for WASI 0.2 and 0.3 guests. While `compute` waits, its instance does nothing else.

mod budget;
mod ctx;
mod error;
mod host;
mod tensor;

pub use ctx::{Usage, UsageReader, WasiNn, WasiNnCtx};
pub use error::Error;
pub use host::{Graph, GraphExecutionContext, add_to_linker};
pub use tensor::GuestTensor;

/// Generated from the WIT.
mod bindings {
    wasmtime::component::bindgen!({
        path: "../../sdk/wit/deps/nn",
        world: "wasi:nn/ml",
        imports: {
            default: trappable,
            "wasi:nn/graph.load": async | trappable,
            "wasi:nn/inference.[method]graph-execution-context.compute": async | trappable,
        },
        with: {
            "wasi:nn/tensor.tensor": crate::tensor::GuestTensor,
            "wasi:nn/graph.graph": crate::host::Graph,
            "wasi:nn/inference.graph-execution-context": crate::host::GraphExecutionContext,
            "wasi:nn/errors.error": crate::error::Error,
        },
    });
}

#[cfg(test)]
mod tests;

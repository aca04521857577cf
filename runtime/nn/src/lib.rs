//! Inference: models loaded once, shared by every instance, batched across them.

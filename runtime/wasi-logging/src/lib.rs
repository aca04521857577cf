//! wasi:logging and standard streams for guests, as log lines with a request id.

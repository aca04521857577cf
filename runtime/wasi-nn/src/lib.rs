//! wasi:nn for guests, on wisp's model store.

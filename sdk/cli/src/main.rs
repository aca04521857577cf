//! The `wisp` command line.

fn main() {}

//! One set of features of every dependency, for every selection of packages. Its manifest is all there is to it; `cargo hakari generate` writes it.

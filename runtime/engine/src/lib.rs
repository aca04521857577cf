//! Engines, inspection, pre-initialisation, compilation and the artifact cache.

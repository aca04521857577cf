//! The attribute macros of the wisp SDK.

//! Processes on loopback, driven as a user drives them.

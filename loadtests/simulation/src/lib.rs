//! Whole clusters in one deterministic run.

//! Members that are behind.

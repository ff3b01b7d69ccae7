//! Where the records live.

//! The whole of CairnFS from outside: the real binary through the kernel, the whole stack against
//! a model, volumes of other writers, other people's test suites.
//!
//! Each group can be run alone by its name: `cargo test --test integration mount::`. What needs
//! root and `/dev/fuse` says so by failing with a sentence.

mod arrows;
mod compat;
mod crash;
mod encryption;
mod engines;
mod faults;
#[path = "fuzzing.rs"]
mod fuzz;
mod model;
mod mount;
mod posix;
mod sim;
mod support;
mod write_back;

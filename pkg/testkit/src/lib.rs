//! What tests of the whole stack are made of: an obvious model, generated steps, and a world in
//! which time, chance, the store and death are at hand.
//!
//! [`ModelFs`] says what must happen, [`Step`]s say what to try, [`World`] is the real thing over a
//! store that can fail and an engine that can lose its last second. [`check`] runs one against the
//! other; a failure names its seed and is shrunk to the steps that matter.
//!
//! Not here: the suites of the engines and stores, which stand beside their traits, and everything
//! that needs a kernel (`integration/mount`).

mod check;
pub mod model;
mod observe;
mod run;
mod shrink;
mod step;
mod world;

pub use check::{Failure, Run, check, run_once};
pub use model::{Content, ModelFs, No, Seen};
pub use observe::observe;
pub use shrink::shrink;
pub use step::{Mix, Slot, Step, generate, pattern};
pub use world::{EngineKind, Options, World};

//! The suite every backend passes, and a store that fails on purpose.

mod faulty;
mod suite;

pub use crate::mem::MemStore;
pub use faulty::{Faults, FaultyStore};
pub use suite::suite;

/// A sink that keeps nothing.
#[derive(Debug)]
pub struct Discard;

impl crate::Sink for Discard {
    fn begin(&self) {}
    fn push(&self, _: &[u8]) {}
}

//! Slices through the store and back, in a simulated world.

mod faults;
mod model;
mod read;
mod staging;
mod world;
mod write;

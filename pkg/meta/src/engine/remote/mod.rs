//! Engines across a network: operations run here against records already known, and commit with
//! what they relied on in one round trip.

pub mod record;

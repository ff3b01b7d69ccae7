//! Decoders and mutated bytes: the short form of `make fuzz`, on any toolchain.
//!
//! The targets are in `fuzz/`. `CAIRN_SECS=600 CAIRN_SEED=1 cargo test --test integration fuzz::` goes on as long
//! as asked.

use std::time::Duration;

use cairn_fuzz::{TARGETS, mutate};

use crate::model::for_seeds;

/// Mutated inputs a target gets from one seed.
const INPUTS: u64 = 50;

#[test]
fn decoders_bear_any_bytes() {
    for_seeds(Duration::from_secs(10), |seed| TARGETS.iter().for_each(|target| mutate::run(target, seed, INPUTS)));
}

#[test]
fn every_target_has_seeds_that_it_bears() {
    for target in TARGETS {
        assert!(!cairn_fuzz::seeds(target.name).is_empty(), "{}", target.name);
        mutate::run(target, 1, 0);
    }
}

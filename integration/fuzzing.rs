//! Decoders and mutated bytes: the short form of `make fuzz`, on any toolchain.
//!
//! The targets are in `fuzz/`. `CAIRN_SECS=600 CAIRN_SEED=1 cargo test --test integration fuzz::` goes on as long
//! as asked.

use std::time::{Duration, Instant};

use cairn_fuzz::{TARGETS, mutate};

use crate::support::env_number;

/// Mutated inputs a target gets from one seed.
const INPUTS: u64 = 200;

/// Each target gets the same time: some are a thousand times slower than others.
#[test]
#[expect(clippy::disallowed_methods, reason = "how long a test runs is a matter of real time")]
fn decoders_bear_any_bytes() {
    let budget = env_number("CAIRN_SECS").map_or(Duration::from_secs(12), Duration::from_secs);
    let (each, first) = (budget / TARGETS.len() as u32, env_number("CAIRN_SEED").unwrap_or(1));
    for target in TARGETS {
        let start = Instant::now();
        let last = (first..).find(|seed| {
            mutate::run(target, *seed, INPUTS);
            start.elapsed() >= each
        });
        println!("{}: seeds {first} to {}", target.name, last.expect("time runs out before numbers do"));
    }
}

#[test]
fn every_target_has_seeds_that_it_bears() {
    for target in TARGETS {
        assert!(!cairn_fuzz::seeds(target.name).is_empty(), "{}", target.name);
        mutate::run(target, 1, 0);
    }
}

//! Generated calls against an obvious model: what the stack answers is what POSIX says.
//!
//! The short form takes seconds; `CAIRN_SECS=600 CAIRN_SEED=1 cargo test --test integration model::` runs
//! as long as asked, from the seed given.

use std::time::{Duration, Instant};

use cairn_testkit::{EngineKind, Mix, Options, check};

use crate::support::env_number;

const STEPS: usize = 150;

#[test]
fn the_stack_over_memory_answers_like_the_model() {
    answers_like_the_model(EngineKind::Mem, Duration::from_secs(10));
}

#[test]
fn the_stack_over_sqlite_answers_like_the_model() {
    answers_like_the_model(EngineKind::Sqlite, Duration::from_secs(10));
}

/// Both engines see the same sequences, so that they can't differ.
fn answers_like_the_model(engine: EngineKind, short: Duration) {
    let mix = Mix { steps: STEPS, faults: false };
    for_seeds(short, |seed| {
        let mut options = Options::quiet(engine);
        options.compression = ["none", "lz4", "zstd"][seed as usize % 3];
        options.cache_bytes = [0, 1 << 20, 64 << 20][seed as usize / 3 % 3];
        if let Err(failure) = check(seed, mix, &options) {
            panic!("{engine:?}, {options:?}\n{failure}");
        }
    });
}

/// Runs seed after seed until the time is over: `CAIRN_SECS` if set, else `short`. At least one.
#[expect(clippy::disallowed_methods, reason = "how long a test runs is a matter of real time")]
pub(crate) fn for_seeds(short: Duration, mut work: impl FnMut(u64)) {
    let budget = env_number("CAIRN_SECS").map_or(short, Duration::from_secs);
    let first = env_number("CAIRN_SEED").unwrap_or(1);
    let start = Instant::now();
    for seed in first.. {
        work(seed);
        if start.elapsed() >= budget {
            println!("seeds {first} to {seed}");
            return;
        }
    }
}

//! A world of one seed: a slow and failing store, power cuts, reopening. What survives is never
//! older than the last fsync, every rule of the volume holds, and the same seed is the same run.

use std::time::Duration;

use cairn_testkit::{Mix, Options, Step, check, generate, run_once};

use crate::model::for_seeds;

const MIX: Mix = Mix { steps: 150, faults: true };

#[test]
fn promises_are_kept_through_outages_and_power_cuts() {
    for_seeds(Duration::from_secs(15), |seed| {
        if let Err(failure) = check(seed, MIX, &Options::stormy()) {
            panic!("{failure}");
        }
    });
}

/// The whole stack in write-back mode: journal and engine forget what nobody had them sync.
#[test]
fn promises_are_kept_in_write_back_mode() {
    for_seeds(Duration::from_secs(15), |seed| {
        let options = Options { write_back: true, ..Options::stormy() };
        if let Err(failure) = check(seed, MIX, &options) {
            panic!("{failure}");
        }
    });
}

#[test]
fn the_same_seed_is_the_same_run() {
    let steps = generate(42, MIX);
    let first = run_once(42, &steps, &Options::stormy()).expect("a good run");
    let again = run_once(42, &steps, &Options::stormy()).expect("a good run");
    let differs = first.log.iter().zip(&again.log).position(|(a, b)| a != b);
    assert_eq!(first.digest, again.digest, "first difference at step {differs:?}");
}

#[test]
fn an_outage_shorter_than_patience_is_not_noticed() {
    let path = || "a".to_owned();
    let steps = [
        Step::Create { path: path(), slot: 0, exclusive: true, mode: 0o644 },
        Step::Write { slot: 0, offset: 0, len: 200_000, fill: 9, sync: false },
        Step::StoreDown,
        Step::Wait { millis: 7_000 },
        Step::Read { slot: 0, offset: 0, len: 200_000 },
        Step::StoreUp,
        Step::Wait { millis: 60_000 },
        Step::Compare,
        Step::Reopen,
        Step::Stat { path: path() },
    ];
    let options = Options { faults: false, ..Options::stormy() };
    run_once(1, &steps, &options).expect("what was written is there");
}

//! One stream of operations on all engines: each answers like the model, and all answer alike.

use std::time::Duration;

use cairn_testkit::{EngineKind, Mix, Options, Step, generate, run_once};

use super::whole;
use crate::model::for_seeds;
use crate::support::{Engine, Kind};

/// Steps of each seed.
const STEPS: usize = 150;
/// In this order; the first is what the others are held against.
const KINDS: [Kind; 4] = [Kind::Sqlite, Kind::Redis, Kind::Postgres, Kind::Mysql];

on_every_engine!(answers_like_the_model);

fn answers_like_the_model(kind: Kind) {
    for_seeds(Duration::from_secs(if whole() { 120 } else { 4 }), |seed| drop(run(kind, seed)));
}

#[test]
fn all_engines_answer_alike() {
    for_seeds(Duration::from_secs(if whole() { 120 } else { 6 }), |seed| {
        let steps = generate(seed, Mix { steps: STEPS, faults: false });
        let logs = KINDS.map(|kind| run(kind, seed));
        for (kind, log) in KINDS.iter().zip(&logs).skip(1) {
            let differs = log.iter().zip(&logs[0]).position(|(a, b)| a != b);
            if let Some(n) = differs {
                panic!(
                    "seed {seed}, step {n}, {:?}: {kind:?} said {}, {:?} {}",
                    steps[n], log[n], KINDS[0], logs[0][n]
                );
            }
        }
    });
}

/// What each step answered; every rule of the volume was checked on the way.
fn run(kind: Kind, seed: u64) -> Vec<String> {
    let engine = Engine::shared(kind);
    // Kept until the process ends: a test has a handful.
    let options = Options::quiet(EngineKind::At(engine.url().leak()));
    let steps: Vec<Step> = generate(seed, Mix { steps: STEPS, faults: false });
    match run_once(seed, &steps, &options) {
        Ok(run) => run.log,
        Err(complaint) => panic!("{kind:?}, seed {seed}: {complaint}\nrun again with CAIRN_SEED={seed}"),
    }
}

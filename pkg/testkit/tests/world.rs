//! The tools themselves: a quiet world agrees with the model, and a bug does not stay unseen.

use cairn_testkit::{EngineKind, Mix, Options, Step, check, generate, run_once, shrink};

#[test]
fn a_short_quiet_run_agrees_with_the_model_on_both_engines() {
    for engine in [EngineKind::Mem, EngineKind::Sqlite] {
        if let Err(failure) = check(1, Mix { steps: 60, faults: false }, &Options::quiet(engine)) {
            panic!("{engine:?}: {failure}");
        }
    }
}

#[test]
fn a_stormy_world_keeps_its_promises() {
    if let Err(failure) = check(1, Mix { steps: 60, faults: true }, &Options::stormy()) {
        panic!("{failure}");
    }
}

/// A canary: a world whose store loses what it acknowledged must not pass.
#[test]
fn a_store_that_forgets_is_found_out() {
    let options = Options { forgetful: true, cache_bytes: 0, ..Options::quiet(EngineKind::Mem) };
    let found = (1..20).find_map(|seed| {
        let steps = generate(seed, Mix { steps: 100, faults: false });
        run_once(seed, &steps, &options).err().map(|complaint| (seed, steps, complaint))
    });
    let (seed, steps, complaint) = found.expect("a store that forgets must be noticed");
    let (short, _) = shrink(steps, complaint, 200, |steps| run_once(seed, steps, &options).err());
    assert!(short.len() <= 10, "{} steps are left: {short:#?}", short.len());
    assert!(short.iter().any(|s| matches!(s, Step::Write { .. } | Step::CopyRange { .. })), "{short:#?}");
}

#[test]
fn a_world_that_writes_back_keeps_its_promises() {
    let options = Options { write_back: true, ..Options::stormy() };
    if let Err(failure) = check(1, Mix { steps: 60, faults: true }, &options) {
        panic!("{failure}");
    }
}

/// A canary: a disk that only says that it syncs must not pass.
#[test]
fn a_disk_that_does_not_sync_is_found_out() {
    let options = Options { write_back: true, idle_disk: true, cache_bytes: 0, ..Options::quiet(EngineKind::Mem) };
    let found = (1..60).any(|seed| {
        let steps = generate(seed, Mix { steps: 100, faults: true });
        run_once(seed, &steps, &options).is_err()
    });
    assert!(found, "a disk that forgets must be noticed");
}

use cairn_testkit::*;
fn n(name: &str, d: u64) -> u64 { std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(d) }
fn go(engine: EngineKind, faults: bool) {
    let (from, count, steps) = (n("SEED", 1), n("COUNT", 50), n("STEPS", 150));
    let mut bad = 0;
    for seed in from..from + count {
        let mut o = if faults { Options::stormy() } else { Options::quiet(engine) };
        o.compression = ["none", "lz4", "zstd"][seed as usize % 3];
        o.cache_bytes = [0, 1 << 20, 64 << 20][seed as usize / 3 % 3];
        let r = std::panic::catch_unwind(|| check(seed, Mix { steps: steps as usize, faults }, &o));
        match r { Ok(Ok(_)) => {}, Ok(Err(f)) => { println!("{f}"); bad += 1; } Err(_) => { println!("panic at seed {seed}"); bad += 1 } }
        if bad >= n("BAD", 3) { break; }
    }
    assert_eq!(bad, 0);
}
#[test] fn mem() { go(EngineKind::Mem, false) }
#[test] fn sqlite() { go(EngineKind::Sqlite, false) }
#[test] fn sim() { go(EngineKind::Mem, true) }

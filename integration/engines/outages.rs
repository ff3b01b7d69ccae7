//! Engines that go away, come back, cut connections, freeze or are far away: operations wait and go
//! on; none fails, none is lost, none is done twice.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::history::History;
use super::{NO_KERNEL_CACHE, whole};
use crate::support::{Chance, Cuts, Engine, Kind, PATIENCE, Proxy, Volume, bytes, env_number, eventually};

on_every_server!(
    an_engine_that_stops_and_comes_back_is_waited_for,
    an_engine_that_dies_and_comes_back_is_waited_for,
    cut_connections_are_not_noticed,
    a_wire_that_holds_everything_back_is_waited_for,
    a_far_engine_answers_like_a_near_one,
);

/// Threads that write while the engine is away.
const WRITERS: u64 = 4;

fn an_engine_that_stops_and_comes_back_is_waited_for(kind: Kind) {
    survive_an_outage(kind, Engine::stop);
}

fn an_engine_that_dies_and_comes_back_is_waited_for(kind: Kind) {
    survive_an_outage(kind, Engine::kill);
}

/// Writes all the time, takes the engine away for a while (a minute in the whole form), and looks at
/// what is there afterwards.
fn survive_an_outage(kind: Kind, go_away: fn(&mut Engine)) {
    let away = Duration::from_secs(if whole() { 60 } else { 3 });
    let mut engine = Engine::own(kind);
    let volume = Volume::on(&engine, &[]);
    let mounted = volume.mount(&["--heartbeat", "2s"]);
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
    let promised: Vec<BTreeMap<String, u64>> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|w| {
                let (root, stop, written) = (mounted.root(), &stop, &written);
                scope.spawn(move || write_until_told(root, w, stop, written))
            })
            .collect();
        let more = |n: u64, when: &str| {
            let before = written.load(Ordering::SeqCst);
            eventually(when, PATIENCE * 4, || (written.load(Ordering::SeqCst) >= before + n).then_some(()));
        };
        more(40, "files are written before the outage");
        go_away(&mut engine);
        rest(away);
        engine.start_again();
        more(40, "files are written after the outage");
        stop.store(true, Ordering::SeqCst);
        writers.into_iter().map(|w| w.join().expect("no operation failed")).collect()
    });
    mounted.unmount();
    let mounted = volume.mount(&["--read-only"]);
    for (w, files) in promised.iter().enumerate() {
        let dir = mounted.path(&format!("w{w}"));
        let mut names = super::crowd::names(&dir);
        names.sort();
        assert_eq!(names, files.keys().cloned().collect::<Vec<_>>(), "each name once, and no other");
        for (name, seed) in files {
            assert!(fs::read(dir.join(name)).unwrap() == bytes(*seed, 5_000), "{name} has its bytes");
        }
    }
    mounted.unmount();
    volume.fsck_is_clean();
}

/// Creates, writes, syncs, renames, makes and removes: what would show if it was done twice. Panics at
/// the first error. What must be there, by name.
fn write_until_told(root: &Path, w: u64, stop: &AtomicBool, written: &AtomicU64) -> BTreeMap<String, u64> {
    let dir = root.join(format!("w{w}"));
    fs::create_dir(&dir).unwrap();
    let mut there = BTreeMap::new();
    for n in 0.. {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let (temporary, name, seed) = (dir.join(format!("t{n}")), format!("f{n}"), w << 32 | n);
        let mut file = File::create_new(&temporary).unwrap_or_else(|e| panic!("create t{n}: {e}"));
        file.write_all(&bytes(seed, 5_000)).unwrap_or_else(|e| panic!("write t{n}: {e}"));
        file.sync_all().unwrap_or_else(|e| panic!("sync t{n}: {e}"));
        drop(file);
        fs::rename(&temporary, dir.join(&name)).unwrap_or_else(|e| panic!("rename t{n}: {e}"));
        fs::create_dir(dir.join("d")).unwrap_or_else(|e| panic!("mkdir {n}: {e}"));
        fs::remove_dir(dir.join("d")).unwrap_or_else(|e| panic!("rmdir {n}: {e}"));
        there.insert(name, seed);
        if n % 3 == 2 {
            let gone = format!("f{}", n - 1);
            fs::remove_file(dir.join(&gone)).unwrap_or_else(|e| panic!("unlink {gone}: {e}"));
            there.remove(&gone);
        }
        written.fetch_add(1, Ordering::SeqCst);
    }
    there
}

fn cut_connections_are_not_noticed(kind: Kind) {
    let seeds = if whole() { 10 } else { 1 };
    let first = env_number("CAIRN_SEED").unwrap_or(1);
    for seed in first..first + seeds {
        let engine = Engine::shared(kind);
        let proxy = Proxy::counting(engine.port().expect("a server"));
        let through = engine.url_at(proxy.port()).expect("a server");
        let volume = Volume::on(&engine, &[]).through(through);
        let mounted = volume.mount(&NO_KERNEL_CACHE);
        proxy.cut(Some(Cuts { seed, one_in: 60 }));
        let mut history = History::new(seed);
        for _ in 0..if whole() { 4_000 } else { 400 } {
            history.step(&[mounted.root()]);
        }
        proxy.cut(None);
        assert!(proxy.counts().cuts >= 5, "connections were cut: {:?}", proxy.counts());
        history.compare(mounted.root());
        mounted.unmount();
        let volume = volume.through(engine.url());
        let again = volume.mount(&["--read-only"]);
        history.compare(again.root());
        again.unmount();
        volume.fsck_is_clean();
    }
}

fn a_wire_that_holds_everything_back_is_waited_for(kind: Kind) {
    let engine = Engine::shared(kind);
    let proxy = Proxy::counting(engine.port().expect("a server"));
    let volume = Volume::on(&engine, &[]).through(engine.url_at(proxy.port()).expect("a server"));
    let mounted = volume.mount(&NO_KERNEL_CACHE);
    let mut chance = Chance::new(7);
    for round in 0..3 {
        proxy.hold();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                fs::write(mounted.path(&format!("f{round}")), bytes(round, 5_000)).expect("it only took long");
                done.store(true, Ordering::SeqCst);
            });
            rest(Duration::from_millis(500 + chance.below(1_000)));
            assert!(!done.load(Ordering::SeqCst), "nothing can be done without the engine");
            proxy.let_go();
        });
        assert!(fs::read(mounted.path(&format!("f{round}"))).unwrap() == bytes(round, 5_000));
    }
    mounted.unmount();
    volume.through(engine.url()).fsck_is_clean();
}

fn a_far_engine_answers_like_a_near_one(kind: Kind) {
    let far: &[u64] = if whole() { &[1_000, 5_000] } else { &[1_000] };
    for one_way in far {
        let engine = Engine::shared(kind);
        let proxy = Proxy::delaying(engine.port().expect("a server"), Duration::from_micros(*one_way));
        let volume = Volume::on(&engine, &[]).through(engine.url_at(proxy.port()).expect("a server"));
        let mounts = [volume.mount(&NO_KERNEL_CACHE), volume.mount(&NO_KERNEL_CACHE)];
        let mut history = History::new(*one_way);
        for _ in 0..if whole() { 2_000 } else { 150 } {
            history.step(&[mounts[0].root(), mounts[1].root()]);
        }
        mounts.iter().for_each(|m| history.compare(m.root()));
        mounts.into_iter().for_each(crate::support::Mounted::unmount);
        volume.through(engine.url()).fsck_is_clean();
    }
}

/// Lets time pass with the engine away: how long is what is tested.
#[expect(clippy::disallowed_methods, reason = "an outage lasts as long as it lasts")]
pub(super) fn rest(duration: Duration) {
    std::thread::sleep(duration);
}

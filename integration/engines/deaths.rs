//! Clients that die or sleep: what they held is let go by the others in time, what they promised is
//! there, and who wakes up late tells no lies.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::locks::{flock, record};
use super::whole;
use crate::crash::survive_some_deaths;
use crate::support::{Engine, Kind, Mounted, PATIENCE, Volume, bytes, cairn, errno, eventually};

on_every_engine!(
    what_was_fsynced_survives_kill_9,
    a_dead_mount_lets_go_of_what_it_held,
    a_mount_that_slept_too_long_wakes_without_lies,
);

/// A session is dead after five heartbeats, and looked for once in each; the rest is for a machine
/// that is busy with other tests.
const BEAT: &str = "1s";
const DEAD_AFTER: Duration = Duration::from_secs(7);
const SLACK: Duration = Duration::from_secs(20);

fn what_was_fsynced_survives_kill_9(kind: Kind) {
    let seeds = if whole() { 10 } else { 1 };
    for seed in 1..=seeds {
        let engine = Engine::shared(kind);
        let volume = Volume::on(&engine, &["--compress", "lz4"]);
        survive_some_deaths(&volume, seed, 2);
    }
}

fn a_dead_mount_lets_go_of_what_it_held(kind: Kind) {
    let engine = Engine::shared(kind);
    let volume = Volume::on(&engine, &[]);
    let mut dying = volume.mount(&["--heartbeat", BEAT]);
    let living = volume.mount(&["--heartbeat", BEAT]);
    let theirs = hold_everything(&dying);
    let ours = File::options().read(true).write(true).open(living.path("locked")).unwrap();
    assert_eq!(errno(flock(&ours, libc::LOCK_EX | libc::LOCK_NB)), libc::EWOULDBLOCK);
    assert_eq!(errno(record(&ours, libc::F_WRLCK, 0, 10)), libc::EAGAIN);
    assert_eq!(sessions(&volume), 2);
    let died = now();
    dying.kill();
    drop(theirs);
    eventually("the dead one's locks are free", DEAD_AFTER + SLACK, || {
        (flock(&ours, libc::LOCK_EX | libc::LOCK_NB).is_ok() && record(&ours, libc::F_WRLCK, 0, 10).is_ok())
            .then_some(())
    });
    let took = now() - died;
    assert!(took < DEAD_AFTER + SLACK, "{took:?}");
    eventually("its session is gone", PATIENCE, || (sessions(&volume) == 1).then_some(()));
    let used = || json(&["status", volume.url()])["Statistic"]["UsedInodes"].as_u64();
    eventually("its unlinked file is gone", PATIENCE, || (used() == Some(1)).then_some(()));
    drop((ours, dying));
    living.unmount();
    volume.fsck_is_clean();
}

fn a_mount_that_slept_too_long_wakes_without_lies(kind: Kind) {
    let engine = Engine::shared(kind);
    let volume = Volume::on(&engine, &[]);
    let sleeper = volume.mount(&["--heartbeat", BEAT]);
    let living = volume.mount(&["--heartbeat", BEAT]);
    let mut held = hold_everything(&sleeper);
    sleeper.signal(Signal::STOP);
    let ours = File::options().read(true).write(true).open(living.path("locked")).unwrap();
    eventually("the sleeper's locks are free", DEAD_AFTER + SLACK, || flock(&ours, libc::LOCK_EX | libc::LOCK_NB).ok());
    fs::write(living.path("meanwhile"), b"news").unwrap();
    sleeper.signal(Signal::CONT);
    // The lock is ours now, whatever the sleeper thought it had.
    let again = File::options().read(true).write(true).open(sleeper.path("locked")).unwrap();
    assert_eq!(errno(flock(&again, libc::LOCK_EX | libc::LOCK_NB)), libc::EWOULDBLOCK);
    // Its unlinked file has its bytes or is gone, but never others.
    let mut content = Vec::new();
    held.unlinked.rewind().unwrap();
    match held.unlinked.read_to_end(&mut content) {
        Ok(_) => assert!(content == bytes(5, 70_000), "{} bytes", content.len()),
        Err(e) => assert!([libc::ENOENT, libc::EIO, libc::ESTALE].contains(&e.raw_os_error().unwrap_or(0)), "{e}"),
    }
    // It is a client like any other again.
    eventually("it sees the news", PATIENCE, || (fs::read(sleeper.path("meanwhile")).ok()? == b"news").then_some(()));
    fs::write(sleeper.path("awake"), bytes(6, 70_000)).unwrap();
    assert!(fs::read(living.path("awake")).unwrap() == bytes(6, 70_000));
    eventually("it has a session again", PATIENCE, || (sessions(&volume) == 2).then_some(()));
    drop((held, again, ours));
    sleeper.unmount();
    living.unmount();
    volume.fsck_is_clean();
}

/// What a client can hold: locks on a file, and a file without a name.
struct Held {
    _locked: File,
    unlinked: File,
}

fn hold_everything(mounted: &Mounted) -> Held {
    let locked = File::options().read(true).write(true).create_new(true).open(mounted.path("locked")).unwrap();
    flock(&locked, libc::LOCK_EX).unwrap();
    record(&locked, libc::F_WRLCK, 0, 100).unwrap();
    let mut unlinked = File::options().read(true).write(true).create_new(true).open(mounted.path("unlinked")).unwrap();
    unlinked.write_all(&bytes(5, 70_000)).unwrap();
    unlinked.sync_all().unwrap();
    fs::remove_file(mounted.path("unlinked")).unwrap();
    Held { _locked: locked, unlinked }
}

fn sessions(volume: &Volume) -> usize {
    json(&["status", volume.url()])["Sessions"].as_array().map_or(0, Vec::len)
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&cairn(args).ok()).expect("it prints JSON")
}

#[expect(clippy::disallowed_methods, reason = "the daemons under test live in real time")]
fn now() -> Instant {
    Instant::now()
}

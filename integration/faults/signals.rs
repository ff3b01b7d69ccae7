//! SIGTERM stores what is buffered and ends with 0; a second one does not wait.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{PATIENCE, Volume, bytes, is_mounted};

#[test]
fn sigterm_drains_and_ends_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let volume = Volume::new(&[]);
        let mut mounted = volume.mount(&[]);
        let content = bytes(1, 20_000_000);
        let file = File::create(mounted.path("f")).unwrap();
        file.write_all_at(&content, 0).unwrap();
        // Still open and not fsynced: all of it is in memory or on its way.
        mounted.signal(signal);
        let status = mounted.wait(PATIENCE);
        assert_eq!(status.code(), Some(0), "{}", mounted.said());
        assert!(!is_mounted(mounted.root()));
        drop(file);
        drop(mounted);
        volume.fsck_is_clean();
        let mounted = volume.mount(&[]);
        assert!(fs::read(mounted.path("f")).unwrap() == content);
    }
}

#[test]
fn a_second_sigterm_does_not_wait_for_a_store_that_is_away() {
    let volume = Volume::new(&[]);
    let mut mounted = volume.mount(&["--io-retries", "100"]);
    let file = File::create(mounted.path("f")).unwrap();
    fs::rename(volume.store(), volume.path("aside")).unwrap();
    fs::write(volume.store(), "no folder").unwrap();
    file.write_all_at(&bytes(1, 1_000_000), 0).unwrap();
    mounted.signal(Signal::TERM);
    // The first signal must have arrived before the second: signals of one kind are not counted.
    crate::support::eventually("the first signal is taken", PATIENCE, || {
        let pid = mounted.pid().as_raw_nonzero();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let pending =
            |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim() == "0000000000000000");
        (pending("ShdPnd:") == Some(true)).then_some(())
    });
    mounted.signal(Signal::TERM);
    let status = mounted.wait(Duration::from_secs(20));
    assert_ne!(status.code(), Some(0), "data was left behind, and the exit code says so");
}

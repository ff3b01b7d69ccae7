//! SIGTERM stores what is buffered and ends with 0; a second one does not wait.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

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
    // Declared before the mount, so that the daemon is gone first if this fails: closing waits for it.
    let file;
    let mut mounted = volume.mount(&["--io-retries", "100"]);
    file = File::create(mounted.path("f")).unwrap();
    fs::rename(volume.store(), volume.path("aside")).unwrap();
    fs::write(volume.store(), "no folder").unwrap();
    file.write_all_at(&bytes(1, 1_000_000), 0).unwrap();
    mounted.signal(Signal::TERM);
    // Two signals of one kind that come together are one.
    crate::support::eventually("the first signal is taken", PATIENCE, || {
        mounted.said().contains("asked to stop").then_some(())
    });
    mounted.signal(Signal::TERM);
    let status = mounted.wait(PATIENCE);
    assert_ne!(status.code(), Some(0), "data was left behind, and the exit code says so");
}

//! `--writeback` from outside: the store goes away and comes back, processes die, disks lie.
//!
//! Power cuts are tried on a simulated disk (`sim::`, and the journal's own tests).

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{Mounted, PATIENCE, Volume, bytes, cairn, eventually};

const WRITE_BACK: &[&str] = &["--writeback", "--io-retries", "1"];
/// Nothing leaves the disk by itself.
const KEPT: &[&str] = &["--writeback", "--upload-delay", "1h"];

/// The store's folder, gone while this lives.
struct Away(PathBuf, PathBuf);

impl Away {
    fn take(volume: &Volume) -> Away {
        let away = Away(volume.store(), volume.path("store.away"));
        fs::rename(&away.0, &away.1).expect("the folder is ours");
        away
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        fs::rename(&self.1, &self.0).expect("the folder is ours");
    }
}

/// A number of `.stats`.
fn stat(mounted: &Mounted, name: &str) -> u64 {
    let text = fs::read_to_string(mounted.path(".stats")).expect(".stats can be read");
    let line = text.lines().find_map(|l| l.strip_prefix(&format!("juicefs_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse::<f64>().expect("a number") as u64
}

fn write_synced(path: &Path, content: &[u8]) {
    let mut file = File::create(path).expect("created");
    file.write_all(content).expect("written");
    file.sync_all().expect("synced");
}

/// The volume's folder in the cache directory.
fn home(volume: &Volume) -> PathBuf {
    let entries = fs::read_dir(volume.path("cache")).expect("it is ours").flatten();
    entries.map(|e| e.path()).find(|p| p.join("journal").is_dir()).expect("a journal was made")
}

fn segments(home: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.join("journal")).into_iter().flatten().flatten();
    entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "seg")).collect()
}

fn stop(mut mounted: Mounted) {
    mounted.signal(Signal::TERM);
    assert!(mounted.wait(PATIENCE).success(), "{}", mounted.said());
}

#[test]
fn work_goes_on_while_the_store_is_away_and_is_uploaded_when_it_is_back() {
    let volume = Volume::new(&["--compress", "lz4"]);
    let files: Vec<(String, Vec<u8>)> =
        (0..20).map(|n| (format!("f{n}"), bytes(n, if n == 3 { 9_000_000 } else { 1000 * n as usize + 1 }))).collect();
    let verify = |mounted: &Mounted| {
        for (name, content) in &files {
            assert!(fs::read(mounted.path(name)).expect("it is there") == *content, "{name}");
        }
    };
    let mounted = volume.mount(WRITE_BACK);
    let away = Away::take(&volume);
    for (name, content) in &files {
        write_synced(&mounted.path(name), content);
    }
    assert!(stat(&mounted, "staging_blocks") >= 20, "all of it waits on this disk");
    // What is cached would answer in the journal's place.
    fs::remove_dir_all(home(&volume).join("raw")).expect("it is ours");
    verify(&mounted);
    drop(away);
    eventually("all is uploaded", PATIENCE * 3, || (stat(&mounted, "staging_blocks") == 0).then_some(()));
    stop(mounted);
    assert_eq!(segments(&home(&volume)), Vec::<PathBuf>::new(), "an empty journal takes no room");
    volume.fsck_is_clean();
    let mounted = volume.mount(&["--cache-dir", "memory"]);
    verify(&mounted);
}

#[test]
fn a_journal_left_behind_is_found_by_the_next_mount_and_by_nobody_else_meanwhile() {
    let volume = Volume::new(&[]);
    let mounted = volume.mount(KEPT);
    write_synced(&mounted.path("a"), &bytes(1, 300_000));
    assert!(stat(&mounted, "staging_block_bytes") >= 300_000);
    assert_eq!(volume.blocks().len(), 0, "nothing is uploaded before its delay is over");
    let status: serde_json::Value = serde_json::from_str(&cairn(["status", volume.url()]).ok()).expect("JSON");
    assert_eq!(status["Sessions"][0]["Staged"]["Blocks"], 1, "{status}");
    let fsck = cairn(["fsck", volume.url()]);
    assert!(fsck.code == 1 && fsck.err.contains("may be on their way"), "{}\n{}", fsck.out, fsck.err);
    // Another mount of the same directory cannot stage there; without --writeback it may use the cache.
    let second = volume.path("second");
    fs::create_dir(&second).expect("the folder is ours");
    let cache = volume.path("cache");
    let shared = ["--cache-dir", cache.to_str().expect("UTF-8")];
    let refused = Mounted::start(&volume, &second, &[&shared[..], KEPT].concat());
    let refused = refused.err().expect("two mounts share no journal");
    assert!(refused.contains("another mount stages"), "{refused}");
    drop(Mounted::start(&volume, &second, &shared).expect("it stages nothing"));
    stop(mounted);
    assert_eq!(volume.blocks().len(), 0, "SIGTERM leaves the journal to the next mount");
    let mounted = volume.mount(&[]);
    assert!(fs::read(mounted.path("a")).expect("it is there") == bytes(1, 300_000));
    eventually("the journal is uploaded", PATIENCE, || (stat(&mounted, "staging_blocks") == 0).then_some(()));
    mounted.unmount();
    volume.fsck_is_clean();
}

#[test]
fn umount_with_flush_uploads_everything_first() {
    let volume = Volume::new(&[]);
    let mounted = volume.mount(KEPT);
    for n in 0..5 {
        fs::write(mounted.path(&format!("f{n}")), bytes(n, 200_000)).expect("written");
    }
    let ran = cairn([Path::new("umount"), mounted.root(), Path::new("--flush")]);
    assert!(ran.err.contains("uploaded") && ran.err.contains("left"), "{}", ran.err);
    ran.ok();
    drop(mounted);
    assert_eq!(volume.blocks().len(), 5);
    volume.fsck_is_clean();
}

#[test]
fn the_journal_of_another_volume_is_refused() {
    let (ours, theirs) = (Volume::new(&[]), Volume::new(&[]));
    for volume in [&ours, &theirs] {
        let mounted = volume.mount(KEPT);
        write_synced(&mounted.path("a"), b"staged");
        stop(mounted);
    }
    let segment = segments(&home(&theirs)).remove(0);
    let place = home(&ours).join("journal").join(segment.file_name().expect("a name"));
    fs::copy(&segment, &place).expect("copied");
    let refused = ours.mount_refused(KEPT);
    assert!(refused.contains("belongs to volume"), "{refused}");
}

#[test]
fn writers_wait_at_the_cap_and_go_on_when_there_is_room() {
    let volume = Volume::new(&[]);
    let mounted = volume.mount(&[WRITE_BACK, &["--staging-size", "1M"]].concat());
    let away = Away::take(&volume);
    let path = mounted.path("large");
    let content = bytes(5, 3 << 20);
    std::thread::scope(|scope| {
        let (path, content) = (&path, &content);
        let writer = scope.spawn(move || {
            // Three blocks' worth in slices of its own each.
            for part in 0..3 {
                let mut file = File::options().create(true).append(true).open(path).expect("opened");
                file.write_all(&content[part << 20..(part + 1) << 20]).expect("written");
                file.sync_all().expect("synced");
            }
        });
        eventually("the first part is staged", PATIENCE, || {
            (stat(&mounted, "staging_block_bytes") >= 1 << 20).then_some(())
        });
        // The second part is on its way and cannot be synced: there is no room and no store.
        eventually("more is dirty than may be staged", PATIENCE, || (stat(&mounted, "dirty_bytes") > 0).then_some(()));
        assert!(!writer.is_finished());
        assert!(stat(&mounted, "staging_block_bytes") <= 1 << 20, "no more is staged than allowed");
        drop(away);
        writer.join().expect("it goes on");
    });
    assert!(fs::read(&path).expect("it is there") == content);
    mounted.unmount();
}

#[test]
fn a_flipped_bit_in_the_journal_is_an_error_and_never_wrong_bytes() {
    let volume = Volume::new(&[]);
    let mounted = volume.mount(KEPT);
    let content = bytes(9, 300_000);
    write_synced(&mounted.path("a"), &content);
    write_synced(&mounted.path("b"), &bytes(10, 300_000));
    stop(mounted);
    let home = home(&volume);
    fs::remove_dir_all(home.join("raw")).expect("it is ours");
    let segment = segments(&home).remove(0);
    let mut journal = fs::read(&segment).expect("read");
    let at = journal.windows(64).position(|w| *w == content[1000..1064]).expect("an uncompressed block lies there");
    journal[at] ^= 1;
    fs::write(&segment, journal).expect("written");
    let mounted = volume.mount(KEPT);
    let mut got = Vec::new();
    let read = File::open(mounted.path("a")).and_then(|mut f| f.read_to_end(&mut got));
    assert_eq!(read.expect_err("the only copy is damaged").raw_os_error(), Some(libc::EIO));
    assert!(content.starts_with(&got), "wrong bytes");
    assert!(fs::read(mounted.path("b")).expect("only one block is damaged") == bytes(10, 300_000));
    mounted.unmount();
}

#[test]
fn only_small_blocks_are_staged_below_a_threshold() {
    let volume = Volume::new(&[]);
    let mounted = volume.mount(&[KEPT, &["--writeback-threshold-size", "64K"]].concat());
    write_synced(&mounted.path("small"), &bytes(1, 1000));
    write_synced(&mounted.path("large"), &bytes(2, 100_000));
    assert_eq!(stat(&mounted, "staging_blocks"), 1);
    assert_eq!(volume.blocks().len(), 1);
    stop(mounted);
}

/// A block that was staged and is removed before its upload never reaches the store.
#[test]
fn what_is_removed_in_time_is_never_uploaded() {
    let volume = Volume::new(&[]);
    let mounted = volume.mount(KEPT);
    write_synced(&mounted.path("a"), &bytes(1, 100_000));
    assert_eq!(stat(&mounted, "staging_blocks"), 1);
    fs::remove_file(mounted.path("a")).expect("removed");
    eventually("its block is dropped", Duration::from_secs(150), || {
        (stat(&mounted, "staging_blocks") == 0).then_some(())
    });
    assert_eq!(volume.blocks().len(), 0);
    mounted.unmount();
}

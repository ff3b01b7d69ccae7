//! `kill -9` at random moments under load: what was fsynced is there with the right bytes, what was
//! not is absent or old and never garbage, `fsck` is clean, and `gc` finds what was left behind.
//! `power_cut` does the same to the machine.

mod power_cut;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::model::for_seeds;
use crate::support::{Chance, PATIENCE, Volume, bytes, cairn, eventually};

const WRITERS: u64 = 4;
/// Sizes of files: inline pages, a block, several blocks.
const SIZES: [usize; 5] = [10, 4_096, 70_000, 300_000, 5_000_000];
/// A file that is overwritten in place, in pieces of this size.
const PIECE_BYTES: usize = 64 * 1024;
const PIECES: u64 = 16;

#[test]
fn what_was_fsynced_survives_kill_9() {
    for_seeds(Duration::from_secs(20), |seed| survive_some_deaths(&Volume::new(&["--compress", "lz4"]), seed, 3));
}

/// In write-back mode a file is safe from kill -9 as soon as it is closed, store or no store.
#[test]
fn what_was_closed_survives_kill_9_in_write_back_mode() {
    for_seeds(Duration::from_secs(20), |seed| {
        survive_deaths_of(&Volume::new(&["--compress", "lz4"]), seed ^ 77, 3, &["--writeback"]);
    });
}

/// Kills a mount of an empty volume so many times, and looks after each.
pub(crate) fn survive_some_deaths(volume: &Volume, seed: u64, deaths: u64) {
    survive_deaths_of(volume, seed, deaths, &[]);
}

fn survive_deaths_of(volume: &Volume, seed: u64, deaths: u64, flags: &[&str]) {
    let by_close = flags.contains(&"--writeback");
    let mut chance = Chance::new(seed);
    let manifest = Manifest::default();
    for death in 0..deaths {
        let mut mounted = volume.mount(&[&["--heartbeat", "1s"], flags].concat());
        manifest.verify(mounted.root());
        let enough = manifest.promised() + 1 + chance.below(60);
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (manifest, root) = (&manifest, mounted.root().to_owned());
                let by_close = by_close && writer % 2 == 0;
                scope.spawn(move || write_until_it_dies(manifest, &root, seed, death, writer, by_close));
            }
            let (manifest, root) = (&manifest, mounted.root().to_owned());
            scope.spawn(move || overwrite_until_it_dies(manifest, &root));
            eventually("enough files are promised", PATIENCE * 4, || (manifest.promised() >= enough).then_some(()));
            mounted.kill();
        });
    }
    // Write-back or not, what is left of it is found and uploaded.
    let mounted = volume.mount(&[]);
    manifest.verify(mounted.root());
    cairn([Path::new("umount"), mounted.root(), Path::new("--flush")]).ok();
    drop(mounted);
    volume.fsck_is_clean();
    collect(volume);
    let mounted = volume.mount(&["--read-only"]);
    manifest.verify(mounted.root());
    mounted.unmount();
    volume.fsck_is_clean();
}

/// `cairn gc`, which takes nothing for too young.
fn gc(volume: &Volume, flags: &[&str]) -> Value {
    let mut command = crate::support::binary();
    command.env("JFS_GC_SKIPPEDTIME", "0").args(["gc", volume.url(), "--json"]).args(flags);
    serde_json::from_str(&crate::support::finish(&mut command).ok()).expect("gc --json prints JSON")
}

/// Blocks that were stored and never named: gc finds them all, and then no more.
fn collect(volume: &Volume) {
    let gc = |flags: &[&str]| gc(volume, flags);
    let found = gc(&[])["leaked"]["count"].as_u64().expect("a count");
    assert_eq!(gc(&["--delete"])["deleted"]["count"].as_u64(), Some(found));
    assert_eq!(gc(&[])["leaked"]["count"], 0);
    let used = gc(&[])["valid"]["count"].as_u64().expect("a count");
    assert_eq!(volume.blocks().len() as u64, used, "what is left is what files show");
}

#[test]
fn what_a_killed_put_left_behind_is_collected_after_an_hour() {
    let volume = Volume::new(&[]);
    let folder = volume.store().join("test-volume/chunks/0/0");
    fs::create_dir_all(&folder).expect("the store is ours");
    let left = |name: &str, hours: u64| {
        let path = folder.join(name);
        fs::write(&path, "part of a block").expect("the store is ours");
        let now = path.metadata().and_then(|m| m.modified()).expect("it was just made");
        let then = now - Duration::from_secs(hours * 3600 + 60);
        File::options().write(true).open(&path).and_then(|f| f.set_modified(then)).expect("its time can be set");
        path
    };
    let old = left(".jfs.7_0_4194304.tmp.11", 1);
    // A writer may still be at work on this one, and nobody's name is left alone.
    let (young, foreign) = (left(".jfs.8_0_4194304.tmp.12", 0), left(".hidden", 9));
    let gc = |flags: &[&str]| gc(&volume, flags);
    assert_eq!(gc(&[])["unfinished"]["count"], 1);
    assert!(old.exists(), "a dry run deletes nothing");
    assert_eq!(gc(&["--delete"])["deleted"]["count"], 1);
    assert_eq!((old.exists(), young.exists(), foreign.exists()), (false, true, true));
}

/// What was promised: only after the fsync of a file and of its directory returned.
#[derive(Default)]
struct Manifest {
    files: Mutex<Vec<(String, u64, usize)>>,
    /// For each piece of the overwritten file: the version last fsynced, and the one last begun.
    versions: Mutex<Vec<(u64, u64)>>,
    count: AtomicU64,
    disk: AtomicU8,
}

/// States of the disk: it works, it is being cut, it is dead.
const WORKS: u8 = 0;
const CUTTING: u8 = 1;
const DEAD: u8 = 2;

impl Manifest {
    fn promised(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    fn disk(&self) -> u8 {
        self.disk.load(Ordering::SeqCst)
    }

    /// Does a sync that began with the disk as `before` and has succeeded now promise anything?
    ///
    /// One that overlaps the cut need not: the cut is no single moment, and ext4 may still report
    /// success for what it drops meanwhile. After a true one nobody would be there to hear it.
    fn is_promised(&self, before: u8) -> bool {
        assert_ne!(before, DEAD, "a sync to a dead disk succeeded");
        self.disk() == WORKS
    }

    fn promise(&self, name: String, seed: u64, len: usize) {
        self.files.lock().expect("no writer panics").push((name, seed, len));
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    fn verify(&self, root: &Path) {
        for (name, seed, len) in self.files.lock().expect("no writer panics").iter() {
            let found = fs::read(root.join(name)).unwrap_or_else(|e| panic!("{name} was fsynced: {e}"));
            assert!(found == bytes(*seed, *len), "{name} was fsynced with other bytes ({} of {len})", found.len());
        }
        self.verify_others(root);
        self.verify_versions(root);
    }

    /// Files nobody promised: a prefix of what was being written, with holes perhaps, and no other bytes.
    fn verify_others(&self, root: &Path) {
        for entry in fs::read_dir(root).expect("the root can be listed") {
            let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
            let Some((seed, len)) = name.split_once('-').and_then(|(_, rest)| parse(rest.trim_end_matches(".t")))
            else {
                continue;
            };
            let found = fs::read(root.join(&name)).unwrap_or_else(|e| panic!("{name} is there, but: {e}"));
            let right = bytes(seed, len);
            assert!(found.len() <= len, "{name} is longer than ever written");
            if name.ends_with(".t") {
                let garbage = found.iter().zip(&right).position(|(a, b)| a != b && *a != 0);
                assert_eq!(garbage, None, "{name} holds bytes that nobody wrote");
            } else {
                assert!(found == right, "{name} was renamed after its fsync and is not whole");
            }
        }
    }

    fn verify_versions(&self, root: &Path) {
        let versions = self.versions.lock().expect("no writer panics");
        if versions.is_empty() {
            return;
        }
        let found = fs::read(root.join("pieces")).expect("it was fsynced");
        for (piece, (kept, begun)) in versions.iter().enumerate() {
            let at = piece * PIECE_BYTES;
            let is = |version: u64| found[at..at + PIECE_BYTES] == content(piece as u64, version);
            let version = (*kept..=*begun).find(|v| is(*v));
            assert!(version.is_some(), "piece {piece} is none of versions {kept} to {begun}");
        }
    }
}

fn parse(text: &str) -> Option<(u64, usize)> {
    let (seed, len) = text.split_once('-')?;
    Some((seed.parse().ok()?, len.parse().ok()?))
}

/// Creates, writes, fsyncs, renames, fsyncs the folder; until the daemon is gone.
fn write_until_it_dies(manifest: &Manifest, root: &Path, seed: u64, death: u64, writer: u64, by_close: bool) {
    let mut chance = Chance::new(seed ^ death << 20 ^ writer << 40);
    for n in 0.. {
        let (seed, len) = (writer << 32 | death << 24 | n, *chance.pick(&SIZES));
        // One that is not renamed when it is whole may be found in part.
        let name = format!("f-{seed}-{len}{}", if by_close { ".t" } else { "" });
        let before = manifest.disk();
        let written = if by_close {
            close_one(root, &name, &bytes(seed, len))
        } else {
            write_one(root, &name, &bytes(seed, len))
        };
        match written {
            Ok(()) if manifest.is_promised(before) => manifest.promise(name, seed, len),
            Ok(()) => {}
            Err(e) => return gone(&e),
        }
    }
}

fn write_one(root: &Path, name: &str, content: &[u8]) -> std::io::Result<()> {
    let temporary: PathBuf = root.join(format!("{name}.t"));
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, root.join(name))?;
    File::open(root)?.sync_all()
}

/// The promise begins when close(2) returns.
fn close_one(root: &Path, name: &str, content: &[u8]) -> std::io::Result<()> {
    let file = File::create(root.join(name))?;
    (&file).write_all(content)?;
    close(file)
}

/// close(2) with its answer, which dropping a file throws away.
fn close(file: File) -> std::io::Result<()> {
    use std::os::fd::IntoRawFd;
    // SAFETY: the descriptor is ours alone from here on, and closed once.
    crate::support::cvt(unsafe { libc::close(file.into_raw_fd()) }).map(drop)
}

fn content(piece: u64, version: u64) -> Vec<u8> {
    bytes(piece << 32 | version, PIECE_BYTES)
}

/// Overwrites pieces of one file in place, an fsync after each few.
fn overwrite_until_it_dies(manifest: &Manifest, root: &Path) {
    let result = (|| -> std::io::Result<()> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(root.join("pieces"))?;
        if manifest.versions.lock().expect("no writer panics").is_empty() {
            for piece in 0..PIECES {
                file.write_all_at(&content(piece, 0), piece * PIECE_BYTES as u64)?;
            }
            let before = manifest.disk();
            file.sync_all()?;
            File::open(root)?.sync_all()?;
            if !manifest.is_promised(before) {
                return Ok(());
            }
            *manifest.versions.lock().expect("no writer panics") = vec![(0, 0); PIECES as usize];
        }
        for round in 0.. {
            let pieces = [round % PIECES, (round * 7 + 3) % PIECES];
            let mut written = Vec::new();
            for piece in pieces {
                let version = {
                    let mut versions = manifest.versions.lock().expect("no writer panics");
                    versions[piece as usize].1 += 1;
                    versions[piece as usize].1
                };
                file.write_all_at(&content(piece, version), piece * PIECE_BYTES as u64)?;
                written.push((piece, version));
            }
            let before = manifest.disk();
            file.sync_data()?;
            if !manifest.is_promised(before) {
                continue;
            }
            // Only these: what was begun before an earlier death may never have got there.
            for (piece, version) in written {
                manifest.versions.lock().expect("no writer panics")[piece as usize].0 = version;
            }
        }
        Ok(())
    })();
    if let Err(e) = result {
        gone(&e);
    }
}

/// How a call ends whose daemon died under it.
#[track_caller]
fn gone(e: &std::io::Error) {
    let expected = [libc::ENOTCONN, libc::ECONNABORTED, libc::EIO, libc::ENODEV, libc::ENOENT, libc::EINTR];
    assert!(expected.contains(&e.raw_os_error().unwrap_or(0)), "a writer failed before the daemon died: {e}");
}

#[test]
fn a_database_killed_in_the_middle_opens_again() {
    let volume = Volume::new(&[]);
    for _ in 0..3 {
        let mut mounted = volume.mount(&[]);
        for n in 0..50 {
            File::create(mounted.path(&format!("n{n}"))).expect("created");
        }
        mounted.kill();
        drop(mounted);
        cairn(["status", volume.url()]).ok();
    }
    let mounted = volume.mount(&[]);
    assert_eq!((0..50).filter(|n| mounted.path(&format!("n{n}")).exists()).count(), 50);
    mounted.unmount();
    volume.fsck_is_clean();
}

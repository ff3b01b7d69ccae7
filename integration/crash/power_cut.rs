//! The power goes: database, store and cache lie on a disk that drops at once whatever was not made
//! durable. What was fsynced is there afterwards with the right bytes, and `fsck --verify` is clean.
//!
//! The disk is an ext4 image on a loop device, the cut is ext4's own shutdown call. Both orders are
//! tried: the daemon dies before the disk, and the disk before the daemon, which must then tell.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{CUTTING, DEAD, Manifest, WORKS, WRITERS, overwrite_until_it_dies, write_until_it_dies};
use crate::support::{Chance, Mounted, PATIENCE, Volume, bytes, cairn, cvt, env_number, eventually, run};

/// Cuts in the short form, and in the whole one (`make crash`).
const CUTS: (u64, u64) = (2, 20);
/// Cuts that one volume goes through; more would fill its disk.
const CUTS_OF_A_VOLUME: u64 = 2;
/// The disk, a sparse file.
const DISK_BYTES: u64 = 512 << 20;
/// Files promised in a round before the cut, at most.
const FILES_MAX: u64 = 30;

/// `FS_IOC_SHUTDOWN` of ext4 and XFS, and the way that writes nothing on the way down.
const SHUTDOWN: libc::c_ulong = 0x8004_587d;
const WITHOUT_LOG_FLUSH: u32 = 2;

#[test]
fn what_was_fsynced_survives_a_power_cut() {
    let whole = env_number("CAIRN_WHOLE").is_some_and(|n| n > 0);
    let seed = env_number("CAIRN_SEED").unwrap_or(1);
    let cuts = if whole { CUTS.1 } else { CUTS.0 };
    for volume in 0..cuts.div_ceil(CUTS_OF_A_VOLUME) {
        let seed = seed + volume;
        println!("seed {seed}");
        survive_some_cuts(seed, CUTS_OF_A_VOLUME);
    }
}

fn survive_some_cuts(seed: u64, cuts: u64) {
    let mut place = Place::new();
    let mut chance = Chance::new(seed);
    let manifest = Manifest::default();
    for cut in 0..cuts {
        // One order each, whichever comes first.
        one_cut(&mut place, &manifest, &mut chance, (seed, cut), (seed + cut).is_multiple_of(2));
        let mounted = place.mount();
        manifest.verify(mounted.root());
        mounted.unmount();
        place.volume.fsck_is_clean();
    }
}

fn one_cut(place: &mut Place, manifest: &Manifest, chance: &mut Chance, (seed, cut): (u64, u64), disk_first: bool) {
    let mut mounted = place.mount();
    // None at all is a moment, too.
    let enough = manifest.promised() + chance.below(FILES_MAX);
    let ended = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (root, ended) = (mounted.root().to_owned(), &ended);
            scope.spawn(move || {
                write_until_it_dies(manifest, &root, seed, cut, writer, false);
                ended.fetch_add(1, Ordering::SeqCst);
            });
        }
        let root = mounted.root().to_owned();
        scope.spawn(move || overwrite_until_it_dies(manifest, &root));
        eventually("enough files are promised", PATIENCE * 4, || (manifest.promised() >= enough).then_some(()));
        if disk_first {
            manifest.disk.store(CUTTING, Ordering::SeqCst);
            place.disk.cut();
            manifest.disk.store(DEAD, Ordering::SeqCst);
            let told = || (ended.load(Ordering::SeqCst) > 0).then_some(());
            eventually("a writer is told that its file is not safe", PATIENCE * 4, told);
        }
        mounted.kill();
        if !disk_first {
            place.disk.cut();
        }
    });
    drop(mounted);
    place.disk.replug();
    manifest.disk.store(WORKS, Ordering::SeqCst);
}

/// A volume whose database, blocks and cache lie on a disk of its own. In the order of their going.
struct Place {
    disk: Disk,
    volume: Volume,
}

impl Place {
    fn new() -> Place {
        let volume = Volume::unformatted();
        let disk = Disk::new(volume.path("disk.img"), volume.path("disk"));
        let (url, bucket) =
            (format!("sqlite3://{}/meta.db", disk.at.display()), format!("{}/store/", disk.at.display()));
        cairn(["format", &url, "test-volume", "--bucket", &bucket, "--trash-days", "0", "--compress", "lz4"]).ok();
        Place { disk, volume: volume.existing(url, bucket) }
    }

    fn mount(&self) -> Mounted {
        let cache = self.disk.at.join("cache").display().to_string();
        // Few retries, so that a lost disk is told of soon.
        self.volume.mount(&["--heartbeat", "1s", "--io-retries", "1", "--cache-size", "32M", "--cache-dir", &cache])
    }
}

/// A disk that forgets. Dropping it leaves neither mount, loop device nor image.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn new(image: PathBuf, at: PathBuf) -> Disk {
        File::create(&image).and_then(|f| f.set_len(DISK_BYTES)).expect("room for a sparse image");
        run(Path::new("/"), "mkfs.ext4", ["-q", "-F", &image.display().to_string()]).ok();
        fs::create_dir(&at).expect("the folder is ours");
        let disk = Disk { image, at };
        disk.plug();
        disk
    }

    fn plug(&self) {
        let (image, at) = (self.image.display().to_string(), self.at.display().to_string());
        let said = run(Path::new("/"), "mount", ["-t", "ext4", "-o", "loop", &image, &at]);
        assert!(
            said.code == 0,
            "no loop device for the power-cut test: it needs root and loop devices (modprobe loop, or a container with \
             --privileged): {}",
            said.err
        );
    }

    /// From here on nothing reaches the disk, and what has not is gone.
    fn cut(&self) {
        let folder = File::open(&self.at).expect("the disk is mounted");
        let how = WITHOUT_LOG_FLUSH;
        // SAFETY: the descriptor is open and the argument a number that lives until the call returns.
        cvt(unsafe { libc::ioctl(folder.as_raw_fd(), SHUTDOWN as _, &raw const how) }).expect("ext4 can be shut down");
    }

    /// The disk as it comes back with the power. Not lazily: two mounts of one image would wreck it.
    fn replug(&self) {
        let at = self.at.display().to_string();
        eventually("nobody uses the dead disk", PATIENCE, || {
            (run(Path::new("/"), "umount", [&at]).code == 0).then_some(())
        });
        self.plug();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What is still open goes with its process; the loop device goes with the last of them.
        run(Path::new("/"), "umount", ["-l", &self.at.display().to_string()]);
        if let Err(e) = fs::remove_file(&self.image) {
            eprintln!("{}: {e}", self.image.display());
        }
    }
}

#[test]
fn the_cut_takes_what_was_not_synced_and_nothing_else() {
    let volume = Volume::unformatted();
    let disk = Disk::new(volume.path("disk.img"), volume.path("disk"));
    let synced = disk.at.join("synced");
    let mut file = File::create(&synced).expect("made");
    std::io::Write::write_all(&mut file, &bytes(1, 4096)).expect("written");
    file.sync_all().and_then(|()| File::open(&disk.at)?.sync_all()).expect("synced");
    fs::write(disk.at.join("not"), bytes(2, 4096)).expect("written");
    drop(file);
    disk.cut();
    disk.replug();
    assert!(fs::read(synced).expect("it was synced") == bytes(1, 4096));
    let lost = fs::read(disk.at.join("not")).map_or(true, |found| found.is_empty());
    assert!(lost, "a cut that loses nothing shows nothing");
}

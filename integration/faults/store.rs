//! Stores and caches that fail while mounted.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::support::{Mounted, PATIENCE, Volume, bytes, errno, eventually, run};

/// A tmpfs over a folder, gone when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn over(path: &Path, options: &str) -> Tmpfs {
        fs::create_dir_all(path).unwrap();
        let shown = path.to_str().unwrap();
        run(Path::new("/"), "mount", ["-t", "tmpfs", "-o", options, "tmpfs", shown]).ok();
        Tmpfs(path.to_owned())
    }

    fn remount(&self, options: &str) {
        run(Path::new("/"), "mount", ["-o", &format!("remount,{options}"), self.0.to_str().unwrap()]).ok();
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        run(Path::new("/"), "umount", ["-l", self.0.to_str().unwrap()]);
    }
}

/// Puts a plain file where the store's folder was, and takes it away again.
struct Outage {
    store: PathBuf,
    aside: PathBuf,
}

impl Outage {
    fn begin(volume: &Volume) -> Outage {
        let (store, aside) = (volume.store(), volume.path("store-aside"));
        fs::rename(&store, &aside).unwrap();
        fs::write(&store, "no folder").unwrap();
        Outage { store, aside }
    }

    fn end(self) {
        fs::remove_file(&self.store).unwrap();
        fs::rename(&self.aside, &self.store).unwrap();
    }
}

#[test]
fn after_an_outage_buffered_files_go_on_by_themselves() {
    let volume = Volume::new(&[]);
    let mounted = volume.mount(&["--io-retries", "1", "--put-timeout", "2s"]);
    let file = File::create(mounted.path("f")).unwrap();
    let other = File::options().write(true).open(mounted.path("f")).unwrap();
    let outage = Outage::begin(&volume);
    let content = bytes(1, 1_000_000);
    file.write_all_at(&content, 0).unwrap();
    assert_eq!(errno(file.sync_all()), libc::EIO);
    // Metadata goes on, and the data is still there to be read.
    fs::create_dir(mounted.path("d")).unwrap();
    assert!(fs::read(mounted.path("f")).unwrap() == content);
    outage.end();
    eventually("the data is stored by itself or by the next fsync", PATIENCE, || file.sync_all().ok());
    file.sync_all().expect("an error is told once to each handle");
    // The other handle may be told its own share of the outage, once.
    other.sync_all().ok();
    other.sync_all().expect("an error is told once to each handle");
    drop((file, other));
    mounted.unmount();
    volume.fsck_is_clean();
    let mounted = volume.mount(&[]);
    assert!(fs::read(mounted.path("f")).unwrap() == content);
}

#[test]
fn a_store_that_refuses_under_load_loses_nothing() {
    let volume = Volume::new(&[]);
    let mounted = volume.mount(&["--io-retries", "2", "--buffer-size", "64M"]);
    let put = |n: u64| (format!("f{n}"), bytes(n, 3_000_000));
    let write = |mounted: &Mounted, n: u64| {
        let (name, content) = put(n);
        let file = File::create(mounted.path(&name)).unwrap();
        file.write_all_at(&content, 0).unwrap();
        file
    };
    let mut open: Vec<(u64, File)> = (0..5).map(|n| (n, write(&mounted, n))).collect();
    let outage = Outage::begin(&volume);
    open.extend((5..12).map(|n| (n, write(&mounted, n))));
    for (_, file) in &open {
        file.sync_data().ok();
    }
    outage.end();
    for (n, file) in &open {
        eventually(&format!("file {n} is stored after the outage"), PATIENCE, || file.sync_all().ok());
    }
    drop(open);
    mounted.unmount();
    let mounted = volume.mount(&["--cache-size", "0"]);
    for n in 0..12 {
        let (name, content) = put(n);
        assert!(fs::read(mounted.path(&name)).unwrap() == content, "{name}");
    }
    mounted.unmount();
    volume.fsck_is_clean();
}

#[test]
fn a_full_cache_disk_does_not_stop_anybody() {
    let volume = Volume::new(&[]);
    let disk = Tmpfs::over(&volume.path("small"), "size=2m");
    let cache = volume.path("small/cache");
    let mounted = volume.mount(&["--cache-dir", cache.to_str().unwrap(), "--free-space-ratio", "0.01"]);
    let content = bytes(1, 20_000_000);
    fs::write(mounted.path("f"), &content).unwrap();
    assert!(fs::read(mounted.path("f")).unwrap() == content);
    mounted.unmount();
    drop(disk);
}

#[test]
fn a_cache_disk_that_turns_read_only_or_vanishes_does_not_stop_anybody() {
    let volume = Volume::new(&[]);
    let disk = Tmpfs::over(&volume.path("disk"), "size=64m");
    let cache = volume.path("disk/cache");
    let mounted = volume.mount(&["--cache-dir", cache.to_str().unwrap(), "--free-space-ratio", "0.01"]);
    let content = bytes(1, 10_000_000);
    fs::write(mounted.path("f"), &content).unwrap();
    disk.remount("ro");
    fs::write(mounted.path("g"), &content).unwrap();
    assert!(fs::read(mounted.path("f")).unwrap() == content);
    drop(disk);
    fs::write(mounted.path("h"), &content).unwrap();
    for name in ["f", "g", "h"] {
        assert!(fs::read(mounted.path(name)).unwrap() == content, "{name}");
    }
    mounted.unmount();
    volume.fsck_is_clean();
}

#[test]
fn a_damaged_cache_file_is_dropped_and_fetched_again() {
    let volume = Volume::new(&[]);
    let content = bytes(1, 8_000_000);
    let mounted = volume.mount(&[]);
    fs::write(mounted.path("f"), &content).unwrap();
    assert!(fs::read(mounted.path("f")).unwrap() == content);
    mounted.unmount();
    // Read once more from a cold kernel cache, so that whole blocks lie in the cache.
    let mounted = volume.mount(&[]);
    assert!(fs::read(mounted.path("f")).unwrap() == content);
    mounted.unmount();
    let mut harmed = 0;
    let mut todo = vec![volume.path("cache")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
            } else if path.to_string_lossy().contains("/raw/") {
                let mut bytes = fs::read(&path).unwrap();
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(&path, bytes).unwrap();
                harmed += 1;
            }
        }
    }
    assert!(harmed > 0, "nothing was cached");
    let mounted = volume.mount(&["--verify-cache-checksum", "extend"]);
    assert!(fs::read(mounted.path("f")).unwrap() == content);
    mounted.unmount();
}

#[test]
fn a_bucket_that_moved_is_followed_without_a_new_mount() {
    let volume = Volume::new(&[]);
    let content = bytes(1, 5_000_000);
    let mounted = volume.mount(&[]);
    fs::write(mounted.path("f"), &content).unwrap();
    mounted.unmount();
    let mounted = volume.mount(&["--heartbeat", "1s", "--cache-dir", "memory"]);
    let moved = volume.path("moved");
    run(Path::new("/"), "cp", ["-a", volume.store().to_str().unwrap(), moved.to_str().unwrap()]).ok();
    let bucket = format!("{}/", moved.display());
    crate::support::cairn(["config", volume.url(), "--bucket", &bucket, "--yes"]).ok();
    eventually("the mount uses the new bucket", PATIENCE, || {
        mounted.said().contains("this client uses the new ones").then_some(())
    });
    fs::rename(volume.store(), volume.path("gone")).unwrap();
    assert!(fs::read(mounted.path("f")).unwrap() == content);
    fs::write(mounted.path("g"), &content).unwrap();
    mounted.unmount();
    volume.fsck_is_clean();
}

#[test]
fn a_bucket_of_another_volume_is_not_followed() {
    let (volume, other) = (Volume::new(&[]), Volume::new(&[]));
    let mounted = volume.mount(&["--heartbeat", "1s", "--cache-dir", "memory"]);
    let bucket = format!("{}/", other.store().display());
    crate::support::cairn(["config", volume.url(), "--bucket", &bucket, "--yes", "--force"]).ok();
    eventually("the mount refuses the bucket", PATIENCE, || {
        mounted.said().contains("belongs to another volume").then_some(())
    });
    fs::write(mounted.path("f"), bytes(1, 1_000_000)).unwrap();
    mounted.unmount();
    assert_eq!((volume.blocks().len(), other.blocks().len()), (1, 0));
}

#[test]
fn umount_says_what_it_waits_for() {
    let volume = Volume::new(&[]);
    let mut mounted = volume.mount(&["--io-retries", "7"]);
    let content = bytes(1, 1_000_000);
    let file = File::create(mounted.path("f")).unwrap();
    let outage = Outage::begin(&volume);
    file.write_all_at(&content, 0).unwrap();
    // The close fails after its retries; the data stays and is tried again.
    drop(file);
    let said = volume.path("umount.log");
    let mut umount = crate::support::binary();
    umount.arg("umount").arg(mounted.root()).stderr(File::create(&said).unwrap());
    let mut umount = umount.spawn().unwrap();
    let text = || fs::read_to_string(&said).unwrap();
    eventually("umount says how much is left", PATIENCE, || text().contains("kill").then_some(()));
    assert!(text().contains("976.56 KiB of 1 files"), "{}", text());
    outage.end();
    assert!(umount.wait().unwrap().success(), "{}", text());
    assert!(mounted.wait(PATIENCE).success());
    drop(mounted);
    let mounted = volume.mount(&[]);
    assert!(fs::read(mounted.path("f")).unwrap() == content);
}

#[test]
fn umount_of_what_could_not_be_saved_fails() {
    let volume = Volume::new(&[]);
    let mut mounted = volume.mount(&["--io-retries", "0"]);
    let file = File::create(mounted.path("f")).unwrap();
    let outage = Outage::begin(&volume);
    file.write_all_at(&bytes(1, 1_000_000), 0).unwrap();
    drop(file);
    let said = crate::support::cairn([Path::new("umount"), mounted.root()]).refused();
    assert!(said.contains("not everything was saved"), "{said}");
    assert!(!mounted.wait(PATIENCE).success());
    outage.end();
}

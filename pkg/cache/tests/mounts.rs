//! Directories that are full, read-only or unmounted under the cache. Needs the right to mount; without
//! it these tests say so and pass.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_cache::{BlockCache, ChecksumLevel, Config, Eviction};
use cairn_env::Env;
use cairn_types::{BlockKey, KeyLayout, SliceId};

/// A small file system of its own.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(at: &Path) -> Option<Tmpfs> {
        fs::create_dir_all(at).unwrap();
        let mounted = run("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs", at.to_str().unwrap()]);
        if !mounted {
            eprintln!("not allowed to mount: nothing was tested");
        }
        mounted.then(|| Tmpfs(at.into()))
    }

    fn make_read_only(&self) {
        assert!(run("mount", &["-o", "remount,ro", self.0.to_str().unwrap()]));
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        run("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

fn run(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

fn open(dirs: Vec<PathBuf>) -> Arc<BlockCache> {
    let config = Config {
        dirs,
        memory_bytes: 0,
        disk_bytes: 1 << 30,
        disk_items: 0,
        free_space_ratio: 0.0,
        checksum: ChecksumLevel::Extend,
        eviction: Eviction::TwoRandom,
        file_mode: 0o600,
        key_layout: KeyLayout::Plain,
    };
    BlockCache::open(Env::simulated(3), config).unwrap()
}

fn key(id: u64) -> BlockKey {
    BlockKey { id: SliceId(id), index: 0, len: 100_000 }
}

async fn put(cache: &BlockCache, id: u64) {
    cache.put(key(id), Bytes::from(vec![id as u8; 100_000]));
    Env::simulated(0).sleep(Duration::from_secs(1)).await;
}

async fn has(cache: &BlockCache, id: u64) -> bool {
    let block = cache.get(key(id), 0..100_000).await;
    assert!(block.as_ref().is_none_or(|block| block.iter().all(|byte| *byte == id as u8)));
    block.is_some()
}

#[tokio::test(start_paused = true)]
async fn a_full_directory_makes_room_and_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("disk");
    let Some(_disk) = Tmpfs::mount(&dir) else { return };
    // Somebody else fills it behind the cache's back.
    let cache = open(vec![dir.join("uuid")]);
    put(&cache, 1).await;
    assert!(fs::write(dir.join("filler"), vec![0; 2 << 20]).is_err());
    for id in 2..6 {
        put(&cache, id).await;
    }
    let stats = cache.stats();
    assert_eq!((stats.dirs, stats.dirs_failed, stats.disk_errors), (1, 0, 0), "{stats:?}");
    fs::remove_file(dir.join("filler")).unwrap();
    put(&cache, 9).await;
    assert!(has(&cache, 9).await);
    assert!(!fs::read_dir(dir.join("uuid/raw/chunks/0/0")).unwrap().any(|f| f.unwrap().path().extension().is_some()));
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_turns_read_only_is_still_read_from() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("disk");
    let Some(disk) = Tmpfs::mount(&dir) else { return };
    let cache = open(vec![dir.join("uuid")]);
    put(&cache, 1).await;
    disk.make_read_only();
    for id in 2..5 {
        put(&cache, id).await;
    }
    assert!(has(&cache, 1).await && !has(&cache, 2).await);
    assert_eq!((cache.stats().dirs, cache.stats().disk_errors), (1, 1), "told once");
    // And one that is read-only from the start.
    let again = open(vec![dir.join("uuid")]);
    put(&again, 7).await;
    assert!(has(&again, 1).await && !has(&again, 7).await);
    assert_eq!(again.stats().dirs, 1);
    // Without a `.lock` there is nothing to read.
    assert_eq!(open(vec![dir.join("other")]).stats().dirs_failed, 1);
}

#[tokio::test(start_paused = true)]
async fn an_unmounted_directory_is_taken_out_and_nothing_is_written_below_it() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("disk");
    let Some(disk) = Tmpfs::mount(&dir) else { return };
    let cache = open(vec![dir.join("uuid")]);
    put(&cache, 1).await;
    drop(disk);
    put(&cache, 2).await;
    assert_eq!((cache.stats().dirs, cache.stats().dirs_failed), (0, 1));
    assert!(fs::read_dir(&dir).unwrap().next().is_none());
    assert!(!has(&cache, 1).await && !has(&cache, 2).await && !cache.keeps_blocks());
}

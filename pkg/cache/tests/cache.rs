//! The cache as a whole, on real folders.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use cairn_cache::{BlockCache, ChecksumLevel, Config, Eviction, staged as staging};
use cairn_crypt::{Algorithm, Cipher, Passphrase, PrivateKey};
use cairn_env::Env;
use cairn_types::{BlockKey, KeyLayout, SliceId};
use proptest::prelude::*;

const PIECE: usize = 32 * 1024;

fn key(id: u64, len: u32) -> BlockKey {
    BlockKey { id: SliceId(id), index: 0, len }
}

/// Different for each byte of each block.
fn content(key: BlockKey) -> Bytes {
    (0..key.len).map(|i| (u64::from(i).wrapping_mul(31) + u64::from(i >> 8) + key.id.0) as u8).collect()
}

fn config(dirs: &[PathBuf]) -> Config {
    Config {
        dirs: dirs.to_vec(),
        memory_bytes: 0,
        disk_bytes: 1 << 30,
        disk_items: 0,
        free_space_ratio: 0.0,
        checksum: ChecksumLevel::Extend,
        eviction: Eviction::TwoRandom,
        file_mode: 0o600,
        key_layout: KeyLayout::Plain,
    }
}

fn open(config: Config) -> Arc<BlockCache> {
    BlockCache::open(Env::simulated(7), config).unwrap()
}

/// Lets every background task of a simulated world come to rest.
async fn settle() {
    Env::simulated(0).sleep(Duration::from_secs(1)).await;
}

async fn whole(cache: &BlockCache, key: BlockKey) -> Option<Bytes> {
    cache.get(key, 0..key.len).await
}

fn path(dir: &Path, key: BlockKey) -> PathBuf {
    dir.join("raw").join(key.object_key(KeyLayout::Plain))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A folder with these blocks in it, written by the cache itself.
async fn filled(dir: &Path, keys: &[BlockKey]) {
    let cache = open(config(&[dir.into()]));
    keys.iter().for_each(|key| cache.put(*key, content(*key)));
    cache.close().await;
}

#[tokio::test(start_paused = true)]
async fn files_look_as_juicefs_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(config(&[dir.path().join("uuid")]));
    let key = key(1_234_567, 40_000);
    cache.put(key, Bytes::from(vec![0; 40_000]));
    cache.close().await;
    let file = dir.path().join("uuid/raw/chunks/1/1234/1234567_0_40000");
    let stored = fs::read(&file).unwrap();
    assert_eq!(stored[40_000..], [0xbc, 0x43, 0xba, 0xad, 0xa5, 0xf9, 0x28, 0x03]);
    assert_eq!((mode(&file), mode(file.parent().unwrap())), (0o600, 0o700));
    let lock = fs::read_to_string(dir.path().join("uuid/.lock")).unwrap();
    assert_eq!((lock.len(), lock.matches('-').count()), (36, 4), "{lock}");
    let again = open(config(&[dir.path().join("uuid")]));
    assert_eq!(fs::read_to_string(dir.path().join("uuid/.lock")).unwrap(), lock, "the identity stays");
    drop(again);
}

/// A cipher as each mount makes one; `key` is a file of `pkg/crypt/tests/keys`.
fn cipher(key: &str) -> Arc<Cipher> {
    let path = format!("{}/../crypt/tests/keys/{key}.pem", env!("CARGO_MANIFEST_DIR"));
    let key = PrivateKey::from_pem(&fs::read_to_string(path).unwrap(), &Passphrase::default()).unwrap();
    let env = Env::real();
    Arc::new(Cipher::new(key, Algorithm::Aes256Gcm, Arc::new(move |bytes| env.fill_secret(bytes))).unwrap())
}

fn sealed(dir: &Path, key: &str) -> Arc<BlockCache> {
    BlockCache::with_cipher(Env::simulated(1), config(&[dir.into()]), Some(cipher(key))).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_sealed_file_is_read_by_the_next_mount_in_any_part() {
    let dir = tempfile::tempdir().unwrap();
    let lens = [1, PIECE as u32, 3 * PIECE as u32 + 5];
    let cache = sealed(dir.path(), "pkcs1");
    lens.iter().for_each(|len| cache.put(key(1, *len), content(key(1, *len))));
    cache.close().await;
    let cache = sealed(dir.path(), "pkcs1");
    for len in lens {
        let right = content(key(1, len));
        let stored = fs::read(path(dir.path(), key(1, len))).unwrap();
        assert!(len < 32 || !stored.windows(16).any(|w| right.windows(16).step_by(16).any(|r| r == w)), "{len}");
        for range in [0..len, 0..1, len - 1..len, len / 2..len, len / 3..len / 2, PIECE as u32..len.max(PIECE as u32)] {
            if range.end <= len {
                let found = cache.get(key(1, len), range.clone()).await;
                assert_eq!(found, Some(right.slice(range.start as usize..range.end as usize)), "{len} {range:?}");
            }
        }
    }
    assert_eq!(cache.stats().damaged, 0);
}

#[tokio::test(start_paused = true)]
async fn a_sealed_file_that_is_not_what_it_was_is_removed() {
    let key = key(1, 2 * PIECE as u32);
    let header = cipher("pkcs1").file_header_bytes();
    type Change<'a> = (&'a str, &'a dyn Fn(&Path));
    let changes: [Change; 5] = [
        ("the wrapped key", &|file| flip(file, 20)),
        ("the content", &|file| flip(file, header as u64 + 100)),
        ("a tag", &|file| flip(file, (header + PIECE) as u64 + 3)),
        ("cut", &|file| fs::OpenOptions::new().write(true).open(file).unwrap().set_len(100).unwrap()),
        ("another block's", &|file| {
            let other = self::key(2, key.len);
            fs::rename(path(file.ancestors().nth(5).unwrap(), other), file).unwrap();
        }),
    ];
    for (what, change) in changes {
        let dir = tempfile::tempdir().unwrap();
        let cache = sealed(dir.path(), "pkcs1");
        [key, self::key(2, key.len)].iter().for_each(|key| cache.put(*key, content(*key)));
        cache.close().await;
        change(&path(dir.path(), key));
        let cache = sealed(dir.path(), "pkcs1");
        assert_eq!(whole(&cache, key).await, None, "{what}");
        assert_eq!((cache.stats().damaged, path(dir.path(), key).exists()), (1, false), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_sealed_file_of_another_key_is_no_use() {
    let dir = tempfile::tempdir().unwrap();
    let cache = sealed(dir.path(), "pkcs1");
    cache.put(key(1, 100), content(key(1, 100)));
    cache.close().await;
    assert_eq!(whole(&sealed(dir.path(), "other"), key(1, 100)).await, None);
}

#[tokio::test(start_paused = true)]
async fn level_none_writes_the_bare_block() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(Config { checksum: ChecksumLevel::None, ..config(&[dir.path().into()]) });
    cache.put(key(1, 40_000), content(key(1, 40_000)));
    cache.close().await;
    assert_eq!(fs::read(path(dir.path(), key(1, 40_000))).unwrap(), content(key(1, 40_000)));
    // And a client that wants checksums reads it all the same.
    assert_eq!(whole(&open(config(&[dir.path().into()])), key(1, 40_000)).await, Some(content(key(1, 40_000))));
}

#[tokio::test(start_paused = true)]
async fn a_block_is_found_before_the_scan_and_after_it() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), &[key(1, 100_000), key(2, 10)]).await;
    let cache = open(config(&[dir.path().into()]));
    assert_eq!(cache.stats().disk_blocks, 0, "opening did not wait for a walk");
    assert_eq!(
        cache.get(key(1, 100_000), 70_000..70_100).await.unwrap(),
        content(key(1, 100_000)).slice(70_000..70_100)
    );
    settle().await;
    assert_eq!(cache.stats().disk_blocks, 2);
    assert_eq!(cache.stats().disk_bytes, 100_000 + 10 + 2 * 4096);
    assert!(cache.contains(key(2, 10)) && !cache.contains(key(3, 10)));
    assert_eq!(whole(&cache, key(2, 10)).await, Some(content(key(2, 10))));
    assert_eq!(whole(&cache, key(3, 10)).await, None);
}

#[tokio::test(start_paused = true)]
async fn footers_of_tiered_blocks_are_tolerated() {
    let with_sums =
        [0x46, 0x53, 0, 0x10, 0x82, 0xa4, 0x74, 0x69, 0x65, 0x72, 0xcc, 2, 0xa3, 0x70, 0x61, 0x64, 0xc4, 2, 0, 0];
    let without = [0x46, 0x53, 0, 0x0e, 0x82, 0xa4, 0x74, 0x69, 0x65, 0x72, 0xcc, 2, 0xa3, 0x70, 0x61, 0x64, 0xc4, 0];
    for (sums, footer) in [(true, &with_sums[..]), (false, &without[..])] {
        let dir = tempfile::tempdir().unwrap();
        let key = key(1, 40_000);
        filled(dir.path(), &[key]).await;
        let mut stored = fs::read(path(dir.path(), key)).unwrap();
        stored.truncate(if sums { stored.len() } else { 40_000 });
        stored.extend_from_slice(footer);
        fs::write(path(dir.path(), key), stored).unwrap();
        let cache = open(config(&[dir.path().into()]));
        assert_eq!(whole(&cache, key).await, Some(content(key)), "checksums: {sums}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_level_verifies_what_it_says() {
    let key = key(1, 3 * PIECE as u32);
    // (level, range read, damaged byte, is it noticed)
    let inside = 100..200;
    let cases = [
        (ChecksumLevel::None, inside.clone(), 150, false),
        (ChecksumLevel::Full, inside.clone(), 150, false),
        (ChecksumLevel::Full, 0..key.len, 150, true),
        (ChecksumLevel::Shrink, inside.clone(), 150, false),
        (ChecksumLevel::Shrink, 100..key.len, PIECE as u64, true),
        (ChecksumLevel::Shrink, 100..key.len, 150, false),
        (ChecksumLevel::Extend, inside.clone(), 150, true),
        (ChecksumLevel::Extend, inside.clone(), PIECE as u64 - 1, true),
        (ChecksumLevel::Extend, inside, PIECE as u64, false),
    ];
    for (checksum, range, damaged, noticed) in cases {
        let dir = tempfile::tempdir().unwrap();
        filled(dir.path(), &[key]).await;
        flip(&path(dir.path(), key), damaged);
        let cache = open(Config { checksum, ..config(&[dir.path().into()]) });
        let got = cache.get(key, range.clone()).await;
        assert_eq!(got.is_none(), noticed, "{checksum:?} {range:?} {damaged}");
        assert_eq!(path(dir.path(), key).exists(), !noticed, "a damaged file is removed");
        assert_eq!(cache.stats().damaged, u64::from(noticed));
    }
}

fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cut_file_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let key = key(1, 40_000);
    for len in [0, 39_999, 40_004] {
        filled(dir.path(), &[key]).await;
        fs::File::options().write(true).open(path(dir.path(), key)).unwrap().set_len(len).unwrap();
        let cache = open(config(&[dir.path().into()]));
        assert_eq!(whole(&cache, key).await, None, "{len}");
        assert!(!path(dir.path(), key).exists(), "{len}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_cut_while_it_is_open_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let key = key(1, 200_000);
    filled(dir.path(), &[key]).await;
    let cache = open(config(&[dir.path().into()]));
    assert!(cache.get(key, 0..10).await.is_some());
    fs::File::options().write(true).open(path(dir.path(), key)).unwrap().set_len(100_000).unwrap();
    assert_eq!(cache.get(key, 150_000..150_010).await, None);
    assert_eq!(cache.stats().damaged, 1);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_vanished_is_a_miss_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), &[key(1, 5000)]).await;
    let cache = open(config(&[dir.path().into()]));
    settle().await;
    fs::remove_file(path(dir.path(), key(1, 5000))).unwrap();
    assert_eq!(whole(&cache, key(1, 5000)).await, None);
    cache.put(key(1, 5000), content(key(1, 5000)));
    settle().await;
    assert_eq!(whole(&cache, key(1, 5000)).await, Some(content(key(1, 5000))));
    assert_eq!(cache.stats().disk_errors, 0);
}

#[tokio::test(start_paused = true)]
async fn limits_hold_and_the_rest_stays_readable() {
    for eviction in [Eviction::TwoRandom, Eviction::Lru] {
        for (disk_bytes, disk_items) in [(1 << 30, 10), (10 * (1000 + 4096), 0)] {
            let dir = tempfile::tempdir().unwrap();
            let cache = open(Config { disk_bytes, disk_items, eviction, ..config(&[dir.path().into()]) });
            for id in 0..40 {
                cache.put(key(id, 1000), content(key(id, 1000)));
                settle().await;
            }
            let stats = cache.stats();
            assert!((1..=10).contains(&stats.disk_blocks), "{stats:?}");
            let present: Vec<_> = (0..40).filter(|id| path(dir.path(), key(*id, 1000)).exists()).collect();
            assert_eq!(present.len() as u64, stats.disk_blocks);
            assert_eq!(stats.evictions + stats.disk_blocks, 40);
            assert!(present.contains(&39), "the newest was let in");
            for id in present {
                assert_eq!(whole(&cache, key(id, 1000)).await, Some(content(key(id, 1000))));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_eviction_a_full_cache_takes_nothing_new() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(Config { disk_items: 2, eviction: Eviction::None, ..config(&[dir.path().into()]) });
    (0..5).for_each(|id| cache.put(key(id, 10), content(key(id, 10))));
    settle().await;
    assert_eq!((cache.stats().disk_blocks, cache.stats().disk_drops), (2, 3));
    assert!(whole(&cache, key(0, 10)).await.is_some() && whole(&cache, key(4, 10)).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_file_system_that_must_stay_free_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(Config { free_space_ratio: 1.0, memory_bytes: 1 << 20, ..config(&[dir.path().into()]) });
    cache.put(key(1, 10), content(key(1, 10)));
    settle().await;
    assert_eq!((cache.stats().disk_blocks, cache.stats().disk_drops), (0, 1));
    assert_eq!(whole(&cache, key(1, 10)).await, Some(content(key(1, 10))), "memory still serves");
}

#[tokio::test(start_paused = true)]
async fn a_block_linked_from_rawstaging_is_not_evicted() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), &[key(1, 10)]).await;
    let staged = dir.path().join("rawstaging/chunks/0/0/1_0_10");
    fs::create_dir_all(staged.parent().unwrap()).unwrap();
    fs::hard_link(path(dir.path(), key(1, 10)), &staged).unwrap();
    let cache = open(Config { disk_items: 1, ..config(&[dir.path().into()]) });
    settle().await;
    cache.put(key(2, 10), content(key(2, 10)));
    settle().await;
    assert!(path(dir.path(), key(1, 10)).exists() && !path(dir.path(), key(2, 10)).exists());
    assert_eq!(staging::list(dir.path(), false).unwrap(), [(key(1, 10), staged)]);
}

#[tokio::test(start_paused = true)]
async fn several_directories_share_the_blocks_and_find_the_older_placement() {
    let root = tempfile::tempdir().unwrap();
    let dirs: Vec<_> = (0..3).map(|i| root.path().join(format!("d{i}"))).collect();
    let cache = open(config(&dirs));
    for id in 0..60 {
        cache.put(key(id, 100), content(key(id, 100)));
    }
    settle().await;
    let count = |dir: &PathBuf| (0..60).filter(|id| path(dir, key(*id, 100)).exists()).count();
    assert!(dirs.iter().all(|dir| count(dir) > 5), "{:?}", dirs.iter().map(count).collect::<Vec<_>>());
    assert_eq!(dirs.iter().map(count).sum::<usize>(), 60);
    for id in 0..60 {
        assert_eq!(whole(&cache, key(id, 100)).await, Some(content(key(id, 100))));
    }
    cache.close().await;
    // FNV-1 modulo 3: move every file to where older clients look.
    for id in 0..60 {
        let name = key(id, 100).object_key(KeyLayout::Plain);
        let hash = name.bytes().fold(0x811c_9dc5_u32, |h, b| h.wrapping_mul(0x0100_0193) ^ u32::from(b));
        let (from, to) = (dirs.iter().find(|d| path(d, key(id, 100)).exists()).unwrap(), &dirs[hash as usize % 3]);
        fs::create_dir_all(path(to, key(id, 100)).parent().unwrap()).unwrap();
        fs::rename(path(from, key(id, 100)), path(to, key(id, 100))).unwrap();
    }
    let cache = open(config(&dirs));
    settle().await;
    for id in 0..60 {
        assert_eq!(whole(&cache, key(id, 100)).await, Some(content(key(id, 100))));
    }
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_vanishes_is_taken_out_and_the_others_go_on() {
    let root = tempfile::tempdir().unwrap();
    let dirs: Vec<_> = (0..2).map(|i| root.path().join(format!("d{i}"))).collect();
    let cache = open(Config { memory_bytes: 1 << 20, ..config(&dirs) });
    settle().await;
    fs::remove_dir_all(&dirs[0]).unwrap();
    for id in 0..40 {
        cache.put(key(id, 100), content(key(id, 100)));
        settle().await;
    }
    assert_eq!((cache.stats().dirs, cache.stats().dirs_failed), (1, 1));
    assert!(!dirs[0].exists(), "a vanished directory is not made anew on what lies below");
    assert!(cache.stats().disk_blocks > 15);
    fs::remove_dir_all(&dirs[1]).unwrap();
    for id in 40..44 {
        cache.put(key(id, 100), content(key(id, 100)));
        settle().await;
    }
    assert_eq!((cache.stats().dirs, cache.stats().dirs_failed), (0, 2));
    assert_eq!(whole(&cache, key(43, 100)).await, Some(content(key(43, 100))), "memory only");
    assert!(cache.keeps_blocks());
    cache.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_works_again_comes_back_with_what_it_holds() {
    let root = tempfile::tempdir().unwrap();
    let dirs: Vec<_> = (0..2).map(|i| root.path().join(format!("d{i}"))).collect();
    let cache = open(config(&dirs));
    settle().await;
    for id in 0..40 {
        cache.put(key(id, 100), content(key(id, 100)));
    }
    settle().await;
    let before = cache.stats().disk_blocks;
    // Its disk is unmounted, and mounted again a while later.
    fs::rename(&dirs[0], root.path().join("away")).unwrap();
    for id in 40..80 {
        cache.put(key(id, 100), content(key(id, 100)));
        settle().await;
    }
    assert_eq!((cache.stats().dirs, cache.stats().dirs_failed), (1, 1));
    fs::create_dir(&dirs[0]).unwrap();
    Env::simulated(0).sleep(Duration::from_secs(130)).await;
    assert_eq!(cache.stats().dirs, 1, "another folder in its place is not it");
    fs::remove_dir(&dirs[0]).unwrap();
    fs::rename(root.path().join("away"), &dirs[0]).unwrap();
    Env::simulated(0).sleep(Duration::from_secs(130)).await;
    assert_eq!(cache.stats().dirs, 2);
    assert!(cache.stats().disk_blocks > before, "what it holds is known");
    for id in 0..40 {
        assert_eq!(whole(&cache, key(id, 100)).await, Some(content(key(id, 100))), "{id}");
    }
    cache.put(key(99, 100), content(key(99, 100)));
    cache.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_piece_that_was_right_is_verified_again_once_its_file_was_written_to() {
    let dir = tempfile::tempdir().unwrap();
    let key = key(1, 4 * PIECE as u32);
    filled(dir.path(), &[key]).await;
    let cache = open(config(&[dir.path().into()]));
    for _ in 0..3 {
        assert_eq!(whole(&cache, key).await, Some(content(key)));
        assert_eq!(cache.get(key, 5..50).await.unwrap(), content(key).slice(5..50));
    }
    flip(&path(dir.path(), key), 2 * PIECE as u64);
    assert_eq!(cache.get(key, 5..50).await.unwrap(), content(key).slice(5..50), "this piece is right");
    assert_eq!(cache.get(key, 2 * PIECE as u32 + 5..2 * PIECE as u32 + 50).await, None, "this one is not");
    assert_eq!(cache.stats().damaged, 1);
}

#[tokio::test(start_paused = true)]
async fn a_path_that_cannot_be_a_directory_is_left_out() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "x").unwrap();
    let cache = open(config(&[root.path().join("file/uuid"), root.path().join("good")]));
    cache.put(key(1, 10), content(key(1, 10)));
    settle().await;
    assert_eq!((cache.stats().dirs, cache.stats().dirs_failed, cache.stats().disk_blocks), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_queue_without_room_drops_and_never_waits() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(config(&[dir.path().into()]));
    let len = 4 << 20;
    (0..20).for_each(|id| cache.put(key(id, len), Bytes::from(vec![1; len as usize])));
    assert_eq!(cache.stats().disk_drops, 12, "32 MiB may wait");
    assert_eq!(cache.get_now(key(0, len), 5..8).unwrap()[..], [1, 1, 1], "what waits is readable");
    assert!(cache.get_now(key(19, len), 0..1).is_none());
    cache.close().await;
    assert_eq!(cache.stats().disk_writes, 8);
}

#[tokio::test(start_paused = true)]
async fn removed_blocks_are_gone_from_memory_queue_and_disk() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(Config { memory_bytes: 1 << 20, ..config(&[dir.path().into()]) });
    cache.put(key(1, 10), content(key(1, 10)));
    settle().await;
    cache.put(key(2, 10), content(key(2, 10)));
    cache.remove(key(1, 10));
    cache.remove(key(2, 10));
    assert!(!cache.contains(key(1, 10)) && !cache.contains(key(2, 10)));
    settle().await;
    assert!(!path(dir.path(), key(1, 10)).exists() && !path(dir.path(), key(2, 10)).exists());
    assert_eq!(whole(&cache, key(1, 10)).await, None);
}

#[tokio::test]
async fn the_scan_removes_old_temporary_files_and_leaves_young_ones() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("raw/chunks/0/0");
    fs::create_dir_all(&folder).unwrap();
    for (name, age) in [("1_0_10.tmp", 61), ("2_0_10.tmp", 0)] {
        let file = fs::File::create(folder.join(name)).unwrap();
        #[expect(clippy::disallowed_methods, reason = "the file system runs on the real clock")]
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
    }
    fs::write(folder.join("readme.txt"), "not ours").unwrap();
    fs::write(folder.join("3_0_2"), "ab").unwrap();
    let cache = BlockCache::open(Env::real(), config(&[dir.path().into()])).unwrap();
    while cache.stats().disk_blocks == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!folder.join("1_0_10.tmp").exists() && folder.join("2_0_10.tmp").exists());
    assert!(folder.join("readme.txt").exists());
    assert_eq!(whole(&cache, key(3, 2)).await.unwrap(), "ab");
    cache.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_holds_what_it_may_and_no_more() {
    let cache = BlockCache::open(Env::real(), Config { memory_bytes: 64 << 20, ..config(&[]) }).unwrap();
    let len = 4 << 20;
    for id in 0..40 {
        cache.put(key(id, len), Bytes::from(vec![id as u8; len as usize]));
        assert_eq!(cache.get_now(key(id, len), 7..9).unwrap()[..], [id as u8; 2], "a newcomer is admitted");
    }
    let stats = cache.stats();
    assert!(stats.memory_bytes <= 64 << 20 && stats.memory_blocks >= 10, "{stats:?}");
    cache.clear_memory();
    assert_eq!(cache.stats().memory_blocks, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let open = || BlockCache::open(Env::real(), config(&[dir.path().into()])).unwrap();
    let (a, b) = (open(), open());
    for id in 0..50 {
        a.put(key(id, 5000), content(key(id, 5000)));
        b.put(key(id, 5000), content(key(id, 5000)));
    }
    a.close().await;
    b.close().await;
    for id in 0..50 {
        assert!(whole(&a, key(id, 5000)).await == Some(content(key(id, 5000))), "{id}");
        assert!(whole(&b, key(id, 5000)).await == Some(content(key(id, 5000))), "{id}");
    }
    assert_eq!(a.stats().disk_errors + b.stats().disk_errors, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whatever bit of the file is flipped: the right bytes, or none.
    #[test]
    fn wrong_bytes_are_never_returned(
        len in 1..120_000u32, flips in proptest::collection::vec(0..130_000u64, 0..4), reads in proptest::collection::vec((0..120_000u32, 1..70_000u32), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let key = key(9, len);
            filled(dir.path(), &[key]).await;
            let bytes = fs::metadata(path(dir.path(), key)).unwrap().len();
            flips.iter().for_each(|at| flip(&path(dir.path(), key), at % bytes));
            let cache = open(config(&[dir.path().into()]));
            for (start, n) in reads {
                let start = start % len;
                let end = len.min(start + n);
                if let Some(got) = cache.get(key, start..end).await {
                    assert_eq!(got, content(key).slice(start as usize..end as usize));
                }
            }
            cache.close().await;
        });
    }
}

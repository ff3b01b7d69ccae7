//! `cairn warmup`: the local cache filled, emptied and looked at.

use std::fs;
use std::path::Path;

use super::Fs;
use crate::support::{bytes, cairn};

/// Files of a known size and content, none of it in the cache.
fn fresh(mount: &[&str]) -> Fs {
    let m = Fs::with(&["--block-size", "256K"], &[]);
    fs::create_dir(m.path("d")).unwrap();
    m.write("d/one", &bytes(1, 1_000_000));
    m.write("d/two", &bytes(2, 600_000));
    m.write("three", &bytes(3, 10));
    let m = m.remount(mount);
    json(&m, &["--evict"], &[m.root()]);
    m
}

fn json(m: &Fs, flags: &[&str], paths: &[&Path]) -> serde_json::Value {
    let paths: Vec<_> = paths.iter().map(|path| path.to_str().unwrap()).collect();
    let done = cairn([&["warmup", "--json"], flags, &paths].concat());
    assert_eq!(done.code, 0, "{done:?} on {}", m.root().display());
    serde_json::from_str(&done.out).unwrap_or_else(|e| panic!("{e}: {done:?}"))
}

fn missing(m: &Fs) -> u64 {
    json(m, &["--check"], &[m.root()])["MissBytes"].as_u64().unwrap()
}

#[test]
fn a_tree_is_in_the_cache_then_out_of_it_and_check_says_so() {
    let m = fresh(&[]);
    assert_eq!(missing(&m), 1_600_010, "nothing is there");
    let warm = json(&m, &["-p", "3"], &[&m.path("d")]);
    assert_eq!(
        (warm["FileCount"].as_u64(), warm["TotalBytes"].as_u64(), warm["MissBytes"].as_u64()),
        (Some(2), Some(1_600_000), Some(0))
    );
    let check = json(&m, &["--check"], &[m.root()]);
    assert_eq!((check["FileCount"].as_u64(), check["MissBytes"].as_u64()), (Some(3), Some(10)));
    let places = check["Locations"].as_object().unwrap();
    assert!(places.len() == 1 && places.values().all(|b| b.as_u64() == Some(1_600_000)), "{places:?}");
    // What is in the cache needs no store.
    let aside = m.volume.path("aside");
    fs::rename(m.volume.store(), &aside).unwrap();
    assert!(m.read("d/one") == bytes(1, 1_000_000) && m.read("d/two") == bytes(2, 600_000));
    fs::rename(&aside, m.volume.store()).unwrap();
    json(&m, &["--evict"], &[&m.path("d/one")]);
    assert_eq!(missing(&m), 1_000_010);
    assert!(m.read("d/one") == bytes(1, 1_000_000), "it is fetched again");
    m.close();
}

#[test]
fn a_list_of_files_is_taken_and_a_missing_one_is_named() {
    let m = fresh(&[]);
    let list = m.volume.path("list");
    fs::write(&list, format!("{}\n\n{}\n", m.path("three").display(), m.path("d/two").display())).unwrap();
    let warm = json(&m, &["-f", list.to_str().unwrap()], &[]);
    assert_eq!((warm["FileCount"].as_u64(), missing(&m)), (Some(2), 1_000_000));
    let done = cairn(["warmup", m.path("nowhere").to_str().unwrap()]);
    assert!(done.code == 1 && done.err.contains("nowhere"), "{done:?}");
    assert_eq!(cairn(["warmup", "/"]).code, 1, "not on a volume");
    assert_eq!(cairn(["warmup"]).code, 1, "no path");
}

#[test]
fn a_block_that_cannot_be_fetched_is_told() {
    let m = fresh(&[]);
    let mut blocks = vec![m.volume.store()];
    while let Some(at) = blocks.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                blocks.push(path);
            } else if path.file_name().unwrap().to_string_lossy().ends_with("_10") {
                fs::remove_file(path).unwrap();
            }
        }
    }
    let done = cairn(["warmup", m.root().to_str().unwrap()]);
    assert!(done.code == 1 && done.out.contains("10 B") && done.out.contains("could not be fetched"), "{done:?}");
}

#[test]
fn a_read_only_mount_is_warmed_by_reading() {
    let m = fresh(&[]).remount(&["--read-only"]);
    let warm = json(&m, &[], &[m.root()]);
    assert_eq!((warm["FileCount"].as_u64(), warm["TotalBytes"].as_u64()), (Some(3), Some(1_600_010)));
    let done = cairn(["warmup", "--check", m.root().to_str().unwrap()]);
    assert!(done.code == 1 && done.err.contains("read-only"), "{done:?}");
}

#[test]
fn in_the_background_the_mount_goes_on() {
    let m = fresh(&[]);
    json(&m, &["--background"], &[m.root()]);
    crate::support::eventually("everything is in the cache", crate::support::PATIENCE, || {
        (missing(&m) == 0).then_some(())
    });
}

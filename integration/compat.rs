//! Volumes that JuiceFS 1.4.1 wrote open here as if they were ours (see `fixtures/README.md`).
//!
//! Everything a manifest lists is compared as seen through a read-only mount of the real binary.

mod fixture;
mod manifest;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::support::{Mounted, cairn};
use fixture::{Fixture, fixture};

/// Flags that leave a fixture as it is and show all of it.
const LOOK: [&str; 3] = ["--read-only", "--enable-xattr", "--no-bgjob"];

macro_rules! equal_their_manifests {
    ($($test:ident: $name:literal,)*) => {
        $(#[test] fn $test() { equals_its_manifest($name); })*
    };
}

equal_their_manifests! {
    sqlite_lz4_equals_its_manifest: "sqlite-lz4",
    sqlite_zstd_equals_its_manifest: "sqlite-zstd",
    sqlite_none_hashprefix_equals_its_manifest: "sqlite-none-hashprefix",
    sqlite_block_1m_equals_its_manifest: "sqlite-block-1m",
    sqlite_shards_equals_its_manifest: "sqlite-shards",
    sqlite_table_prefix_equals_its_manifest: "sqlite-table-prefix",
    sqlite_tiers_equals_its_manifest: "sqlite-tiers",
    sqlite_acl_quota_equals_its_manifest: "sqlite-acl-quota",
    sqlite_trash_full_equals_its_manifest: "sqlite-trash-full",
    sqlite_packed_equals_its_manifest: "sqlite-packed",
    sqlite_stale_session_equals_its_manifest: "sqlite-stale-session",
    sqlite_leaked_equals_its_manifest: "sqlite-leaked",
    sqlite_changelog_equals_its_manifest: "sqlite-changelog",
    sqlite_enc_aes_equals_its_manifest: "sqlite-enc-aes",
    sqlite_enc_chacha_equals_its_manifest: "sqlite-enc-chacha",
    redis_lz4_equals_its_manifest: "redis-lz4",
    redis_acl_quota_equals_its_manifest: "redis-acl-quota",
    redis_packed_equals_its_manifest: "redis-packed",
    redis_stale_session_equals_its_manifest: "redis-stale-session",
    redis_changelog_equals_its_manifest: "redis-changelog",
    postgres_zstd_equals_its_manifest: "postgres-zstd",
    mysql_lz4_equals_its_manifest: "mysql-lz4",
}

fn equals_its_manifest(name: &str) {
    let fixture = fixture(name);
    let before = fixture.engine.digest();
    let mounted = fixture.volume.mount(&LOOK);
    let mut wrong = manifest::differences(&fixture.manifest["tree"], mounted.root(), "");
    let trash = &fixture.manifest["trash"];
    if trash.as_object().is_some_and(|t| !t.is_empty()) {
        wrong.extend(manifest::differences(trash, &mounted.path(".trash"), ".trash/"));
    }
    wrong.extend(manifest::statfs_differences(&fixture.manifest["statfs"], mounted.root()));
    wrong.extend(counter_differences(&fixture));
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    mounted.unmount();
    assert!(fixture.engine.digest() == before, "a read-only mount changed the database");
}

/// What `cairn status` counts.
fn counter_differences(fixture: &Fixture) -> Vec<String> {
    let status: Value = serde_json::from_str(&cairn(["status", fixture.volume.url()]).ok()).expect("status is JSON");
    let pairs = [("UsedSpace", "usedSpace"), ("UsedInodes", "usedInodes")];
    let differ = pairs.iter().filter_map(|(shown, stored)| {
        let (found, right) = (&status["Statistic"][shown], &fixture.manifest["counters"][stored]);
        (found != right).then(|| format!("status {shown}: {found}, not {right}"))
    });
    let mut wrong: Vec<String> = differ.collect();
    let (found, right) = (&status["Setting"]["UUID"], &fixture.manifest["format"]["UUID"]);
    if found != right {
        wrong.push(format!("status UUID: {found}, not {right}"));
    }
    wrong
}

#[test]
fn an_unknown_cipher_is_refused_by_name() {
    let said = fixture("sqlite-enc-sm4").volume.mount_refused(&LOOK);
    assert!(said.contains("sm4gcm"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

/// A JuiceFS client died in write-back mode: what only its cache has can be read at once, reaches the
/// store as JuiceFS would have put it, and leaves the cache.
#[test]
fn what_a_dead_juicefs_staged_is_read_and_uploaded() {
    let fixture = fixture("sqlite-writeback-crash");
    fixture.unpack("cache.tar.zst", &fixture.volume.path("cache"));
    let home = fixture.volume.path("cache").join(fixture.manifest["format"]["UUID"].as_str().unwrap());
    // What it had cached would answer in place of what it had staged.
    fs::remove_dir_all(home.join("raw")).unwrap();
    let mounted = fixture.volume.mount(&["--writeback", "--enable-xattr"]);
    let wrong = manifest::differences(&fixture.manifest["tree"], mounted.root(), "");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let objects = fixture.manifest["after_recovery_by_juicefs"]["objects"].as_array().unwrap();
    let right: BTreeSet<String> = objects
        .iter()
        .map(|o| o.as_str().unwrap().trim_start_matches("sqlite-writeback-crash/").to_owned())
        .filter(|key| key.starts_with("chunks/"))
        .collect();
    crate::support::eventually("all is uploaded", crate::support::PATIENCE, || {
        let there: BTreeSet<String> = fixture.objects().into_iter().filter(|key| key.starts_with("chunks/")).collect();
        (there == right).then_some(())
    });
    mounted.unmount();
    assert_eq!(cairn_staged(&home), Vec::<std::path::PathBuf>::new());
    let mounted = fixture.volume.mount(&["--cache-dir", "memory", "--enable-xattr", "--read-only"]);
    let wrong = manifest::differences(&fixture.manifest["tree"], mounted.root(), "");
    assert!(wrong.is_empty(), "from the store alone:\n{}", wrong.join("\n"));
}

/// A process that calls itself juicefs and has a session of this volume on this machine may still upload.
#[test]
fn what_a_living_juicefs_staged_is_left_alone() {
    let fixture = fixture("sqlite-writeback-crash");
    fixture.unpack("cache.tar.zst", &fixture.volume.path("cache"));
    let home = fixture.volume.path("cache").join(fixture.manifest["format"]["UUID"].as_str().unwrap());
    let program = fixture.volume.path("juicefs");
    fs::copy("/bin/sleep", &program).unwrap();
    let mut living = Command::new(&program).arg("600").spawn().unwrap();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let info = serde_json::json!({"Version": "1.4.1", "HostName": host, "MountPoint": "/m", "ProcessID": living.id()});
    let db = rusqlite::Connection::open(fixture.volume.url().strip_prefix("sqlite3://").expect("a file")).unwrap();
    let row = "insert into jfs_session2 (sid, expire, info) values (900, 4000000000, ?1)";
    db.execute(row, [info.to_string().into_bytes()]).unwrap();
    drop(db);
    let before = cairn_staged(&home);
    assert!(before.len() > 40);
    let mounted = fixture.volume.mount(&["--writeback"]);
    assert!(mounted.said().contains("still running"), "{}", mounted.said());
    mounted.unmount();
    assert_eq!(cairn_staged(&home), before);
    living.kill().unwrap();
    living.wait().unwrap();
}

/// Files left below `rawstaging`.
fn cairn_staged(home: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut left = Vec::new();
    let mut todo = vec![home.join("rawstaging")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.path().is_dir() { todo.push(entry.path()) } else { left.push(entry.path()) }
        }
    }
    left
}

#[test]
fn damaged_volumes_give_right_bytes_or_an_error() {
    let fixture = fixture("sqlite-damaged");
    let mounted = fixture.volume.mount(&LOOK);
    let mut read = 0;
    for (path, entry) in fixture.manifest["tree"].as_object().unwrap() {
        let (Some(right), true) = (entry["sha256"].as_str(), path != "d/flipped-random") else { continue };
        match fs::read(mounted.path(path)) {
            Ok(bytes) => {
                assert_eq!(crate::support::sha256(&bytes), right, "{path}");
                read += 1;
            }
            Err(e) => assert!([libc::EIO, libc::ENOENT].contains(&e.raw_os_error().unwrap_or(0)), "{path}: {e}"),
        }
    }
    assert!(read >= 2, "d/good and bad-stats/x can be read");
}

#[test]
fn fsck_finds_all_damage_and_nothing_else() {
    let fixture = fixture("sqlite-damaged");
    fixture.settle();
    let ran = cairn(["fsck", fixture.volume.url(), "--verify", "--json"]);
    assert_eq!(ran.code, 1, "{}\n{}", ran.out, ran.err);
    let report: Value = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {}", ran.out));
    let found: BTreeSet<String> = report["findings"].as_array().unwrap().iter().map(about).collect();
    let damage = fixture.manifest["damage"].as_array().unwrap();
    let right: BTreeSet<String> = damage
        .iter()
        .filter(|d| d["path"] != "d/flipped-random")
        .map(|d| d["object"].as_str().or(d["path"].as_str()).unwrap().to_owned())
        .collect();
    assert_eq!(found, right, "{}", ran.out);
}

/// An object, or the path of what is wrong.
fn about(finding: &Value) -> String {
    let object = finding["object"].as_str().map(str::to_owned);
    let path = || finding["files"][0]["path"].as_str().unwrap_or("nowhere").trim_start_matches('/').to_owned();
    object.unwrap_or_else(path)
}

#[test]
fn gc_finds_all_garbage_and_nothing_else() {
    let fixture = fixture("sqlite-leaked");
    let volume = &fixture.volume;
    fixture.settle();
    let young = volume.store().join("sqlite-leaked/chunks/0/6/6001_0_100");
    touch(&young, Duration::ZERO);
    let gc = |flags: &[&str]| {
        let mut args = vec!["gc", volume.url(), "--json"];
        args.extend(flags);
        serde_json::from_str::<Value>(&cairn(args).ok()).expect("gc --json prints JSON")
    };
    let report = gc(&[]);
    let leaked: BTreeSet<&str> =
        report["leaked_keys"].as_array().unwrap().iter().map(|pair| pair[0].as_str().unwrap()).collect();
    let leaks = fixture.manifest["leaks"].as_object().unwrap();
    let right: BTreeSet<&str> = leaks
        .iter()
        .filter(|(_, why)| why.as_str().unwrap().starts_with("leaked:"))
        .map(|(key, _)| key.as_str())
        .collect();
    assert_eq!(leaked, right);
    for (member, count) in [("leaked", 4), ("skipped", 1), ("unowned", 1), ("waiting_files", 1)] {
        assert_eq!(report[member]["count"], count, "{member} in {report}");
    }
    gc(&["--delete"]);
    let objects: BTreeSet<String> = fixture.objects();
    let kept = fixture.manifest["objects_after_gc_delete"].as_array().unwrap();
    let kept: BTreeSet<String> = kept.iter().map(|key| key.as_str().unwrap().to_owned()).collect();
    assert_eq!(objects, kept);
    let mounted = volume.mount(&LOOK);
    let wrong = manifest::differences(&fixture.manifest["tree"], mounted.root(), "");
    assert!(wrong.is_empty(), "what must survive any gc:\n{}", wrong.join("\n"));
}

fn touch(path: &std::path::Path, age: Duration) {
    #[expect(clippy::disallowed_methods, reason = "the binary under test looks at the real clock")]
    let now = SystemTime::now();
    fs::File::options().write(true).open(path).unwrap().set_modified(now - age).unwrap();
}

#[test]
fn a_stale_session_of_another_client_is_cleaned_up_on_sqlite() {
    clean_up_a_stale_session("sqlite-stale-session");
}

#[test]
fn a_stale_session_of_another_client_is_cleaned_up_on_redis() {
    clean_up_a_stale_session("redis-stale-session");
}

fn clean_up_a_stale_session(name: &str) {
    let fixture = fixture(name);
    let mounted = fixture.volume.mount(&["--enable-xattr", "--heartbeat", "1s"]);
    let right = &fixture.manifest["after_cleanup"];
    let objects: BTreeSet<String> = right["objects"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| o.as_str().unwrap().trim_start_matches(name).trim_start_matches('/').to_owned())
        .collect();
    // Blocks of removed files are kept for a minute, for readers elsewhere.
    crate::support::eventually("the dead session's files are gone", Duration::from_secs(150), || {
        (fixture.objects() == objects).then_some(())
    });
    // Its locks are gone as well: both files can be locked by us.
    for path in fixture.manifest["tree"].as_object().unwrap().keys().filter(|p| p.as_str() != ".") {
        let file = mounted.path(path);
        if file.is_file() {
            let ok = Command::new("flock").args(["-n", "-x"]).arg(&file).args(["-c", "true"]).status().unwrap();
            assert!(ok.success(), "{path} is still locked");
        }
    }
    mounted.unmount();
    let status: Value = serde_json::from_str(&cairn(["status", fixture.volume.url()]).ok()).unwrap();
    assert_eq!(status["Statistic"]["UsedSpace"], right["counters"]["usedSpace"]);
    assert_eq!(status["Statistic"]["UsedInodes"], right["counters"]["usedInodes"]);
}

macro_rules! survive_our_operations {
    ($($test:ident: $name:literal,)*) => {
        $(#[test] fn $test() { survives_thousands_of_our_operations($name); })*
    };
}

survive_our_operations! {
    a_copy_of_sqlite_lz4_survives_our_operations: "sqlite-lz4",
    a_copy_of_sqlite_packed_survives_our_operations: "sqlite-packed",
    a_copy_of_sqlite_acl_quota_survives_our_operations: "sqlite-acl-quota",
    a_copy_of_redis_lz4_survives_our_operations: "redis-lz4",
    a_copy_of_redis_packed_survives_our_operations: "redis-packed",
    a_copy_of_redis_acl_quota_survives_our_operations: "redis-acl-quota",
    a_copy_of_redis_changelog_survives_our_operations: "redis-changelog",
    a_copy_of_postgres_zstd_survives_our_operations: "postgres-zstd",
    a_copy_of_mysql_lz4_survives_our_operations: "mysql-lz4",
}

/// What JuiceFS wrote takes a few thousand operations of ours and still keeps every rule.
fn survives_thousands_of_our_operations(name: &str) {
    let fixture = fixture(name);
    let mounted = fixture.volume.mount(&["--enable-xattr", "--no-bgjob"]);
    shake(&mounted, 2_000, 7);
    mounted.unmount();
    fixture.settle();
    let ran = cairn(["fsck", fixture.volume.url(), "--verify"]);
    assert_eq!(ran.code, 0, "{name}:\n{}\n{}", ran.out, ran.err);
}

/// Changes a tree at random. Calls may fail (flags, quotas, kinds); nothing here checks content.
fn shake(mounted: &Mounted, steps: u64, seed: u64) {
    let mut files: Vec<std::path::PathBuf> = Vec::new();
    let mut dirs = vec![mounted.root().to_owned()];
    let mut todo = vec![mounted.root().to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let (path, kind) = (entry.path(), entry.file_type());
            if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')) {
                continue;
            }
            match kind {
                Ok(k) if k.is_dir() => {
                    dirs.push(path.clone());
                    todo.push(path);
                }
                Ok(k) if k.is_file() => files.push(path),
                _ => {}
            }
        }
    }
    let mut chance = crate::support::Chance::new(seed);
    for n in 0..steps {
        let (a, b) = (chance.pick(&files).clone(), chance.pick(&files).clone());
        let dir = chance.pick(&dirs).clone();
        let fresh = dir.join(format!("ours-{n}"));
        match chance.below(10) {
            0 | 1 => {
                if fs::write(&fresh, crate::support::bytes(n, chance.below(100_000) as usize)).is_ok() {
                    files.push(fresh);
                }
            }
            2 => drop(fs::create_dir(&fresh).map(|()| dirs.push(fresh.clone()))),
            3 => drop(fs::remove_file(&a)),
            4 => drop(fs::rename(&a, &b)),
            5 => drop(fs::rename(&a, &fresh).map(|()| files.push(fresh.clone()))),
            6 => drop(fs::hard_link(&a, &fresh).map(|()| files.push(fresh.clone()))),
            7 => {
                let length = chance.below(200_000);
                drop(fs::File::options().write(true).open(&a).and_then(|f| f.set_len(length)));
            }
            8 => {
                use std::os::unix::fs::FileExt;
                let (at, piece) = (chance.below(300_000), crate::support::bytes(n, 5_000));
                drop(fs::File::options().write(true).open(&a).and_then(|f| f.write_all_at(&piece, at)));
            }
            _ => drop(fs::remove_dir(&dir)),
        }
    }
}

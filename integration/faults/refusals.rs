//! What cannot work is refused at once, by a sentence that says what and why.

use std::fs;
use std::path::Path;

use rusqlite::Connection;
use serde_json::Value;

use crate::support::{Volume, cairn, run};

/// Refused, in words: one of `words` is said, and nothing panicked.
#[track_caller]
fn says(said: &str, words: &[&str]) {
    assert!(!said.contains("panicked"), "{said}");
    let lower = said.to_lowercase();
    assert!(words.iter().any(|w| lower.contains(&w.to_lowercase())), "none of {words:?} in: {said}");
    assert!(said.split_whitespace().count() >= 4, "not a sentence: {said}");
}

/// Changes the stored setting of a volume.
fn set(volume: &Volume, change: impl FnOnce(&mut Value)) {
    let db = Connection::open(volume.database()).unwrap();
    let text: String = db.query_row("select value from jfs_setting where name = 'format'", [], |r| r.get(0)).unwrap();
    let mut setting: Value = serde_json::from_str(&text).unwrap();
    change(&mut setting);
    db.execute("update jfs_setting set value = ?1 where name = 'format'", [setting.to_string()]).unwrap();
}

#[test]
fn an_unknown_metadata_scheme_names_the_known_ones() {
    let said = cairn(["status", "foobar://somewhere/1"]).refused();
    says(&said, &["foobar"]);
    says(&said, &["sqlite3"]);
}

#[test]
fn an_unknown_storage_names_the_known_ones() {
    let volume = Volume::unformatted();
    let said = cairn(["format", volume.url(), "test-volume", "--storage", "floppy", "--bucket", "a"]).refused();
    says(&said, &["floppy"]);
    says(&said, &["s3"]);
}

#[test]
fn bad_volume_names_are_refused() {
    let volume = Volume::unformatted();
    let bucket = format!("{}/", volume.store().display());
    for name in ["A", "ab", "has space", "Upper-case", "-dash", "dash-", &"x".repeat(64), "under_score"] {
        let said = cairn(["format", volume.url(), "--storage", "file", "--bucket", &bucket, "--", name]).refused();
        says(&said, &["name"]);
    }
    assert!(!volume.database().exists(), "nothing was made");
}

#[test]
fn a_secret_that_a_dump_has_stripped_has_to_be_given_again() {
    for command in ["format", "config"] {
        let volume = Volume::new(&[]);
        set(&volume, |setting| setting["SecretKey"] = "removed".into());
        let run = |flags: &[&str]| match command {
            "format" => volume.format(flags),
            _ => cairn([&["config", volume.url()], flags].concat()),
        };
        says(&run(&["--trash-days", "3"]).refused(), &["SecretKey"]);
        run(&["--secret-key", "given-again"]).ok();
        volume.mount(&[]).unmount();
    }
}

#[test]
fn a_database_that_is_not_there_is_not_made_by_mount() {
    let volume = Volume::unformatted();
    says(
        &volume.mount_refused(&[]),
        &["no such", "does not exist", "not found", "not formatted", "no database", "no volume"],
    );
    assert!(!volume.database().exists());
}

#[test]
fn an_unreadable_database_is_named() {
    let volume = Volume::unformatted();
    fs::create_dir(volume.database()).unwrap();
    says(&volume.mount_refused(&[]), &["meta.db"]);
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let volume = Volume::unformatted();
    let garbage = crate::support::bytes(1, 100_000);
    fs::write(volume.database(), &garbage).unwrap();
    says(&volume.mount_refused(&[]), &["not a database", "meta.db"]);
    says(&volume.format(&[]).refused(), &["not a database", "meta.db"]);
    assert!(fs::read(volume.database()).unwrap() == garbage);
}

#[test]
fn somebody_elses_database_is_refused_and_left_alone() {
    let volume = Volume::unformatted();
    let db = Connection::open(volume.database()).unwrap();
    db.execute_batch("create table recipes (name text); insert into recipes values ('soup')").unwrap();
    drop(db);
    says(
        &volume.mount_refused(&[]),
        &["not a", "no volume", "not formatted", "not one of ours", "foreign", "another database"],
    );
    let db = Connection::open(volume.database()).unwrap();
    let soups: i64 = db.query_row("select count(*) from recipes", [], |r| r.get(0)).unwrap();
    assert_eq!(soups, 1);
}

#[test]
fn a_half_formatted_database_is_refused_by_mount_and_completed_by_format() {
    let volume = Volume::new(&[]);
    let db = Connection::open(volume.database()).unwrap();
    db.execute_batch("delete from jfs_setting").unwrap();
    drop(db);
    says(&volume.mount_refused(&[]), &["not formatted", "no volume", "format"]);
    // What is in the bucket belonged to the volume that this was.
    fs::remove_dir_all(volume.store()).unwrap();
    fs::create_dir(volume.store()).unwrap();
    volume.format(&["--trash-days", "0"]).ok();
    volume.mount(&[]).unmount();
}

#[test]
fn a_newer_volume_is_refused_with_its_version() {
    let volume = Volume::new(&[]);
    set(&volume, |s| s["MetaVersion"] = 2.into());
    says(&volume.mount_refused(&[]), &["version"]);
    let volume = Volume::new(&[]);
    set(&volume, |s| s["MinClientVersion"] = "9.9.0".into());
    says(&volume.mount_refused(&[]), &["9.9"]);
}

#[test]
fn an_unknown_compression_is_refused_by_name() {
    let volume = Volume::new(&[]);
    set(&volume, |s| s["Compression"] = "brotli".into());
    says(&volume.mount_refused(&[]), &["brotli"]);
    let fresh = Volume::unformatted();
    says(&fresh.format(&["--compress", "brotli"]).refused(), &["brotli"]);
}

#[test]
fn a_locked_database_is_said_to_be_locked() {
    let volume = Volume::new(&[]);
    let db = Connection::open(volume.database()).unwrap();
    db.execute_batch("pragma locking_mode = exclusive; begin exclusive").unwrap();
    says(&volume.mount_refused(&[]), &["locked", "busy"]);
    drop(db);
    volume.mount(&[]).unmount();
}

#[test]
fn a_missing_bucket_is_refused_at_mount() {
    let volume = Volume::new(&[]);
    fs::remove_dir_all(volume.store()).unwrap();
    says(&volume.mount_refused(&[]), &["store", "bucket", "juicefs_uuid"]);
    assert!(!volume.store().exists(), "it is not made anew: the data may be on a disk that is not there");
}

#[test]
fn another_volumes_bucket_is_refused() {
    let (ours, other) = (Volume::new(&[]), Volume::new(&[]));
    let bucket = format!("{}/", other.store().display());
    says(&ours.mount_refused(&["--bucket", &bucket]), &["another", "other", "belongs", "uuid"]);
}

#[test]
fn a_bucket_with_something_in_it_is_not_formatted() {
    let volume = Volume::unformatted();
    fs::create_dir_all(volume.store().join("test-volume/chunks/0/0")).unwrap();
    fs::write(volume.store().join("test-volume/chunks/0/0/1_0_5"), "bytes").unwrap();
    says(&volume.format(&[]).refused(), &["not empty", "already has objects"]);
    let db_has_setting = Connection::open(volume.database())
        .and_then(|db| db.query_row("select count(*) from jfs_setting", [], |r| r.get::<_, i64>(0)));
    assert!(db_has_setting.unwrap_or(0) == 0, "a refused format leaves no volume behind");
}

#[test]
fn a_read_only_bucket_is_refused_at_format() {
    let volume = Volume::unformatted();
    let store = volume.store();
    let path = store.to_str().unwrap();
    run(Path::new("/"), "mount", ["-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", path]).ok();
    let said = volume.format(&[]);
    run(Path::new("/"), "umount", [path]).ok();
    says(&said.refused(), &["read-only"]);
}

#[test]
fn a_refused_format_leaves_no_database_behind() {
    let volume = Volume::unformatted();
    says(&volume.format(&["--compress", "brotli"]).refused(), &["brotli"]);
    assert!(!volume.database().exists());
    fs::create_dir_all(volume.store().join("test-volume/chunks/0/0")).unwrap();
    fs::write(volume.store().join("test-volume/chunks/0/0/1_0_5"), "bytes").unwrap();
    says(&volume.format(&[]).refused(), &["not empty"]);
    assert!(!volume.database().exists());
}

#[test]
fn formatting_again_changes_only_what_was_given() {
    let volume = Volume::unformatted();
    volume.format(&["--compress", "zstd", "--trash-days", "7", "--capacity", "3"]).ok();
    let setting = || cairn(["config", volume.url()]).ok();
    let first = setting();
    cairn(["format", volume.url(), "test-volume"]).ok();
    assert_eq!(setting(), first);
    cairn(["format", volume.url(), "test-volume", "--trash-days", "2"]).ok();
    assert_eq!(setting(), first.replace("\"TrashDays\": 7", "\"TrashDays\": 2"));
    let elsewhere = format!("{}/", volume.path("elsewhere").display());
    let said = cairn(["format", volume.url(), "test-volume", "--bucket", &elsewhere]).refused();
    says(&said, &["--force"]);
    cairn(["format", volume.url(), "test-volume", "--bucket", &elsewhere, "--force"]).ok();
    assert!(setting().contains(&elsewhere));
}

#[test]
fn a_missing_bucket_is_said_at_once_by_fsck_and_gc() {
    let volume = Volume::new(&[]);
    fs::remove_dir_all(volume.store()).unwrap();
    for command in ["fsck", "gc"] {
        says(&cairn([command, volume.url()]).refused(), &["bucket"]);
    }
}

#[test]
fn only_mounts_of_ours_are_unmounted() {
    let volume = Volume::unformatted();
    let place = volume.path("mnt");
    let path = place.to_str().unwrap();
    run(Path::new("/"), "mount", ["-t", "tmpfs", "-o", "size=1m", "tmpfs", path]).ok();
    let said = cairn(["umount", path]);
    run(Path::new("/"), "umount", [path]).ok();
    says(&said.refused(), &["not a CairnFS mount (it is tmpfs)"]);
}

#[test]
fn a_root_and_a_read_only_mount_are_told_apart_from_no_mount() {
    let volume = Volume::new(&[]);
    let mounted = volume.mount(&[]);
    let root = mounted.root().to_str().unwrap().to_owned();
    says(&cairn(["rmr", &root]).refused(), &["is the root of a volume"]);
    mounted.unmount();
    let mounted = volume.mount(&["--read-only"]);
    says(&cairn(["info", &root]).refused(), &["mounted read-only"]);
    mounted.unmount();
}

#[test]
fn a_path_is_not_a_metadata_url_and_a_word_not_an_address() {
    let volume = Volume::new(&[]);
    let path = volume.database().display().to_string();
    says(&cairn(["status", &path]).refused(), &[&format!("did you mean sqlite3://{path}?")]);
    says(&volume.mount_refused(&["--metrics", "nonsense"]), &["nonsense"]);
}

#[test]
fn a_mount_point_that_is_missing_or_a_file_is_named() {
    let volume = Volume::new(&[]);
    fs::remove_dir(volume.path("mnt")).unwrap();
    fs::write(volume.path("mnt"), "a file").unwrap();
    says(&volume.mount_refused(&[]), &["mnt"]);
    let nowhere = volume.path("no/such/place");
    let said = crate::support::Mounted::start(&volume, &nowhere, &[]);
    if let Err(said) = said {
        says(&said, &["place"]);
    }
}

#[test]
fn a_mount_point_in_use_is_refused() {
    let volume = Volume::new(&[]);
    let mounted = volume.mount(&[]);
    let said = cairn([
        "mount".as_ref(),
        volume.url().as_ref(),
        mounted.root().as_os_str(),
        "--cache-dir".as_ref(),
        volume.path("cache2").as_os_str(),
    ]);
    says(&said.refused(), &["already", "busy", "mounted"]);
    assert!(fs::metadata(mounted.root()).is_ok(), "the first mount goes on");
    mounted.unmount();
}

#[test]
fn database_cache_or_bucket_on_the_mount_itself_is_refused() {
    let volume = Volume::unformatted();
    let inside = volume.path("mnt");
    // Everything below the folder that becomes the mount point would vanish behind the mount.
    let bucket = format!("{}/bucket/", inside.display());
    cairn(["format", volume.url(), "test-volume", "--storage", "file", "--bucket", &bucket, "--trash-days", "0"]).ok();
    says(&volume.mount_refused(&[]), &["mount point", "on the mount", "inside", "below", "itself"]);

    let volume = Volume::new(&[]);
    let cache = volume.path("mnt/cache");
    says(
        &volume.mount_refused(&["--cache-dir", cache.to_str().unwrap()]),
        &["mount point", "on the mount", "inside", "below", "itself"],
    );

    let volume = Volume::unformatted();
    let url = format!("sqlite3://{}/meta.db", volume.path("mnt").display());
    let bucket = format!("{}/", volume.store().display());
    cairn(["format", &url, "test-volume", "--storage", "file", "--bucket", &bucket]).ok();
    let volume = volume.existing(url, bucket);
    says(&volume.mount_refused(&[]), &["mount point", "on the mount", "inside", "below", "itself"]);
}

#[test]
fn flags_that_do_nothing_yet_are_refused_by_name() {
    let volume = Volume::new(&[]);
    says(&volume.mount_refused(&["--backup-meta", "1h"]), &["--backup-meta"]);
}

#[test]
fn secrets_are_in_no_message_and_not_in_the_process_list() {
    let volume = Volume::unformatted();
    let ran = volume.format(&["--access-key", "someone", "--secret-key", "hunter2-secret"]);
    assert!(!ran.out.contains("hunter2") && !ran.err.contains("hunter2"), "{ran:?}");
    ran.ok();
    let shown = cairn(["status", volume.url()]).ok() + &cairn(["config", volume.url()]).ok();
    assert!(!shown.contains("hunter2"), "{shown}");
    let mounted = volume.mount(&["--verbose"]);
    let pid = mounted.pid().as_raw_nonzero();
    let list = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(!String::from_utf8_lossy(&list).contains("hunter2"));
    assert!(!mounted.said().contains("hunter2"), "{}", mounted.said());
    mounted.unmount();
}

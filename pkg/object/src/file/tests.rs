use std::os::unix::fs::PermissionsExt;

use futures::TryStreamExt;

use super::*;
use crate::testing::suite;
use crate::{Location, is_empty_prefix, mark, open, owner, probe};

fn folder() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let bucket = format!("{}/bucket/", dir.path().to_str().unwrap());
    (dir, bucket)
}

async fn created(location: &Location) -> Arc<dyn ObjectStore> {
    let store = open(&Env::real(), location).unwrap();
    store.create().await.unwrap();
    store
}

async fn put(store: &dyn ObjectStore, key: &str, body: &str) {
    store.put(key, body.to_owned().into()).await.unwrap();
}

#[tokio::test]
async fn file_store_passes_the_suite_with_fsync() {
    let (_dir, bucket) = folder();
    suite(created(&Location::new("file", &bucket)).await).await;
}

#[tokio::test]
async fn file_store_below_a_prefix_passes_the_suite_without_fsync() {
    let (_dir, bucket) = folder();
    let location = Location { prefix: "vol/".into(), fsync: false, ..Location::new("FILE", &bucket) };
    suite(created(&location).await).await;
}

#[tokio::test]
async fn sharded_file_store_passes_the_suite_and_places_keys_by_their_whole_name() {
    let (_dir, bucket) = folder();
    let template = format!("{bucket}%d/");
    let location = Location { prefix: "myjfs/".into(), shards: 4, ..Location::new("file", &template) };
    let store = created(&location).await;
    suite(store.clone()).await;
    put(&*store, "chunks/0/0/1_0_4194304", "x").await;
    assert!(Path::new(&format!("{bucket}0/myjfs/chunks/0/0/1_0_4194304")).is_file());
}

#[tokio::test]
async fn mem_store_passes_the_suite() {
    suite(created(&Location::new("mem", "")).await).await;
    suite(created(&Location { prefix: "v/".into(), ..Location::new("mem", "") }).await).await;
}

#[tokio::test]
async fn an_object_is_a_file_under_its_key_and_no_temporary_name_is_left_or_listed() {
    let (_dir, bucket) = folder();
    let store = created(&Location { prefix: "vol/".into(), ..Location::new("file", &bucket) }).await;
    put(&*store, "chunks/0/0/1_0_3", "abc").await;
    let dir = PathBuf::from(format!("{bucket}vol/chunks/0/0"));
    let names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["1_0_3"]);
    std::fs::write(dir.join(".jfs.1_1_3.tmp.9217270925316108677"), "ab").unwrap();
    let keys: Vec<_> = store.list("", "").map_ok(|info| info.key).try_collect().await.unwrap();
    assert_eq!(keys, ["chunks/0/0/1_0_3"]);
    // Unless asked for, below the volume's own folder.
    let left: Vec<_> = store.leftovers("").map_ok(|info| (info.key, info.bytes)).try_collect().await.unwrap();
    let name = "chunks/0/0/.jfs.1_1_3.tmp.9217270925316108677";
    assert_eq!(left, [(name.to_owned(), 2)]);
    store.delete(name).await.unwrap();
    assert!(store.leftovers("").try_next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_failed_put_leaves_nothing_and_an_old_object_untouched() {
    let (_dir, bucket) = folder();
    let store = created(&Location::new("file", &bucket)).await;
    put(&*store, "a/b", "old").await;
    // A folder stands where the object should go.
    std::fs::create_dir_all(format!("{bucket}a/dir/x")).unwrap();
    let error = store.put("a/dir", "new".to_owned().into()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    let names: Vec<_> = std::fs::read_dir(format!("{bucket}a")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(store.get("a/b", None).await.unwrap(), "old");
}

#[tokio::test]
async fn a_damaged_object_is_an_error_when_read_whole() {
    let (_dir, bucket) = folder();
    let store = created(&Location::new("file", &bucket)).await;
    put(&*store, "a", "hello").await;
    let path = format!("{bucket}a");
    let file = std::fs::File::open(&path).unwrap();
    let mut text = [0; 16];
    let Ok(n) = rustix::fs::fgetxattr(&file, c"user.cairn.crc32c", &mut text) else {
        eprintln!("this file system takes no attributes, so there is no checksum to test");
        return;
    };
    assert_eq!(&text[..n], b"2591144780");
    std::fs::write(&path, "hellO").unwrap();
    let error = store.get("a", None).await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt { key, .. } if key == "a"), "{error}");
    assert_eq!(store.get("a", Some(0..4)).await.unwrap(), "hell", "a part can't be verified");
    // Another client replaces it: its file has no attribute.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "fresh").unwrap();
    assert_eq!(store.get("a", None).await.unwrap(), "fresh");
}

#[tokio::test]
async fn a_missing_bucket_is_not_an_empty_one() {
    let (_dir, bucket) = folder();
    let store = open(&Env::real(), &Location::new("file", &bucket)).unwrap();
    for error in [
        store.get("k", None).await.unwrap_err(),
        store.head("k").await.unwrap_err(),
        store.delete("k").await.unwrap_err(),
        store.put("k", "v".to_owned().into()).await.unwrap_err(),
        store.list("", "").try_next().await.unwrap_err(),
    ] {
        assert!(error.is_retryable() && error.to_string().contains("is not there"), "{error}");
    }
    assert!(!Path::new(&bucket).exists(), "nothing but create makes it");
}

/// As if the disk that holds the folder were unmounted: another, empty folder shows under its path.
fn unmount(bucket: &str) -> String {
    let away = format!("{}.away", bucket.trim_end_matches('/'));
    std::fs::rename(bucket, &away).unwrap();
    std::fs::create_dir(bucket).unwrap();
    away
}

#[tokio::test]
async fn a_folder_that_took_the_place_of_the_buckets_is_neither_written_nor_believed() {
    let (_dir, bucket) = folder();
    let location = Location { prefix: "vol/".into(), ..Location::new("file", &bucket) };
    put(&*created(&location).await, "k", "v").await;
    // A client that did not make the folder knows it from its first call.
    let store = open(&Env::real(), &location).unwrap();
    assert!(store.head("none").await.unwrap_err().is_not_found());
    let away = unmount(&bucket);
    for error in [
        store.get("k", None).await.unwrap_err(),
        store.get("k", Some(0..1)).await.unwrap_err(),
        store.head("k").await.unwrap_err(),
        store.delete("k").await.unwrap_err(),
        store.put("chunks/0/0/1_0_1", "v".to_owned().into()).await.unwrap_err(),
        store.put("folder/", Payload::default()).await.unwrap_err(),
        store.list("chunks/", "").try_next().await.unwrap_err(),
    ] {
        let wanted = format!("{bucket} is not the one this client started with: is its disk mounted?");
        assert!(error.is_retryable() && error.to_string().ends_with(&wanted), "{error}");
    }
    assert_eq!(std::fs::read_dir(&bucket).unwrap().count(), 0, "nothing was made in it");
    std::fs::remove_dir(&bucket).unwrap();
    std::fs::rename(&away, &bucket).unwrap();
    assert_eq!(store.get("k", None).await.unwrap(), "v");
    put(&*store, "chunks/0/0/1_0_1", "v").await;
    assert!(store.get("none", None).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn create_takes_the_folder_that_is_there_now() {
    let (_dir, bucket) = folder();
    let store = created(&Location::new("file", &bucket)).await;
    unmount(&bucket);
    assert!(store.put("a/b", "v".to_owned().into()).await.unwrap_err().is_retryable());
    store.create().await.unwrap();
    put(&*store, "a/b", "v").await;
}

#[test]
fn a_full_disk_is_named_and_may_have_room_later() {
    let disk = Disk::new("/bucket/", true);
    let full = || io::Error::from(rustix::io::Errno::NOSPC);
    let error = disk.run(|_| Err::<(), _>(full())).unwrap_err();
    let error = name_error("put", "k", error);
    assert!(error.is_retryable());
    assert_eq!(error.to_string(), "put k: no space left in the bucket's folder /bucket/");
}

#[tokio::test]
async fn keys_that_leave_the_bucket_are_refused() {
    let (_dir, bucket) = folder();
    let store = created(&Location::new("file", &bucket)).await;
    for key in ["../x", "a/../../x", "/etc/passwd", "a/\0b", "./a"] {
        let error = store.put(key, "v".to_owned().into()).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{key:?}: {error}");
    }
}

#[tokio::test]
async fn names_may_be_as_long_as_the_file_system_takes_and_a_folder_is_no_object() {
    let (_dir, bucket) = folder();
    let store = created(&Location::new("file", &bucket)).await;
    let long = format!("d/{}", "n".repeat(255));
    put(&*store, &long, "x").await;
    assert_eq!(store.get(&long, None).await.unwrap(), "x");
    assert!(store.get("d", None).await.unwrap_err().is_not_found());
    assert!(store.head("d").await.unwrap_err().is_not_found());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_racing_puts_with_different_bytes_one_wins_whole() {
    let (_dir, bucket) = folder();
    let store = created(&Location { fsync: false, ..Location::new("file", &bucket) }).await;
    for _ in 0..20 {
        let bodies: Vec<Bytes> = (0..8u8).map(|i| vec![i; 100_000 + usize::from(i)].into()).collect();
        let puts = bodies.iter().map(|body| store.put("a/same", body.clone().into()));
        let (put, got) = tokio::join!(futures::future::try_join_all(puts), store.get("a/same", None));
        put.unwrap();
        assert!(got.is_err_and(|e| e.is_not_found()) || bodies.contains(&store.get("a/same", None).await.unwrap()));
        store.delete("a/same").await.unwrap();
    }
}

#[tokio::test]
async fn a_place_that_cannot_be_a_folder_says_so() {
    let (dir, bucket) = folder();
    std::fs::write(dir.path().join("bucket"), "a file").unwrap();
    let store = open(&Env::real(), &Location::new("file", &bucket)).unwrap();
    assert!(store.create().await.is_err());
    if rustix::process::geteuid().is_root() {
        return;
    }
    std::fs::remove_file(dir.path().join("bucket")).unwrap();
    std::fs::create_dir(&bucket).unwrap();
    std::fs::set_permissions(&bucket, std::fs::Permissions::from_mode(0o555)).unwrap();
    assert!(matches!(store.create().await.unwrap_err(), Error::Denied { .. }));
}

#[tokio::test]
async fn probe_leaves_nothing_and_mark_names_the_owner() {
    let env = Env::real();
    let (_dir, bucket) = folder();
    let store = created(&Location { prefix: "vol/".into(), ..Location::new("file", &bucket) }).await;
    probe(&env, &*store).await.unwrap();
    assert_eq!(store.list("", "").try_collect::<Vec<_>>().await.unwrap(), []);
    put(&*store, "testing/left", "over").await;
    put(&*store, "zero", "").await;
    assert!(is_empty_prefix(&*store).await.unwrap());
    assert_eq!(owner(&*store).await.unwrap(), None);
    mark(&*store, b"55f8bf95-7e0b-4e3c-93df-0cfcca3bac87".to_vec()).await.unwrap();
    assert_eq!(store.head("juicefs_uuid").await.unwrap().bytes, 36);
    assert_eq!(owner(&*store).await.unwrap().unwrap(), "55f8bf95-7e0b-4e3c-93df-0cfcca3bac87");
    assert!(!is_empty_prefix(&*store).await.unwrap());
}

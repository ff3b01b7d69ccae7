//! What every backend must do, as one function.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{TryStreamExt, future};
use parking_lot::Mutex;

use crate::{ObjectStore, Payload, Sink};

/// Runs all checks on an empty store and leaves it empty. Panics on the first breach.
pub async fn suite(store: Arc<dyn ObjectStore>) {
    let store = &*store;
    store.create().await.expect("a place that exists may be made again");
    assert_eq!(keys(store, "", "").await, Vec::<String>::new(), "the suite starts on an empty store");
    what_was_put_comes_back(store).await;
    ranges_give_what_exists(store).await;
    a_sink_gets_the_same(store).await;
    a_put_replaces(store).await;
    what_is_missing_is_not_found(store).await;
    odd_keys_work(store).await;
    listings_are_in_byte_order(store).await;
    racing_puts_are_all_stored(store).await;
    assert_eq!(keys(store, "", "").await, Vec::<String>::new(), "the suite cleans up");
}

async fn what_was_put_comes_back(store: &dyn ObjectStore) {
    let large = pattern(5 << 20);
    let pieces = Payload(large.chunks(65_536).map(Bytes::copy_from_slice).collect());
    store.put("a/large", pieces).await.expect("put");
    store.put("a/empty", Payload::default()).await.expect("put");
    assert!(store.get("a/large", None).await.expect("get") == large, "the large object comes back");
    assert!(store.get("a/empty", None).await.expect("get").is_empty());
    let info = store.head("a/large").await.expect("head");
    assert_eq!((info.key.as_str(), info.bytes), ("a/large", 5 << 20));
    assert_eq!(store.head("a/empty").await.expect("head").bytes, 0);
    remove_all(store).await;
}

async fn ranges_give_what_exists(store: &dyn ObjectStore) {
    let body = pattern(10_000);
    store.put("r", body.clone().into()).await.expect("put");
    let ranges: [Range<u64>; 7] = [0..10_000, 0..1, 17..4711, 9_999..10_000, 9_000..20_000, 10_000..10_001, 5..5];
    for range in ranges {
        let end = range.end.min(10_000) as usize;
        let expected = &body[(range.start as usize).min(end)..end];
        let got = store.get("r", Some(range.clone())).await.unwrap_or_else(|e| panic!("get {range:?}: {e}"));
        assert!(got == expected, "range {range:?} gave {} bytes", got.len());
    }
    remove_all(store).await;
}

/// Keeps what it is told.
#[derive(Default)]
struct Kept(Mutex<Vec<u8>>);

impl Sink for Kept {
    fn begin(&self) {
        self.0.lock().clear();
    }

    fn push(&self, bytes: &[u8]) {
        self.0.lock().extend_from_slice(bytes);
    }
}

async fn a_sink_gets_the_same(store: &dyn ObjectStore) {
    let body = pattern(3_000_000);
    store.put("s", body.clone().into()).await.expect("put");
    for range in [None, Some(0..3_000_000), Some(17..2_999_999), Some(5..6)] {
        let kept = Kept::default();
        let told = store.get_into("s", range.clone(), &kept).await.unwrap_or_else(|e| panic!("get {range:?}: {e}"));
        let range = range.map_or(0..body.len(), |r| r.start as usize..r.end as usize);
        assert!(kept.0.into_inner() == body[range.clone()] && told == range.len() as u64, "range {range:?}");
    }
    let kept = Kept::default();
    assert!(store.get_into("missing", None, &kept).await.expect_err("get").is_not_found());
    assert!(store.get_into("missing", Some(0..1), &kept).await.expect_err("get").is_not_found());
    remove_all(store).await;
}

async fn a_put_replaces(store: &dyn ObjectStore) {
    for body in ["first, and longer", "second", ""] {
        store.put("x/y", Bytes::from(body).into()).await.expect("put");
        assert_eq!(store.get("x/y", None).await.expect("get"), body);
        assert_eq!(store.head("x/y").await.expect("head").bytes, body.len() as u64);
    }
    remove_all(store).await;
}

async fn what_is_missing_is_not_found(store: &dyn ObjectStore) {
    for key in ["missing", "no/such/folder/x"] {
        assert!(store.get(key, None).await.expect_err("get").is_not_found(), "get {key}");
        assert!(store.get(key, Some(0..1)).await.expect_err("get").is_not_found(), "ranged get {key}");
        assert!(store.head(key).await.expect_err("head").is_not_found(), "head {key}");
        store.delete(key).await.expect("what is not there counts as deleted");
        assert_eq!(keys(store, key, "").await, Vec::<String>::new());
    }
}

async fn odd_keys_work(store: &dyn ObjectStore) {
    let odd = ["with space", "plus+and&more=?", "per%cent%41", "ümlaut/日本", "dots.../x", &"n".repeat(100)];
    for key in odd {
        store.put(key, key.as_bytes().to_vec().into()).await.unwrap_or_else(|e| panic!("put {key}: {e}"));
    }
    for key in odd {
        assert_eq!(store.get(key, None).await.unwrap_or_else(|e| panic!("get {key}: {e}")), key);
    }
    let mut expected = odd.map(str::to_owned);
    expected.sort();
    assert_eq!(keys(store, "", "").await, expected);
    remove_all(store).await;
}

async fn listings_are_in_byte_order(store: &dyn ObjectStore) {
    let all = ["b", "d-x", "d.x", "d/0", "d/a-b", "d/a/1", "d/a/2", "d/a0", "d/z", "d0", "e/f/g/h", "z"];
    for (i, key) in all.iter().enumerate() {
        store.put(key, vec![b'x'; i + 1].into()).await.expect("put");
    }
    assert_eq!(keys(store, "", "").await, all);
    for prefix in ["d", "d/", "d/a", "d/a/", "d/a/1", "e/f/", "e/f/g/h", "y", "zz"] {
        let expected: Vec<&str> = all.into_iter().filter(|k| k.starts_with(prefix)).collect();
        assert_eq!(keys(store, prefix, "").await, expected, "prefix {prefix}");
    }
    for after in ["a", "b", "d", "d/", "d/a", "d/a/1", "d/a/1x", "d/b", "e/f/g", "z", "zz"] {
        for prefix in ["", "d/"] {
            let expected: Vec<&str> = all.into_iter().filter(|k| k.starts_with(prefix) && *k > after).collect();
            assert_eq!(keys(store, prefix, after).await, expected, "prefix {prefix:?} after {after}");
        }
    }
    let sizes: Vec<u64> = store.list("", "").map_ok(|info| info.bytes).try_collect().await.expect("list");
    assert_eq!(sizes, (1..=all.len() as u64).collect::<Vec<_>>(), "a listing tells sizes");
    remove_all(store).await;
}

async fn racing_puts_are_all_stored(store: &dyn ObjectStore) {
    // The same bytes, as when an attempt that was given up arrives after the next one.
    let body = Bytes::from(pattern(300_000));
    let puts = (0..8).map(|_| store.put("race/same", body.clone().into()));
    future::try_join_all(puts).await.expect("racing puts of one key");
    assert!(store.get("race/same", None).await.expect("get") == body);
    let puts = (0..32).map(|i| async move { store.put(&format!("race/{i:02}"), vec![i].into()).await });
    future::try_join_all(puts).await.expect("racing puts of different keys");
    assert_eq!(keys(store, "race/", "").await.len(), 33);
    remove_all(store).await;
}

async fn keys(store: &dyn ObjectStore, prefix: &str, after: &str) -> Vec<String> {
    store.list(prefix, after).map_ok(|info| info.key).try_collect().await.expect("list")
}

async fn remove_all(store: &dyn ObjectStore) {
    for key in keys(store, "", "").await {
        store.delete(&key).await.expect("delete");
        assert!(store.head(&key).await.expect_err("head").is_not_found(), "{key} is gone");
    }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

use futures::{TryStreamExt, future};

use super::*;
use crate::testing::{Faults, FaultyStore, MemStore};
use crate::{Dials, Limits, stack, stack_with};

fn limits(io_retries: u32) -> Limits {
    Limits {
        get_timeout: Duration::from_secs(60),
        put_timeout: Duration::from_secs(60),
        io_retries,
        max_uploads: 20,
        max_downloads: 200,
        upload_bytes_per_sec: 0,
        download_bytes_per_sec: 0,
    }
}

fn faulty(env: &Env) -> Arc<FaultyStore> {
    FaultyStore::new(env, Arc::new(MemStore::new(env)))
}

fn body() -> Payload {
    "body".to_owned().into()
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_back_is_not_noticed() {
    let env = Env::simulated(1);
    let base = faulty(&env);
    let store = stack(&env, base.clone(), &limits(10));
    base.down();
    let comes_back = async {
        env.sleep(Duration::from_secs(60)).await;
        base.up();
    };
    let (put, got, ()) = tokio::join!(store.put("k", body()), store.head("none"), comes_back);
    put.expect("ten retries outlast a minute");
    assert!(got.unwrap_err().is_not_found());
}

#[tokio::test(start_paused = true)]
async fn the_last_failure_is_marked_persistent() {
    let env = Env::simulated(2);
    let base = faulty(&env);
    base.down();
    let dials = Dials::default();
    let store = stack_with(&env, base.clone(), &limits(3), &dials);
    let error = store.put("k", body()).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { persistent: true, .. }) && !error.is_retryable());
    assert_eq!((base.puts(), dials.metrics.errors()), (4, 4), "one attempt and three retries");
    assert!(matches!(store.delete("k").await, Err(Error::Unavailable { persistent: true, .. })));
    assert!(matches!(store.head("k").await, Err(Error::Unavailable { persistent: true, .. })));
    // Another stack above must not multiply the attempts.
    let twice = stack(&env, store, &limits(3));
    assert!(twice.get("k", None).await.is_err());
    assert_eq!(base.gets(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_not_asked_for_again() {
    let env = Env::simulated(3);
    let base = faulty(&env);
    let store = stack(&env, base.clone(), &limits(10));
    assert!(store.get("missing", None).await.unwrap_err().is_not_found());
    assert_eq!(base.gets(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_outage_does_not_multiply_the_load() {
    let env = Env::simulated(4);
    let base = faulty(&env);
    base.down();
    let store = stack(&env, base.clone(), &Limits { max_downloads: 1000, ..limits(1000) });
    let callers = future::join_all((0..1000).map(|i| {
        let store = store.clone();
        async move { store.get(&format!("k{i}"), None).await }
    }));
    assert!(env.timeout(Duration::from_secs(60), callers).await.is_err(), "they all wait");
    let retries = base.gets() - 1000;
    let allowed = u64::from(RETRIES_AT_ONCE + RETRIES_PER_SEC * 60);
    assert!(retries <= allowed && retries > allowed / 2, "{retries} retries, {allowed} allowed");
}

#[tokio::test(start_paused = true)]
async fn a_listing_goes_on_where_it_failed() {
    let env = Env::simulated(5);
    let base = faulty(&env);
    let store = stack(&env, base.clone(), &limits(10));
    for i in 0..200 {
        store.put(&format!("k{i:03}"), body()).await.unwrap();
    }
    base.set_faults(Faults { fail_per_mille: 200, ..Faults::default() });
    let keys: Vec<String> = store.list("", "").map_ok(|info| info.key).try_collect().await.unwrap();
    assert_eq!(keys, (0..200).map(|i| format!("k{i:03}")).collect::<Vec<_>>());
    base.down();
    let error = store.list("", "").try_collect::<Vec<_>>().await.unwrap_err();
    assert!(!error.is_retryable());
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_is_given_up_and_made_again() {
    let env = Env::simulated(6);
    let base = faulty(&env);
    base.hold();
    let store = stack(&env, base.clone(), &Limits { get_timeout: Duration::from_secs(5), ..limits(1) });
    let start = env.instant();
    let error = store.get("k", None).await.unwrap_err().to_string();
    assert!(error.contains("no answer within 5s"), "{error}");
    let took = env.instant().duration_since(start);
    assert!(took >= Duration::from_secs(10) && took < Duration::from_secs(11), "{took:?}");
    base.release();
    assert!(store.get("k", None).await.unwrap_err().is_not_found());
}

#[tokio::test(start_paused = true)]
async fn uploads_and_downloads_have_permits_of_their_own() {
    let env = Env::simulated(7);
    let base = faulty(&env);
    let store = stack(&env, base.clone(), &Limits { max_uploads: 3, max_downloads: 2, ..limits(0) });
    base.hold();
    let puts = future::join_all((0..10).map(|i| {
        let store = store.clone();
        async move { store.put(&format!("k{i}"), body()).await }
    }));
    let gets = future::join_all((0..10).map(|_| store.get("x", None)));
    let watch = async {
        base.held(5).await;
        env.sleep(Duration::from_secs(1)).await;
        assert_eq!((base.puts(), base.gets()), (3, 2), "the rest wait for a permit");
        base.release();
    };
    let (puts, _, ()) = tokio::join!(puts, gets, watch);
    assert!(puts.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_at_once_then_every_ten_seconds_and_so_is_its_end() {
    let log = log::of_this_thread();
    let env = Env::simulated(8);
    let base = faulty(&env);
    let store = stack(&env, base.clone(), &limits(1000));
    store.put("k", body()).await.unwrap();
    assert!(log.take().is_empty(), "a store that works is not worth a line");
    base.down();
    let calls = future::join_all((0..5).map(|_| store.get("k", None)));
    let watch = async {
        env.sleep(Duration::from_millis(1)).await;
        let told = log.take();
        assert_eq!(told, ["WARN the object store fails: get k: the store is down; 1 calls are waiting"]);
        env.sleep(Duration::from_secs(95)).await;
        let told = log.take();
        assert!((3..=9).contains(&told.len()), "{told:?}");
        assert!(
            told.iter().all(|line| line.starts_with("WARN") && line.ends_with("; 5 calls are waiting")),
            "{told:?}"
        );
        base.up();
    };
    let (calls, ()) = tokio::join!(calls, watch);
    assert!(calls.iter().all(Result::is_ok));
    let told = log.take();
    assert!(told.len() == 1 && told[0].starts_with("INFO the object store works again; it failed for "), "{told:?}");
    store.get("k", None).await.unwrap();
    assert!(log.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_and_works_in_turn_is_told_of_now_and_then() {
    let log = log::of_this_thread();
    let env = Env::simulated(9);
    let base = faulty(&env);
    let store = stack(&env, base.clone(), &limits(1000));
    base.set_faults(Faults { fail_per_mille: 300, delay_max: Duration::from_millis(10), ..Faults::default() });
    let start = env.instant();
    for _ in 0..500 {
        store.put("k", body()).await.unwrap();
    }
    let secs = env.instant().duration_since(start).as_secs();
    let told = log.take();
    assert!(told.len() as u64 <= 2 * (secs / 10 + 1), "{} lines in {secs} s", told.len());
    assert!(told.iter().any(|line| line.starts_with("WARN")) && told.iter().any(|line| line.starts_with("INFO")));
}

#[tokio::test(start_paused = true)]
async fn a_get_that_works_does_not_end_an_outage_of_puts() {
    let log = log::of_this_thread();
    let env = Env::simulated(10);
    let outage = Outage::new(&env);
    let error = Error::Unavailable { action: "put", key: "k".into(), reason: "full".into(), persistent: false };
    let put = outage.wait();
    outage.failed(&error);
    outage.worked();
    assert_eq!(log.take().len(), 1, "the failure only");
    // The put is given up: that is no end either, but the next call that works is.
    drop(put);
    assert!(log.take().is_empty());
    outage.worked();
    assert_eq!(log.take(), ["INFO the object store works again; it failed for 0 s"]);
}

/// What this crate logs, for the test that runs on the thread.
mod log {
    use std::cell::RefCell;
    use std::fmt::Debug;
    use std::sync::Once;

    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Level, Metadata, Subscriber};

    thread_local! {
        static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    /// The lines of one thread since the last look.
    pub(super) struct Log;

    impl Log {
        pub(super) fn take(&self) -> Vec<String> {
            LINES.take()
        }
    }

    /// One subscriber for the process: scoped ones can miss lines while tests run side by side.
    pub(super) fn of_this_thread() -> Log {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| tracing::subscriber::set_global_default(Log).expect("nobody else sets it"));
        LINES.take();
        Log
    }

    impl Subscriber for Log {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target().starts_with("cairn_object") && *metadata.level() <= Level::INFO
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut line = Line(event.metadata().level().to_string());
            event.record(&mut line);
            LINES.with_borrow_mut(|lines| lines.push(line.0));
        }

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }

    struct Line(String);

    impl Visit for Line {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            if field.name() == "message" {
                self.0 += &format!(" {value:?}");
            }
        }
    }
}

#[test]
fn waits_double_and_end_at_half_a_minute() {
    let waits: Vec<u128> = (0..11).map(|tries| wait_before(tries).as_millis()).collect();
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
    assert!(waits[..10].iter().sum::<u128>() / 2 > 30_000);
}

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

#[test]
fn waits_double_and_end_at_half_a_minute() {
    let waits: Vec<u128> = (0..11).map(|tries| wait_before(tries).as_millis()).collect();
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
    assert!(waits[..10].iter().sum::<u128>() / 2 > 30_000);
}

use futures::future;

use super::*;
use crate::MemStore;

const MIB: u64 = 1 << 20;

/// Moves `count` bodies of `bytes` by eight callers; bytes per second that came out.
async fn measure(rate: u64, bytes: usize, count: usize, upload: bool) -> f64 {
    let env = Env::simulated(1);
    let bandwidth = Bandwidth::default();
    let store = Arc::new(Limited::new(&env, Arc::new(MemStore::new(&env)), &bandwidth));
    store.put("k", vec![7; bytes].into()).await.unwrap();
    bandwidth.set(rate, rate);
    let start = env.instant();
    let callers = (0..8).map(|_| async {
        for _ in 0..count / 8 {
            match upload {
                true => store.put("k", vec![7; bytes].into()).await.unwrap(),
                false => assert_eq!(store.get("k", None).await.unwrap().len(), bytes),
            }
        }
    });
    future::join_all(callers).await;
    let secs = env.instant().duration_since(start).as_secs_f64();
    (count / 8 * 8 * bytes) as f64 / secs
}

fn assert_within_two_percent(measured: f64, rate: u64) {
    let off = (measured / rate as f64 - 1.0).abs();
    assert!(off < 0.02, "wanted {rate} bytes per second, measured {measured:.0}: {:.2} % off", off * 100.0);
}

#[tokio::test(start_paused = true)]
async fn large_blocks_pass_at_the_limit() {
    for rate in [3 * MIB, 37_500_000, 125_000_000, 600_000_000] {
        let count = (rate * 10 / (4 * MIB)).next_multiple_of(8) as usize;
        assert_within_two_percent(measure(rate, 4 << 20, count, true).await, rate);
    }
}

#[tokio::test(start_paused = true)]
async fn downloads_pass_at_the_limit_too() {
    assert_within_two_percent(measure(50_000_000, 4 << 20, 128, false).await, 50_000_000);
}

#[tokio::test(start_paused = true)]
async fn objects_smaller_than_a_cell_pay_what_they_are() {
    assert_within_two_percent(measure(100_000, 100, 20_000, true).await, 100_000);
    assert_within_two_percent(measure(16_000, 1500, 256, true).await, 16_000);
}

#[tokio::test(start_paused = true)]
async fn a_limit_changed_at_run_time_holds_from_the_next_transfer() {
    let env = Env::simulated(1);
    let bandwidth = Bandwidth::default();
    let store = Limited::new(&env, Arc::new(MemStore::new(&env)), &bandwidth);
    let start = env.instant();
    store.put("k", vec![0; 100 << 20].into()).await.unwrap();
    assert_eq!(env.instant(), start, "no limit, no wait");
    bandwidth.set(MIB, 0);
    store.put("k", vec![0; 10 << 20].into()).await.unwrap();
    let took = env.instant().duration_since(start).as_secs_f64();
    assert!((9.8..10.2).contains(&took), "{took}");
}

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_env::Env;

use super::local::{LocalServer, remote};
use super::*;
use crate::engine::mem::MemEngine;
use crate::engine::testing::txn_suite;

fn over_memory() -> Arc<Remote<LocalServer>> {
    let env = Env::real();
    remote(env.clone(), MemEngine::new(env))
}

#[tokio::test]
async fn the_executor_passes_the_suite_of_engines() {
    let engine = over_memory();
    txn_suite(engine.clone()).await;
    assert!(engine.counts().commits.load(Ordering::Relaxed) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_executor_passes_the_semantics_suite() {
    let env = Env::real();
    crate::testing::suite(&env, || async { over_memory() as Arc<dyn Engine> }).await;
}

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cairn_env::Env;

use super::local::{LocalServer, remote};
use super::*;
use crate::engine::mem::{Faults, MemEngine};
use crate::engine::testing::txn_suite;
use crate::ops::session::StartSession;

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

async fn meta_over(engine: Arc<Remote<LocalServer>>) -> Arc<crate::Meta> {
    crate::testing::open_fresh(&Env::real(), engine, &crate::testing::suite_format(), crate::Config::mount())
        .await
        .expect("it opens")
}

#[tokio::test]
async fn operations_that_need_the_same_record_all_come_through() {
    let env = Env::real();
    let memory = MemEngine::new(env.clone());
    let engine = remote(env, memory.clone());
    let meta = meta_over(engine.clone()).await;
    // Each answer takes a moment, so that they are all under way at once.
    memory.set_faults(Faults { delay: Duration::from_millis(1), ..Faults::default() });
    let starts = (0..40).map(|n| meta.run(StartSession { expire_secs: 1 << 40, info: format!("{{\"n\":{n}}}") }));
    let sids: HashSet<_> =
        futures::future::join_all(starts).await.into_iter().map(|sid| sid.expect("a session")).collect();
    assert_eq!(sids.len(), 40, "each has a number of its own");
    assert!(engine.counts().moved.load(Ordering::Relaxed) > 0, "they did race");
}

#[tokio::test]
async fn a_question_is_answered_of_one_moment_and_asked_once() {
    let env = Env::real();
    let engine = remote(env.clone(), MemEngine::new(env));
    let meta = meta_over(engine.clone()).await;
    let before = engine.server().trips();
    meta.counters().await.expect("counters");
    assert_eq!(engine.server().trips() - before, 1, "eleven counters in one fetch");
    let before = engine.server().trips();
    let missing = meta.lookup(&crate::Cred { check: true, ..crate::Cred::user(7, 7) }, Ino::ROOT, b"none").await;
    assert!(matches!(missing, Err(Error::NoEntry)));
    assert_eq!(engine.server().trips() - before, 1, "the directory and the missing name together");
}

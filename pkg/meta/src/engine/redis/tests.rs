mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cairn_env::Env;

use super::*;
use crate::engine::Options;
use crate::engine::testing::txn_suite;
use server::TestServer;

const NEW: Options = Options { create: true, read_only: false };

async fn fresh(env: &Env, url: &str) -> Arc<dyn Engine> {
    let engine = open(env.clone(), url, NEW).await.expect("the server takes us");
    engine.create_tables().await.expect("nothing to make");
    engine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_passes_the_suite_of_engines() {
    let server = TestServer::start(&[]);
    txn_suite(fresh(&Env::real(), &server.url(3)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_passes_the_semantics_suite() {
    let server = TestServer::start(&["--databases", "100"]);
    let (env, db) = (Env::real(), AtomicU32::new(0));
    crate::testing::suite(&env, || {
        let url = server.url(db.fetch_add(1, Ordering::Relaxed));
        let env = env.clone();
        async move { fresh(&env, &url).await }
    })
    .await;
}

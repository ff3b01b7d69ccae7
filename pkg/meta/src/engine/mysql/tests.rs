use std::sync::Arc;

use cairn_env::Env;

use crate::engine::Options;
use crate::engine::servers_sql::{Brand, SqlTestServer};
use crate::engine::testing::{Limits, txn_suite_within};
use crate::txn::Engine;

const NEW: Options = Options { create: true, read_only: false };

async fn fresh(server: &SqlTestServer) -> Arc<dyn Engine> {
    let engine = super::open(Env::real(), &server.url(&server.fresh_volume()), NEW).await.expect("it opens");
    engine.create_tables().await.expect("tables are made");
    engine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_passes_the_suite_of_engines() {
    let server = SqlTestServer::shared(Brand::MariaDb);
    txn_suite_within(fresh(&server).await, Limits::MYSQL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_passes_the_semantics_suite() {
    let server = SqlTestServer::shared(Brand::MariaDb);
    crate::testing::suite(&Env::real(), || fresh(&server)).await;
}

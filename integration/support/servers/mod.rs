//! Real database servers, private to a test: on a free loopback port, with their data in a folder
//! that goes with them, stopped by their process.
//!
//! A server that cannot be had fails the test with a sentence; nothing is skipped. What tests say of
//! "the engine" without caring which is [`Engine`]; what only one kind of server can do is in its
//! own file.
//!
//! Not here: connections that misbehave (`proxy`), and how the servers get onto the machine
//! (`integration/tools/setup`).

mod engine;
mod mysql;
mod postgres;
mod process;
mod redis;
mod redis_groups;
mod tls;

pub(crate) use engine::{Engine, Kind};
pub(crate) use mysql::Mysql;
pub(crate) use postgres::Postgres;
pub(crate) use process::free_port;
pub(crate) use redis::{Persistence, Redis, RedisConfig};
pub(crate) use redis_groups::{Cluster, Sentinels};
pub(crate) use tls::Certificates;

use tempfile::TempDir;

/// A folder for a server's data, which other users may enter.
fn server_folder(name: &str) -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::Builder::new().prefix(&format!("cairn-{name}-")).tempdir().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).expect("it is ours");
    folder
}

#[cfg(test)]
mod tests;

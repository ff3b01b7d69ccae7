//! Where the records live: one module per engine, and the door that picks one by its URL.
//!
//! An engine turns the typed records of [`crate::txn`] into its own rows or maps and back, and runs
//! operations atomically over them. It keeps two rules: a failed operation leaves nothing behind,
//! and nobody is told of a commit before it happened.
//!
//! Not here: what an operation means (`ops`), and when to try one again (`Meta` does).

pub mod mem;
pub mod mysql;
#[cfg(test)]
mod network_tests;
pub mod postgres;
pub mod redis;
pub mod remote;
#[cfg(any(test, feature = "testing"))]
pub mod servers_sql;
pub mod sql;
pub mod sqlite;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::sync::Arc;

use cairn_env::Env;

use crate::txn::Engine;
use crate::{Error, Result};

/// How to open an engine, beside what its URL says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Make the database if it is not there yet, and take it without a volume in it: for `format`
    /// and `load`. Otherwise both are refused.
    pub create: bool,
    /// Never write: every change fails with [`Error::ReadOnly`].
    pub read_only: bool,
}

const SUPPORTED: &str = "supported are sqlite3://, redis://, rediss://, unix://, postgres://, mysql:// and memkv://";
const NETWORK: [&str; 4] = ["tikv", "etcd", "badger", "fdb"];

/// Opens the engine that `meta_url` names.
///
/// # Errors
///
/// [`Error::Refused`] with a sentence for people: unknown scheme or parameter, no such database,
/// not one of ours, made by an older client, locked.
pub async fn open(env: Env, meta_url: &str, options: Options) -> Result<Arc<dyn Engine>> {
    // As JuiceFS takes it: an address alone is a Redis server's.
    let (scheme, rest) = meta_url.split_once("://").unwrap_or(("redis", meta_url));
    match scheme {
        "redis" | "rediss" | "unix" => redis::open(env, meta_url, options).await,
        "postgres" | "postgresql" => Ok(postgres::open(env, meta_url, options).await?),
        "mysql" => Ok(mysql::open(env, meta_url, options).await?),
        "sqlite3" => {
            let (url, opened_by) = (meta_url.to_string(), env.clone());
            let opened = env.blocking(move || sqlite::SqliteEngine::open(opened_by, &url, options)).await?;
            Ok(opened)
        }
        "memkv" => Ok(mem::MemEngine::named(env, rest)),
        known if NETWORK.contains(&known) => {
            Err(refused(format!("{known}:// is an engine that is not in this release: {SUPPORTED}")))
        }
        unknown => Err(refused(format!("unknown metadata engine {unknown:?}: {SUPPORTED}"))),
    }
}

fn refused(sentence: String) -> Error {
    Error::Refused(sentence)
}

#[cfg(test)]
mod tests;

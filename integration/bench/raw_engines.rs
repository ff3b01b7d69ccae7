//! Raw round trips to a server: loops of one small write each, a connection a loop, and nothing else.

use anyhow::Context;
use sqlx::Connection as _;
use tokio::runtime::Runtime;

use crate::support::{Engine, Kind, Proxy};

/// A script that reads a key, writes it and answers, as the least commit would.
const SCRIPT: &str = "redis.call('GET', KEYS[1]) redis.call('SET', KEYS[1], ARGV[1]) return 1";
const MAKE: &str = "create table cairn_bench_raw (id int primary key, n bigint)";
const MAKE_ROW: [&str; 2] = ["insert into cairn_bench_raw values ($1, 0)", "insert into cairn_bench_raw values (?, 0)"];
/// The least commit of an SQL server: one row of a loop's own, one statement, committed by itself.
const WRITE: [&str; 2] =
    ["update cairn_bench_raw set n = n + 1 where id = $1", "update cairn_bench_raw set n = n + 1 where id = ?"];

/// Connections of all loops, open and warm.
pub(crate) enum Raw {
    /// To a redis-server.
    Redis(Vec<redis::Connection>),
    /// To PostgreSQL.
    Postgres(Runtime, Vec<sqlx::PgConnection>),
    /// To MariaDB.
    Mysql(Runtime, Vec<sqlx::MySqlConnection>),
}

impl Raw {
    /// Connects so many loops through the proxy, and does one round of each.
    pub(crate) fn connect(kind: Kind, engine: &Engine, proxy: &Proxy, loops: u64) -> anyhow::Result<Raw> {
        let url = engine.url_at(proxy.port()).context("a server has a URL")?;
        let mut raw = match kind {
            Kind::Redis => {
                let client = redis::Client::open(url)?;
                Raw::Redis((0..loops).map(|_| client.get_connection()).collect::<Result<_, _>>()?)
            }
            Kind::Postgres => {
                let runtime = runtime()?;
                let all = (0..loops).map(|_| runtime.block_on(sqlx::PgConnection::connect(&url)));
                let mut all = all.collect::<Result<Vec<_>, _>>()?;
                runtime.block_on(async {
                    sqlx::query(MAKE).execute(&mut all[0]).await?;
                    for id in 0..loops as i32 {
                        sqlx::query(MAKE_ROW[0]).bind(id).execute(&mut all[0]).await?;
                    }
                    anyhow::Ok(())
                })?;
                Raw::Postgres(runtime, all)
            }
            _ => {
                let runtime = runtime()?;
                // The driver wants the host without its parentheses.
                let url = url.replace("@(", "@").replace(")/", "/");
                let all = (0..loops).map(|_| runtime.block_on(sqlx::MySqlConnection::connect(&url)));
                let mut all = all.collect::<Result<Vec<_>, _>>()?;
                runtime.block_on(async {
                    sqlx::query(MAKE).execute(&mut all[0]).await?;
                    for id in 0..loops as i32 {
                        sqlx::query(MAKE_ROW[1]).bind(id).execute(&mut all[0]).await?;
                    }
                    anyhow::Ok(())
                })?;
                Raw::Mysql(runtime, all)
            }
        };
        raw.loops(loops)?;
        Ok(raw)
    }

    /// What one turn of a loop is.
    pub(crate) fn what(&self) -> &'static str {
        match self {
            Raw::Redis(_) => "EVALSHA of a GET and a SET (server: no AOF, no snapshots)",
            Raw::Postgres(..) => "update of one row (server: defaults, fsync and synchronous_commit on)",
            Raw::Mysql(..) => "update of one row (server: defaults, innodb_flush_log_at_trx_commit = 1, no binary log)",
        }
    }

    /// So many round trips in all, shared by the loops.
    pub(crate) fn loops(&mut self, total: u64) -> anyhow::Result<()> {
        match self {
            Raw::Redis(all) => {
                let each = total / all.len() as u64;
                let script = redis::Script::new(SCRIPT);
                std::thread::scope(|scope| {
                    let script = &script;
                    let loops: Vec<_> = all
                        .iter_mut()
                        .enumerate()
                        .map(|(id, connection)| {
                            scope.spawn(move || {
                                let key = format!("cairn-bench-raw-{id}");
                                (0..each).try_for_each(|n| script.key(&key).arg(n).invoke::<i32>(connection).map(drop))
                            })
                        })
                        .collect();
                    loops.into_iter().try_for_each(|l| l.join().expect("a loop does not panic"))
                })?;
            }
            Raw::Postgres(runtime, all) => {
                let each = total / all.len() as u64;
                let loops = all.iter_mut().enumerate().map(async |(id, connection)| {
                    for _ in 0..each {
                        sqlx::query(WRITE[0]).bind(id as i32).execute(&mut *connection).await?;
                    }
                    anyhow::Ok(())
                });
                runtime.block_on(futures::future::try_join_all(loops))?;
            }
            Raw::Mysql(runtime, all) => {
                let each = total / all.len() as u64;
                let loops = all.iter_mut().enumerate().map(async |(id, connection)| {
                    for _ in 0..each {
                        sqlx::query(WRITE[1]).bind(id as i32).execute(&mut *connection).await?;
                    }
                    anyhow::Ok(())
                });
                runtime.block_on(futures::future::try_join_all(loops))?;
            }
        }
        Ok(())
    }
}

fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

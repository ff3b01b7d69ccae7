//! Every engine does the same: one set of tests, run on SQLite, Redis, PostgreSQL and MariaDB, each a
//! real server that the test starts.
//!
//! A test takes the kind of engine and is listed in [`on_every_engine!`] or, if it is about a server,
//! in [`on_every_server!`]; its name is then `engines::<family>::<test>::<engine>`. The short form of
//! `make test` and the whole one of `make engines` (`CAIRN_WHOLE=1`) differ in numbers, not in tests.
//!
//! Not here: the suite that engines pass as a trait (beside the trait), fixtures (`compat`), and
//! speed (`bench`).

/// The engines a test can be run on: a line each.
macro_rules! tests_of {
    ($test:ident: $($name:ident $kind:ident),*) => {
        mod $test {
            $(
                #[test]
                fn $name() {
                    super::$test(crate::support::Kind::$kind);
                }
            )*
        }
    };
}

/// A test on each engine.
macro_rules! on_every_engine {
    ($($test:ident),* $(,)?) => {
        $(tests_of!($test: sqlite Sqlite, redis Redis, postgres Postgres, mysql Mysql);)*
    };
}

/// A test on each engine that is a server.
macro_rules! on_every_server {
    ($($test:ident),* $(,)?) => {
        $(tests_of!($test: redis Redis, postgres Postgres, mysql Mysql);)*
    };
}

mod commands;
mod concurrent;
mod crowd;
mod deaths;
mod history;
mod locks;
mod outages;
mod redis;
mod refusals;
mod rival;
mod same;
mod trips;

/// The longer form was asked for.
fn whole() -> bool {
    std::env::var_os("CAIRN_WHOLE").is_some()
}

/// The kernel asks for everything each time, so that what is seen is what the engine holds.
const NO_KERNEL_CACHE: [&str; 6] = ["--attr-cache", "0", "--entry-cache", "0", "--dir-entry-cache", "0"];

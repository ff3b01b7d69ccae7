//! A metadata engine for one test, whatever its kind.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tempfile::TempDir;

use super::process::FAREWELL;
use super::{Mysql, Persistence, Postgres, Redis, RedisConfig, server_folder};
use crate::support::eventually::ends_within;

/// The kinds of engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A file.
    Sqlite,
    /// redis-server.
    Redis,
    /// PostgreSQL.
    Postgres,
    /// MariaDB.
    Mysql,
}

/// An empty place for one volume's metadata. What serves it goes with it.
pub(crate) struct Engine {
    kind: Kind,
    at: At,
}

enum At {
    File(TempDir),
    Redis(Box<Redis>),
    SharedPostgres(String),
    OwnPostgres(Box<Postgres>, String),
    SharedMysql(String),
    OwnMysql(Box<Mysql>, String),
}

impl Engine {
    /// A place on a server that other tests use, too, where that is cheaper.
    #[track_caller]
    pub(crate) fn shared(kind: Kind) -> Engine {
        let at = match kind {
            Kind::Sqlite => At::File(server_folder("sqlite")),
            Kind::Redis => At::Redis(Box::new(Redis::start())),
            Kind::Postgres => At::SharedPostgres(Postgres::shared().database()),
            Kind::Mysql => At::SharedMysql(Mysql::shared().database()),
        };
        Engine { kind, at }
    }

    /// A place on a server of its own, which may be stopped and keeps what it acknowledged.
    #[track_caller]
    pub(crate) fn own(kind: Kind) -> Engine {
        let at = match kind {
            Kind::Sqlite => At::File(server_folder("sqlite")),
            Kind::Redis => {
                let config = RedisConfig { persistence: Persistence::Always, ..RedisConfig::default() };
                At::Redis(Box::new(Redis::with(config)))
            }
            Kind::Postgres => {
                let server = Box::new(Postgres::with(&[]));
                let database = server.database();
                At::OwnPostgres(server, database)
            }
            Kind::Mysql => {
                let server = Box::new(Mysql::with(&[]));
                let database = server.database();
                At::OwnMysql(server, database)
            }
        };
        Engine { kind, at }
    }

    /// What kind it is.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Its URL.
    pub(crate) fn url(&self) -> String {
        match &self.at {
            At::File(folder) => format!("sqlite3://{}/meta.db", folder.path().display()),
            At::Redis(redis) => redis.url(1),
            At::SharedPostgres(database) => Postgres::shared().url(database),
            At::OwnPostgres(server, database) => server.url(database),
            At::SharedMysql(database) => Mysql::shared().url(database),
            At::OwnMysql(server, database) => server.url(database),
        }
    }

    /// Its URL through a proxy that listens on `port`; a file has none.
    pub(crate) fn url_at(&self, port: u16) -> Option<String> {
        match &self.at {
            At::File(_) => None,
            At::Redis(redis) => Some(redis.url_at(port, 1)),
            At::SharedPostgres(database) => Some(Postgres::shared().url_at(port, database)),
            At::OwnPostgres(server, database) => Some(server.url_at(port, database)),
            At::SharedMysql(database) => Some(Mysql::shared().url_at(port, database)),
            At::OwnMysql(server, database) => Some(server.url_at(port, database)),
        }
    }

    /// The port its server listens on; a file has none.
    pub(crate) fn port(&self) -> Option<u16> {
        match &self.at {
            At::File(_) => None,
            At::Redis(redis) => Some(redis.port()),
            At::SharedPostgres(_) => Some(Postgres::shared().port()),
            At::OwnPostgres(server, _) => Some(server.port()),
            At::SharedMysql(_) => Some(Mysql::shared().port()),
            At::OwnMysql(server, _) => Some(server.port()),
        }
    }

    /// Ends the server in order. Only for one of a test's own.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        match &mut self.at {
            At::Redis(redis) => redis.stop(),
            At::OwnPostgres(server, _) => server.stop(),
            At::OwnMysql(server, _) => server.stop(),
            _ => panic!("this server is not ours to stop"),
        }
    }

    /// `kill -9` of the server. Only for one of a test's own.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        match &mut self.at {
            At::Redis(redis) => redis.kill(),
            At::OwnPostgres(server, _) => server.kill(),
            At::OwnMysql(server, _) => server.kill(),
            _ => panic!("this server is not ours to kill"),
        }
    }

    /// Starts it again at the same place.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        match &mut self.at {
            At::Redis(redis) => redis.start_again(),
            At::OwnPostgres(server, _) => server.start_again(),
            At::OwnMysql(server, _) => server.start_again(),
            _ => panic!("this server was not stopped"),
        }
    }

    /// The Redis server, if it is one.
    #[track_caller]
    pub(crate) fn redis(&self) -> &Redis {
        let At::Redis(redis) = &self.at else { panic!("{:?} is not Redis", self.kind) };
        redis
    }

    /// Everything stored, in a form that can be compared.
    #[track_caller]
    pub(crate) fn digest(&self) -> String {
        match &self.at {
            At::File(folder) => {
                let database = std::fs::read(folder.path().join("meta.db")).expect("a database");
                crate::support::sha256(&database)
            }
            At::Redis(redis) => redis.digest(),
            At::SharedPostgres(database) => Postgres::shared().dump(database),
            At::OwnPostgres(server, database) => server.dump(database),
            At::SharedMysql(database) => Mysql::shared().dump(database),
            At::OwnMysql(server, database) => server.dump(database),
        }
    }

    /// Puts a dump file into the empty place, as the fixtures' README says.
    #[track_caller]
    pub(crate) fn load(kind: Kind, dump: PathBuf) -> Engine {
        if kind == Kind::Redis {
            // Dumps hold database 0.
            let redis = Redis::with(RedisConfig { dump: Some(dump), ..RedisConfig::default() });
            redis.ask(&["SWAPDB", "0", "1"]);
            return Engine { kind, at: At::Redis(Box::new(redis)) };
        }
        let engine = Engine::shared(kind);
        match &engine.at {
            At::File(folder) => drop(std::fs::copy(dump, folder.path().join("meta.db")).expect("the folder is ours")),
            At::SharedPostgres(database) => Postgres::shared().load(database, &dump),
            At::SharedMysql(database) => Mysql::shared().load(database, &dump),
            _ => unreachable!("shared places only"),
        }
        engine
    }
}

/// Servers that end with the process, whose folders nobody else removes.
static LEFT: Mutex<Vec<(i32, PathBuf)>> = Mutex::new(Vec::new());

/// Starts a server on a thread that lives as long as the process (the kernel ends a server with the
/// thread that started it), and sees to it that nothing stays behind when the process ends.
pub(super) fn kept_for_ever<S: Send + 'static>(start: fn() -> S, leave: fn(&S) -> (i32, PathBuf)) -> S {
    let (send, receive) = mpsc::channel();
    let keep = move || {
        let server = start();
        LEFT.lock().expect("nobody panics with it").push(leave(&server));
        if send.send(server).is_ok() {
            loop {
                std::thread::park();
            }
        }
    };
    std::thread::Builder::new().name("server keeper".into()).spawn(keep).expect("a thread");
    // SAFETY: a function without arguments that neither panics nor unwinds.
    unsafe { libc::atexit(end_all) };
    receive.recv().expect("the server starts; what it said is above")
}

extern "C" fn end_all() {
    let Ok(mut left) = LEFT.lock() else { return };
    for (pid, folder) in left.drain(..) {
        let Some(pid) = Pid::from_raw(pid) else { continue };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        for signal in [Signal::INT, Signal::TERM] {
            kill_process(pid, signal).ok();
        }
        if !ends_within(&pidfd, FAREWELL) {
            kill_process(pid, Signal::KILL).ok();
        }
        std::fs::remove_dir_all(folder).ok();
    }
}

//! A redis-server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use super::process::{Process, free_port, program};
use super::{Certificates, server_folder};

/// Ports tried before a server that does not start is a failure.
const TRIES: usize = 5;

/// What survives the server's end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// Nothing, unless it is told to save.
    #[default]
    None,
    /// What was acknowledged, whatever happens to the process: `appendfsync always`.
    Always,
    /// The same but for the last second: `appendfsync everysec`, which most installations have.
    EverySecond,
}

/// How a server is started. The default is one that anybody on this machine may use.
#[derive(Clone, Debug, Default)]
pub(crate) struct RedisConfig {
    /// What it keeps.
    pub(crate) persistence: Persistence,
    /// Password of the default user.
    pub(crate) password: Option<String>,
    /// Users with their ACL rules, e.g. `("cairn", "on >pw ~* +@all")`.
    pub(crate) users: Vec<(String, String)>,
    /// Speak TLS on a port of its own; whether clients must show a certificate.
    pub(crate) tls: Option<bool>,
    /// A dump to start with.
    pub(crate) dump: Option<PathBuf>,
    /// The server it copies.
    pub(crate) replica_of: Option<u16>,
    /// Further arguments, e.g. `["--maxmemory", "2mb"]`.
    pub(crate) extra: Vec<String>,
}

/// A redis-server of this test alone. Dropping it ends it, and its data goes.
pub(crate) struct Redis {
    config: RedisConfig,
    folder: TempDir,
    port: u16,
    tls_port: u16,
    certificates: Option<Certificates>,
    process: Option<Process>,
}

impl Redis {
    /// A server that keeps nothing and lets everybody in.
    #[track_caller]
    pub(crate) fn start() -> Redis {
        Redis::with(RedisConfig::default())
    }

    /// One that is configured so.
    #[track_caller]
    pub(crate) fn with(config: RedisConfig) -> Redis {
        let folder = server_folder("redis");
        if let Some(dump) = &config.dump {
            fs::copy(dump, folder.path().join("dump.rdb")).expect("the folder is ours");
        }
        let certificates = config.tls.map(|_| Certificates::make(folder.path()));
        let mut redis = Redis { config, folder, port: 0, tls_port: 0, certificates, process: None };
        let started = (0..TRIES).any(|_| {
            (redis.port, redis.tls_port) = (free_port(), free_port());
            redis.try_start()
        });
        assert!(started, "redis-server does not start:\n{}", redis.said());
        redis
    }

    fn try_start(&mut self) -> bool {
        let mut command = Command::new(program("redis-server", "redis-server"));
        let dir = self.folder.path();
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.arg("--dir").arg(dir).args(["--dbfilename", "dump.rdb", "--enable-debug-command", "local"]);
        command.arg("--unixsocket").arg(self.socket());
        match self.config.persistence {
            Persistence::None => command.args(["--appendonly", "no"]),
            Persistence::Always => command.args(["--appendonly", "yes", "--appendfsync", "always"]),
            Persistence::EverySecond => command.args(["--appendonly", "yes", "--appendfsync", "everysec"]),
        };
        if let Some(password) = &self.config.password {
            command.args(["--requirepass", password, "--masterauth", password]);
        }
        for (name, rules) in &self.config.users {
            command.arg("--user").arg(name).args(rules.split_whitespace());
        }
        if let (Some(certificates), Some(ask)) = (&self.certificates, self.config.tls) {
            command.args(["--tls-port", &self.tls_port.to_string()]);
            command.arg("--tls-cert-file").arg(&certificates.server.0);
            command.arg("--tls-key-file").arg(&certificates.server.1);
            command.arg("--tls-ca-cert-file").arg(&certificates.ca);
            command.args(["--tls-auth-clients", if ask { "yes" } else { "no" }]);
        }
        if let Some(port) = self.config.replica_of {
            command.args(["--replicaof", "127.0.0.1", &port.to_string()]);
        }
        command.args(&self.config.extra);
        let mut process = Process::start(command, &self.log(), Signal::TERM);
        let pid = process.pid().as_raw_nonzero().get();
        // The port may be answered by somebody else's server.
        let wanted = [format!("process_id:{pid}"), "loading:0".to_owned()];
        let ready = process.ready(|| {
            let info = self.try_ask(&["INFO"]).ok()?;
            wanted.iter().all(|w| info.lines().any(|l| l.trim_end() == w)).then_some(())
        });
        self.process = ready.is_some().then_some(process);
        self.process.is_some()
    }

    /// `redis://`, with the password if there is one.
    pub(crate) fn url(&self, db: u32) -> String {
        self.url_at(self.port, db)
    }

    /// The same through another port: a proxy's.
    pub(crate) fn url_at(&self, port: u16, db: u32) -> String {
        let password = self.config.password.as_ref().map(|p| format!(":{p}@")).unwrap_or_default();
        format!("redis://{password}127.0.0.1:{port}/{db}")
    }

    /// `rediss://` with our authority and, if `as_client`, a client's certificate.
    #[track_caller]
    pub(crate) fn tls_url(&self, db: u32, as_client: bool) -> String {
        let certificates = self.certificates.as_ref().expect("it was started with TLS");
        let password = self.config.password.as_ref().map(|p| format!(":{p}@")).unwrap_or_default();
        let ca = certificates.ca.display();
        let mut url = format!("rediss://{password}localhost:{}/{db}?tls-ca-cert-file={ca}", self.tls_port);
        if as_client {
            let (cert, key) = (certificates.client.0.display(), certificates.client.1.display());
            url.push_str(&format!("&tls-cert-file={cert}&tls-key-file={key}"));
        }
        url
    }

    /// Its TCP port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Its log.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Sends one command as the default user; the answer as `redis-cli` would print it, a line each.
    #[track_caller]
    pub(crate) fn ask(&self, command: &[&str]) -> String {
        self.try_ask(command).unwrap_or_else(|e| panic!("{command:?}: {e}"))
    }

    /// The same, of one database.
    #[track_caller]
    pub(crate) fn ask_in(&self, db: u32, command: &[&str]) -> String {
        let asked = self.connection(db).and_then(|mut c| query(&mut c, command));
        asked.unwrap_or_else(|e| panic!("{command:?} in database {db}: {e}"))
    }

    fn try_ask(&self, command: &[&str]) -> redis::RedisResult<String> {
        query(&mut self.connection(0)?, command)
    }

    /// A connection of its own, past every proxy.
    pub(crate) fn connection(&self, db: u32) -> redis::RedisResult<redis::Connection> {
        let client = redis::Client::open(self.url(db))?;
        let connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
        connection.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(connection)
    }

    /// Ends it in order. What it keeps is there at the next start.
    pub(crate) fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop();
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it again, on the same port.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        assert!(self.process.is_none(), "it is running");
        assert!(self.try_start(), "redis-server does not start again:\n{}", self.said());
    }

    /// What it holds now, to be put back by [`Redis::go_back_to`].
    #[track_caller]
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        self.ask(&["SAVE"]);
        fs::read(self.folder.path().join("dump.rdb")).expect("SAVE made it")
    }

    /// Ends it, and starts it with older data.
    #[track_caller]
    pub(crate) fn go_back_to(&mut self, snapshot: &[u8]) {
        assert_eq!(self.config.persistence, Persistence::None, "an append-only file would win over the dump");
        self.kill();
        fs::write(self.folder.path().join("dump.rdb"), snapshot).expect("the folder is ours");
        self.start_again();
    }

    /// Freezes it: connections stay, nobody answers.
    pub(crate) fn freeze(&self) {
        self.process.as_ref().expect("it is running").signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.process.as_ref().expect("it is running").signal(Signal::CONT);
    }

    /// A hash of all that is stored in all databases.
    pub(crate) fn digest(&self) -> String {
        self.ask(&["DEBUG", "DIGEST"])
    }
}

pub(super) fn query(connection: &mut redis::Connection, command: &[&str]) -> redis::RedisResult<String> {
    let mut cmd = redis::cmd(command[0]);
    for arg in &command[1..] {
        cmd.arg(*arg);
    }
    let value: redis::Value = cmd.query(connection)?;
    Ok(lines(&value).join("\n"))
}

fn lines(value: &redis::Value) -> Vec<String> {
    match value {
        redis::Value::Nil => Vec::new(),
        redis::Value::Int(n) => vec![n.to_string()],
        redis::Value::BulkString(bytes) => vec![String::from_utf8_lossy(bytes).into_owned()],
        redis::Value::Array(of) | redis::Value::Set(of) => of.iter().flat_map(lines).collect(),
        redis::Value::SimpleString(text) => vec![text.clone()],
        redis::Value::Okay => vec!["OK".into()],
        other => vec![format!("{other:?}")],
    }
}

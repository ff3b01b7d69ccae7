//! PostgreSQL: one server for all tests of a process with a database each, or one of a test's own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;
use tempfile::TempDir;

use super::process::{Process, command_as, folder_of, free_port, hand_to, program, server};
use super::{Certificates, server_folder};
use crate::support::command::{Ran, finish};

/// Who runs the server.
const USER: &str = "postgres";
/// The database user of the tests; its password is part of every URL, so that it is asked for.
pub(crate) const PASSWORD: &str = "pg-s3cret-word";

/// A server with its data.
pub(crate) struct Postgres {
    folder: TempDir,
    port: u16,
    extra: Vec<String>,
    process: Option<Process>,
    /// Becomes the server at its next start.
    next: Option<Process>,
}

impl Postgres {
    /// The server all tests of this process share; it ends with the process.
    #[track_caller]
    pub(crate) fn shared() -> &'static Postgres {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(|| {
            super::engine::kept_for_ever(|| Postgres::with(&["-c", "max_connections=300"]), Postgres::leave)
        })
    }

    /// One of the test's own, with these arguments.
    #[track_caller]
    pub(crate) fn with(extra: &[&str]) -> Postgres {
        let folder = server_folder("postgres");
        let data = folder.path().join("data");
        folder_of(USER, &data);
        let word = folder.path().join("word");
        std::fs::write(&word, PASSWORD).expect("the folder is ours");
        hand_to(USER, &word);
        let mut initdb = command_as(USER, &binary("initdb"));
        initdb.arg("-D").arg(&data).args(["-U", USER, "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"]);
        initdb.args(["-E", "UTF8", "--locale=C", "--pwfile"]).arg(&word);
        finish(&mut initdb).ok();
        let extra = extra.iter().map(|s| (*s).to_owned()).collect();
        let mut postgres = Postgres { folder, port: 0, extra, process: None, next: None };
        let started = (0..5).any(|_| {
            postgres.port = free_port();
            postgres.try_start()
        });
        assert!(started, "PostgreSQL does not start:\n{}", postgres.said());
        postgres.sql(USER, &format!("create role cairn login password '{PASSWORD}'")).ok();
        postgres
    }

    fn command(&self) -> Command {
        let data = self.folder.path().join("data");
        let mut command = server(Some(USER), &binary("postgres"));
        command.arg("-D").arg(&data).args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1"]);
        command.arg("-c").arg(format!("unix_socket_directories={}", data.display())).args(&self.extra);
        command
    }

    /// One that waits for the word. SIGINT ends it at once, with a checkpoint, and no client is waited for.
    fn stand_by(&self) -> Process {
        Process::stand_by(self.command(), &self.log(), Signal::INT)
    }

    fn try_start(&mut self) -> bool {
        let data = self.folder.path().join("data");
        let mut process = self.next.take().unwrap_or_else(|| self.stand_by());
        process.go();
        let (pid, port) = (process.pid().as_raw_nonzero().get().to_string(), self.port.to_string());
        let ready = process.ready(|| {
            let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
            let lines: Vec<&str> = text.lines().map(str::trim).collect();
            let is_ready =
                lines.first() == Some(&&*pid) && lines.get(3) == Some(&&*port) && lines.get(7) == Some(&"ready");
            is_ready.then_some(())
        });
        self.process = ready.is_some().then_some(process);
        self.process.is_some()
    }

    /// A new, empty database; its name.
    #[track_caller]
    pub(crate) fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("cairn_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.sql(USER, &format!("create database {name} owner cairn")).ok();
        name
    }

    /// `postgres://` with user and password.
    pub(crate) fn url(&self, database: &str) -> String {
        self.url_at(self.port, database)
    }

    /// The same through another port: a proxy's.
    pub(crate) fn url_at(&self, port: u16, database: &str) -> String {
        format!("postgres://cairn:{PASSWORD}@127.0.0.1:{port}/{database}?sslmode=disable")
    }

    /// Its TCP port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its unix socket.
    pub(crate) fn socket_folder(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Runs statements through the unix socket as the server's owner.
    pub(crate) fn sql(&self, database: &str, statements: &str) -> Ran {
        let mut psql = self.psql(database);
        psql.args(["-c", statements]);
        finish(&mut psql)
    }

    /// Runs a file of statements as the user of the tests.
    #[track_caller]
    pub(crate) fn load(&self, database: &str, file: &Path) {
        let mut psql = self.psql(database);
        psql.args(["-U", "cairn", "-v", "ON_ERROR_STOP=1", "-f"]).arg(file);
        finish(&mut psql).ok();
    }

    fn psql(&self, database: &str) -> Command {
        let mut psql = Command::new(binary("psql"));
        psql.args(["-X", "-q", "-t", "-A", "-U", USER, "-p", &self.port.to_string(), "-d", database]);
        psql.arg("-h").arg(self.socket_folder()).current_dir("/");
        psql
    }

    /// All that is stored in one database, as statements.
    #[track_caller]
    pub(crate) fn dump(&self, database: &str) -> String {
        let mut dump = Command::new(binary("pg_dump"));
        dump.args(["-U", USER, "-p", &self.port.to_string(), "-h"]).arg(self.socket_folder()).arg(database);
        let text = finish(&mut dump).ok();
        // Since the security releases of 2025 each dump begins and ends with a word of its own.
        text.lines()
            .filter(|l| !l.starts_with("\\restrict") && !l.starts_with("\\unrestrict"))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Its log.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Speaks TLS from now on, too.
    #[track_caller]
    pub(crate) fn with_tls(&self) -> Certificates {
        let certificates = Certificates::make(self.folder.path());
        let data = self.folder.path().join("data");
        for (from, to) in [(&certificates.server.0, "server.crt"), (&certificates.server.1, "server.key")] {
            use std::os::unix::fs::PermissionsExt;
            let to = data.join(to);
            std::fs::copy(from, &to).expect("the folder is ours");
            std::fs::set_permissions(&to, PermissionsExt::from_mode(0o600)).expect("it is ours");
            hand_to(USER, &to);
        }
        self.sql(USER, "alter system set ssl = on").ok();
        self.sql(USER, "select pg_reload_conf()").ok();
        certificates
    }

    /// Ends it in order.
    pub(crate) fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.stop();
        }
    }

    /// `kill -9`. Its children may hold its memory for a moment longer.
    pub(crate) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// From here on it can be started again while a mount waits for it.
    pub(super) fn have_one_stand_by(&mut self) {
        self.next = Some(self.stand_by());
    }

    /// Starts it again, on the same port.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        assert!(self.process.is_none(), "it is running");
        crate::support::eventually("PostgreSQL starts again", crate::support::PATIENCE, || {
            self.try_start().then_some(())
        });
    }

    /// What must be ended and removed when nobody will drop it.
    fn leave(&self) -> (i32, PathBuf) {
        let process = self.process.as_ref().expect("it is running");
        (process.pid().as_raw_nonzero().get(), self.folder.path().to_owned())
    }
}

/// A program of the newest PostgreSQL installed; Debian keeps the server's out of the path.
#[track_caller]
fn binary(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|v| v.path().join("bin").join(name)).filter(|p| p.is_file());
    let number = |p: &PathBuf| p.iter().nth(4).and_then(|v| v.to_str()?.parse::<u32>().ok());
    found.max_by_key(number).unwrap_or_else(|| program(name, "postgresql"))
}

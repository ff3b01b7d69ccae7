//! MariaDB, for the MySQL engine: one server for all tests of a process with a database each, or one
//! of a test's own.

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
const USER: &str = "mysql";
/// The password of the database user of the tests.
pub(crate) const PASSWORD: &str = "my-s3cret-word";

/// A server with its data.
pub(crate) struct Mysql {
    folder: TempDir,
    port: u16,
    extra: Vec<String>,
    process: Option<Process>,
    /// Becomes the server at its next start.
    next: Option<Process>,
}

impl Mysql {
    /// The server all tests of this process share; it ends with the process.
    #[track_caller]
    pub(crate) fn shared() -> &'static Mysql {
        static SHARED: OnceLock<Mysql> = OnceLock::new();
        SHARED.get_or_init(|| super::engine::kept_for_ever(|| Mysql::with(&["--max-connections=500"]), Mysql::leave))
    }

    /// One of the test's own, with these arguments.
    #[track_caller]
    pub(crate) fn with(extra: &[&str]) -> Mysql {
        let folder = server_folder("mariadb");
        let data = folder.path().join("data");
        folder_of(USER, &data);
        let mut install = command_as(USER, &program("mariadb-install-db", "mariadb-server"));
        install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
        install.arg(format!("--datadir={}", data.display())).env("TMPDIR", &data);
        finish(&mut install).ok();
        let extra = extra.iter().map(|s| (*s).to_owned()).collect();
        let mut mysql = Mysql { folder, port: 0, extra, process: None, next: None };
        let started = (0..5).any(|_| {
            mysql.port = free_port();
            mysql.try_start()
        });
        assert!(started, "MariaDB does not start:\n{}", mysql.said());
        mysql.sql("mysql", &format!("create user cairn@'%' identified by '{PASSWORD}'")).ok();
        mysql
    }

    fn command(&self) -> Command {
        let data = self.folder.path().join("data");
        let mut command = server(Some(USER), &program("mariadbd", "mariadb-server"));
        // It reads the machine's settings unless this comes first.
        command.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
        // Each empties its folder of temporary tables when it starts: it must be its own.
        command.env("TMPDIR", &data);
        command.args([format!("--port={}", self.port), "--bind-address=127.0.0.1".into(), "--skip-log-bin".into()]);
        command.arg(format!("--socket={}", self.socket().display()));
        command.args(["--innodb-buffer-pool-size=64M", "--skip-name-resolve"]).args(&self.extra);
        command
    }

    fn stand_by(&self) -> Process {
        Process::stand_by(self.command(), &self.log(), Signal::TERM)
    }

    fn try_start(&mut self) -> bool {
        let mut process = self.next.take().unwrap_or_else(|| self.stand_by());
        process.go();
        let ready = process.ready(|| (self.sql("mysql", "select 1").code == 0).then_some(()));
        self.process = ready.is_some().then_some(process);
        self.process.is_some()
    }

    /// A new, empty database; its name.
    #[track_caller]
    pub(crate) fn database(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("cairn_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let statements = format!("create database {name} character set utf8mb4; grant all on {name}.* to cairn@'%'");
        self.sql("mysql", &statements).ok();
        name
    }

    /// `mysql://` with user and password.
    pub(crate) fn url(&self, database: &str) -> String {
        self.url_at(self.port, database)
    }

    /// The same through another port: a proxy's.
    pub(crate) fn url_at(&self, port: u16, database: &str) -> String {
        format!("mysql://cairn:{PASSWORD}@(127.0.0.1:{port})/{database}")
    }

    /// Its TCP port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Its unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("data/socket")
    }

    /// Runs statements through the unix socket as root of the server.
    pub(crate) fn sql(&self, database: &str, statements: &str) -> Ran {
        finish(self.client("mariadb").args(["-N", "-B", database, "-e", statements]))
    }

    /// Runs a file of statements.
    #[track_caller]
    pub(crate) fn load(&self, database: &str, file: &Path) {
        let source = format!("source {}", file.display());
        finish(self.client("mariadb").args([database, "-e", &source])).ok();
    }

    /// All that is stored in one database, as statements.
    #[track_caller]
    pub(crate) fn dump(&self, database: &str) -> String {
        finish(self.client("mariadb-dump").args(["--skip-comments", "--order-by-primary", database])).ok()
    }

    fn client(&self, name: &str) -> Command {
        let mut command = Command::new(program(name, "mariadb-client"));
        command.args(["--no-defaults", "-u", "root"]).arg(format!("--socket={}", self.socket().display()));
        command
    }

    /// Its log.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// Speaks TLS after its next start, too.
    #[track_caller]
    pub(crate) fn with_tls(&mut self) -> Certificates {
        let certificates = Certificates::make(self.folder.path());
        // It opens its key after it gave up root's rights.
        hand_to(USER, &certificates.server.1);
        let files = [("cert", &certificates.server.0), ("key", &certificates.server.1), ("ca", &certificates.ca)];
        self.extra.extend(files.map(|(name, file)| format!("--ssl-{name}={}", file.display())));
        self.stop();
        self.start_again();
        certificates
    }

    /// Ends it in order.
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

    /// From here on it can be started again while a mount waits for it.
    pub(super) fn have_one_stand_by(&mut self) {
        self.next = Some(self.stand_by());
    }

    /// Starts it again, on the same port.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        assert!(self.process.is_none(), "it is running");
        crate::support::eventually("MariaDB starts again", crate::support::PATIENCE, || self.try_start().then_some(()));
    }

    /// What must be ended and removed when nobody will drop it.
    fn leave(&self) -> (i32, PathBuf) {
        let process = self.process.as_ref().expect("it is running");
        (process.pid().as_raw_nonzero().get(), self.folder.path().to_owned())
    }
}

//! Real PostgreSQL and MariaDB servers for tests: each on a free port of the loopback interface, in
//! a directory of its own that goes with it, stopped by its process id.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};

static DIRECTORIES: AtomicU32 = AtomicU32::new(0);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Brand {
    /// PostgreSQL.
    Postgres,
    /// MariaDB, which stands for MySQL too.
    MariaDb,
}

/// A running server.
#[derive(Debug)]
pub struct SqlTestServer {
    brand: Brand,
    dir: PathBuf,
    /// Where it listens.
    pub port: u16,
    child: Mutex<Option<Child>>,
    volumes: AtomicU32,
    extra: Vec<String>,
}

static SHARED: Mutex<[Weak<SqlTestServer>; 2]> = Mutex::new([Weak::new(), Weak::new()]);

impl SqlTestServer {
    /// The server that the tests running at this time in this process share.
    pub fn shared(brand: Brand) -> Arc<SqlTestServer> {
        let mut shared = SHARED.lock().unwrap_or_else(|e| e.into_inner());
        let slot = &mut shared[brand as usize];
        slot.upgrade().unwrap_or_else(|| {
            let server = Arc::new(SqlTestServer::start(brand, &[]));
            *slot = Arc::downgrade(&server);
            server
        })
    }

    /// Starts a server with further options on its command line.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start(brand: Brand, extra: &[&str]) -> SqlTestServer {
        let n = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("cairn-{brand:?}-{}-{n}", std::process::id()).to_lowercase());
        std::fs::create_dir(&dir).expect("a new directory");
        let server = SqlTestServer {
            brand,
            dir,
            port: free_port(),
            child: Mutex::default(),
            volumes: AtomicU32::new(0),
            extra: extra.iter().map(|s| s.to_string()).collect(),
        };
        server.install();
        server.launch();
        server.create_database();
        server
    }

    /// A URL of the database, with parameters after `?` if there are any.
    pub fn url(&self, params: &str) -> String {
        self.url_at(self.port, params)
    }

    /// The same through another port, a proxy's.
    pub fn url_at(&self, port: u16, params: &str) -> String {
        let scheme_and_place = match self.brand {
            Brand::Postgres => format!("postgres://cairn:geheim@127.0.0.1:{port}/vol?sslmode=disable"),
            Brand::MariaDb => format!("mysql://cairn:geheim@(127.0.0.1:{port})/vol?tls=false"),
        };
        if params.is_empty() { scheme_and_place } else { format!("{scheme_and_place}&{params}") }
    }

    /// A table prefix nobody else has, as a parameter: a volume of its own.
    pub fn fresh_volume(&self) -> String {
        format!("table_prefix=t{}", self.volumes.fetch_add(1, Ordering::Relaxed))
    }

    /// Runs statements with the server's own client; what it printed.
    ///
    /// # Panics
    /// If they fail.
    pub fn sql(&self, script: &str) -> String {
        let output = self.client("vol", script);
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    }

    fn client(&self, database: &str, script: &str) -> Output {
        let socket = self.dir.display().to_string();
        let port = self.port.to_string();
        let mut command = match self.brand {
            Brand::Postgres => {
                let mut c = self.as_user(&postgres("psql"));
                c.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", &socket, "-p", &port]);
                c.args(["-U", "postgres", "-d", database, "-c", script]);
                c
            }
            Brand::MariaDb => {
                let mut c = Command::new("mariadb");
                c.args(["--no-defaults", "-N", "-B", "-u", "root", "-S", &format!("{socket}/my.sock")]);
                c.args(["-D", database, "-e", script]);
                c
            }
        };
        command.output().expect("the client of the server is installed")
    }

    /// The server's process: PostgreSQL's first one.
    pub fn pid(&self) -> u32 {
        self.child.lock().unwrap_or_else(|e| e.into_inner()).as_ref().expect("it runs").id()
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(status.expect("kill runs").success());
    }

    /// Stops it at once, as a crash would.
    pub fn crash(&self) {
        let child = self.child.lock().unwrap_or_else(|e| e.into_inner()).take();
        if let Some(mut child) = child {
            match self.brand {
                // Its children hold the shared memory until they notice: SIGQUIT takes them along.
                Brand::Postgres => {
                    _ = Command::new("kill").args(["-QUIT", &child.id().to_string()]).status();
                }
                Brand::MariaDb => {
                    _ = child.kill();
                }
            }
            _ = child.wait();
        }
    }

    /// Starts it again on the same data and port.
    pub fn launch(&self) {
        let (dir, port) = (self.dir.display().to_string(), self.port.to_string());
        let log = std::fs::File::create(self.dir.join("log")).expect("a log file");
        let mut command = match self.brand {
            Brand::Postgres => {
                let mut c = self.as_user(&postgres("postgres"));
                c.args(["-D", &format!("{dir}/data"), "-h", "127.0.0.1", "-p", &port, "-k", &dir]);
                c.args(["-c", "fsync=off", "-c", "deadlock_timeout=100ms", "-c", "shared_buffers=32MB"]);
                c
            }
            Brand::MariaDb => {
                let mut c = Command::new(mariadbd());
                c.args(["--no-defaults", &format!("--user={}", self.user())]);
                // Each empties its folder of temporary tables when it starts: it must be its own.
                c.env("TMPDIR", format!("{dir}/data"));
                c.args([&format!("--datadir={dir}/data"), &format!("--socket={dir}/my.sock")]);
                c.args([&format!("--port={port}"), "--bind-address=127.0.0.1", "--innodb-flush-log-at-trx-commit=2"]);
                c.args(["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=32M", "--skip-name-resolve"]);
                c.arg("--innodb-use-native-aio=0");
                c
            }
        };
        command.args(&self.extra).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().expect("the server is installed");
        *self.child.lock().unwrap_or_else(|e| e.into_inner()) = Some(child);
        self.await_ready();
    }

    fn await_ready(&self) {
        let port = self.port.to_string();
        for _ in 0..600 {
            let ready = match self.brand {
                Brand::Postgres => Command::new(postgres("pg_isready"))
                    .args(["-q", "-t", "10", "-h", &self.dir.display().to_string(), "-p", &port])
                    .status(),
                Brand::MariaDb => Command::new("mariadb-admin")
                    .args(["--no-defaults", "-s", "-u", "root", "--wait=60"])
                    .args(["-S", &format!("{}/my.sock", self.dir.display()), "ping"])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status(),
            };
            if ready.expect("the tools of the server are installed").success() {
                return;
            }
            let mut child = self.child.lock().unwrap_or_else(|e| e.into_inner());
            if let Some(ended) = child.as_mut().and_then(|c| c.try_wait().ok().flatten()) {
                panic!("{:?} ended with {ended}: {}", self.brand, self.log());
            }
            drop(child);
            // Neither server tells when it is ready; asking anew is what their own tools do.
            std::thread::park_timeout(std::time::Duration::from_millis(50));
        }
        panic!("{:?} did not become ready: {}", self.brand, self.log());
    }

    /// What it logged since it was last started.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn install(&self) {
        let data = self.dir.join("data");
        if is_root() {
            let status = Command::new("chown").args([self.user(), &self.dir.display().to_string()]).status();
            assert!(status.expect("chown runs").success());
        }
        let mut command = match self.brand {
            Brand::Postgres => {
                let mut c = self.as_user(&postgres("initdb"));
                c.args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "-D"]).arg(&data);
                c
            }
            Brand::MariaDb => {
                let mut c = Command::new("mariadb-install-db");
                c.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
                // Several are installed at once: none needs the share of a real one.
                c.args(["--innodb-use-native-aio=0", "--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M"]);
                c.arg(format!("--user={}", self.user())).arg(format!("--datadir={}", data.display()));
                c.env("TMPDIR", &data);
                c
            }
        };
        let output = command.output().expect("the server is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
        if self.brand == Brand::Postgres {
            // Over TCP with a password, as everywhere.
            let rules = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
            std::fs::write(data.join("pg_hba.conf"), rules).expect("its rules are written");
        }
    }

    fn create_database(&self) {
        let statements: &[&str] = match self.brand {
            Brand::Postgres => &["CREATE ROLE cairn LOGIN PASSWORD 'geheim'", "CREATE DATABASE vol OWNER cairn"],
            Brand::MariaDb => &[
                "CREATE DATABASE vol",
                "CREATE USER cairn@'%' IDENTIFIED BY 'geheim'",
                "GRANT ALL ON *.* TO cairn@'%'",
            ],
        };
        let system = match self.brand {
            Brand::Postgres => "postgres",
            Brand::MariaDb => "mysql",
        };
        for statement in statements {
            let output = self.client(system, statement);
            assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// Who runs it: these servers refuse root.
    fn user(&self) -> &'static str {
        match self.brand {
            Brand::Postgres => "postgres",
            Brand::MariaDb => "mysql",
        }
    }

    fn as_user(&self, program: &Path) -> Command {
        if !is_root() {
            return Command::new(program);
        }
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={}", self.user()), &format!("--regid={}", self.user()), "--clear-groups"]);
        command.arg(program);
        command
    }
}

impl Drop for SqlTestServer {
    fn drop(&mut self) {
        self.crash();
        _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").port()
}

/// A program of PostgreSQL, which Debian keeps beside the path, by version.
fn postgres(program: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        versions.map(|v| v.path().join("bin").join(program)).filter(|path| path.exists()).collect();
    found.sort();
    found.pop().unwrap_or_else(|| program.into())
}

fn mariadbd() -> PathBuf {
    let debian = PathBuf::from("/usr/sbin/mariadbd");
    if debian.exists() { debian } else { "mariadbd".into() }
}

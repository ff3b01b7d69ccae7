//! A real server for a test: on a free loopback port, in a directory of its own, stopped by its
//! process id.

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// See the module.
pub(super) struct TestServer {
    pub(super) port: u16,
    pub(super) dir: tempfile::TempDir,
    args: Vec<String>,
    kind: Kind,
    child: Option<Child>,
}

#[derive(Clone, PartialEq)]
enum Kind {
    Plain,
    Tls,
    /// With this configuration, which it writes to.
    Sentinel(PathBuf),
}

impl TestServer {
    pub(super) fn start(args: &[&str]) -> TestServer {
        TestServer::start_as(Kind::Plain, args)
    }

    /// One that speaks nothing but TLS.
    pub(super) fn start_tls(args: &[&str]) -> TestServer {
        TestServer::start_as(Kind::Tls, args)
    }

    pub(super) fn start_sentinel(config: &std::path::Path) -> TestServer {
        TestServer::start_as(Kind::Sentinel(config.into()), &[])
    }

    fn start_as(kind: Kind, args: &[&str]) -> TestServer {
        let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
        // Somebody else may take the port between the look and the start.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
            let dir = tempfile::tempdir().expect("a directory");
            let mut server = TestServer { port, dir, args: args.clone(), kind: kind.clone(), child: None };
            if server.run() {
                return server;
            }
        }
        panic!("no Redis server starts with {args:?}");
    }

    /// Starts the process; true once it answers.
    fn run(&mut self) -> bool {
        let log = std::fs::File::create(self.dir.path().join("log")).expect("a log");
        let mut command = Command::new("redis-server");
        let port = self.port.to_string();
        match &self.kind {
            Kind::Plain => command.args(["--port", &port, "--save", ""]),
            Kind::Tls => command.args(["--port", "0", "--tls-port", &port, "--save", ""]),
            Kind::Sentinel(config) => command.arg(config).args(["--sentinel", "--port", &port]),
        };
        command.args(["--bind", "127.0.0.1"]);
        if self.kind == Kind::Plain {
            command.arg("--unixsocket").arg(self.socket());
        }
        command.arg("--dir").arg(self.dir.path()).args(&self.args);
        let mut child =
            command.stdout(Stdio::from(log)).stderr(Stdio::null()).spawn().expect("redis-server is installed");
        for _ in 0..12_000 {
            if (self.kind != Kind::Plain || self.socket().exists())
                && TcpStream::connect(("127.0.0.1", self.port)).is_ok()
            {
                self.child = Some(child);
                return true;
            }
            if child.try_wait().expect("the child is ours").is_some() {
                return false;
            }
            #[expect(clippy::disallowed_methods, reason = "a test waits for another process")]
            std::thread::sleep(Duration::from_millis(5));
        }
        child.kill().expect("the child is ours");
        child.wait().expect("the child is ours");
        panic!("the Redis server neither starts nor ends");
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    pub(super) fn url(&self, db: u32) -> String {
        format!("redis://127.0.0.1:{}/{db}", self.port)
    }

    /// A connection of the test's own, past all proxies, to database 1.
    pub(super) async fn connection(&self) -> redis::aio::MultiplexedConnection {
        self.connection_to(1).await
    }

    pub(super) async fn connection_to(&self, db: u32) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url(db)).expect("the address is good");
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        client.get_multiplexed_async_connection_with_config(&config).await.expect("the server is there")
    }

    /// Kills the process; what it had not written is gone.
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("the child is ours");
            child.wait().expect("the child is ours");
            // A socket left behind would look like a server that answers.
            let _ = std::fs::remove_file(self.socket());
        }
    }

    pub(super) fn restart(&mut self) {
        self.kill();
        assert!(self.run(), "the server starts again on its port");
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.kill();
    }
}

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
    child: Option<Child>,
}

impl TestServer {
    pub(super) fn start(args: &[&str]) -> TestServer {
        let dir = tempfile::tempdir().expect("a directory");
        let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
        // Somebody else may take the port between the look and the start.
        for _ in 0..20 {
            let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
            let mut server =
                TestServer { port, dir: tempfile::tempdir().expect("a directory"), args: args.clone(), child: None };
            if server.run() {
                return server;
            }
        }
        panic!("no Redis server starts in {}", dir.path().display());
    }

    /// Starts the process; true once it answers.
    fn run(&mut self) -> bool {
        let log = std::fs::File::create(self.dir.path().join("log")).expect("a log");
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.arg("--unixsocket").arg(self.socket());
        command.arg("--dir").arg(self.dir.path()).args(&self.args);
        let mut child =
            command.stdout(Stdio::from(log)).stderr(Stdio::null()).spawn().expect("redis-server is installed");
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while std::time::Instant::now() < deadline {
            if child.try_wait().expect("the child is ours").is_some() {
                return false;
            }
            if self.socket().exists() && TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                self.child = Some(child);
                return true;
            }
            #[expect(clippy::disallowed_methods, reason = "a test waits for another process")]
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the Redis server neither starts nor ends");
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.path().join("sock")
    }

    pub(super) fn url(&self, db: u32) -> String {
        format!("redis://127.0.0.1:{}/{db}", self.port)
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

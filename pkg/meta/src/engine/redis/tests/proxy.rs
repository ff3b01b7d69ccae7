//! A proxy between a client and a real server that counts the client's commands and can cut
//! connections at a command's boundary.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// See the module. Lives as long as the runtime of its test.
pub(super) struct Proxy {
    pub(super) port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    commands: AtomicU64,
    /// Commands until the connection is cut; negative for never.
    cut_in: AtomicI64,
    /// Does the command that is cut reach the server?
    cut_after: AtomicI64,
    cuts: AtomicU64,
}

impl Proxy {
    #[expect(clippy::disallowed_methods, reason = "a test's own tasks")]
    pub(super) async fn start(server: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("a port").port();
        let shared = Arc::new(Shared { cut_in: AtomicI64::new(-1), ..Shared::default() });
        let passed = shared.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                // A server that is down is a connection that ends at once.
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
                tokio::spawn(pass(client, server, passed.clone()));
            }
        });
        Proxy { port, shared }
    }

    pub(super) fn url(&self, db: u32) -> String {
        format!("redis://127.0.0.1:{}/{db}", self.port)
    }

    /// Commands passed on so far.
    pub(super) fn commands(&self) -> u64 {
        self.shared.commands.load(Ordering::SeqCst)
    }

    /// Cuts the connection at the `nth` command from now: before the server has it, or after it
    /// has answered.
    pub(super) fn cut(&self, nth: i64, after: bool) {
        self.shared.cut_after.store(i64::from(after), Ordering::SeqCst);
        self.shared.cut_in.store(nth, Ordering::SeqCst);
    }

    /// Connections cut so far.
    pub(super) fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

async fn pass(mut client: TcpStream, mut server: TcpStream, shared: Arc<Shared>) {
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("TCP can do that");
    }
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let last_answered = Notify::new();
    let cutting = AtomicI64::new(0);
    let up = async {
        let mut pending = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let Ok(n @ 1..) = from_client.read(&mut buffer).await else { return };
            pending.extend(&buffer[..n]);
            while let Some(end) = command_end(&pending) {
                let command: Vec<u8> = pending.drain(..end).collect();
                shared.commands.fetch_add(1, Ordering::SeqCst);
                let left = shared.cut_in.load(Ordering::SeqCst);
                if left >= 0 {
                    shared.cut_in.store(left - 1, Ordering::SeqCst);
                }
                if left == 0 {
                    shared.cuts.fetch_add(1, Ordering::SeqCst);
                    if shared.cut_after.load(Ordering::SeqCst) == 1 {
                        cutting.store(1, Ordering::SeqCst);
                        if to_server.write_all(&command).await.is_ok() {
                            last_answered.notified().await;
                        }
                    }
                    return;
                }
                if to_server.write_all(&command).await.is_err() {
                    return;
                }
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let Ok(n @ 1..) = from_server.read(&mut buffer).await else { return };
            if cutting.load(Ordering::SeqCst) == 1 {
                // The server has done it; the client never hears of it.
                last_answered.notify_one();
                continue;
            }
            if to_client.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

/// Where the first whole command ends: `*n` and n times `$length`, bytes.
fn command_end(b: &[u8]) -> Option<usize> {
    let number = |at: usize| -> Option<(usize, usize)> {
        let end = at + b.get(at..)?.windows(2).position(|w| w == b"\r\n")?;
        let n = std::str::from_utf8(&b[at + 1..end]).ok()?.parse().ok()?;
        Some((n, end + 2))
    };
    let (items, mut at) = number(0)?;
    for _ in 0..items {
        let (length, start) = number(at)?;
        at = start + length + 2;
    }
    (at <= b.len()).then_some(at)
}

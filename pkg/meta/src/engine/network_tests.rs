//! What every engine across a network makes true through a real server: how many round trips a
//! request takes, and that a connection may break anywhere.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use cairn_types::{ChunkIndex, Format, Ino, SliceId, SliceRecord, SliceRef, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::record::FlockKind;
use crate::testing::{CheckInvariants, suite_format};
use crate::{
    Cred, Durability, Error, FallocMode, Meta, NewNode, NewSlice, OpenHow, RenameMode, Result, SetAttr, SetTime, Want,
    XattrMode,
};

/// A proxy that counts how often a client speaks after its server has: round trips, whatever the
/// protocol. It can cut a connection at any of them.
pub(super) struct Proxy {
    pub(super) port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    trips: AtomicU64,
    /// Round trips until a connection is cut; negative for never.
    cut_in: AtomicI64,
    /// Does what the client says then reach the server?
    cut_after: AtomicBool,
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

    pub(super) fn trips(&self) -> u64 {
        self.shared.trips.load(Ordering::SeqCst)
    }

    /// Cuts the connection at the `nth` round trip from now: before the server has heard, or after
    /// it has begun to answer.
    pub(super) fn cut(&self, nth: u64, after: bool) {
        self.shared.cut_after.store(after, Ordering::SeqCst);
        self.shared.cut_in.store(nth as i64, Ordering::SeqCst);
    }

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
    let (answered, cutting, server_spoke) = (Notify::new(), AtomicBool::new(false), AtomicBool::new(true));
    let up = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let Ok(n @ 1..) = from_client.read(&mut buffer).await else { return };
            if server_spoke.swap(false, Ordering::SeqCst) {
                shared.trips.fetch_add(1, Ordering::SeqCst);
                let left = shared.cut_in.load(Ordering::SeqCst);
                if left >= 0 {
                    shared.cut_in.store(left - 1, Ordering::SeqCst);
                }
                if left == 0 {
                    shared.cuts.fetch_add(1, Ordering::SeqCst);
                    if !shared.cut_after.load(Ordering::SeqCst) {
                        return;
                    }
                    cutting.store(true, Ordering::SeqCst);
                }
            }
            if to_server.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    };
    let down = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let Ok(n @ 1..) = from_server.read(&mut buffer).await else { return };
            server_spoke.store(true, Ordering::SeqCst);
            if cutting.load(Ordering::SeqCst) {
                // The server has done it; the client never hears of it.
                answered.notify_one();
                return;
            }
            if to_client.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = up => {}
        () = down => {}
        () = answered.notified() => {}
    }
}

/// Notes what took another number of round trips than it should.
pub(super) struct Counted<'a> {
    proxy: &'a Proxy,
    wrong: Vec<String>,
}

impl Counted<'_> {
    async fn costs<T>(&mut self, trips: u64, what: &str, call: impl Future<Output = Result<T>>) -> T {
        let (outcome, took) = timed(self.proxy, call).await;
        if took != trips {
            self.wrong.push(format!("{what} took {took} round trips, not {trips}"));
        }
        outcome.unwrap_or_else(|e| panic!("{what}: {e}"))
    }
}

pub(super) async fn timed<T>(proxy: &Proxy, call: impl Future<Output = T>) -> (T, u64) {
    let before = proxy.trips();
    let outcome = call.await;
    (outcome, proxy.trips() - before)
}

fn new_slice(index: u32, id: SliceId) -> NewSlice {
    let slice = SliceRef { id, size: 4096 };
    let mtime = Timestamp { secs: 1_800_000_000, nanos: 0 };
    NewSlice { index: ChunkIndex(index), record: SliceRecord::whole(0, slice), mtime }
}

/// Every request of the kernel waits for one round trip, and so does the commit of a flush.
pub(super) async fn every_request_takes_one_round_trip(meta: &Arc<Meta>, proxy: &Proxy) {
    let mut m = Counted { proxy, wrong: vec![] };
    let (root, top) = (&Cred::root(), Ino::ROOT);
    // Warm: ids are there, the hour's trash directory, the directory we work in.
    let (dir, _) = meta.mknod(root, top, b"dir", NewNode::dir(0o755)).await.unwrap();
    let (other, _) = meta.mknod(root, top, b"other", NewNode::dir(0o755)).await.unwrap();
    meta.mknod(root, dir, b"warm", NewNode::file(0o644)).await.unwrap();
    meta.unlink(root, dir, b"warm", false).await.unwrap();
    let slices = [meta.next_slice_id().await.unwrap(), meta.next_slice_id().await.unwrap()];

    let (missing, took) = timed(proxy, meta.lookup(root, dir, b"a")).await;
    assert!(matches!(missing, Err(Error::NoEntry)) && took == 1, "a lookup of nothing took {took}");
    let a = m.costs(1, "create", meta.create(root, dir, b"a", NewNode::file(0o644), true)).await.ino;
    m.costs(0, "getattr of the directory after our change", meta.getattr(dir)).await;
    let new = vec![new_slice(0, slices[0]), new_slice(1, slices[1]), new_slice(7, slices[1])];
    m.costs(1, "commit of a flush over three chunks", meta.commit(a, new, None, Durability::Process)).await;
    m.costs(1, "mknod", meta.mknod(root, dir, b"b", NewNode::file(0o644))).await;
    m.costs(1, "mkdir", meta.mknod(root, dir, b"d", NewNode::dir(0o755))).await;
    let (link, _) = m.costs(1, "symlink", meta.mknod(root, dir, b"l", NewNode::symlink(b"a"))).await;
    m.costs(1, "readlink", meta.readlink(link)).await;
    m.costs(1, "link", meta.link(root, a, other, b"hard")).await;
    m.costs(1, "unlink of a hard link", meta.unlink(root, other, b"hard", true)).await;
    m.costs(1, "lookup", meta.lookup(root, dir, b"a")).await;
    m.costs(1, "getattr", meta.getattr(a)).await;
    m.costs(1, "open", meta.open_file(root, a, OpenHow { read: true, write: true, ..OpenHow::default() })).await;
    m.costs(1, "setattr", meta.setattr(root, a, SetAttr { mode: Some(0o600), ..SetAttr::default() })).await;
    m.costs(1, "chown", meta.setattr(root, a, SetAttr { uid: Some(0), gid: Some(0), ..SetAttr::default() })).await;
    let now = SetAttr { mtime: Some(SetTime::Now), atime: Some(SetTime::Now), ..SetAttr::default() };
    m.costs(1, "utimes", meta.setattr(root, a, now)).await;
    m.costs(1, "truncate within a chunk", meta.truncate(root, a, (7 << 26) + 100, true)).await;
    let keep = FallocMode { keep_size: true, punch_hole: true, zero_range: false };
    m.costs(1, "punch a hole", meta.fallocate(root, a, keep, 0, 4096)).await;
    m.costs(1, "setxattr", meta.setxattr(root, a, b"user.x", b"1", XattrMode::Set)).await;
    m.costs(1, "getxattr", meta.getxattr(a, b"user.x")).await;
    let (none, took) = timed(proxy, meta.getxattr(a, b"security.capability")).await;
    assert!(matches!(none, Err(Error::NoAttribute)) && took == 1, "getxattr of nothing took {took}");
    m.costs(1, "listxattr", meta.listxattr(a)).await;
    m.costs(1, "setxattr, new ones only", meta.setxattr(root, a, b"user.y", b"1", XattrMode::Create)).await;
    m.costs(1, "removexattr", meta.removexattr(root, a, b"user.x")).await;
    m.costs(1, "flock", meta.flock(a, 1, Some(FlockKind::Write))).await;
    m.costs(1, "flock, dropped", meta.flock(a, 1, None)).await;
    m.costs(1, "posix lock", meta.set_plock(a, 1, Some(FlockKind::Read), (0, 9), 5)).await;
    m.costs(1, "posix lock, asked", meta.get_plock(a, 2, FlockKind::Write, (0, 9))).await;
    m.costs(1, "posix lock, dropped", meta.set_plock(a, 1, None, (0, i64::MAX as u64), 5)).await;
    m.costs(1, "rename", meta.rename(root, (dir, b"a"), (other, b"a2"), RenameMode::Replace)).await;
    m.costs(1, "rename over a file", meta.rename(root, (other, b"a2"), (dir, b"b"), RenameMode::Replace)).await;
    m.costs(1, "rename of a directory", meta.rename(root, (dir, b"d"), (other, b"d2"), RenameMode::Replace)).await;
    m.costs(1, "readdir", meta.readdir(dir, b"", 100, true)).await;
    m.costs(1, "rmdir", meta.rmdir(root, other, b"d2", false)).await;
    m.costs(1, "unlink of an open file", meta.unlink(root, dir, b"b", true)).await;
    m.costs(0, "a close that is not the last", meta.close_file(a)).await;
    m.costs(1, "last close of an unlinked file", meta.close_file(a)).await;
    m.costs(1, "unlink to the trash", meta.unlink(root, dir, b"l", false)).await;
    m.costs(1, "statfs", meta.statfs()).await;
    m.costs(1, "access", meta.access(&Cred { check: true, ..Cred::user(5, 5) }, dir, Want::READ)).await;
    assert_eq!(m.wrong, Vec::<String>::new());
}

/// Formats whose requests are counted: plain, and with everything switched on.
pub(super) fn counted_formats() -> [Format; 2] {
    [
        Format { change_log: false, user_group_quota: false, ..suite_format() },
        Format { capacity: 1 << 40, inodes: 1 << 30, ..suite_format() },
    ]
}

/// A volume whose counters a test can foretell.
pub(super) fn quiet() -> Format {
    Format { trash_days: 0, ..suite_format() }
}

/// Changes of every kind, each of which shows if it is done twice or not at all. `n` keeps runs apart.
pub(super) async fn work(meta: &Meta, n: u64) {
    let root = Cred::root();
    let (dir, _) = meta.mknod(&root, Ino::ROOT, format!("d{n}").as_bytes(), NewNode::dir(0o755)).await.expect("mkdir");
    let made = meta.create(&root, dir, b"f", NewNode::file(0o644), true).await.expect("create");
    for count in [1, 2] {
        let slice = meta.next_slice_id().await.expect("id");
        let done = meta.commit(made.ino, vec![new_slice(0, slice)], None, Durability::Process).await.expect("commit");
        assert_eq!(done.counts, [(ChunkIndex(0), count)], "each slice is there once");
    }
    assert_eq!(meta.link(&root, made.ino, dir, b"g").await.expect("link").nlink, 2);
    meta.mknod(&root, dir, b"sub", NewNode::dir(0o755)).await.expect("mkdir");
    assert_eq!(meta.getattr(dir).await.expect("getattr").nlink, 3);
    meta.rename(&root, (dir, b"g"), (dir, b"h"), RenameMode::NoReplace).await.expect("rename");
    meta.unlink(&root, dir, b"h", true).await.expect("unlink");
    meta.rmdir(&root, dir, b"sub", true).await.expect("rmdir");
    assert_eq!(meta.lookup(&root, dir, b"f").await.expect("lookup").1.nlink, 1);
    meta.close_file(made.ino).await.expect("close");
}

/// After so many [`work`]s: nothing was lost, nothing done twice.
pub(super) async fn check(meta: &Arc<Meta>, works: u64) {
    let broken = meta.view(CheckInvariants).await.expect("a check");
    assert_eq!(broken, Vec::<String>::new());
    let stat = meta.statfs().await.expect("totals");
    // The first file and directory of each work, 4 KiB each.
    assert_eq!((stat.used_inodes, stat.total_bytes - stat.avail_bytes), (2 * works, 8192 * works));
    assert_eq!(meta.readdir(Ino::ROOT, b"", 10_000, false).await.expect("names").len() as u64, works);
}

/// Cuts the connection at each round trip of a work, before and after the server has heard.
pub(super) async fn cut_everywhere(meta: &Arc<Meta>, proxy: &Proxy) {
    work(meta, 0).await;
    let ((), trips) = timed(proxy, work(meta, 1)).await;
    let mut works = 2;
    for after in [false, true] {
        for nth in 0..trips {
            proxy.cut(nth, after);
            work(meta, works).await;
            works += 1;
        }
    }
    assert!(proxy.cuts() >= 2 * trips, "each work was cut once: {} cuts of {trips} round trips", proxy.cuts());
    check(meta, works).await;
}

mod faults;
mod large;
mod proxy;
mod server;
mod together;
mod topologies;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cairn_env::Env;
use cairn_types::{ChunkIndex, Format, Ino, SliceId, SliceRecord, SliceRef};

use super::*;
use crate::engine::Options;
use crate::engine::testing::txn_suite;
use crate::record::FlockKind;
use crate::testing::{open_fresh, suite_format};
use crate::{
    Config, Cred, Durability, Error, FallocMode, Meta, NewNode, NewSlice, OpenHow, RenameMode, SetAttr, SetTime, Want,
    XattrMode,
};
use proxy::Proxy;
use server::TestServer;

const NEW: Options = Options { create: true, read_only: false };

async fn fresh(env: &Env, url: &str) -> Arc<dyn Engine> {
    let engine = open(env.clone(), url, NEW).await.expect("the server takes us");
    engine.create_tables().await.expect("nothing to make");
    engine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_passes_the_suite_of_engines() {
    let server = TestServer::start(&[]);
    txn_suite(fresh(&Env::real(), &server.url(3)).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_passes_the_semantics_suite() {
    let server = TestServer::start(&["--databases", "100"]);
    let (env, db) = (Env::real(), AtomicU32::new(0));
    crate::testing::suite(&env, || {
        let url = server.url(db.fetch_add(1, Ordering::Relaxed));
        let env = env.clone();
        async move { fresh(&env, &url).await }
    })
    .await;
}

/// A volume through a proxy, with everything warm that a running mount has warm.
struct Mounted {
    server: TestServer,
    proxy: Proxy,
    meta: Arc<Meta>,
    wrong: Mutex<Vec<String>>,
}

async fn mounted(format: &Format) -> Mounted {
    let server = TestServer::start(&[]);
    let proxy = Proxy::start(server.port).await;
    let env = Env::real();
    let engine = fresh(&env, &proxy.url(1)).await;
    let config = Config { skip_dir_mtime: Duration::ZERO, ..Config::mount() };
    let meta = open_fresh(&env, engine, format, config).await.expect("it opens");
    Mounted { server, proxy, meta, wrong: Mutex::default() }
}

impl Mounted {
    /// Waits for a call and answers what it answers; it must take this many commands.
    async fn costs<T>(&self, trips: u64, what: &str, call: impl Future<Output = Result<T>>) -> T {
        let (outcome, took) = self.timed(call).await;
        if took != trips {
            self.wrong.lock().push(format!("{what} took {took} round trips, not {trips}"));
        }
        outcome.unwrap_or_else(|e| panic!("{what}: {e}"))
    }

    async fn timed<T>(&self, call: impl Future<Output = T>) -> (T, u64) {
        let before = self.proxy.commands();
        let outcome = call.await;
        (outcome, self.proxy.commands() - before)
    }
}

fn new_slice(index: u32, id: SliceId) -> NewSlice {
    let slice = SliceRef { id, size: 4096 };
    NewSlice {
        index: ChunkIndex(index),
        record: SliceRecord::whole(0, slice),
        mtime: cairn_types::Timestamp { secs: 1_800_000_000, nanos: 0 },
    }
}

async fn every_request_takes_one_round_trip(format: &Format) {
    let m = mounted(format).await;
    let (meta, root, top) = (&m.meta, Cred::root(), Ino::ROOT);
    // Warm: ids are there, the hour's trash directory, the directory we work in.
    let (dir, _) = meta.mknod(&root, top, b"dir", NewNode::dir(0o755)).await.unwrap();
    let (other, _) = meta.mknod(&root, top, b"other", NewNode::dir(0o755)).await.unwrap();
    meta.mknod(&root, dir, b"warm", NewNode::file(0o644)).await.unwrap();
    meta.unlink(&root, dir, b"warm", false).await.unwrap();
    let slices = [meta.next_slice_id().await.unwrap(), meta.next_slice_id().await.unwrap()];

    let (missing, took) = m.timed(meta.lookup(&root, dir, b"a")).await;
    assert!(matches!(missing, Err(Error::NoEntry)) && took == 1, "a lookup of nothing took {took}");
    let a = m.costs(1, "create", meta.create(&root, dir, b"a", NewNode::file(0o644), true)).await.ino;
    m.costs(0, "getattr of the directory after our change", meta.getattr(dir)).await;
    let new = vec![new_slice(0, slices[0]), new_slice(1, slices[1]), new_slice(7, slices[1])];
    m.costs(1, "commit of a flush over three chunks", meta.commit(a, new.clone(), None, Durability::Process)).await;
    m.costs(1, "commit over the same chunks", meta.commit(a, new, None, Durability::Process)).await;
    m.costs(1, "mknod", meta.mknod(&root, dir, b"b", NewNode::file(0o644))).await;
    m.costs(1, "mkdir", meta.mknod(&root, dir, b"d", NewNode::dir(0o755))).await;
    let (link, _) = m.costs(1, "symlink", meta.mknod(&root, dir, b"l", NewNode::symlink(b"a"))).await;
    m.costs(1, "readlink", meta.readlink(link)).await;
    m.costs(1, "link", meta.link(&root, a, other, b"hard")).await;
    m.costs(1, "unlink of a hard link", meta.unlink(&root, other, b"hard", true)).await;
    m.costs(1, "lookup", meta.lookup(&root, dir, b"a")).await;
    m.costs(1, "getattr", meta.getattr(a)).await;
    m.costs(1, "open", meta.open_file(&root, a, OpenHow { read: true, write: true, ..OpenHow::default() })).await;
    m.costs(1, "setattr", meta.setattr(&root, a, SetAttr { mode: Some(0o600), ..SetAttr::default() })).await;
    m.costs(1, "chown", meta.setattr(&root, a, SetAttr { uid: Some(0), gid: Some(0), ..SetAttr::default() })).await;
    let now = SetAttr { mtime: Some(SetTime::Now), atime: Some(SetTime::Now), ..SetAttr::default() };
    m.costs(1, "utimes", meta.setattr(&root, a, now)).await;
    m.costs(1, "truncate within a chunk", meta.truncate(&root, a, (7 << 26) + 100, true)).await;
    let keep = FallocMode { keep_size: true, punch_hole: true, zero_range: false };
    m.costs(1, "punch a hole", meta.fallocate(&root, a, keep, 0, 4096)).await;
    m.costs(1, "setxattr", meta.setxattr(&root, a, b"user.x", b"1", XattrMode::Set)).await;
    m.costs(1, "getxattr", meta.getxattr(a, b"user.x")).await;
    let (none, took) = m.timed(meta.getxattr(a, b"security.capability")).await;
    assert!(matches!(none, Err(Error::NoAttribute)) && took == 1, "getxattr of nothing took {took}");
    m.costs(1, "listxattr", meta.listxattr(a)).await;
    m.costs(1, "setxattr, new ones only", meta.setxattr(&root, a, b"user.y", b"1", XattrMode::Create)).await;
    m.costs(1, "removexattr", meta.removexattr(&root, a, b"user.x")).await;
    m.costs(1, "flock", meta.flock(a, 1, Some(FlockKind::Write))).await;
    let (held, took) = m.timed(meta.flock(a, 2, Some(FlockKind::Write))).await;
    assert!(matches!(held, Err(Error::WouldBlock)) && took <= 2, "a lock that is held took {took}");
    m.costs(1, "flock, dropped", meta.flock(a, 1, None)).await;
    m.costs(1, "posix lock", meta.set_plock(a, 1, Some(FlockKind::Read), (0, 9), 5)).await;
    m.costs(1, "posix lock, asked", meta.get_plock(a, 2, FlockKind::Write, (0, 9))).await;
    m.costs(1, "posix lock, dropped", meta.set_plock(a, 1, None, (0, i64::MAX as u64), 5)).await;
    m.costs(1, "rename", meta.rename(&root, (dir, b"a"), (other, b"a2"), RenameMode::Replace)).await;
    m.costs(1, "rename over a file", meta.rename(&root, (other, b"a2"), (dir, b"b"), RenameMode::Replace)).await;
    m.costs(1, "rename of a directory", meta.rename(&root, (dir, b"d"), (other, b"d2"), RenameMode::Replace)).await;
    m.costs(1, "readdir", meta.readdir(dir, b"", 100, true)).await;
    m.costs(1, "rmdir", meta.rmdir(&root, other, b"d2", false)).await;
    m.costs(1, "unlink of an open file", meta.unlink(&root, dir, b"b", true)).await;
    m.costs(0, "a close that is not the last", meta.close_file(a)).await;
    m.costs(1, "last close of an unlinked file", meta.close_file(a)).await;
    m.costs(1, "unlink to the trash", meta.unlink(&root, dir, b"l", false)).await;
    m.costs(1, "statfs", meta.statfs()).await;
    m.costs(1, "access", meta.access(&Cred { check: true, ..Cred::user(5, 5) }, dir, Want::READ)).await;
    meta.close_session().await.unwrap();
    assert_eq!(*m.wrong.lock(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_take_one_round_trip() {
    every_request_takes_one_round_trip(&Format { change_log: false, user_group_quota: false, ..suite_format() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_take_one_round_trip_with_everything_switched_on() {
    every_request_takes_one_round_trip(&Format { capacity: 1 << 40, inodes: 1 << 30, ..suite_format() }).await;
}

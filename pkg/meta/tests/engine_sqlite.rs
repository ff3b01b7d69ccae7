//! The SQLite engine over volumes that JuiceFS wrote, and beside other processes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_env::Env;
use cairn_meta::engine::{self, Options};
use cairn_meta::record::{Entry, QuotaKind};
use cairn_meta::txn::{Counter, Durability, Engine, Rely, Txn};
use cairn_meta::{Error, Result};
use cairn_types::{Attr, ChunkIndex, FileType, Ino, SessionId, SliceRecord, SliceRef};
use parking_lot::Mutex;
use rusqlite::Connection;
use serde_json::Value;

const NEW: Options = Options { create: true, read_only: false };

/// A copy of a volume that JuiceFS wrote.
struct Fixture {
    dir: tempfile::TempDir,
    manifest: Value,
}

impl Fixture {
    fn new(name: &str) -> Fixture {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../integration/fixtures").join(name);
        let dir = tempfile::tempdir().unwrap();
        // Read and written, not copied: the original may be read-only.
        std::fs::write(dir.path().join("meta.db"), std::fs::read(from.join("meta.db")).unwrap()).unwrap();
        let manifest = serde_json::from_slice(&std::fs::read(from.join("manifest.json")).unwrap()).unwrap();
        Fixture { dir, manifest }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("meta.db")
    }

    async fn open(&self, params: &str) -> Arc<dyn Engine> {
        open(&self.path(), params, Options::default()).await.unwrap()
    }
}

async fn open(path: &Path, params: &str, options: Options) -> Result<Arc<dyn Engine>> {
    engine::open(Env::real(), &format!("sqlite3://{}{params}", path.display()), options).await
}

async fn read<T: Send + 'static>(
    engine: &dyn Engine,
    mut step: impl FnMut(&mut dyn Txn) -> Result<T> + Send + 'static,
) -> Result<T> {
    let slot = Arc::new(Mutex::new(None));
    let filled = slot.clone();
    let work = move |tx: &mut dyn Txn| {
        *filled.lock() = Some(step(tx)?);
        Ok(())
    };
    engine.read(Box::new(work)).await?;
    let value = slot.lock().take();
    Ok(value.unwrap())
}

async fn write(
    engine: &dyn Engine,
    durability: Durability,
    step: impl FnMut(&mut dyn Txn) -> Result<()> + Send + 'static,
) -> Result<()> {
    engine.write(Box::new(step), durability).await
}

async fn refusal(path: &Path, params: &str, options: Options) -> String {
    match open(path, params, options).await {
        Err(Error::Refused(sentence)) => sentence,
        Err(other) => panic!("refused with {other:?}"),
        Ok(_) => panic!("opened"),
    }
}

/// A name as the manifest writes it: `%XX` stands for odd bytes.
fn unescape(s: &str) -> Vec<u8> {
    let (mut out, mut bytes) = (Vec::new(), s.bytes());
    while let Some(b) = bytes.next() {
        if b == b'%' {
            let hex = [bytes.next().unwrap(), bytes.next().unwrap()];
            out.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
        } else {
            out.push(b);
        }
    }
    out
}

fn resolve(tx: &mut dyn Txn, path: &str) -> Result<Ino> {
    let mut ino = Ino::ROOT;
    for name in path.split('/').filter(|name| *name != ".") {
        ino = tx.entry(ino, &unescape(name))?.ok_or(Error::NoEntry)?.ino;
    }
    Ok(ino)
}

const PLAIN: [&str; 17] = [
    "sqlite-acl-quota",
    "sqlite-block-1m",
    "sqlite-changelog",
    "sqlite-enc-aes",
    "sqlite-enc-chacha",
    "sqlite-enc-sm4",
    "sqlite-leaked",
    "sqlite-lz4",
    "sqlite-none-hashprefix",
    "sqlite-packed",
    "sqlite-shards",
    "sqlite-stale-session",
    "sqlite-tiers",
    "sqlite-trash-full",
    "sqlite-writeback-crash",
    "sqlite-zstd",
    "sqlite-table-prefix",
];

#[tokio::test]
async fn every_inode_of_every_juicefs_volume_reads_as_its_manifest_says() {
    for name in PLAIN {
        let fixture = Fixture::new(name);
        let engine = fixture.open(if name == "sqlite-table-prefix" { "?table_prefix=team1" } else { "" }).await;
        let tree = fixture.manifest["tree"].as_object().unwrap().clone();
        let seen = read(&*engine, move |tx| {
            let mut seen = 0;
            for (path, wanted) in &tree {
                let ino = resolve(tx, path)?;
                let attr = tx.attr(ino, Rely::ALL)?.ok_or(Error::NoEntry)?;
                check(tx, path, wanted, ino, &attr)?;
                seen += 1;
            }
            Ok(seen)
        })
        .await
        .unwrap();
        assert!(seen > 3, "{name}: {seen}");
        engine.close().await;
    }
}

fn check(tx: &mut dyn Txn, path: &str, wanted: &Value, ino: Ino, attr: &Attr) -> Result<()> {
    assert_eq!(wanted["ino"].as_u64(), Some(ino.0), "{path}");
    assert_eq!(wanted["mode"].as_str().map(|m| u16::from_str_radix(m, 8).unwrap()), Some(attr.mode), "{path}");
    assert_eq!((wanted["uid"].as_u64(), wanted["gid"].as_u64()), (Some(attr.uid.into()), Some(attr.gid.into())));
    assert_eq!(wanted["nlink"].as_u64(), Some(attr.nlink.into()), "{path}");
    assert_eq!(wanted["mtime_ns"].as_i64(), Some(attr.mtime.as_nanos()), "{path}");
    if attr.is_file() {
        assert_eq!(wanted["size"].as_u64(), Some(attr.length), "{path}");
        for index in tx.chunks(ino, ChunkIndex(0), 1000)? {
            assert!(!tx.slices(ino, index)?.is_empty(), "{path}");
        }
    }
    if let Some(target) = wanted["target"].as_str() {
        assert_eq!(tx.symlink(ino)?, Some(unescape(target)), "{path}");
    }
    if attr.is_dir() {
        let listed = tx.entries(ino, b"", 10_000, true)?;
        assert!(listed.iter().all(|e| e.attr.is_some()), "{path}");
        assert_eq!(tx.dir_is_empty(ino)?, listed.is_empty());
    }
    if attr.parent.0 == 0 {
        let names: u32 = tx.parents(ino)?.iter().map(|(_, n)| n).sum();
        assert_eq!(names, attr.nlink, "{path}");
    }
    for (name, value) in wanted["xattrs"].as_object().into_iter().flatten() {
        let Some(stored) = tx.xattr(ino, &unescape(name))? else { continue };
        let hex: String = stored.iter().map(|b| format!("{b:02x}")).collect();
        let value = value.as_str().unwrap();
        assert!(value == hex || value.starts_with("sha256:"), "{path} {name}");
    }
    Ok(())
}

#[tokio::test]
async fn counters_setting_quotas_and_rules_of_a_juicefs_volume_are_read() {
    let fixture = Fixture::new("sqlite-acl-quota");
    let engine = fixture.open("").await;
    let counters = fixture.manifest["counters"].clone();
    read(&*engine, move |tx| {
        assert_eq!(Some(tx.counter(Counter::UsedSpace)?), counters["usedSpace"].as_i64());
        assert_eq!(Some(tx.counter(Counter::NextInode)?), counters["nextInodes"].as_i64());
        assert!(tx.setting()?.unwrap().contains("\"Name\": \"sqlite-acl-quota\""));
        assert!(tx.any_dir_quota()?);
        assert_eq!(tx.quotas(QuotaKind::Dir)?.len(), 2);
        assert_eq!(tx.quotas(QuotaKind::User)?.len(), 2);
        let rule = tx.acl(2)?.unwrap();
        assert_eq!((rule.owner, rule.group, rule.mask, rule.users.len()), (6, 4, 5, 2));
        Ok(())
    })
    .await
    .unwrap();
    // A rule that JuiceFS stored is found again, not stored twice.
    write(&*engine, Durability::Process, |tx| {
        let rule = tx.acl(2)?.unwrap();
        assert_eq!(tx.intern_acl(&rule)?, 2);
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn appending_to_a_list_kept_as_text_keeps_every_byte() {
    let fixture = Fixture::new("sqlite-lz4");
    let find = "SELECT inode, indx, CAST(slices AS BLOB) FROM jfs_chunk WHERE typeof(slices) = 'text' LIMIT 1";
    let conn = Connection::open(fixture.path()).unwrap();
    let (ino, index, before): (i64, u32, Vec<u8>) =
        conn.query_row(find, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    let engine = fixture.open("").await;
    let (ino, index) = (Ino(ino as u64), ChunkIndex(index));
    let added = SliceRecord::whole(0, SliceRef { id: cairn_types::SliceId(0xFF00_0000_0000_FE00), size: 255 });
    let old = SliceRecord::decode_list(&before).unwrap();
    let count = old.len() as u32 + 1;
    write(&*engine, Durability::Process, move |tx| {
        assert_eq!(tx.slices(ino, index)?, old);
        assert_eq!(tx.append_slices(ino, index, &[added])?, count);
        Ok(())
    })
    .await
    .unwrap();
    let (class, after): (String, Vec<u8>) = conn
        .query_row(
            "SELECT typeof(slices), CAST(slices AS BLOB) FROM jfs_chunk WHERE inode = ?1 AND indx = ?2",
            [ino.0 as i64, i64::from(index.0)],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .unwrap();
    assert_eq!(class, "blob");
    assert_eq!(after, [before, added.encode().to_vec()].concat());
}

#[tokio::test]
async fn new_tables_are_word_for_word_those_of_juicefs() {
    let fixture = Fixture::new("sqlite-lz4");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new.db");
    let engine = open(&path, "", NEW).await.unwrap();
    engine.create_tables().await.unwrap();
    engine.create_tables().await.unwrap();
    engine.close().await;
    let schema = |path: &Path| -> Vec<(String, Option<String>)> {
        let conn = Connection::open(path).unwrap();
        let mut list = conn.prepare("SELECT name, sql FROM sqlite_master ORDER BY name").unwrap();
        list.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap().map(|r| r.unwrap()).collect()
    };
    assert_eq!(schema(&path), schema(&fixture.path()));
}

#[tokio::test]
async fn damaged_rows_are_corrupt_not_a_crash() {
    let fixture = Fixture::new("sqlite-damaged");
    let conn = Connection::open(fixture.path()).unwrap();
    conn.execute_batch(
        "INSERT INTO jfs_edge (parent, name, inode, type) VALUES (1, x'7a31', 900001, 99);
         INSERT INTO jfs_node SELECT 900002, 42, flags, mode, uid, gid, atime, mtime, ctime, atimensec, mtimensec,
             ctimensec, nlink, length, rdev, parent, access_acl_id, default_acl_id, tier_id FROM jfs_node LIMIT 1;
         INSERT INTO jfs_node SELECT 900003, type, flags, 'mode', uid, gid, atime, mtime, ctime, atimensec, mtimensec,
             ctimensec, nlink, length, rdev, parent, access_acl_id, default_acl_id, tier_id FROM jfs_node LIMIT 1;
         INSERT INTO jfs_node SELECT 900004, type, flags, mode, uid, gid, atime, mtime, ctime, 0, 0, 0, nlink, length,
             NULL, NULL, NULL, NULL, NULL FROM jfs_node WHERE inode = 1;
         INSERT INTO jfs_chunk (inode, indx, slices) VALUES (900002, 0, x'00112233');
         INSERT INTO jfs_delslices VALUES (900005, 0, x'00');
         INSERT INTO jfs_flock (inode, sid, owner, ltype) VALUES (900002, 1, -1, 7);
         INSERT INTO jfs_plock (inode, sid, owner, records) VALUES (900002, 1, -1, x'01');",
    )
    .unwrap();
    let engine = fixture.open("").await;
    let is_corrupt = |e: &Error| matches!(e, Error::Corrupt(_) | Error::CorruptChunk { .. });
    macro_rules! corrupt {
        ($step:expr) => {
            let outcome = read(&*engine, |tx: &mut dyn Txn| $step(tx).map(|_| ())).await;
            assert!(outcome.as_ref().is_err_and(is_corrupt), "{}: {outcome:?}", stringify!($step));
        };
    }
    corrupt!(|tx: &mut dyn Txn| tx.entry(Ino(1), b"z1"));
    corrupt!(|tx: &mut dyn Txn| tx.entries(Ino(1), b"", 1000, true));
    corrupt!(|tx: &mut dyn Txn| tx.attr(Ino(900_002), Rely::ALL));
    corrupt!(|tx: &mut dyn Txn| tx.attr(Ino(900_003), Rely::ALL));
    corrupt!(|tx: &mut dyn Txn| tx.slices(Ino(900_002), ChunkIndex(0)));
    corrupt!(|tx: &mut dyn Txn| tx.delayed(i64::MAX, 1000));
    corrupt!(|tx: &mut dyn Txn| tx.flocks(Ino(900_002)));
    corrupt!(|tx: &mut dyn Txn| tx.plocks(Ino(900_002)));
    let old = read(&*engine, |tx| tx.attr(Ino(900_004), Rely::ALL)).await.unwrap().unwrap();
    assert_eq!((old.rdev, old.parent, old.tier), (0, Ino(0), 0), "NULL reads as 0");
    let torn = write(&*engine, Durability::Process, |tx| {
        tx.append_slices(Ino(900_002), ChunkIndex(0), &[SliceRecord::hole(0, 1)]).map(|_| ())
    });
    assert!(torn.await.as_ref().is_err_and(is_corrupt));
    write(&*engine, Durability::Process, |tx| tx.remove_chunk(Ino(900_002), ChunkIndex(0))).await.unwrap();
}

#[tokio::test]
async fn what_is_no_volume_is_refused_with_a_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let check = |sentence: String, word: &str| assert!(sentence.contains(word), "{sentence}");
    check(refusal(&path("none.db"), "", Options::default()).await, "there is no database");
    assert!(!path("none.db").exists(), "a refused open leaves no file behind");

    std::fs::write(path("text.db"), "not a database, but long enough to be looked at as one. ".repeat(50)).unwrap();
    check(refusal(&path("text.db"), "", NEW).await, "is not an SQLite database");
    check(refusal(dir.path(), "", Options::default()).await, "is a directory");
    check(refusal(&path("no/such/dir.db"), "", NEW).await, "cannot open database");

    std::fs::write(path("empty.db"), "").unwrap();
    check(refusal(&path("empty.db"), "", Options::default()).await, "format a volume first");

    Connection::open(path("foreign.db")).unwrap().execute_batch("CREATE TABLE songs (id INTEGER)").unwrap();
    check(refusal(&path("foreign.db"), "", Options::default()).await, "songs");

    let half = open(&path("half.db"), "", NEW).await.unwrap();
    half.create_tables().await.unwrap();
    half.close().await;
    check(refusal(&path("half.db"), "", Options::default()).await, "format it again");
    open(&path("half.db"), "", NEW).await.unwrap().close().await;

    let fixture = Fixture::new("sqlite-lz4");
    check(refusal(&fixture.path(), "?table_prefix=team2", Options::default()).await, "jfs_team2_*");
    Connection::open(fixture.path()).unwrap().execute_batch("ALTER TABLE jfs_node DROP COLUMN tier_id").unwrap();
    check(refusal(&fixture.path(), "", Options::default()).await, "tier_id");
}

#[tokio::test]
async fn a_lock_held_elsewhere_is_busy_and_passes() {
    let fixture = Fixture::new("sqlite-lz4");
    let engine = fixture.open("?_timeout=50").await;
    let other = Connection::open(fixture.path()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let add = |tx: &mut dyn Txn| tx.add_counter(Counter::NextInode, 1);
    let busy = write(&*engine, Durability::Process, add).await.unwrap_err();
    assert!(busy.is_retryable() && busy.to_string().contains("locked"), "{busy}");
    assert!(read(&*engine, |tx| tx.setting()).await.unwrap().is_some(), "readers do not wait for writers");
    other.execute_batch("COMMIT").unwrap();
    write(&*engine, Durability::Process, add).await.unwrap();
}

#[tokio::test]
async fn a_read_only_engine_reads_and_refuses_to_write() {
    let fixture = Fixture::new("sqlite-lz4");
    let engine = open(&fixture.path(), "", Options { create: false, read_only: true }).await.unwrap();
    assert!(read(&*engine, |tx| tx.attr(Ino::ROOT, Rely::ALL)).await.unwrap().is_some());
    let refused = write(&*engine, Durability::Process, |tx| tx.add_counter(Counter::NextInode, 1)).await;
    assert!(matches!(refused, Err(Error::ReadOnly)));
    assert!(matches!(engine.create_tables().await, Err(Error::ReadOnly)));
    engine.close().await;
}

#[tokio::test]
async fn names_stored_as_text_by_old_volumes_are_found_and_sorted() {
    let fixture = Fixture::new("sqlite-shards");
    Connection::open(fixture.path())
        .unwrap()
        .execute_batch(
            "DROP TABLE jfs_edge;
             CREATE TABLE `jfs_edge` (`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `parent` INTEGER NOT NULL,
                 `name` TEXT NOT NULL, `inode` INTEGER NOT NULL, `type` INTEGER NOT NULL);
             CREATE UNIQUE INDEX `UQE_jfs_edge_edge` ON `jfs_edge` (`parent`,`name`);
             INSERT INTO jfs_edge (parent, name, inode, type) VALUES (1, 'b', 11, 1), (1, x'61', 10, 1), (1, 'd', 12, 1);",
        )
        .unwrap();
    let engine = fixture.open("").await;
    write(&*engine, Durability::Process, |tx| {
        assert_eq!(tx.entry(Ino(1), b"b")?.map(|e| e.ino), Some(Ino(11)));
        tx.insert_entry(Ino(1), b"c", Entry { ino: Ino(13), kind: FileType::File })?;
        tx.replace_entry(Ino(1), b"b", Entry { ino: Ino(14), kind: FileType::File })?;
        tx.remove_entry(Ino(1), b"d")
    })
    .await
    .unwrap();
    let names = read(&*engine, |tx| {
        let page = tx.entries(Ino(1), b"a", 1, false)?;
        assert_eq!((page[0].name.as_slice(), page[0].entry.ino), (&b"b"[..], Ino(14)));
        Ok(tx.entries(Ino(1), b"", 10, true)?.into_iter().map(|e| e.name).collect::<Vec<_>>())
    });
    assert_eq!(names.await.unwrap(), [b"a", b"b", b"c"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_polling_client_gets_the_lock_from_a_busy_writer() {
    let fixture = Fixture::new("sqlite-lz4");
    let engine = fixture.open("").await;
    let other = Connection::open(fixture.path()).unwrap();
    other.execute("INSERT INTO jfs_session2 (sid, expire, info) VALUES (77, 1 << 40, x'7b7d')", []).unwrap();
    write(&*engine, Durability::Process, |tx| {
        let info = "{}".to_string();
        tx.put_session(&cairn_meta::record::SessionRecord { sid: SessionId(78), expire_secs: 1 << 40, info })
    })
    .await
    .unwrap();
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = done.clone();
    let load = async {
        while !flag.load(std::sync::atomic::Ordering::Relaxed) {
            let writes =
                (0..64).map(|_| write(&*engine, Durability::Process, |tx| tx.add_counter(Counter::NextInode, 1)));
            futures::future::try_join_all(writes).await.unwrap();
        }
    };
    let polling = tokio::task::block_in_place(|| {
        std::thread::spawn(move || {
            other.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
            for _ in 0..3 {
                other.execute_batch("BEGIN IMMEDIATE; COMMIT").unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        })
    });
    load.await;
    polling.join().unwrap();
}

/// What the change log says, without times and sequence numbers.
fn changes(path: &Path) -> Vec<String> {
    let conn = Connection::open(path).unwrap();
    let mut rows = conn.prepare("SELECT entry FROM jfs_change_log ORDER BY id").unwrap();
    let entries = rows.query_map([], |row| row.get::<_, String>(0)).unwrap();
    entries.map(|e| e.unwrap().split('|').nth(1).unwrap().to_owned()).collect()
}

/// Each record stands beside one of `fixtures/sqlite-changelog` that differs in numbers and names only.
#[tokio::test]
async fn the_change_log_reads_as_juicefs_writes_it() {
    use cairn_meta::record::FlockKind;
    use cairn_meta::{Config, Cred, FallocMode, Meta, NewNode, NewSlice, RenameMode, SetAttr, SetTime, XattrMode};

    let (env, dir) = (Env::real(), tempfile::tempdir().unwrap());
    let path = dir.path().join("meta.db");
    let engine = open(&path, "", NEW).await.unwrap();
    let format = cairn_types::Format { change_log: true, trash_days: 1, ..cairn_types::Format::default() };
    cairn_meta::format_volume(&env, &*engine, &format).await.unwrap();
    let config = Config { skip_dir_mtime: std::time::Duration::ZERO, ..Config::mount() };
    let meta = Meta::open(env, engine, config).await.unwrap();
    let (root, top) = (Cred::root(), Ino::ROOT);
    let dir = NewNode { umask: 0o22, ..NewNode::dir(0o777) };
    meta.mknod(&root, top, b"src", dir).await.unwrap();
    let a = meta.mknod(&root, Ino(2), b"a,b", NewNode::file(0o644)).await.unwrap().0;
    let b = meta.mknod(&root, Ino(2), b"b", NewNode::file(0o644)).await.unwrap().0;
    meta.mknod(&root, top, b"l", NewNode::symlink(b"bad-\xff/x")).await.unwrap();
    let mtime = cairn_types::Timestamp { secs: 1_795_228_311, nanos: 222_439_953 };
    let slices = [0, 1000].map(|pos| {
        let slice = SliceRef { id: cairn_types::SliceId(u64::from(pos) + 1), size: 1000 };
        NewSlice { index: ChunkIndex(0), record: SliceRecord::whole(pos, slice), mtime }
    });
    meta.commit(a, slices.to_vec(), None, Durability::Process).await.unwrap();
    meta.link(&root, a, top, b"two").await.unwrap();
    meta.truncate(&root, a, 300, true).await.unwrap();
    meta.fallocate(&root, a, FallocMode::from_bits(3).unwrap(), 10, 20).await.unwrap();
    meta.copy_range(&root, (a, 0), (b, 50), 100).await.unwrap();
    let epoch = Some(SetTime::At(cairn_types::Timestamp { secs: 0, nanos: 0 }));
    let new = meta.setattr(&root, b, SetAttr { atime: epoch, mtime: epoch, ..Default::default() }).await.unwrap();
    meta.setxattr(&root, b, b"user.text", b"value", XattrMode::Set).await.unwrap();
    meta.removexattr(&root, b, b"user.text").await.unwrap();
    meta.flock(b, 7, Some(FlockKind::Write)).await.unwrap();
    meta.flock(b, 7, None).await.unwrap();
    meta.set_plock(b, 8, Some(FlockKind::Write), (5, 14), 99).await.unwrap();
    meta.rename(&root, (Ino(2), b"b"), (top, b"l"), RenameMode::Replace).await.unwrap();
    meta.unlink(&root, top, b"two", true).await.unwrap();
    meta.close().await;

    let (hour, ctime) = (Ino::TRASH.0 + 1, new.ctime);
    let mut found = changes(&path);
    let made = found.iter().position(|c| c.starts_with(&format!("CREATE({},", Ino::TRASH))).unwrap();
    assert!(found.remove(made).ends_with(&format!(",0,0,2,365,0,,linux,false):{hour}")), "{found:?}");
    let expected = [
        "INCR_COUNTER(nextInode,1024)".to_owned(),
        "CREATE(1,src,0,0,2,511,18,,linux,true):2".to_owned(),
        "CREATE(2,a%2Cb,0,0,1,420,0,,linux,true):3".to_owned(),
        "CREATE(2,b,0,0,1,420,0,,linux,true):4".to_owned(),
        "CREATE(1,l,0,0,3,511,0,bad-%FF/x,linux,true):5".to_owned(),
        "WRITE(3,0,0,1,1000,1795228311,222439953):1".to_owned(),
        "WRITE(3,0,1000,1001,1000,1795228311,222439953):2".to_owned(),
        "LINK(3,1,two,true):2".to_owned(),
        "TRUNCATE(3,2000,300,1)".to_owned(),
        "FALLOCATE(3,10,20,3)".to_owned(),
        "COPYFILERANGE(3,0,4,50,100):150".to_owned(),
        format!("SETATTR(4,48,0,0,0,420,0,0,0,0,0,{},{},0)", ctime.secs, ctime.nanos),
        "SETXATTR(4,user.text,value,0)".to_owned(),
        "REMOVEXATTR(4,user.text)".to_owned(),
        "FLOCK(4,7,W)".to_owned(),
        "FLOCK(4,7,U)".to_owned(),
        "SETLK(4,8,W,5,14,99)".to_owned(),
        format!("MOVE(2,b,1,l,0,5,{hour}):4"),
        "UNLINK(1,two,0,false,true):3".to_owned(),
    ];
    assert_eq!(found, expected);
}

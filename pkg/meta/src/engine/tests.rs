use std::path::Path;

use cairn_types::{Attr, ChunkIndex, FileType, Ino, SliceRecord};

use super::mem::{Faults, MemEngine};
use super::sqlite::SqliteEngine;
use super::testing::{read, txn_suite, write};
use super::*;
use crate::record::Entry;
use crate::txn::{Counter, Durability, Rely};

const NEW: Options = Options { create: true, read_only: false };

async fn fresh(dir: &Path, env: &Env) -> Arc<SqliteEngine> {
    let engine = SqliteEngine::open(env.clone(), dir.join("meta.db").to_str().unwrap(), NEW).unwrap();
    engine.create_tables().await.unwrap();
    engine
}

async fn add(engine: &dyn Engine, name: &'static [u8], durability: Durability) -> Result<()> {
    write(engine, durability, move |tx| {
        tx.add_counter(Counter::UsedSpace, 1)?;
        tx.insert_entry(Ino(1), name, Entry { ino: Ino(2), kind: FileType::File })
    })
    .await
}

async fn has(engine: &dyn Engine, name: &'static [u8]) -> bool {
    read(engine, move |tx| tx.entry(Ino(1), name)).await.unwrap().is_some()
}

#[tokio::test]
async fn memory_passes_the_suite() {
    txn_suite(MemEngine::new(Env::real())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_passes_the_suite() {
    let dir = tempfile::tempdir().unwrap();
    let engine = fresh(dir.path(), &Env::real()).await;
    txn_suite(engine.clone()).await;
    engine.close().await;
    assert!(read(&*engine, |tx| tx.setting()).await.is_err(), "a closed engine answers nothing");
    assert!(write(&*engine, Durability::Process, |tx| tx.setting()).await.is_err());
    assert!(!dir.path().join("meta.db-wal").exists(), "closing empties the log");
}

#[tokio::test]
async fn sqlite_with_a_prefix_passes_the_suite() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite3://{}?table_prefix=team1&_journal=DELETE", dir.path().join("m.db").display());
    let engine = open(Env::real(), &url, NEW).await.unwrap();
    engine.create_tables().await.unwrap();
    txn_suite(engine).await;
}

#[tokio::test]
async fn a_power_cut_loses_what_was_promised_to_the_process_only() {
    let engine = MemEngine::new(Env::real());
    add(&*engine, b"safe", Durability::Power).await.unwrap();
    add(&*engine, b"lost", Durability::Process).await.unwrap();
    assert_eq!(engine.power_cut(), 2);
    assert!(has(&*engine, b"safe").await && !has(&*engine, b"lost").await);
    assert_eq!(read(&*engine, |tx| tx.counter(Counter::UsedSpace)).await.unwrap(), 1);
    add(&*engine, b"early", Durability::Process).await.unwrap();
    add(&*engine, b"later", Durability::Power).await.unwrap();
    assert_eq!(engine.power_cut(), 0);
    assert!(has(&*engine, b"early").await, "a later sync covers what came before it");
}

#[tokio::test(start_paused = true)]
async fn memory_fails_and_delays_when_asked_to() {
    let env = Env::simulated(1);
    let engine = MemEngine::new(env.clone());
    engine.set_faults(Faults { busy_percent: 100, ..Faults::default() });
    assert!(add(&*engine, b"a", Durability::Power).await.unwrap_err().is_retryable());
    engine.set_faults(Faults { delay: std::time::Duration::from_secs(5), ..Faults::default() });
    let before = env.now();
    add(&*engine, b"a", Durability::Power).await.unwrap();
    assert!(env.now() > before);
    engine.close().await;
    assert!(read(&*engine, |tx| tx.setting()).await.is_err());
    engine.reopen();
    assert!(has(&*engine, b"a").await);
}

#[tokio::test]
async fn a_torn_slice_list_is_corrupt_in_memory() {
    let engine = MemEngine::new(Env::real());
    engine.put_raw_chunk(Ino(2), ChunkIndex(0), vec![0; 25]);
    let torn = read(&*engine, |tx| tx.slices(Ino(2), ChunkIndex(0))).await;
    assert!(matches!(torn, Err(Error::CorruptChunk { ino: Ino(2), .. })));
    write(&*engine, Durability::Process, |tx| tx.remove_chunk(Ino(2), ChunkIndex(0))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_cannot_commit_is_run_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let env = Env::real();
    let engine = fresh(dir.path(), &env).await;
    env.failpoints().arm("sqlite.commit", 1);
    let all = [&b"a"[..], b"b", b"c", b"a"].map(|name| add(&*engine, name, Durability::Process));
    let outcomes = futures::future::join_all(all).await;
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 3, "{outcomes:?}");
    assert!(has(&*engine, b"a").await && has(&*engine, b"b").await && has(&*engine, b"c").await);
    assert_eq!(read(&*engine, |tx| tx.counter(Counter::UsedSpace)).await.unwrap(), 3);
}

#[tokio::test]
async fn an_operation_that_panics_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    let engine = fresh(dir.path(), &Env::real()).await;
    let panicked = write(&*engine, Durability::Process, |tx| -> Result<()> {
        tx.insert_attr(Ino(7), &Attr::default())?;
        panic!("as the test wants");
    });
    assert!(panicked.await.is_err());
    add(&*engine, b"next", Durability::Process).await.unwrap();
    assert_eq!(read(&*engine, |tx| tx.attr(Ino(7), Rely::ALL)).await.unwrap(), None);
}

#[tokio::test]
async fn a_reading_operation_cannot_write() {
    let dir = tempfile::tempdir().unwrap();
    let engine = fresh(dir.path(), &Env::real()).await;
    assert!(read(&*engine, |tx| tx.insert_attr(Ino(7), &Attr::default())).await.is_err());
    let list = read(&*engine, |tx| tx.slices(Ino(7), ChunkIndex(0))).await.unwrap();
    assert_eq!(list, Vec::<SliceRecord>::new());
}

#[tokio::test]
async fn engines_that_are_not_here_are_named() {
    for url in ["tikv://x", "etcd://x", "foo://x"] {
        let Err(Error::Refused(sentence)) = open(Env::real(), url, NEW).await else { panic!("{url} opened") };
        assert!(sentence.contains("sqlite3://"), "{sentence}");
    }
    assert_eq!(open(Env::real(), "memkv://x", NEW).await.unwrap().describe(), "memkv://x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_checkpointed_while_the_writer_never_rests() {
    let dir = tempfile::tempdir().unwrap();
    let engine = fresh(dir.path(), &Env::real()).await;
    let mut round = 0;
    // How soon depends on the disk; at the latest when the log is far too long.
    while std::fs::metadata(dir.path().join("meta.db")).unwrap().len() < 8 << 20 {
        assert!(round < 4000, "the log was never checkpointed");
        write(&*engine, Durability::Process, move |tx| {
            (0..32).try_for_each(|n| tx.insert_symlink(Ino(1000 * round + n + 1), &[7; 4000]))
        })
        .await
        .unwrap();
        round += 1;
    }
    engine.close().await;
    let engine = SqliteEngine::open(Env::real(), dir.path().join("meta.db").to_str().unwrap(), NEW).unwrap();
    assert!(read(&*engine, move |tx| tx.symlink(Ino(1000 * (round - 1) + 32))).await.unwrap().is_some());
}

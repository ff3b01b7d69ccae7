//! Things too large for one answer.

use super::*;
use cairn_types::Attr;

/// Makes `count` empty files in a directory, past us.
async fn fill(m: &Mounted, dir: Ino, count: u64) {
    let mut own = m.server.connection().await;
    let first: u64 =
        redis::cmd("INCRBY").arg("nextinode").arg(count).query_async::<u64>(&mut own).await.unwrap() - count + 1;
    let now = m.meta.now();
    let attr = Attr { mode: 0o644, nlink: 1, parent: dir, atime: now, mtime: now, ctime: now, ..Attr::default() };
    let mut all = redis::pipe();
    for n in 0..count {
        let entry = crate::record::Entry { ino: Ino(first + n), kind: cairn_types::FileType::File };
        all.cmd("SET").arg(format!("i{}", first + n)).arg(attr.encode()).ignore();
        all.cmd("HSET").arg(format!("d{dir}")).arg(format!("name{n:06}")).arg(program::entry_bytes(entry)).ignore();
    }
    let grown = i64::try_from(count).unwrap();
    for (hash, by) in [("dirUsedSpace", 4096 * grown), ("dirUsedInodes", grown)] {
        all.cmd("HINCRBY").arg(hash).arg(dir.0).arg(by).ignore();
    }
    all.cmd("INCRBY").arg("usedSpace").arg(4096 * grown).ignore();
    all.cmd("INCRBY").arg("totalInodes").arg(grown).ignore();
    all.query_async::<()>(&mut own).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_directory_is_listed_in_order_page_by_page() {
    let m = mounted(&Format { user_group_quota: false, ..suite_format() }).await;
    let root = Cred::root();
    let (dir, _) = m.meta.mknod(&root, Ino::ROOT, b"dir", NewNode::dir(0o755)).await.unwrap();
    fill(&m, dir, 5000).await;
    let (mut names, mut after) = (Vec::new(), Vec::new());
    loop {
        let page = m.meta.readdir(dir, &after, 700, true).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.name.clone();
        assert!(page.iter().all(|e| e.attr.is_some()), "each comes with its attributes");
        names.extend(page.into_iter().map(|e| e.name));
        if names.len() == 700 {
            // What goes while somebody lists is not listed; what was listed stays listed.
            m.meta.unlink(&root, dir, b"name000010", true).await.unwrap();
            m.meta.unlink(&root, dir, b"name004000", true).await.unwrap();
        }
    }
    let expected = (0..5000).filter(|n| *n != 4000).map(|n| format!("name{n:06}").into_bytes());
    assert!(names.iter().eq(expected.collect::<Vec<_>>().iter()), "{} names", names.len());
    let (again, trips) = m.timed(m.meta.readdir(dir, b"name004990", 100, false)).await;
    assert_eq!(again.unwrap().len(), 9);
    assert!(trips <= 6, "the end of a listing took {trips}");
    assert_eq!(m.meta.view(crate::testing::CheckInvariants).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_volume_is_read_record_by_record() {
    let m = mounted(&suite_format()).await;
    let root = Cred::root();
    for n in 0..40 {
        let (dir, _) = m.meta.mknod(&root, Ino::ROOT, format!("d{n}").as_bytes(), NewNode::dir(0o755)).await.unwrap();
        m.meta.mknod(&root, dir, b"f", NewNode::file(0o644)).await.unwrap();
    }
    let (broken, trips) = m.timed(m.meta.view(crate::testing::CheckInvariants)).await;
    assert_eq!(broken.unwrap(), Vec::<String>::new());
    assert!(trips < 500, "each record is fetched once or twice: {trips}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_of_a_vast_file_are_found_and_deleted_without_a_search() {
    let m = mounted(&Format { trash_days: 0, ..suite_format() }).await;
    let root = Cred::root();
    let (file, _) = m.meta.mknod(&root, Ino::ROOT, b"f", NewNode::file(0o644)).await.unwrap();
    for index in [0, 9_999, 10_000, 29_999] {
        let slice = m.meta.next_slice_id().await.unwrap();
        m.meta.commit(file, vec![new_slice(index, slice)], None, Durability::Process).await.unwrap();
    }
    let found = m.meta.chunks(file, ChunkIndex(1), 10).await.unwrap();
    assert_eq!(found, [9_999, 10_000, 29_999].map(ChunkIndex));
    let short = m.costs(4, "a truncate over 30,000 chunks", m.meta.truncate(&root, file, 5, true)).await;
    assert_eq!(short.length, 5);
    m.meta.truncate(&root, file, 30_000 << 26, true).await.unwrap();
    let crate::Fate::Deleted(gone) = m.meta.unlink(&root, Ino::ROOT, b"f", false).await.unwrap().fate else { panic!() };
    let op = crate::ops::data::DeleteChunks { ino: file, length: gone.length, limit: 100 };
    let done = m.meta.run(op).await.unwrap();
    assert!(done.done && done.unowned.len() == 4, "{done:?}");
    let mut own = m.server.connection().await;
    let left: Vec<String> = redis::cmd("KEYS").arg("c*").query_async(&mut own).await.unwrap();
    assert_eq!(left, Vec::<String>::new());
}

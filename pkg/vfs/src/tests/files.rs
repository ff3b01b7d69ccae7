//! Reading and writing.

use cairn_meta::{Error as MetaError, FallocMode, SetAttr, SetTime};
use cairn_types::layout::chunk_start;
use cairn_types::{CHUNK_BYTES, ChunkIndex, MAX_FILE_BYTES, Timestamp};
use futures::FutureExt;

use super::*;
use crate::{Error, Whence};

#[tokio::test(start_paused = true)]
async fn a_reader_sees_writes_that_nobody_flushed() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    w.write(fh, 0, b"hello world").await;
    w.write(fh, 6, b"there").await;
    assert_eq!(&w.read(fh, 0, 100).await[..], b"hello there");
    assert_eq!(w.length(ino).await, 11);
    assert_eq!(w.store.puts(), 0, "reading flushes nothing");
    w.close(fh).await;
    assert_eq!(&w.peer().await.content(ino).await[..], b"hello there");
}

#[tokio::test(start_paused = true)]
async fn what_memory_answers_is_done_at_the_first_poll() {
    let w = World::new().await;
    let (_, fh) = w.create("a").await;
    w.write(fh, 0, b"first").await;
    let taken = w.vfs.write_now(&w.root, fh, 5, b" second", false);
    assert_eq!(taken.expect("now").expect("taken"), 7);
    let bytes = w.vfs.read(&w.root, fh, 0, 100).now_or_never().expect("at the first poll").expect("reads");
    assert_eq!(&bytes[..], b"first second");
    w.fsync(fh).await.expect("stored");
    w.read(fh, 0, 100).await;
    let again = w.vfs.read(&w.root, fh, 0, 100).now_or_never();
    assert!(again.is_some(), "a committed block in the cache needs no wait either");
    assert!(w.vfs.write_now(&w.root, fh, 0, b"x", true).is_none(), "a durable write waits");
}

#[tokio::test(start_paused = true)]
async fn sequential_writes_are_one_slice_a_chunk() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    let start = CHUNK_BYTES - 100 * KIB as u64;
    let data = pattern(1, 200 * KIB);
    for (i, piece) in data.chunks(10 * KIB).enumerate() {
        w.write(fh, start + (i * 10 * KIB) as u64, piece).await;
    }
    w.fsync(fh).await.expect("stored");
    for (index, len) in [(0, 100 * KIB), (1, 100 * KIB)] {
        let records = w.vfs.meta().raw_slices(ino, ChunkIndex(index)).await.expect("a list");
        assert_eq!(records.len(), 1, "chunk {index}: {records:?}");
        assert_eq!(records[0].len as usize, len);
    }
    assert_eq!(w.read(fh, start, data.len()).await, data);
    assert!(w.read(fh, start - 10, 10).await.iter().all(|b| *b == 0), "a hole is zeros");
}

#[tokio::test(start_paused = true)]
async fn slices_commit_in_the_order_they_were_begun() {
    let w = World::with(format(), Config { pack_bytes: 0, ..config() }, Parts::none()).await;
    let (ino, fh) = w.create("a").await;
    for i in (0..40u64).rev() {
        w.write(fh, i * 5000, &pattern(i as usize, 4000)).await;
    }
    w.write(fh, 100, &pattern(77, 150_000)).await;
    w.fsync(fh).await.expect("stored");
    let records = w.vfs.meta().raw_slices(ino, ChunkIndex(0)).await.expect("a list");
    assert_eq!(records.len(), 40, "the last write goes on in the newest slice");
    assert!(records.iter().rev().is_sorted_by_key(|r| r.pos), "newest last");
    assert_eq!(w.content(ino).await[100..150_100], pattern(77, 150_000));
}

#[tokio::test(start_paused = true)]
async fn appends_of_two_handles_follow_each_other() {
    let w = World::new().await;
    let (ino, fh) = w.create("log").await;
    let flags = OpenFlags { append: true, ..OpenFlags::writing() };
    let a = w.vfs.open(&w.root, ino, flags).await.expect("opens").fh;
    let b = w.vfs.open(&w.root, ino, flags).await.expect("opens").fh;
    w.write(a, 0, b"one ").await;
    w.write(b, 0, b"two ").await;
    w.fsync(a).await.expect("stored");
    w.write(a, 999, b"three ").await;
    assert_eq!(w.vfs.write_now(&w.root, b, 3, b"four", false).expect("now").expect("taken"), 4);
    assert_eq!(&w.read(fh, 0, 100).await[..], b"one two three four");
}

#[tokio::test(start_paused = true)]
async fn an_old_slice_never_undoes_a_truncate() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    w.write(fh, 0, &pattern(1, 100 * KIB)).await;
    let set = |len| w.vfs.setattr(&w.root, ino, Some(fh), SetAttr::default(), Some(len));
    assert_eq!(set(10).await.expect("cut").length, 10);
    w.settle().await;
    assert_eq!(w.length(ino).await, 10);
    assert_eq!(set(30).await.expect("grown").length, 30);
    let mut expected = pattern(1, 10);
    expected.resize(30, 0);
    assert_eq!(w.content(ino).await, expected);
    w.write(fh, 20, b"xyz").await;
    expected[20..23].copy_from_slice(b"xyz");
    w.close(fh).await;
    assert_eq!(w.peer().await.content(ino).await, expected);
}

#[tokio::test(start_paused = true)]
async fn opening_with_truncate_empties_the_file() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    w.write(fh, 0, b"old old old").await;
    let flags = OpenFlags { truncate: true, ..OpenFlags::writing() };
    let opened = w.vfs.open(&w.root, ino, flags).await.expect("opens");
    assert_eq!(opened.attr.length, 0);
    w.write(opened.fh, 0, b"new").await;
    assert_eq!(&w.content(ino).await[..], b"new");
}

#[tokio::test(start_paused = true)]
async fn punching_and_copying_see_what_is_not_committed() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    let (copy, to) = w.create("b").await;
    w.write(fh, 0, &pattern(1, 1000)).await;
    let punch = FallocMode::from_bits(3).expect("a mode");
    w.vfs.fallocate(&w.root, fh, punch, 100, 200).await.expect("punches");
    w.write(fh, 150, b"new").await;
    w.write(to, 0, &pattern(9, 50)).await;
    let copied = w.vfs.copy_range(&w.root, fh, 0, to, 20, 5000).await.expect("copies");
    assert_eq!(copied, 1000);
    let mut expected = pattern(1, 1000);
    expected[100..300].fill(0);
    expected[150..153].copy_from_slice(b"new");
    assert_eq!(w.content(ino).await, expected);
    let mut joined = pattern(9, 20);
    joined.extend(&expected);
    assert_eq!(w.content(copy).await, joined);
}

#[tokio::test(start_paused = true)]
async fn seek_finds_data_and_holes_exactly() {
    let w = World::new().await;
    let (ino, fh) = w.create("sparse").await;
    let far = chunk_start(ChunkIndex(5000)) + 12_345;
    w.write(fh, 1000, b"0123456789").await;
    w.fsync(fh).await.expect("stored");
    w.write(fh, far, b"far").await;
    let seek = |offset, whence| w.vfs.lseek(&w.root, fh, offset, whence);
    assert_eq!(seek(0, Whence::Data).await.expect("data"), 1000);
    assert_eq!(seek(1005, Whence::Data).await.expect("data"), 1005);
    assert_eq!(seek(1005, Whence::Hole).await.expect("a hole"), 1010);
    assert_eq!(seek(0, Whence::Hole).await.expect("a hole"), 0);
    assert_eq!(seek(1010, Whence::Data).await.expect("dirty data"), far);
    assert_eq!(seek(far + 1, Whence::Hole).await.expect("the end is a hole"), far + 3);
    w.fsync(fh).await.expect("stored");
    assert_eq!(seek(1010, Whence::Data).await.expect("data"), far);
    w.vfs.setattr(&w.root, ino, Some(fh), SetAttr::default(), Some(far + 100)).await.expect("grows");
    let beyond = seek(far + 3, Whence::Data).await;
    assert!(matches!(beyond, Err(Error::Meta(MetaError::NoOffset))), "{beyond:?}");
    let outside = seek(far + 100, Whence::Hole).await;
    assert!(matches!(outside, Err(Error::Meta(MetaError::NoOffset))), "{outside:?}");
}

#[tokio::test(start_paused = true)]
async fn each_change_of_content_moves_mtime_and_utimes_wins_over_earlier_writes() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    let mtime = || async { w.vfs.getattr(&w.root, ino).await.expect("attributes").mtime };
    let mut last = mtime().await;
    for i in 0..5 {
        w.write(fh, i, b"x").await;
        let now = mtime().await;
        assert!(now > last, "write {i}");
        last = now;
    }
    let wanted = Timestamp { secs: 1_000_000_000, nanos: 5 };
    let set = SetAttr { mtime: Some(SetTime::At(wanted)), ..SetAttr::default() };
    w.vfs.setattr(&w.root, ino, None, set, None).await.expect("utimes");
    assert_eq!(mtime().await, wanted);
    w.fsync(fh).await.expect("stored");
    assert_eq!(mtime().await, wanted);
    assert_eq!(w.peer().await.vfs.getattr(&w.root, ino).await.expect("attributes").mtime, wanted);
    w.write(fh, 0, b"y").await;
    w.fsync(fh).await.expect("stored");
    assert!(mtime().await > wanted);
    let future = Timestamp { secs: 4_000_000_000, nanos: 0 };
    let set = SetAttr { mtime: Some(SetTime::At(future)), ..SetAttr::default() };
    w.vfs.setattr(&w.root, ino, None, set, None).await.expect("utimes");
    w.write(fh, 0, b"z").await;
    assert!(mtime().await < future, "a write is made now");
    w.fsync(fh).await.expect("stored");
    assert!(mtime().await < future);
}

#[tokio::test(start_paused = true)]
async fn a_file_ends_at_two_to_the_57() {
    let w = World::new().await;
    let (_, fh) = w.create("a").await;
    let over = w.vfs.write(&w.root, fh, MAX_FILE_BYTES - 1, b"ab", false).await;
    assert!(matches!(over, Err(Error::Meta(MetaError::TooLarge))), "{over:?}");
    let over = w.vfs.write_now(&w.root, fh, u64::MAX - 1, b"ab", false).expect("now");
    assert!(matches!(over, Err(Error::Meta(MetaError::TooLarge))), "{over:?}");
    w.write(fh, MAX_FILE_BYTES - 1, b"a").await;
    assert_eq!(&w.read(fh, MAX_FILE_BYTES - 2, 10).await[..], [0, b'a']);
}

#[tokio::test(start_paused = true)]
async fn a_sequential_reader_finds_its_blocks_fetched() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    let data = pattern(3, 2 * MIB);
    w.write(fh, 0, &data).await;
    w.close(fh).await;
    let peer = w.peer().await;
    let slow = Duration::from_millis(5);
    w.store.set_faults(cairn_object::testing::Faults { delay_max: slow, ..Default::default() });
    let fh = peer.open(ino).await;
    for (i, piece) in data.chunks(16 * KIB).enumerate() {
        assert_eq!(peer.read(fh, (i * 16 * KIB) as u64, 16 * KIB).await, piece);
    }
    let blocks = (data.len() / BLOCK as usize) as u64;
    peer.env.sleep(slow).await;
    assert_eq!(peer.store.gets(), blocks, "each block is fetched once");
    assert!(peer.chunk.stats().prefetched_blocks > blocks / 2, "{:?}", peer.chunk.stats());
}

#[tokio::test(start_paused = true)]
async fn a_missing_block_is_looked_for_in_a_fresh_list() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    w.write(fh, 0, &pattern(1, 1000)).await;
    w.fsync(fh).await.expect("stored");
    let peer = w.peer().await;
    let reader = peer.open(ino).await;
    // Holds the list in its hands, and only one of the two blocks' bytes.
    assert_eq!(peer.vfs.meta().slices(ino, ChunkIndex(0)).await.expect("a list").len(), 1);
    let old = w.vfs.meta().raw_slices(ino, ChunkIndex(0)).await.expect("a list")[0].slice().expect("a slice");
    w.write(fh, 0, &pattern(2, 1000)).await;
    w.fsync(fh).await.expect("stored");
    w.chunk.delete(old).await.expect("deleted, as after compaction");
    assert_eq!(peer.read(reader, 0, 1000).await, pattern(2, 1000));
}

#[tokio::test(start_paused = true)]
async fn more_than_the_buffer_can_be_written() {
    let w = World::new().await;
    let mut files = Vec::new();
    for i in 0..200 {
        let (ino, fh) = w.create(&format!("f{i}")).await;
        w.write(fh, 0, &pattern(i, 60 * KIB)).await;
        w.write(fh, 200 * KIB as u64, &pattern(i + 1, 60 * KIB)).await;
        files.push(ino);
    }
    for (i, ino) in files.into_iter().enumerate() {
        let content = w.content(ino).await;
        assert_eq!(content[..60 * KIB], pattern(i, 60 * KIB));
        assert_eq!(content[200 * KIB..], pattern(i + 1, 60 * KIB));
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_of_many_small_runs_is_flushed_on_the_way() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    for i in 0..6000u64 {
        w.write(fh, (i * 7919 % 6000) * 10, &[i as u8; 5]).await;
    }
    let content = w.content(ino).await;
    for i in 0..6000usize {
        let at = (i * 7919 % 6000) * 10;
        assert_eq!(content[at..at + 5], [i as u8; 5]);
    }
    w.fsync(fh).await.expect("stored");
    assert_eq!(w.peer().await.content(ino).await, content);
}

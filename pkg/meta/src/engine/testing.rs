//! What every engine must do with records: plain reading, changing, paging, counting, undoing.
//!
//! POSIX meaning is not tested here; an engine knows none.

use std::sync::Arc;

use cairn_types::{
    AclEntry, AclRule, Attr, ChunkIndex, FileType, Flags, Ino, SessionId, SliceId, SliceRecord, SliceRef, Timestamp,
};
use parking_lot::Mutex;

use crate::record::{
    DelayedSlices, DeletedFile, DirStat, Entry, FlockKind, LockOwner, PlockRange, Quota, QuotaKey, QuotaKind,
    SessionRecord,
};
use crate::txn::{AttrChange, Counter, Durability, Engine, Rely, Txn};
use crate::{Error, Result};

/// Runs `step` in one transaction of its own and commits it.
pub async fn write<T: Send + 'static>(
    engine: &dyn Engine,
    durability: Durability,
    step: impl FnMut(&mut dyn Txn) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (slot, work) = slotted(step);
    engine.write(work, durability).await?;
    let value = slot.lock().take();
    Ok(value.expect("the engine ran what it reports done"))
}

/// Runs `step`, which changes nothing, over one view.
pub async fn read<T: Send + 'static>(
    engine: &dyn Engine,
    step: impl FnMut(&mut dyn Txn) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (slot, work) = slotted(step);
    engine.read(work).await?;
    let value = slot.lock().take();
    Ok(value.expect("the engine ran what it reports done"))
}

fn slotted<T: Send + 'static>(
    mut step: impl FnMut(&mut dyn Txn) -> Result<T> + Send + 'static,
) -> (Arc<Mutex<Option<T>>>, crate::txn::Work) {
    let slot = Arc::new(Mutex::new(None));
    let filled = slot.clone();
    let work = Box::new(move |tx: &mut dyn Txn| {
        // An engine may run the step on a guess: what it asserts counts once the guess is confirmed.
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| step(tx))) {
            Ok(value) => *filled.lock() = Some(value?),
            Err(_) => return Err(Error::Invalid("an assertion of the test does not hold")),
        }
        Ok(())
    });
    (slot, work)
}

async fn change<T: Send + 'static>(
    engine: &dyn Engine,
    step: impl FnMut(&mut dyn Txn) -> Result<T> + Send + 'static,
) -> T {
    write(engine, Durability::Process, step).await.expect("the step succeeds")
}

async fn view<T: Send + 'static>(
    engine: &dyn Engine,
    step: impl FnMut(&mut dyn Txn) -> Result<T> + Send + 'static,
) -> T {
    read(engine, step).await.expect("the step succeeds")
}

/// Runs the whole suite on an engine whose tables are there and empty.
///
/// # Panics
/// If the engine breaks a rule.
pub async fn txn_suite(engine: Arc<dyn Engine>) {
    txn_suite_within(engine, Limits::NONE).await;
}

/// What an engine's columns cannot hold (volume format 5.3.3).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Owners, groups and devices above 2147483647 are refused.
    pub narrow_ids: bool,
    /// Names of extended attributes are UTF-8 text.
    pub text_xattrs: bool,
    /// Names of extended attributes that differ in case only are one.
    pub caseless_xattrs: bool,
}

impl Limits {
    /// Everything is kept.
    pub const NONE: Limits = Limits { narrow_ids: false, text_xattrs: false, caseless_xattrs: false };
    /// Those of PostgreSQL.
    pub const SQL: Limits = Limits { narrow_ids: true, text_xattrs: true, caseless_xattrs: false };
    /// Those of MySQL and MariaDB under their usual collations.
    pub const MYSQL: Limits = Limits { caseless_xattrs: true, ..Limits::SQL };
}

/// Runs the whole suite on an engine with limits.
///
/// # Panics
/// If the engine breaks a rule.
pub async fn txn_suite_within(engine: Arc<dyn Engine>, limits: Limits) {
    let engine = &*engine;
    wide_ids_are_kept_or_refused(engine, limits).await;
    attributes_come_back_as_stored(engine).await;
    a_failed_operation_leaves_nothing_behind(engine).await;
    names_are_bytes_and_list_in_pages(engine).await;
    parents_are_counted(engine).await;
    symlinks_and_xattrs_come_back(engine, limits).await;
    slice_lists_append_and_replace(engine).await;
    references_are_true_counts(engine).await;
    scans_page_through_the_volume(engine).await;
    deleted_data_waits_for_its_time(engine).await;
    counters_and_statistics_add_up(engine).await;
    quotas_add_up(engine).await;
    equal_access_rules_share_an_id(engine).await;
    sessions_keep_their_info(engine).await;
    locks_belong_to_owners(engine).await;
    the_setting_is_text(engine).await;
    the_change_log_is_trimmed(engine).await;
    concurrent_operations_fail_by_themselves(engine).await;
}

/// An attribute record with something in every field.
pub fn sample_attr() -> Attr {
    Attr {
        flags: Flags::APPEND,
        kind: FileType::CharDevice,
        mode: 0o6751,
        uid: 2_000_000_000,
        gid: 7,
        atime: Timestamp { secs: 1_700_000_001, nanos: 123_456_789 },
        mtime: Timestamp { secs: 1_700_000_002, nanos: 999_999_999 },
        ctime: Timestamp { secs: 0, nanos: 1 },
        nlink: 3,
        length: 1 << 56,
        rdev: 0x7FFF_FFFE,
        parent: Ino::TRASH,
        access_acl: 5,
        default_acl: 6,
        tier: 2,
    }
}

async fn wide_ids_are_kept_or_refused(engine: &dyn Engine, limits: Limits) {
    let wide = Attr { uid: 3_000_000_000, gid: u32::MAX - 1, rdev: 0xFFFF_FFFE, ..sample_attr() };
    let stored = write(engine, Durability::Process, move |tx| tx.insert_attr(Ino(99), &wide)).await;
    let found = view(engine, |tx| tx.attr(Ino(99), Rely::ALL)).await;
    if limits.narrow_ids {
        assert!(matches!(stored, Err(Error::Invalid(_))), "{stored:?}");
        assert_eq!(found, None);
    } else {
        stored.expect("it is stored");
        assert_eq!(found, Some(wide));
        change(engine, |tx| tx.remove_attr(Ino(99))).await;
    }
}

async fn attributes_come_back_as_stored(engine: &dyn Engine) {
    let ino = Ino(100);
    change(engine, move |tx| {
        assert_eq!(tx.attr(ino, Rely::ALL)?, None);
        tx.insert_attr(ino, &sample_attr())
    })
    .await;
    assert_eq!(view(engine, move |tx| tx.attr(ino, Rely::ALL)).await, Some(sample_attr()));

    let change_all = AttrChange {
        flags: Some(Flags::SKIP_TRASH),
        mode: Some(0o640),
        uid: Some(1),
        gid: Some(2),
        atime: Some(Timestamp { secs: 5, nanos: 6 }),
        mtime: Some(Timestamp { secs: 7, nanos: 8 }),
        ctime: Some(Timestamp { secs: 9, nanos: 10 }),
        nlink_add: -2,
        length: Some(77),
        length_at_least: None,
        parent: Some(Ino(9)),
        access_acl: Some(0),
        default_acl: Some(0),
        tier: Some(0),
    };
    change(engine, move |tx| tx.change_attr(ino, &change_all)).await;
    let changed = change_all.applied_to(&sample_attr());
    assert_eq!(view(engine, move |tx| tx.attr(ino, Rely::ALL)).await, Some(changed));

    let grow = |least| AttrChange { length_at_least: Some(least), nlink_add: 1, ..AttrChange::default() };
    change(engine, move |tx| tx.change_attr(ino, &grow(50))).await;
    change(engine, move |tx| tx.change_attr(ino, &AttrChange::default())).await;
    let attr = change(engine, move |tx| {
        tx.change_attr(ino, &grow(500))?;
        tx.attr(ino, Rely::ALL)
    })
    .await
    .expect("it is there");
    assert_eq!((attr.length, attr.nlink), (500, 3));

    change(engine, move |tx| tx.remove_attr(ino)).await;
    let gone = write(engine, Durability::Process, move |tx| tx.change_attr(ino, &grow(1))).await;
    assert!(matches!(gone, Err(Error::NoEntry)), "{gone:?}");
}

async fn a_failed_operation_leaves_nothing_behind(engine: &dyn Engine) {
    let (dir, file) = (Ino(200), Ino(201));
    change(engine, move |tx| {
        tx.put_dir_stat(dir, &DirStat::default())?;
        tx.set_counter(Counter::NextInode, 2000)?;
        tx.insert_attr(file, &Attr::default())
    })
    .await;
    let failed = write(engine, Durability::Power, move |tx| {
        tx.change_attr(file, &AttrChange { length: Some(9), ..AttrChange::default() })?;
        tx.insert_entry(dir, b"x", Entry { ino: file, kind: FileType::File })?;
        tx.append_slices(file, ChunkIndex(0), &[SliceRecord::hole(0, 1)])?;
        tx.add_counter(Counter::UsedSpace, 4096)?;
        tx.add_counter(Counter::NextInode, 1)?;
        tx.add_dir_stat(dir, &DirStat { length: 1, space: 1, inodes: 1 })?;
        tx.put_dir_stat(Ino(202), &DirStat::default())?;
        assert_eq!(tx.counter(Counter::UsedSpace)?, 4096);
        assert_eq!(tx.dir_stat(dir)?.map(|s| s.inodes), Some(1));
        Err::<(), _>(Error::Quota)
    })
    .await;
    assert!(matches!(failed, Err(Error::Quota)), "{failed:?}");
    view(engine, move |tx| {
        assert_eq!(tx.attr(file, Rely::ALL)?.map(|a| a.length), Some(0));
        assert_eq!(tx.entry(dir, b"x")?, None);
        assert!(tx.dir_is_empty(dir)?);
        assert!(tx.slices(file, ChunkIndex(0))?.is_empty());
        assert_eq!((tx.counter(Counter::UsedSpace)?, tx.counter(Counter::NextInode)?), (0, 2000));
        assert_eq!(tx.dir_stat(dir)?, Some(DirStat::default()));
        assert_eq!(tx.dir_stat(Ino(202))?, None);
        Ok(())
    })
    .await;
    change(engine, move |tx| tx.remove_attr(file)).await;
}

async fn names_are_bytes_and_list_in_pages(engine: &dyn Engine) {
    let dir = Ino(300);
    let names: [&[u8]; 6] = [b"A", b"a", b"a\0b", b"b", "\u{e9}".as_bytes(), b"\xff\xfe"];
    change(engine, move |tx| {
        for (i, name) in names.iter().enumerate() {
            tx.insert_entry(dir, name, Entry { ino: Ino(301 + i as u64), kind: FileType::File })?;
        }
        tx.insert_entry(Ino(301), b"other", Entry { ino: Ino(399), kind: FileType::File })?;
        tx.insert_attr(Ino(301), &sample_attr())
    })
    .await;
    view(engine, move |tx| {
        assert!(!tx.dir_is_empty(dir)?);
        let (mut listed, mut after) = (Vec::new(), Vec::new());
        loop {
            let page = tx.entries(dir, &after, 2, true)?;
            let Some(last) = page.last() else { break };
            after = last.name.clone();
            listed.extend(page);
        }
        assert_eq!(listed.iter().map(|e| e.name.as_slice()).collect::<Vec<_>>(), names);
        assert_eq!(listed[0].attr, Some(sample_attr()));
        assert_eq!(listed[1].attr, None, "an entry whose inode is gone comes without attributes");
        assert!(tx.entries(dir, b"", 1, false)?[0].attr.is_none());
        assert_eq!(tx.entry(dir, b"a\0b")?.map(|e| e.ino), Some(Ino(303)));
        assert_eq!(tx.entry(dir, b"a\0")?, None);
        Ok(())
    })
    .await;
    let link = Entry { ino: Ino(350), kind: FileType::Symlink };
    let taken = write(engine, Durability::Process, move |tx| tx.insert_entry(dir, b"a", link)).await;
    assert!(matches!(taken, Err(Error::Exists)), "{taken:?}");
    let missing = write(engine, Durability::Process, move |tx| tx.replace_entry(dir, b"none", link)).await;
    assert!(matches!(missing, Err(Error::NoEntry)), "{missing:?}");
    change(engine, move |tx| {
        tx.replace_entry(dir, b"a", link)?;
        tx.remove_entry(dir, b"b")
    })
    .await;
    let gone = write(engine, Durability::Process, move |tx| tx.remove_entry(dir, b"b")).await;
    assert!(matches!(gone, Err(Error::NoEntry)), "{gone:?}");
    assert_eq!(view(engine, move |tx| tx.entry(dir, b"a")).await, Some(link));
    change(engine, |tx| tx.remove_attr(Ino(301))).await;
}

async fn parents_are_counted(engine: &dyn Engine) {
    let ino = Ino(400);
    change(engine, move |tx| {
        for (parent, name) in [(Ino(41), b"one"), (Ino(41), b"two"), (Ino(42), b"one")] {
            tx.insert_entry(parent, name, Entry { ino, kind: FileType::File })?;
            tx.add_parent(ino, parent, 1)?;
        }
        Ok(())
    })
    .await;
    assert_eq!(view(engine, move |tx| tx.parents(ino)).await, [(Ino(41), 2), (Ino(42), 1)]);
    change(engine, move |tx| {
        tx.remove_entry(Ino(42), b"one")?;
        tx.add_parent(ino, Ino(42), -1)
    })
    .await;
    assert_eq!(view(engine, move |tx| tx.parents(ino)).await, [(Ino(41), 2)]);
    change(engine, move |tx| {
        tx.remove_entry(Ino(41), b"one")?;
        tx.remove_entry(Ino(41), b"two")?;
        tx.remove_parents(ino)
    })
    .await;
    assert_eq!(view(engine, move |tx| tx.parents(ino)).await, []);
}

async fn symlinks_and_xattrs_come_back(engine: &dyn Engine, limits: Limits) {
    let ino = Ino(500);
    let odd_name = write(engine, Durability::Process, move |tx| tx.put_xattr(ino, b"user.\xff", b"odd name")).await;
    assert_eq!(odd_name.is_err(), limits.text_xattrs, "{odd_name:?}");
    change(engine, move |tx| {
        tx.insert_symlink(ino, b"\xff/../x")?;
        tx.put_xattr(ino, b"user.b", b"")?;
        tx.put_xattr(ino, b"user.a", &[0, 159, 146])?;
        tx.put_xattr(ino, b"user.a", &[0, 0])?;
        tx.put_xattr(Ino(501), b"user.a", b"other")
    })
    .await;
    view(engine, move |tx| {
        assert_eq!(tx.symlink(ino)?.as_deref(), Some(&b"\xff/../x"[..]));
        let names: [&[u8]; 3] = [b"user.a", b"user.b", b"user.\xff"];
        assert_eq!(tx.xattr_names(ino)?, names[..if limits.text_xattrs { 2 } else { 3 }]);
        assert_eq!(tx.xattr(ino, b"user.a")?, Some(vec![0, 0]));
        assert_eq!(tx.xattr(ino, b"user.b")?, Some(vec![]));
        assert_eq!(tx.xattr(ino, b"user.\xff")?.is_some(), !limits.text_xattrs);
        assert_eq!(tx.xattr(ino, b"USER.A")?.is_some(), limits.caseless_xattrs);
        Ok(())
    })
    .await;
    change(engine, move |tx| {
        tx.remove_symlink(ino)?;
        tx.remove_xattr(ino, b"user.a")
    })
    .await;
    let gone = write(engine, Durability::Process, move |tx| tx.remove_xattr(ino, b"user.a")).await;
    assert!(matches!(gone, Err(Error::NoAttribute)), "{gone:?}");
    change(engine, move |tx| tx.remove_xattrs(ino)).await;
    view(engine, move |tx| {
        assert_eq!((tx.symlink(ino)?, tx.xattr_names(ino)?.len()), (None, 0));
        assert!(tx.xattr(Ino(501), b"user.a")?.is_some());
        Ok(())
    })
    .await;
}

fn shown(pos: u32, slice: u64) -> SliceRecord {
    SliceRecord::whole(pos, SliceRef { id: SliceId(slice), size: 10 })
}

async fn slice_lists_append_and_replace(engine: &dyn Engine) {
    let (ino, index) = (Ino(600), ChunkIndex(3));
    change(engine, move |tx| {
        assert_eq!(tx.append_slices(ino, index, &[shown(0, 256)])?, 1);
        assert_eq!(tx.append_slices(ino, index, &[shown(10, 1 << 40), SliceRecord::hole(2, 3)])?, 3);
        tx.append_slices(ino, ChunkIndex(7), &[shown(0, 9)]).map(|_| ())
    })
    .await;
    assert_eq!(change(engine, move |tx| tx.append_slices(ino, index, &[shown(1, 7)])).await, 4);
    let list = [shown(0, 256), shown(10, 1 << 40), SliceRecord::hole(2, 3), shown(1, 7)];
    view(engine, move |tx| {
        assert_eq!(tx.slices(ino, index)?, list);
        assert_eq!(tx.slices(ino, ChunkIndex(4))?, []);
        assert_eq!(tx.chunks(ino, ChunkIndex(0), 10)?, [ChunkIndex(3), ChunkIndex(7)]);
        assert_eq!(tx.chunks(ino, ChunkIndex(4), 10)?, [ChunkIndex(7)]);
        assert_eq!(tx.chunks(ino, ChunkIndex(0), 1)?, [ChunkIndex(3)]);
        Ok(())
    })
    .await;
    change(engine, move |tx| {
        tx.replace_slices(ino, index, &[shown(5, 8)])?;
        tx.remove_chunk(ino, ChunkIndex(7))
    })
    .await;
    assert_eq!(view(engine, move |tx| tx.slices(ino, index)).await, [shown(5, 8)]);
    assert_eq!(view(engine, move |tx| tx.chunks(ino, ChunkIndex(0), 10)).await, [ChunkIndex(3)]);
    change(engine, move |tx| tx.remove_chunk(ino, index)).await;
}

async fn references_are_true_counts(engine: &dyn Engine) {
    let slice = |id| SliceRef { id: SliceId(id), size: 4096 };
    change(engine, move |tx| {
        tx.insert_slice(slice(70), 1)?;
        tx.insert_slice(slice(71), 3)?;
        assert_eq!(tx.add_slice_refs(slice(70), 1)?, 2);
        assert_eq!(tx.add_slice_refs(slice(70), -2)?, 0);
        Ok(())
    })
    .await;
    change(engine, move |tx| tx.insert_slice(slice(72), 1)).await;
    let listed = view(engine, |tx| tx.slice_records(SliceId(71), 1)).await;
    let single_owners_have_records = !listed.is_empty();
    view(engine, move |tx| {
        assert_eq!(tx.slice_refs(slice(71))?, 3);
        // Where one owner leaves no record, none says that there is one.
        assert_eq!(tx.slice_refs(slice(99))?, i64::from(!single_owners_have_records));
        assert_eq!(tx.unowned_slices(SliceId(0), 10)?, [slice(70)]);
        assert_eq!(tx.unowned_slices(SliceId(70), 10)?, []);
        let records = tx.slice_records(SliceId(69), 10)?;
        assert!(records.contains(&(slice(71), 3)));
        Ok(())
    })
    .await;
    let unknown = change(engine, move |tx| tx.add_slice_refs(slice(99), -1)).await;
    if single_owners_have_records {
        assert!(unknown > 0, "a slice without a record must not be taken for unowned");
    } else {
        assert_eq!(unknown, 0);
    }
    change(engine, move |tx| {
        tx.remove_slice(slice(99))?;
        tx.remove_slice(slice(72))?;
        tx.remove_slice(slice(70))?;
        tx.remove_slice(slice(71))
    })
    .await;
    assert_eq!(view(engine, |tx| tx.slice_records(SliceId(0), 10)).await, []);
}

async fn scans_page_through_the_volume(engine: &dyn Engine) {
    change(engine, |tx| {
        for n in 0..5u64 {
            tx.insert_attr(Ino(800 + n), &Attr { length: n, ..Attr::default() })?;
            tx.append_slices(Ino(800 + n / 2), ChunkIndex(n as u32), &[shown(0, n + 1)])?;
        }
        Ok(())
    })
    .await;
    view(engine, |tx| {
        let page = tx.scan_attrs(Ino(800), 3)?;
        assert_eq!(page.iter().map(|(i, a)| (i.0, a.length)).collect::<Vec<_>>(), [(801, 1), (802, 2), (803, 3)]);
        let page = tx.scan_chunks((Ino(800), ChunkIndex(0)), 3)?;
        let keys: Vec<_> = page.iter().map(|(ino, index, _)| (ino.0, index.0)).collect();
        assert_eq!(keys, [(800, 1), (801, 2), (801, 3)]);
        assert_eq!(SliceRecord::decode_list(&page[0].2), Ok(vec![shown(0, 2)]));
        Ok(())
    })
    .await;
    change(engine, |tx| {
        for n in 0..5u64 {
            tx.remove_attr(Ino(800 + n))?;
            tx.remove_chunk(Ino(800 + n / 2), ChunkIndex(n as u32))?;
        }
        Ok(())
    })
    .await;
}

async fn deleted_data_waits_for_its_time(engine: &dyn Engine) {
    let file = |n: u64| DeletedFile { ino: Ino(900 + n), length: n, deleted_secs: 1000 - n as i64 };
    let slices = vec![SliceRef { id: SliceId(1), size: 5 }, SliceRef { id: SliceId(1), size: 5 }];
    let kept = DelayedSlices { id: SliceId(9), deleted_secs: 50, slices };
    let stored = kept.clone();
    change(engine, move |tx| {
        (0..3).try_for_each(|n| tx.insert_deleted_file(&file(n)))?;
        tx.insert_delayed(&stored)
    })
    .await;
    view(engine, move |tx| {
        assert_eq!(tx.deleted_files(999, 10)?, [file(2), file(1)]);
        assert_eq!(tx.deleted_files(2000, 1)?, [file(2)]);
        assert_eq!(tx.delayed(49, 10)?, []);
        assert_eq!(tx.delayed(50, 10)?, std::slice::from_ref(&kept));
        Ok(())
    })
    .await;
    change(engine, move |tx| {
        (0..3).try_for_each(|n| tx.remove_deleted_file(file(n).ino, file(n).length))?;
        tx.remove_delayed(SliceId(9), 50)
    })
    .await;
    assert!(view(engine, |tx| Ok(tx.deleted_files(9999, 9)?.is_empty() && tx.delayed(9999, 9)?.is_empty())).await);
}

async fn counters_and_statistics_add_up(engine: &dyn Engine) {
    let dir = Ino(1000);
    let one = DirStat { length: 5, space: 4096, inodes: 1 };
    change(engine, move |tx| {
        assert!(!tx.add_dir_stat(dir, &one)?);
        assert_eq!(tx.dir_stat(dir)?, None);
        tx.put_dir_stat(dir, &one)?;
        assert!(tx.add_dir_stat(dir, &one)?);
        assert_eq!(tx.dir_stat(dir)?, Some(one.plus(one)));
        tx.set_counter(Counter::TotalInodes, 10)?;
        tx.set_counter(Counter::NextChunk, 0)?;
        tx.add_counter(Counter::TotalInodes, 5)?;
        tx.add_counter(Counter::NextChunk, 4096)?;
        assert_eq!(tx.counter(Counter::TotalInodes)?, 15);
        Ok(())
    })
    .await;
    change(engine, move |tx| {
        assert!(tx.add_dir_stat(dir, &one.negated())?);
        tx.add_counter(Counter::TotalInodes, -20)?;
        tx.add_counter(Counter::NextChunk, 4096)
    })
    .await;
    view(engine, move |tx| {
        assert_eq!(tx.dir_stat(dir)?, Some(one));
        assert_eq!(tx.counter(Counter::TotalInodes)?, -5);
        assert_eq!(tx.counter(Counter::NextChunk)?, 8192);
        assert_eq!(tx.counter(Counter::NextTrash)?, 0);
        Ok(())
    })
    .await;
    change(engine, move |tx| {
        tx.add_dir_stat(dir, &one)?;
        tx.remove_dir_stat(dir)?;
        assert!(!tx.add_dir_stat(dir, &one)?);
        tx.add_counter(Counter::TotalInodes, 3)?;
        tx.set_counter(Counter::TotalInodes, 0)
    })
    .await;
    assert_eq!(view(engine, move |tx| Ok((tx.dir_stat(dir)?, tx.counter(Counter::TotalInodes)?))).await, (None, 0));
}

async fn quotas_add_up(engine: &dyn Engine) {
    let key = |kind| QuotaKey { kind, id: 7 };
    let quota = Quota { max_space: 100, max_inodes: -1, used_space: 3, used_inodes: 4 };
    assert!(!view(engine, |tx| tx.any_dir_quota()).await);
    change(engine, move |tx| {
        for kind in [QuotaKind::User, QuotaKind::Group] {
            tx.put_quota(key(kind), &Quota::UNLIMITED)?;
        }
        assert!(!tx.any_dir_quota()?);
        assert!(!tx.add_quota_used(key(QuotaKind::Dir), 1, 1)?);
        tx.put_quota(key(QuotaKind::Dir), &quota)?;
        assert!(tx.add_quota_used(key(QuotaKind::Dir), -1, 2)?);
        assert!(tx.add_quota_used(key(QuotaKind::Group), 8, 9)?);
        Ok(())
    })
    .await;
    view(engine, move |tx| {
        assert!(tx.any_dir_quota()?);
        let used = Quota { used_space: 2, used_inodes: 6, ..quota };
        assert_eq!(tx.quota(key(QuotaKind::Dir))?, Some(used));
        assert_eq!(tx.quotas(QuotaKind::Dir)?, [(key(QuotaKind::Dir), used)]);
        assert_eq!(tx.quota(key(QuotaKind::User))?, Some(Quota::UNLIMITED));
        assert_eq!(tx.quota(key(QuotaKind::Group))?.map(|q| q.used_space), Some(8));
        assert_eq!(tx.quotas(QuotaKind::Group)?.len(), 1);
        Ok(())
    })
    .await;
    change(engine, move |tx| {
        [QuotaKind::Dir, QuotaKind::User, QuotaKind::Group].into_iter().try_for_each(|kind| tx.remove_quota(key(kind)))
    })
    .await;
    assert_eq!(view(engine, |tx| tx.quotas(QuotaKind::User)).await, []);
}

async fn equal_access_rules_share_an_id(engine: &dyn Engine) {
    let rule = AclRule { owner: 7, group: 5, users: vec![AclEntry { id: 1001, perm: 6 }], ..AclRule::empty() };
    let other = AclRule { other: 1, ..rule.clone() };
    let (first, second) = (rule.clone(), other.clone());
    let ids = change(engine, move |tx| Ok((tx.intern_acl(&first)?, tx.intern_acl(&second)?))).await;
    assert_ne!(ids.0, ids.1);
    let again = rule.clone();
    assert_eq!(change(engine, move |tx| tx.intern_acl(&again)).await, ids.0);
    assert_eq!(view(engine, move |tx| tx.acl(ids.0)).await, Some(rule));
    assert_eq!(view(engine, move |tx| tx.acl(ids.1)).await, Some(other));
    assert_eq!(view(engine, |tx| tx.acl(9999)).await, None);
}

async fn sessions_keep_their_info(engine: &dyn Engine) {
    let record = |secs, info: &str| SessionRecord { sid: SessionId(5), expire_secs: secs, info: info.into() };
    let (first, refresh) = (record(10, "{}"), record(20, "ignored"));
    change(engine, move |tx| {
        tx.put_session(&first)?;
        tx.put_session(&refresh)?;
        tx.insert_sustained(SessionId(5), Ino(1))?;
        tx.insert_sustained(SessionId(5), Ino(1))?;
        tx.insert_sustained(SessionId(6), Ino(2))
    })
    .await;
    let seen = record(20, "{}");
    view(engine, move |tx| {
        assert_eq!(tx.session(SessionId(5))?.as_ref(), Some(&seen));
        assert_eq!(tx.sessions()?, std::slice::from_ref(&seen));
        assert_eq!(tx.session(SessionId(6))?, None);
        assert_eq!(tx.sustained(SessionId(5))?, [Ino(1)]);
        Ok(())
    })
    .await;
    change(engine, |tx| {
        assert!(tx.remove_sustained(SessionId(5), Ino(1))?);
        assert!(!tx.remove_sustained(SessionId(5), Ino(1))?);
        assert!(tx.remove_sustained(SessionId(6), Ino(2))?);
        tx.remove_session(SessionId(5))
    })
    .await;
    assert_eq!(view(engine, |tx| tx.sessions()).await, []);
}

async fn locks_belong_to_owners(engine: &dyn Engine) {
    let ino = Ino(1100);
    let [a, b] = [(1, u64::MAX), (2, 7)].map(|(sid, owner)| LockOwner { sid: SessionId(sid), owner });
    let range = PlockRange { kind: FlockKind::Write, pid: 9, start: 0, end: i64::MAX as u64 };
    change(engine, move |tx| {
        tx.set_flock(ino, a, Some(FlockKind::Read))?;
        tx.set_flock(ino, b, Some(FlockKind::Read))?;
        tx.set_flock(ino, b, Some(FlockKind::Write))?;
        tx.set_plocks(ino, a, &[range])?;
        tx.set_plocks(ino, b, &[range, range])
    })
    .await;
    view(engine, move |tx| {
        assert_eq!(tx.flocks(ino)?, [(a, FlockKind::Read), (b, FlockKind::Write)]);
        assert_eq!(tx.plocks(ino)?, [(a, vec![range]), (b, vec![range, range])]);
        assert_eq!(tx.flocks(Ino(1))?, []);
        Ok(())
    })
    .await;
    change(engine, move |tx| {
        tx.set_flock(ino, a, None)?;
        tx.set_plocks(ino, a, &[])
    })
    .await;
    assert_eq!(view(engine, move |tx| tx.flocks(ino)).await, [(b, FlockKind::Write)]);
    assert_eq!(view(engine, move |tx| tx.plocks(ino)).await, [(b, vec![range, range])]);
    change(engine, |tx| tx.remove_locks(SessionId(2))).await;
    assert!(view(engine, move |tx| Ok(tx.flocks(ino)?.is_empty() && tx.plocks(ino)?.is_empty())).await);
}

async fn the_setting_is_text(engine: &dyn Engine) {
    assert_eq!(view(engine, |tx| tx.setting()).await, None);
    change(engine, |tx| tx.put_setting("{\n\"Name\": \"a\"}")).await;
    change(engine, |tx| tx.put_setting("{\n\"Name\": \"b\"}")).await;
    assert_eq!(view(engine, |tx| tx.setting()).await.as_deref(), Some("{\n\"Name\": \"b\"}"));
    assert_eq!(view(engine, |tx| tx.detached()).await, []);
}

async fn the_change_log_is_trimmed(engine: &dyn Engine) {
    change(engine, |tx| (0..10).try_for_each(|n| tx.log_change(&format!("{}.000000001|NOP()|(1,{n})", 100 + n)))).await;
    change(engine, |tx| tx.trim_change_log(103, 0)).await;
    change(engine, |tx| tx.trim_change_log(0, 2)).await;
    change(engine, |tx| tx.trim_change_log(9999, 0)).await;
    change(engine, |tx| tx.trim_change_log(9999, 5)).await;
}

async fn concurrent_operations_fail_by_themselves(engine: &dyn Engine) {
    let dir = Ino(1200);
    change(engine, move |tx| tx.put_dir_stat(dir, &DirStat::default())).await;
    let one = DirStat { length: 0, space: 4096, inodes: 1 };
    let create = |n: u64| {
        write(engine, if n.is_multiple_of(7) { Durability::Power } else { Durability::Process }, move |tx| {
            // A hundred names for two hundred creates: the second of each name fails.
            let name = format!("n{}", n % 100);
            tx.add_counter(Counter::UsedSpace, 4096)?;
            tx.add_dir_stat(dir, &one)?;
            tx.insert_entry(dir, name.as_bytes(), Entry { ino: Ino(2000 + n), kind: FileType::File })
        })
    };
    let outcomes = futures::future::join_all((0..200).map(create)).await;
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 100);
    assert!(outcomes.iter().all(|o| matches!(o, Ok(()) | Err(Error::Exists))));
    view(engine, move |tx| {
        assert_eq!(tx.entries(dir, b"", 1000, false)?.len(), 100);
        assert_eq!(tx.dir_stat(dir)?.map(|s| s.inodes), Some(100));
        assert_eq!(tx.counter(Counter::UsedSpace)?, 409_600);
        Ok(())
    })
    .await;
}

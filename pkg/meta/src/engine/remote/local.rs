//! A [`Server`] over another engine in this process: for tests of the executor, and as the
//! plainest reading of what a server has to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use cairn_types::SliceRecord;
use parking_lot::Mutex;

use super::record::{Commit, Key, Outcome, Server, Value, Verb};
use crate::Result;
use crate::txn::{Engine, Rely, Txn};

/// See the module. Counts round trips, so that a test sees what an operation would cost.
pub struct LocalServer {
    engine: Arc<dyn Engine>,
    trips: AtomicU64,
}

impl LocalServer {
    /// A server whose records are that engine's.
    pub fn new(engine: Arc<dyn Engine>) -> LocalServer {
        LocalServer { engine, trips: AtomicU64::new(0) }
    }

    /// Fetches and commits so far.
    pub fn trips(&self) -> u64 {
        self.trips.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Server for LocalServer {
    fn describe(&self) -> String {
        format!("local server over {}", self.engine.describe())
    }

    async fn fetch(&self, keys: &[Key]) -> Result<Vec<(Key, Value)>> {
        self.trips.fetch_add(1, Ordering::Relaxed);
        let (keys, out) = (keys.to_vec(), Arc::new(Mutex::new(Vec::new())));
        let filled = out.clone();
        let work = Box::new(move |tx: &mut dyn Txn| {
            let mut found = Vec::with_capacity(keys.len());
            for key in &keys {
                let value = read(tx, key)?;
                if let Value::Entry(Some(entry)) = &value {
                    found.push((Key::Attr(entry.ino), Value::Attr(tx.attr(entry.ino, Rely::NOTHING)?)));
                }
                found.push((key.clone(), value));
            }
            *filled.lock() = found;
            Ok(())
        });
        self.engine.read(work).await?;
        let found = std::mem::take(&mut *out.lock());
        Ok(found)
    }

    async fn commit(&self, commit: &Commit) -> Result<Outcome> {
        self.trips.fetch_add(1, Ordering::Relaxed);
        let (commit, out) = (commit.clone(), Arc::new(Mutex::new(None)));
        let (durability, filled) = (commit.durability, out.clone());
        let work = Box::new(move |tx: &mut dyn Txn| {
            *filled.lock() = Some(apply(tx, &commit)?);
            Ok(())
        });
        self.engine.write(work, durability).await?;
        let outcome = out.lock().take();
        Ok(outcome.expect("the engine ran the work it reports done"))
    }

    async fn create_tables(&self) -> Result<()> {
        self.engine.create_tables().await
    }

    async fn close(&self) {
        self.engine.close().await;
    }
}

fn apply(tx: &mut dyn Txn, commit: &Commit) -> Result<Outcome> {
    let mut now = Vec::with_capacity(commit.guards.len());
    for guard in &commit.guards {
        assert!(!guard.key.is_page(), "pages are never guarded: {guard:?}");
        now.push((guard.key.clone(), read(tx, &guard.key)?));
    }
    if commit.guards.iter().zip(&now).any(|(guard, (_, now))| !guard.holds(now)) {
        return Ok(Outcome::Moved(now));
    }
    let answers = commit.verbs.iter().map(|verb| change(tx, verb)).collect::<Result<_>>()?;
    let learned = commit.learn.iter().map(|key| Ok((key.clone(), read(tx, key)?))).collect::<Result<_>>()?;
    Ok(Outcome::Applied { answers, learned })
}

/// What stands under a key.
fn read(tx: &mut dyn Txn, key: &Key) -> Result<Value> {
    Ok(match key {
        Key::Attr(ino) => Value::Attr(tx.attr(*ino, Rely::ALL)?),
        Key::Entry(dir, name) => Value::Entry(tx.entry(*dir, name)?),
        Key::DirIsEmpty(dir) => Value::Flag(tx.dir_is_empty(*dir)?),
        Key::Entries { dir, after, limit, plus } => Value::Entries(tx.entries(*dir, after, *limit, *plus)?),
        Key::Parents(ino) => Value::Parents(tx.parents(*ino)?),
        Key::Symlink(ino) => Value::Bytes(tx.symlink(*ino)?),
        Key::Xattr(ino, name) => Value::Bytes(tx.xattr(*ino, name)?),
        Key::XattrNames(ino) => Value::Names(tx.xattr_names(*ino)?),
        Key::Slices(ino, index) => Value::SliceList(SliceRecord::encode_list(&tx.slices(*ino, *index)?)),
        Key::Chunks { ino, from, limit } => Value::Chunks(tx.chunks(*ino, *from, *limit)?),
        Key::DeletedChunks { ino, length, limit } => Value::Chunks(tx.deleted_chunks(*ino, *length, *limit)?),
        Key::SliceRefs(slice) => Value::Number(tx.slice_refs(*slice)?),
        Key::UnownedSlices { after, limit } => Value::SliceRefs(tx.unowned_slices(*after, *limit)?),
        Key::SliceRecords { after, limit } => Value::CountedSlices(tx.slice_records(*after, *limit)?),
        Key::ScanChunks { after, limit } => Value::RawChunks(tx.scan_chunks(*after, *limit)?),
        Key::ScanAttrs { after, limit } => Value::Attrs(tx.scan_attrs(*after, *limit)?),
        Key::DeletedFiles { until, limit } => Value::DeletedFiles(tx.deleted_files(*until, *limit)?),
        Key::Delayed { until, limit } => Value::Delayed(tx.delayed(*until, *limit)?),
        Key::Counter(counter) => Value::Number(tx.counter(*counter)?),
        Key::DirStat(dir) => Value::DirStat(tx.dir_stat(*dir)?),
        Key::Quota(key) => Value::Quota(tx.quota(*key)?),
        Key::Quotas(kind) => Value::Quotas(tx.quotas(*kind)?),
        Key::AnyDirQuota => Value::Flag(tx.any_dir_quota()?),
        Key::Acl(id) => Value::Acl(tx.acl(*id)?),
        Key::AclId(rule) => Value::AclId(acl_id(tx, rule)?),
        Key::Session(sid) => Value::Session(tx.session(*sid)?),
        Key::Sessions => Value::Sessions(tx.sessions()?),
        Key::Sustained(sid) => Value::Inodes(tx.sustained(*sid)?),
        Key::Flocks(ino) => Value::Flocks(tx.flocks(*ino)?),
        Key::Plocks(ino) => Value::Plocks(tx.plocks(*ino)?),
        Key::Detached => Value::Detached(tx.detached()?),
        Key::Setting => Value::Setting(tx.setting()?),
        Key::HasXattr(ino, name) => Value::Flag(tx.xattr(*ino, name)?.is_some()),
        Key::SliceCount(ino, index) => Value::Number(tx.slices(*ino, *index)?.len() as i64),
        Key::HasDirStat(dir) => Value::Flag(tx.dir_stat(*dir)?.is_some()),
        Key::HasQuota(key) => Value::Flag(tx.quota(*key)?.is_some()),
        Key::CounterRoom { counter, add, limit } => Value::Flag(tx.counter(*counter)? + add <= *limit),
        Key::QuotaRoom { key, space, inodes } => {
            Value::Flag(tx.quota(*key)?.is_none_or(|q| !q.exceeded_by(*space, *inodes)))
        }
        Key::HasSustained(sid, ino) => Value::Flag(tx.sustained(*sid)?.contains(ino)),
        Key::HasDelayed(id, secs) => {
            let all = tx.delayed(i64::MAX, usize::MAX)?;
            Value::Flag(all.iter().any(|d| (d.id, d.deleted_secs) == (*id, *secs)))
        }
    })
}

fn acl_id(tx: &mut dyn Txn, rule: &cairn_types::AclRule) -> Result<Option<u32>> {
    for id in 1.. {
        match tx.acl(id)? {
            Some(known) if known == *rule => return Ok(Some(id)),
            Some(_) => {}
            None => break,
        }
    }
    Ok(None)
}

/// Applies a verb; its answer, or 0.
fn change(tx: &mut dyn Txn, verb: &Verb) -> Result<i64> {
    match verb {
        Verb::InsertAttr(ino, attr) => tx.insert_attr(*ino, attr)?,
        Verb::ChangeAttr(ino, change) => tx.change_attr(*ino, change)?,
        Verb::RemoveAttr(ino) => tx.remove_attr(*ino)?,
        Verb::InsertEntry(dir, name, entry) => tx.insert_entry(*dir, name, *entry)?,
        Verb::ReplaceEntry(dir, name, entry) => tx.replace_entry(*dir, name, *entry)?,
        Verb::RemoveEntry(dir, name) => tx.remove_entry(*dir, name)?,
        Verb::AddParent(ino, parent, delta) => tx.add_parent(*ino, *parent, *delta)?,
        Verb::RemoveParents(ino) => tx.remove_parents(*ino)?,
        Verb::InsertSymlink(ino, target) => tx.insert_symlink(*ino, target)?,
        Verb::RemoveSymlink(ino) => tx.remove_symlink(*ino)?,
        Verb::PutXattr(ino, name, value) => tx.put_xattr(*ino, name, value)?,
        Verb::RemoveXattr(ino, name) => tx.remove_xattr(*ino, name)?,
        Verb::RemoveXattrs(ino) => tx.remove_xattrs(*ino)?,
        Verb::AppendSlices(ino, index, records) => return tx.append_slices(*ino, *index, records).map(i64::from),
        Verb::ReplaceSlices(ino, index, records) => tx.replace_slices(*ino, *index, records)?,
        Verb::RemoveChunk(ino, index) => tx.remove_chunk(*ino, *index)?,
        Verb::InsertSlice(slice, refs) => tx.insert_slice(*slice, *refs)?,
        Verb::AddSliceRefs(slice, delta) => return tx.add_slice_refs(*slice, *delta),
        Verb::RemoveSlice(slice) => tx.remove_slice(*slice)?,
        Verb::InsertDeletedFile(file) => tx.insert_deleted_file(file)?,
        Verb::RemoveDeletedFile(ino, length) => tx.remove_deleted_file(*ino, *length)?,
        Verb::InsertDelayed(delayed) => tx.insert_delayed(delayed)?,
        Verb::RemoveDelayed(id, secs) => tx.remove_delayed(*id, *secs)?,
        Verb::AddCounter(counter, delta) => return tx.advance_counter(*counter, *delta),
        Verb::SetCounter(counter, value) => tx.set_counter(*counter, *value)?,
        Verb::PutDirStat(dir, stat) => tx.put_dir_stat(*dir, stat)?,
        Verb::AddDirStat(dir, delta) => assert!(tx.add_dir_stat(*dir, delta)?, "guarded: the record exists"),
        Verb::RemoveDirStat(dir) => tx.remove_dir_stat(*dir)?,
        Verb::PutQuota(key, quota) => tx.put_quota(*key, quota)?,
        Verb::AddQuotaUsed(key, space, inodes) => {
            assert!(tx.add_quota_used(*key, *space, *inodes)?, "guarded: the record exists");
        }
        Verb::RemoveQuota(key) => tx.remove_quota(*key)?,
        Verb::InternAcl(rule) => return tx.intern_acl(rule).map(i64::from),
        Verb::PutSession(session) => tx.put_session(session)?,
        Verb::RemoveSession(sid) => tx.remove_session(*sid)?,
        Verb::InsertSustained(sid, ino) => tx.insert_sustained(*sid, *ino)?,
        Verb::RemoveSustained(sid, ino) => assert!(tx.remove_sustained(*sid, *ino)?, "guarded: it is there"),
        Verb::SetFlock(ino, owner, kind) => tx.set_flock(*ino, *owner, *kind)?,
        Verb::SetPlocks(ino, owner, ranges) => tx.set_plocks(*ino, *owner, ranges)?,
        Verb::RemoveLocks(sid) => tx.remove_locks(*sid)?,
        Verb::RemoveDetached(ino) => tx.remove_detached(*ino)?,
        Verb::PutSetting(json) => tx.put_setting(json)?,
        Verb::LogChange(entry) => tx.log_change(entry)?,
        Verb::TrimChangeLog { before_secs, keep_lines } => tx.trim_change_log(*before_secs, *keep_lines)?,
    }
    Ok(0)
}

/// An engine that runs as if over a network, on the records of `engine`.
pub fn remote(env: cairn_env::Env, engine: Arc<dyn Engine>) -> Arc<super::Remote<LocalServer>> {
    super::Remote::new(env, LocalServer::new(engine), false)
}

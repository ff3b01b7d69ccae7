//! The tables of the memory engine, and a transaction over them.

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Included, Unbounded};

use cairn_types::{AclRule, Attr, ChunkIndex, Ino, SLICE_RECORD_BYTES, SessionId, SliceId, SliceRecord, SliceRef};

use crate::record::{
    DelayedSlices, DeletedFile, DirStat, Entry, FlockKind, LockOwner, NamedEntry, PlockRange, Quota, QuotaKey,
    QuotaKind, SessionRecord,
};
use crate::txn::{AttrChange, Counter, Rely, Txn};
use crate::{Error, Result};

/// How to take one change back.
pub(super) type Undo = Box<dyn FnOnce(&mut Tables) + Send>;

/// One map per kind of record. Slice lists are kept as stored bytes, so that they can be torn.
#[derive(Default)]
pub(super) struct Tables {
    attrs: BTreeMap<Ino, Attr>,
    entries: BTreeMap<(Ino, Vec<u8>), Entry>,
    parents: BTreeMap<(Ino, Ino), u32>,
    symlinks: BTreeMap<Ino, Vec<u8>>,
    xattrs: BTreeMap<(Ino, Vec<u8>), Vec<u8>>,
    chunks: BTreeMap<(Ino, ChunkIndex), Vec<u8>>,
    slices: BTreeMap<SliceId, (u32, i64)>,
    deleted: BTreeMap<Ino, (u64, i64)>,
    delayed: BTreeMap<SliceId, DelayedSlices>,
    counters: BTreeMap<Counter, i64>,
    dir_stats: BTreeMap<Ino, DirStat>,
    quotas: BTreeMap<QuotaKey, Quota>,
    acls: BTreeMap<u32, AclRule>,
    sessions: BTreeMap<SessionId, (i64, String)>,
    sustained: BTreeMap<(SessionId, Ino), ()>,
    flocks: BTreeMap<(Ino, LockOwner), FlockKind>,
    plocks: BTreeMap<(Ino, LockOwner), Vec<PlockRange>>,
    detached: BTreeMap<Ino, i64>,
    setting: BTreeMap<(), String>,
    change_log: BTreeMap<u64, (i64, String)>,
}

impl Tables {
    pub(super) fn put_raw_chunk(&mut self, ino: Ino, index: ChunkIndex, bytes: Vec<u8>) {
        self.chunks.insert((ino, index), bytes);
    }
}

/// A transaction: changes are made at once, and noted so that they can be taken back.
pub(super) struct MemTxn<'a> {
    tables: &'a mut Tables,
    notes: Vec<Undo>,
}

/// Sets (`Some`) or removes (`None`) a record, and notes what was there.
macro_rules! change {
    ($tx:expr, $table:ident, $key:expr, $value:expr) => {{
        let key = $key;
        let old = match $value {
            Some(value) => $tx.tables.$table.insert(key.clone(), value),
            None => $tx.tables.$table.remove(&key),
        };
        $tx.notes.push(Box::new(move |t: &mut Tables| {
            match old {
                Some(value) => t.$table.insert(key, value),
                None => t.$table.remove(&key),
            };
        }));
    }};
}

impl<'a> MemTxn<'a> {
    pub(super) fn new(tables: &'a mut Tables) -> MemTxn<'a> {
        MemTxn { tables, notes: Vec::new() }
    }

    pub(super) fn into_notes(self) -> Vec<Undo> {
        self.notes
    }

    fn list(&self, ino: Ino, index: ChunkIndex, bytes: &[u8]) -> Result<Vec<SliceRecord>> {
        SliceRecord::decode_list(bytes).map_err(|e| Error::CorruptChunk { ino, index, reason: e.to_string() })
    }
}

/// The second a change-log entry begins with.
fn leading_number(entry: &str) -> i64 {
    let digits = entry.find(|c: char| !c.is_ascii_digit()).unwrap_or(entry.len());
    entry[..digits].parse().unwrap_or(0)
}

/// The least lock owner there can be.
const FIRST_OWNER: LockOwner = LockOwner { sid: SessionId(0), owner: 0 };

fn names_of<V>(table: &BTreeMap<(Ino, Vec<u8>), V>, ino: Ino) -> Vec<Vec<u8>> {
    table.range((ino, vec![])..).take_while(|((i, _), _)| *i == ino).map(|((_, name), _)| name.clone()).collect()
}

impl Txn for MemTxn<'_> {
    fn attr(&mut self, ino: Ino, _rely: Rely) -> Result<Option<Attr>> {
        Ok(self.tables.attrs.get(&ino).copied())
    }

    fn insert_attr(&mut self, ino: Ino, attr: &Attr) -> Result<()> {
        if self.tables.attrs.contains_key(&ino) {
            return Err(Error::engine("store inode", format!("inode {ino} exists")));
        }
        change!(self, attrs, ino, Some(*attr));
        Ok(())
    }

    fn change_attr(&mut self, ino: Ino, change: &AttrChange) -> Result<()> {
        if change.is_empty() {
            return Ok(());
        }
        let attr = self.tables.attrs.get(&ino).ok_or(Error::NoEntry)?;
        let changed = change.applied_to(attr);
        change!(self, attrs, ino, Some(changed));
        Ok(())
    }

    fn remove_attr(&mut self, ino: Ino) -> Result<()> {
        change!(self, attrs, ino, None);
        Ok(())
    }

    fn entry(&mut self, parent: Ino, name: &[u8]) -> Result<Option<Entry>> {
        Ok(self.tables.entries.get(&(parent, name.to_vec())).copied())
    }

    fn dir_is_empty(&mut self, dir: Ino) -> Result<bool> {
        Ok(self.tables.entries.range((dir, vec![])..).next().is_none_or(|((parent, _), _)| *parent != dir))
    }

    fn entries(&mut self, dir: Ino, after: &[u8], limit: usize, plus: bool) -> Result<Vec<NamedEntry>> {
        let from = (Excluded((dir, after.to_vec())), Unbounded);
        let found = self.tables.entries.range(from).take_while(|((parent, _), _)| *parent == dir).take(limit);
        let attrs = &self.tables.attrs;
        Ok(found
            .map(|((_, name), entry)| NamedEntry {
                name: name.clone(),
                entry: *entry,
                attr: if plus { attrs.get(&entry.ino).copied() } else { None },
            })
            .collect())
    }

    fn insert_entry(&mut self, parent: Ino, name: &[u8], entry: Entry) -> Result<()> {
        let key = (parent, name.to_vec());
        if self.tables.entries.contains_key(&key) {
            return Err(Error::Exists);
        }
        change!(self, entries, key, Some(entry));
        Ok(())
    }

    fn replace_entry(&mut self, parent: Ino, name: &[u8], entry: Entry) -> Result<()> {
        let key = (parent, name.to_vec());
        if !self.tables.entries.contains_key(&key) {
            return Err(Error::NoEntry);
        }
        change!(self, entries, key, Some(entry));
        Ok(())
    }

    fn remove_entry(&mut self, parent: Ino, name: &[u8]) -> Result<()> {
        let key = (parent, name.to_vec());
        if !self.tables.entries.contains_key(&key) {
            return Err(Error::NoEntry);
        }
        change!(self, entries, key, None);
        Ok(())
    }

    fn parents(&mut self, ino: Ino) -> Result<Vec<(Ino, u32)>> {
        let range = (ino, Ino(0))..=(ino, Ino(u64::MAX));
        Ok(self.tables.parents.range(range).map(|((_, parent), n)| (*parent, *n)).collect())
    }

    fn add_parent(&mut self, ino: Ino, parent: Ino, delta: i32) -> Result<()> {
        let key = (ino, parent);
        let count = self.tables.parents.get(&key).copied().unwrap_or(0).saturating_add_signed(delta);
        change!(self, parents, key, (count > 0).then_some(count));
        Ok(())
    }

    fn remove_parents(&mut self, ino: Ino) -> Result<()> {
        for (parent, _) in self.parents(ino)? {
            change!(self, parents, (ino, parent), None);
        }
        Ok(())
    }

    fn symlink(&mut self, ino: Ino) -> Result<Option<Vec<u8>>> {
        Ok(self.tables.symlinks.get(&ino).cloned())
    }

    fn insert_symlink(&mut self, ino: Ino, target: &[u8]) -> Result<()> {
        change!(self, symlinks, ino, Some(target.to_vec()));
        Ok(())
    }

    fn remove_symlink(&mut self, ino: Ino) -> Result<()> {
        change!(self, symlinks, ino, None);
        Ok(())
    }

    fn xattr(&mut self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.tables.xattrs.get(&(ino, name.to_vec())).cloned())
    }

    fn xattr_names(&mut self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        Ok(names_of(&self.tables.xattrs, ino))
    }

    fn put_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> Result<()> {
        change!(self, xattrs, (ino, name.to_vec()), Some(value.to_vec()));
        Ok(())
    }

    fn remove_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<()> {
        let key = (ino, name.to_vec());
        if !self.tables.xattrs.contains_key(&key) {
            return Err(Error::NoAttribute);
        }
        change!(self, xattrs, key, None);
        Ok(())
    }

    fn remove_xattrs(&mut self, ino: Ino) -> Result<()> {
        for name in names_of(&self.tables.xattrs, ino) {
            change!(self, xattrs, (ino, name), None);
        }
        Ok(())
    }

    fn slices(&mut self, ino: Ino, index: ChunkIndex) -> Result<Vec<SliceRecord>> {
        match self.tables.chunks.get(&(ino, index)) {
            Some(bytes) => self.list(ino, index, bytes),
            None => Ok(vec![]),
        }
    }

    fn chunks(&mut self, ino: Ino, from: ChunkIndex, limit: usize) -> Result<Vec<ChunkIndex>> {
        let range = (ino, from)..=(ino, ChunkIndex(u32::MAX));
        Ok(self.tables.chunks.range(range).take(limit).map(|((_, index), _)| *index).collect())
    }

    fn append_slices(&mut self, ino: Ino, index: ChunkIndex, records: &[SliceRecord]) -> Result<u32> {
        let mut bytes = self.tables.chunks.get(&(ino, index)).cloned().unwrap_or_default();
        bytes.extend(SliceRecord::encode_list(records));
        self.list(ino, index, &bytes)?;
        let count = bytes.len() / SLICE_RECORD_BYTES;
        change!(self, chunks, (ino, index), Some(bytes));
        Ok(count as u32)
    }

    fn replace_slices(&mut self, ino: Ino, index: ChunkIndex, records: &[SliceRecord]) -> Result<()> {
        change!(self, chunks, (ino, index), Some(SliceRecord::encode_list(records)));
        Ok(())
    }

    fn remove_chunk(&mut self, ino: Ino, index: ChunkIndex) -> Result<()> {
        change!(self, chunks, (ino, index), None);
        Ok(())
    }

    fn insert_slice(&mut self, slice: SliceRef, refs: u32) -> Result<()> {
        if self.tables.slices.contains_key(&slice.id) {
            return Err(Error::engine("register slice", format!("slice {} is registered already", slice.id)));
        }
        change!(self, slices, slice.id, Some((slice.size, i64::from(refs))));
        Ok(())
    }

    fn add_slice_refs(&mut self, slice: SliceRef, delta: i64) -> Result<i64> {
        match self.tables.slices.get(&slice.id).copied() {
            Some((size, refs)) if size == slice.size => {
                change!(self, slices, slice.id, Some((size, refs + delta)));
                Ok(refs + delta)
            }
            // Without a record nobody knows who else owns it: it is left to gc.
            _ => Ok(1),
        }
    }

    fn slice_refs(&mut self, slice: SliceRef) -> Result<i64> {
        Ok(self.tables.slices.get(&slice.id).filter(|(size, _)| *size == slice.size).map_or(0, |(_, refs)| *refs))
    }

    fn remove_slice(&mut self, slice: SliceRef) -> Result<()> {
        change!(self, slices, slice.id, None);
        Ok(())
    }

    fn unowned_slices(&mut self, after: SliceId, limit: usize) -> Result<Vec<SliceRef>> {
        let later = self.tables.slices.range((Excluded(after), Unbounded));
        let unowned = later.filter(|(_, (_, refs))| *refs <= 0);
        Ok(unowned.take(limit).map(|(id, (size, _))| SliceRef { id: *id, size: *size }).collect())
    }

    fn slice_records(&mut self, after: SliceId, limit: usize) -> Result<Vec<(SliceRef, i64)>> {
        let later = self.tables.slices.range((Excluded(after), Unbounded)).take(limit);
        Ok(later.map(|(id, (size, refs))| (SliceRef { id: *id, size: *size }, *refs)).collect())
    }

    fn scan_chunks(&mut self, after: (Ino, ChunkIndex), limit: usize) -> Result<Vec<(Ino, ChunkIndex, Vec<u8>)>> {
        let later = self.tables.chunks.range((Excluded(after), Unbounded)).take(limit);
        Ok(later.map(|((ino, index), bytes)| (*ino, *index, bytes.clone())).collect())
    }

    fn scan_attrs(&mut self, after: Ino, limit: usize) -> Result<Vec<(Ino, Attr)>> {
        let later = self.tables.attrs.range((Excluded(after), Unbounded)).take(limit);
        Ok(later.map(|(ino, attr)| (*ino, *attr)).collect())
    }

    fn insert_deleted_file(&mut self, file: &DeletedFile) -> Result<()> {
        change!(self, deleted, file.ino, Some((file.length, file.deleted_secs)));
        Ok(())
    }

    fn remove_deleted_file(&mut self, ino: Ino, _length: u64) -> Result<()> {
        change!(self, deleted, ino, None);
        Ok(())
    }

    fn deleted_files(&mut self, until: i64, limit: usize) -> Result<Vec<DeletedFile>> {
        let mut due: Vec<DeletedFile> = (self.tables.deleted.iter())
            .filter(|(_, (_, secs))| *secs <= until)
            .map(|(ino, (length, secs))| DeletedFile { ino: *ino, length: *length, deleted_secs: *secs })
            .collect();
        due.sort_by_key(|f| (f.deleted_secs, f.ino));
        due.truncate(limit);
        Ok(due)
    }

    fn insert_delayed(&mut self, delayed: &DelayedSlices) -> Result<()> {
        change!(self, delayed, delayed.id, Some(delayed.clone()));
        Ok(())
    }

    fn remove_delayed(&mut self, id: SliceId, _deleted_secs: i64) -> Result<()> {
        change!(self, delayed, id, None);
        Ok(())
    }

    fn delayed(&mut self, until: i64, limit: usize) -> Result<Vec<DelayedSlices>> {
        let mut due: Vec<DelayedSlices> =
            self.tables.delayed.values().filter(|d| d.deleted_secs <= until).cloned().collect();
        due.sort_by_key(|d| (d.deleted_secs, d.id));
        due.truncate(limit);
        Ok(due)
    }

    fn counter(&mut self, counter: Counter) -> Result<i64> {
        Ok(self.tables.counters.get(&counter).copied().unwrap_or(0))
    }

    fn add_counter(&mut self, counter: Counter, delta: i64) -> Result<()> {
        let value = self.counter(counter)? + delta;
        self.set_counter(counter, value)
    }

    fn set_counter(&mut self, counter: Counter, value: i64) -> Result<()> {
        change!(self, counters, counter, Some(value));
        Ok(())
    }

    fn dir_stat(&mut self, dir: Ino) -> Result<Option<DirStat>> {
        Ok(self.tables.dir_stats.get(&dir).copied())
    }

    fn put_dir_stat(&mut self, dir: Ino, stat: &DirStat) -> Result<()> {
        change!(self, dir_stats, dir, Some(*stat));
        Ok(())
    }

    fn add_dir_stat(&mut self, dir: Ino, delta: &DirStat) -> Result<bool> {
        let Some(stat) = self.tables.dir_stats.get(&dir).copied() else { return Ok(false) };
        change!(self, dir_stats, dir, Some(stat.plus(*delta)));
        Ok(true)
    }

    fn remove_dir_stat(&mut self, dir: Ino) -> Result<()> {
        change!(self, dir_stats, dir, None);
        Ok(())
    }

    fn quota(&mut self, key: QuotaKey) -> Result<Option<Quota>> {
        Ok(self.tables.quotas.get(&key).copied())
    }

    fn put_quota(&mut self, key: QuotaKey, quota: &Quota) -> Result<()> {
        change!(self, quotas, key, Some(*quota));
        Ok(())
    }

    fn add_quota_used(&mut self, key: QuotaKey, space: i64, inodes: i64) -> Result<bool> {
        let Some(mut quota) = self.tables.quotas.get(&key).copied() else { return Ok(false) };
        quota.used_space += space;
        quota.used_inodes += inodes;
        change!(self, quotas, key, Some(quota));
        Ok(true)
    }

    fn remove_quota(&mut self, key: QuotaKey) -> Result<()> {
        change!(self, quotas, key, None);
        Ok(())
    }

    fn quotas(&mut self, kind: QuotaKind) -> Result<Vec<(QuotaKey, Quota)>> {
        let of_kind = self.tables.quotas.iter().filter(|(key, _)| key.kind == kind);
        Ok(of_kind.map(|(key, quota)| (*key, *quota)).collect())
    }

    fn any_dir_quota(&mut self) -> Result<bool> {
        // Directories sort first.
        Ok(self.tables.quotas.keys().next().is_some_and(|key| key.kind == QuotaKind::Dir))
    }

    fn acl(&mut self, id: u32) -> Result<Option<AclRule>> {
        Ok(self.tables.acls.get(&id).cloned())
    }

    fn intern_acl(&mut self, rule: &AclRule) -> Result<u32> {
        if let Some((id, _)) = self.tables.acls.iter().find(|(_, known)| *known == rule) {
            return Ok(*id);
        }
        let id = self.tables.acls.keys().next_back().map_or(1, |last| last + 1);
        change!(self, acls, id, Some(rule.clone()));
        Ok(id)
    }

    fn session(&mut self, sid: SessionId) -> Result<Option<SessionRecord>> {
        let found = self.tables.sessions.get(&sid).cloned();
        Ok(found.map(|(expire_secs, info)| SessionRecord { sid, expire_secs, info }))
    }

    fn put_session(&mut self, session: &SessionRecord) -> Result<()> {
        let info = self.tables.sessions.get(&session.sid).map_or(&session.info, |(_, info)| info).clone();
        change!(self, sessions, session.sid, Some((session.expire_secs, info)));
        Ok(())
    }

    fn remove_session(&mut self, sid: SessionId) -> Result<()> {
        change!(self, sessions, sid, None);
        Ok(())
    }

    fn sessions(&mut self) -> Result<Vec<SessionRecord>> {
        let all = self.tables.sessions.iter();
        Ok(all.map(|(sid, (at, info))| SessionRecord { sid: *sid, expire_secs: *at, info: info.clone() }).collect())
    }

    fn insert_sustained(&mut self, sid: SessionId, ino: Ino) -> Result<()> {
        change!(self, sustained, (sid, ino), Some(()));
        Ok(())
    }

    fn remove_sustained(&mut self, sid: SessionId, ino: Ino) -> Result<bool> {
        let there = self.tables.sustained.contains_key(&(sid, ino));
        change!(self, sustained, (sid, ino), None);
        Ok(there)
    }

    fn sustained(&mut self, sid: SessionId) -> Result<Vec<Ino>> {
        let range = (Included((sid, Ino(0))), Included((sid, Ino(u64::MAX))));
        Ok(self.tables.sustained.range(range).map(|((_, ino), ())| *ino).collect())
    }

    fn flocks(&mut self, ino: Ino) -> Result<Vec<(LockOwner, FlockKind)>> {
        let held = self.tables.flocks.range((ino, FIRST_OWNER)..).take_while(|((i, _), _)| *i == ino);
        Ok(held.map(|((_, owner), kind)| (*owner, *kind)).collect())
    }

    fn set_flock(&mut self, ino: Ino, owner: LockOwner, kind: Option<FlockKind>) -> Result<()> {
        change!(self, flocks, (ino, owner), kind);
        Ok(())
    }

    fn plocks(&mut self, ino: Ino) -> Result<Vec<(LockOwner, Vec<PlockRange>)>> {
        let held = self.tables.plocks.range((ino, FIRST_OWNER)..).take_while(|((i, _), _)| *i == ino);
        Ok(held.map(|((_, owner), ranges)| (*owner, ranges.clone())).collect())
    }

    fn set_plocks(&mut self, ino: Ino, owner: LockOwner, ranges: &[PlockRange]) -> Result<()> {
        change!(self, plocks, (ino, owner), (!ranges.is_empty()).then(|| ranges.to_vec()));
        Ok(())
    }

    fn remove_locks(&mut self, sid: SessionId) -> Result<()> {
        let flocks: Vec<_> = self.tables.flocks.keys().filter(|(_, o)| o.sid == sid).copied().collect();
        for key in flocks {
            change!(self, flocks, key, None);
        }
        let plocks: Vec<_> = self.tables.plocks.keys().filter(|(_, o)| o.sid == sid).copied().collect();
        for key in plocks {
            change!(self, plocks, key, None);
        }
        Ok(())
    }

    fn detached(&mut self) -> Result<Vec<(Ino, i64)>> {
        Ok(self.tables.detached.iter().map(|(ino, secs)| (*ino, *secs)).collect())
    }

    fn remove_detached(&mut self, ino: Ino) -> Result<()> {
        change!(self, detached, ino, None);
        Ok(())
    }

    fn setting(&mut self) -> Result<Option<String>> {
        Ok(self.tables.setting.get(&()).cloned())
    }

    fn put_setting(&mut self, json: &str) -> Result<()> {
        change!(self, setting, (), Some(json.to_string()));
        Ok(())
    }

    fn log_change(&mut self, entry: &str) -> Result<()> {
        let id = self.tables.change_log.keys().next_back().map_or(1, |last| last + 1);
        let secs = leading_number(entry);
        change!(self, change_log, id, Some((secs, entry.to_string())));
        Ok(())
    }

    fn trim_change_log(&mut self, before_secs: i64, keep_lines: u64) -> Result<()> {
        let log = &self.tables.change_log;
        let surplus = if keep_lines == 0 { 0 } else { (log.len() as u64).saturating_sub(keep_lines) as usize };
        let old = log.values().take_while(|(secs, _)| *secs < before_secs).count();
        let doomed: Vec<u64> = log.keys().take(surplus.max(old)).copied().collect();
        for id in doomed {
            change!(self, change_log, id, None);
        }
        Ok(())
    }
}

//! A transaction over the tables: each record of the seam as rows.

use cairn_types::{
    AclEntry, AclRule, Attr, ChunkIndex, Ino, SLICE_RECORD_BYTES, SessionId, SliceId, SliceRecord, SliceRef,
};
use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, Params, Row, params};

use super::super::sql::columns::{columns_of, owner_kind};
use super::convert::{attr, bytes, fail, id, int, is_duplicate, kind, small, text};
use super::pending::{Pending, Slot};
use super::sql::Sql;
use crate::record::{
    DelayedSlices, DeletedFile, DirStat, Entry, FlockKind, LockOwner, NamedEntry, PlockRange, Quota, QuotaKey,
    QuotaKind, SessionRecord,
};
use crate::txn::{AttrChange, Counter, Rely, Txn};
use crate::{Error, Result};

/// A transaction that is open on `conn`.
pub(super) struct SqliteTxn<'c> {
    pub(super) conn: &'c Connection,
    pub(super) sql: &'c Sql,
    pub(super) pending: &'c mut Pending,
    /// Sessions this process stored or refreshed.
    pub(super) own_sessions: &'c mut Vec<SessionId>,
}

/// An id as SQL keeps it: the same 64 bits, signed.
struct Bits(u64);

impl ToSql for Bits {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(ValueRef::Integer(self.0 as i64)))
    }
}

/// An attribute's name: text as JuiceFS has it; what is no text, as it is.
struct XattrName<'a>(&'a [u8]);

impl ToSql for XattrName<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match std::str::from_utf8(self.0) {
            Ok(name) => ValueRef::Text(name.as_bytes()),
            Err(_) => ValueRef::Blob(self.0),
        }))
    }
}

/// `LIMIT` of a page.
fn limit(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

impl SqliteTxn<'_> {
    /// Changes rows; returns how many.
    fn run(&self, action: &'static str, statement: &str, params: impl Params) -> Result<usize> {
        self.conn.prepare_cached(statement).and_then(|mut s| s.execute(params)).map_err(|e| fail(action, e))
    }

    /// Reads at most one row.
    fn one<T>(
        &self,
        action: &'static str,
        statement: &str,
        params: impl Params,
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut statement = self.conn.prepare_cached(statement).map_err(|e| fail(action, e))?;
        let mut rows = statement.query(params).map_err(|e| fail(action, e))?;
        match rows.next().map_err(|e| fail(action, e))? {
            Some(row) => read(row).map(Some),
            None => Ok(None),
        }
    }

    /// Reads all rows.
    fn all<T>(
        &self,
        action: &'static str,
        statement: &str,
        params: impl Params,
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut statement = self.conn.prepare_cached(statement).map_err(|e| fail(action, e))?;
        let mut rows = statement.query(params).map_err(|e| fail(action, e))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(|e| fail(action, e))? {
            found.push(read(row)?);
        }
        Ok(found)
    }

    /// Writes the sums down. Called last before the commit.
    pub(super) fn flush(&mut self) -> Result<()> {
        for (counter, delta) in self.pending.counter_sums() {
            self.run("count usage", &self.sql.add_counter, params![counter.name(), delta])?;
        }
        for (dir, d) in self.pending.dir_sums() {
            let params = params![Bits(dir.0), d.length, d.space, d.inodes];
            self.run("add to directory statistics", &self.sql.add_dir_stat, params)?;
        }
        self.pending.clear();
        Ok(())
    }

    fn stored_dir_stat(&self, dir: Ino) -> Result<Option<DirStat>> {
        self.one("read directory statistics", &self.sql.dir_stat, [Bits(dir.0)], |row| {
            Ok(DirStat { length: int(row, 0)?, space: int(row, 1)?, inodes: int(row, 2)? })
        })
    }
}

fn corrupt_chunk(ino: Ino, index: ChunkIndex, reason: impl std::fmt::Display) -> Error {
    Error::CorruptChunk { ino, index, reason: reason.to_string() }
}

fn quota_at(row: &Row<'_>) -> Result<Quota> {
    Ok(Quota { max_space: int(row, 0)?, max_inodes: int(row, 1)?, used_space: int(row, 2)?, used_inodes: int(row, 3)? })
}

fn slice_at(row: &Row<'_>) -> Result<SliceRef> {
    Ok(SliceRef { id: SliceId(id(row, 0)?), size: small(row, 1)? })
}

fn owner_at(row: &Row<'_>) -> Result<LockOwner> {
    Ok(LockOwner { sid: SessionId(id(row, 0)?), owner: id(row, 1)? })
}

fn entry_at(row: &Row<'_>, at: usize) -> Result<Entry> {
    let ino = Ino(id(row, at)?);
    Ok(Entry { ino, kind: kind(row, at + 1, ino)? })
}

/// Sets of an `UPDATE node`, and their values in the same order.
fn sets_of(change: &AttrChange) -> (String, Vec<i64>) {
    let (mut sets, mut values) = (String::with_capacity(160), Vec::with_capacity(12));
    let mut set = |text: &str, value: i64| {
        if !values.is_empty() {
            sets.push_str(", ");
        }
        sets.push_str(text);
        values.push(value);
    };
    let mut time = |column: [&str; 2], time: Option<cairn_types::Timestamp>| {
        if let Some((micros, nanos)) = time.map(columns_of) {
            set(column[0], micros);
            set(column[1], nanos);
        }
    };
    time(["atime = ?", "atimensec = ?"], change.atime);
    time(["mtime = ?", "mtimensec = ?"], change.mtime);
    time(["ctime = ?", "ctimensec = ?"], change.ctime);
    let plain = [
        ("flags = ?", change.flags.map(|f| i64::from(f.0))),
        ("mode = ?", change.mode.map(|m| i64::from(m & 0o7777))),
        ("uid = ?", change.uid.map(i64::from)),
        ("gid = ?", change.gid.map(i64::from)),
        ("nlink = max(nlink + ?, 0)", (change.nlink_add != 0).then_some(i64::from(change.nlink_add))),
        ("parent = ?", change.parent.map(|p| p.0 as i64)),
        ("access_acl_id = ?", change.access_acl.map(i64::from)),
        ("default_acl_id = ?", change.default_acl.map(i64::from)),
        ("tier_id = ?", change.tier.map(i64::from)),
    ];
    plain.into_iter().filter_map(|(text, value)| Some((text, value?))).for_each(|(text, value)| set(text, value));
    match (change.length, change.length_at_least) {
        (Some(length), least) => set("length = ?", length.max(least.unwrap_or(0)) as i64),
        (None, Some(least)) => set("length = max(length, ?)", least as i64),
        (None, None) => {}
    }
    (sets, values)
}

impl Txn for SqliteTxn<'_> {
    fn attr(&mut self, ino: Ino, _rely: Rely) -> Result<Option<Attr>> {
        self.one("read inode", &self.sql.attr, [Bits(ino.0)], |row| attr(row, 0, ino))
    }

    fn insert_attr(&mut self, ino: Ino, a: &Attr) -> Result<()> {
        let [atime, mtime, ctime] = [a.atime, a.mtime, a.ctime].map(columns_of);
        self.run(
            "store inode",
            &self.sql.insert_attr,
            params![
                Bits(ino.0),
                a.kind as u8,
                a.flags.0,
                a.mode & 0o7777,
                a.uid,
                a.gid,
                atime.0,
                atime.1,
                mtime.0,
                mtime.1,
                ctime.0,
                ctime.1,
                a.nlink,
                Bits(a.length),
                a.rdev,
                Bits(a.parent.0),
                a.access_acl,
                a.default_acl,
                a.tier,
            ],
        )?;
        Ok(())
    }

    fn change_attr(&mut self, ino: Ino, change: &AttrChange) -> Result<()> {
        if change.is_empty() {
            return Ok(());
        }
        let (sets, mut values) = sets_of(change);
        let statement = [&self.sql.change_attr, &sets, " WHERE inode = ?"].concat();
        values.push(ino.0 as i64);
        match self.run("change inode", &statement, rusqlite::params_from_iter(values))? {
            0 => Err(Error::NoEntry),
            _ => Ok(()),
        }
    }

    fn remove_attr(&mut self, ino: Ino) -> Result<()> {
        self.run("remove inode", &self.sql.remove_attr, [Bits(ino.0)])?;
        Ok(())
    }

    fn entry(&mut self, parent: Ino, name: &[u8]) -> Result<Option<Entry>> {
        self.one("look up a name", &self.sql.entry, params![Bits(parent.0), name], |row| entry_at(row, 0))
    }

    fn dir_is_empty(&mut self, dir: Ino) -> Result<bool> {
        let any = self.one("look for entries", &self.sql.dir_has_entry, [Bits(dir.0)], |_| Ok(()))?;
        Ok(any.is_none())
    }

    fn entries(&mut self, dir: Ino, after: &[u8], n: usize, plus: bool) -> Result<Vec<NamedEntry>> {
        let statement = if plus { &self.sql.entries_plus } else { &self.sql.entries };
        self.all("list directory", statement, params![Bits(dir.0), after, limit(n)], |row| {
            let entry = entry_at(row, 1)?;
            // One unreadable inode must not hide its neighbours; asked for by itself, it says why.
            let attr = if plus && int(row, 3)? != 0 { attr(row, 4, entry.ino).ok() } else { None };
            Ok(NamedEntry { name: bytes(row, 0)?.to_vec(), entry, attr })
        })
    }

    fn insert_entry(&mut self, parent: Ino, name: &[u8], entry: Entry) -> Result<()> {
        let params = params![Bits(parent.0), name, Bits(entry.ino.0), entry.kind as u8];
        let added = self.conn.prepare_cached(&self.sql.insert_entry).and_then(|mut s| s.execute(params));
        match added {
            Ok(_) => Ok(()),
            Err(e) if is_duplicate(&e) => Err(Error::Exists),
            Err(e) => Err(fail("add a name", e)),
        }
    }

    fn replace_entry(&mut self, parent: Ino, name: &[u8], entry: Entry) -> Result<()> {
        let params = params![Bits(parent.0), name, Bits(entry.ino.0), entry.kind as u8];
        match self.run("replace a name", &self.sql.replace_entry, params)? {
            0 => Err(Error::NoEntry),
            _ => Ok(()),
        }
    }

    fn remove_entry(&mut self, parent: Ino, name: &[u8]) -> Result<()> {
        match self.run("remove a name", &self.sql.remove_entry, params![Bits(parent.0), name])? {
            0 => Err(Error::NoEntry),
            _ => Ok(()),
        }
    }

    fn parents(&mut self, ino: Ino) -> Result<Vec<(Ino, u32)>> {
        self.all("find the names of an inode", &self.sql.parents, [Bits(ino.0)], |row| {
            Ok((Ino(id(row, 0)?), small(row, 1)?))
        })
    }

    fn add_parent(&mut self, _ino: Ino, _parent: Ino, _delta: i32) -> Result<()> {
        Ok(()) // `edge` has an index by inode.
    }

    fn remove_parents(&mut self, _ino: Ino) -> Result<()> {
        Ok(())
    }

    fn symlink(&mut self, ino: Ino) -> Result<Option<Vec<u8>>> {
        self.one("read a symlink", &self.sql.symlink, [Bits(ino.0)], |row| Ok(bytes(row, 0)?.to_vec()))
    }

    fn insert_symlink(&mut self, ino: Ino, target: &[u8]) -> Result<()> {
        self.run("store a symlink", &self.sql.insert_symlink, params![Bits(ino.0), target])?;
        Ok(())
    }

    fn remove_symlink(&mut self, ino: Ino) -> Result<()> {
        self.run("remove a symlink", &self.sql.remove_symlink, [Bits(ino.0)])?;
        Ok(())
    }

    fn xattr(&mut self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
        let params = params![Bits(ino.0), XattrName(name)];
        self.one("read an attribute", &self.sql.xattr, params, |row| Ok(bytes(row, 0)?.to_vec()))
    }

    fn xattr_names(&mut self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let mut names =
            self.all("list attributes", &self.sql.xattr_names, [Bits(ino.0)], |row| Ok(bytes(row, 0)?.to_vec()))?;
        names.sort();
        Ok(names)
    }

    fn put_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> Result<()> {
        self.run("set an attribute", &self.sql.put_xattr, params![Bits(ino.0), XattrName(name), value])?;
        Ok(())
    }

    fn remove_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<()> {
        match self.run("remove an attribute", &self.sql.remove_xattr, params![Bits(ino.0), XattrName(name)])? {
            0 => Err(Error::NoAttribute),
            _ => Ok(()),
        }
    }

    fn remove_xattrs(&mut self, ino: Ino) -> Result<()> {
        self.run("remove attributes", &self.sql.remove_xattrs, [Bits(ino.0)])?;
        Ok(())
    }

    fn slices(&mut self, ino: Ino, index: ChunkIndex) -> Result<Vec<SliceRecord>> {
        let list = self.one("read a slice list", &self.sql.slices, params![Bits(ino.0), index.0], |row| {
            SliceRecord::decode_list(bytes(row, 0)?).map_err(|e| corrupt_chunk(ino, index, e))
        })?;
        Ok(list.unwrap_or_default())
    }

    fn chunks(&mut self, ino: Ino, from: ChunkIndex, n: usize) -> Result<Vec<ChunkIndex>> {
        self.all("list the chunks of a file", &self.sql.chunks, params![Bits(ino.0), from.0, limit(n)], |row| {
            Ok(ChunkIndex(small(row, 0)?))
        })
    }

    fn append_slices(&mut self, ino: Ino, index: ChunkIndex, records: &[SliceRecord]) -> Result<u32> {
        let params = params![Bits(ino.0), index.0, SliceRecord::encode_list(records)];
        let length = self.one("append to a slice list", &self.sql.append_slices, params, |row| small(row, 0))?;
        let length: usize = length.unwrap_or(0);
        if !length.is_multiple_of(SLICE_RECORD_BYTES) {
            let torn = length - records.len() * SLICE_RECORD_BYTES;
            return Err(corrupt_chunk(ino, index, cairn_types::CorruptSlices { bytes: torn }));
        }
        Ok((length / SLICE_RECORD_BYTES) as u32)
    }

    fn replace_slices(&mut self, ino: Ino, index: ChunkIndex, records: &[SliceRecord]) -> Result<()> {
        let params = params![Bits(ino.0), index.0, SliceRecord::encode_list(records)];
        self.run("replace a slice list", &self.sql.replace_slices, params)?;
        Ok(())
    }

    fn remove_chunk(&mut self, ino: Ino, index: ChunkIndex) -> Result<()> {
        self.run("remove a slice list", &self.sql.remove_chunk, params![Bits(ino.0), index.0])?;
        Ok(())
    }

    fn insert_slice(&mut self, slice: SliceRef, refs: u32) -> Result<()> {
        self.run("register a slice", &self.sql.insert_slice, params![Bits(slice.id.0), slice.size, refs])?;
        Ok(())
    }

    fn add_slice_refs(&mut self, slice: SliceRef, delta: i64) -> Result<i64> {
        let params = params![Bits(slice.id.0), slice.size, delta];
        let refs = self.one("count references of a slice", &self.sql.add_slice_refs, params, |row| int(row, 0))?;
        // Without a record nobody knows who else owns it: it is left to gc.
        Ok(refs.unwrap_or(1))
    }

    fn slice_refs(&mut self, slice: SliceRef) -> Result<i64> {
        let params = params![Bits(slice.id.0), slice.size];
        let refs = self.one("read references of a slice", &self.sql.slice_refs, params, |row| int(row, 0))?;
        Ok(refs.unwrap_or(0))
    }

    fn remove_slice(&mut self, slice: SliceRef) -> Result<()> {
        self.run("forget a slice", &self.sql.remove_slice, [Bits(slice.id.0)])?;
        Ok(())
    }

    fn unowned_slices(&mut self, after: SliceId, n: usize) -> Result<Vec<SliceRef>> {
        self.all("list unowned slices", &self.sql.unowned_slices, params![Bits(after.0), limit(n)], slice_at)
    }

    fn slice_records(&mut self, after: SliceId, n: usize) -> Result<Vec<(SliceRef, i64)>> {
        self.all("list slices", &self.sql.slice_records, params![Bits(after.0), limit(n)], |row| {
            Ok((slice_at(row)?, int(row, 2)?))
        })
    }

    fn scan_chunks(&mut self, after: (Ino, ChunkIndex), n: usize) -> Result<Vec<(Ino, ChunkIndex, Vec<u8>)>> {
        let params = params![Bits(after.0.0), after.1.0, limit(n)];
        self.all("scan slice lists", &self.sql.scan_chunks, params, |row| {
            Ok((Ino(id(row, 0)?), ChunkIndex(small(row, 1)?), bytes(row, 2)?.to_vec()))
        })
    }

    fn scan_attrs(&mut self, after: Ino, n: usize) -> Result<Vec<(Ino, Attr)>> {
        self.all("scan inodes", &self.sql.scan_attrs, params![Bits(after.0), limit(n)], |row| {
            let ino = Ino(id(row, 0)?);
            Ok((ino, attr(row, 1, ino)?))
        })
    }

    fn insert_deleted_file(&mut self, file: &DeletedFile) -> Result<()> {
        let params = params![Bits(file.ino.0), Bits(file.length), file.deleted_secs];
        self.run("remember a deleted file", &self.sql.insert_deleted_file, params)?;
        Ok(())
    }

    fn remove_deleted_file(&mut self, ino: Ino, _length: u64) -> Result<()> {
        self.run("forget a deleted file", &self.sql.remove_deleted_file, [Bits(ino.0)])?;
        Ok(())
    }

    fn deleted_files(&mut self, until: i64, n: usize) -> Result<Vec<DeletedFile>> {
        self.all("list deleted files", &self.sql.deleted_files, params![until, limit(n)], |row| {
            Ok(DeletedFile { ino: Ino(id(row, 0)?), length: id(row, 1)?, deleted_secs: int(row, 2)? })
        })
    }

    fn insert_delayed(&mut self, delayed: &DelayedSlices) -> Result<()> {
        let params = params![Bits(delayed.id.0), delayed.deleted_secs, delayed.encode_slices()];
        self.run("keep replaced slices", &self.sql.insert_delayed, params)?;
        Ok(())
    }

    fn remove_delayed(&mut self, id: SliceId, _deleted_secs: i64) -> Result<()> {
        self.run("forget replaced slices", &self.sql.remove_delayed, [Bits(id.0)])?;
        Ok(())
    }

    fn delayed(&mut self, until: i64, n: usize) -> Result<Vec<DelayedSlices>> {
        self.all("list replaced slices", &self.sql.delayed, params![until, limit(n)], |row| {
            let slice = SliceId(id(row, 0)?);
            let slices = DelayedSlices::decode_slices(bytes(row, 2)?)
                .ok_or_else(|| Error::Corrupt(format!("the replaced slices of slice {slice} are torn")))?;
            Ok(DelayedSlices { id: slice, deleted_secs: int(row, 1)?, slices })
        })
    }

    fn counter(&mut self, counter: Counter) -> Result<i64> {
        let stored = self.one("read a counter", &self.sql.counter, [counter.name()], |row| int(row, 0))?;
        Ok(stored.unwrap_or(0) + self.pending.counter(counter).map_or(0, |delta| *delta))
    }

    fn add_counter(&mut self, counter: Counter, delta: i64) -> Result<()> {
        if let Some(sum) = self.pending.counter(counter) {
            *sum += delta;
            return Ok(());
        }
        self.run("add to a counter", &self.sql.add_counter, params![counter.name(), delta])?;
        Ok(())
    }

    fn set_counter(&mut self, counter: Counter, value: i64) -> Result<()> {
        if let Some(sum) = self.pending.counter(counter) {
            *sum = 0;
        }
        self.run("set a counter", &self.sql.set_counter, params![counter.name(), value])?;
        Ok(())
    }

    fn dir_stat(&mut self, dir: Ino) -> Result<Option<DirStat>> {
        let delta = self.pending.dir(dir).map_or_else(DirStat::default, |slot| slot.delta);
        Ok(self.stored_dir_stat(dir)?.map(|stat| stat.plus(delta)))
    }

    fn put_dir_stat(&mut self, dir: Ino, stat: &DirStat) -> Result<()> {
        self.pending.set_dir(dir, Slot { exists: true, delta: DirStat::default() });
        let params = params![Bits(dir.0), stat.length, stat.space, stat.inodes];
        self.run("store directory statistics", &self.sql.put_dir_stat, params)?;
        Ok(())
    }

    fn add_dir_stat(&mut self, dir: Ino, delta: &DirStat) -> Result<bool> {
        let Some(slot) = self.pending.dir(dir) else {
            // The first change goes to the row at once, which tells whether there is one.
            let params = params![Bits(dir.0), delta.length, delta.space, delta.inodes];
            let exists = self.run("add to directory statistics", &self.sql.add_dir_stat, params)? > 0;
            self.pending.set_dir(dir, Slot { exists, delta: DirStat::default() });
            return Ok(exists);
        };
        self.pending.set_dir(dir, Slot { exists: slot.exists, delta: slot.delta.plus(*delta) });
        Ok(slot.exists)
    }

    fn remove_dir_stat(&mut self, dir: Ino) -> Result<()> {
        self.pending.set_dir(dir, Slot { exists: false, delta: DirStat::default() });
        self.run("remove directory statistics", &self.sql.remove_dir_stat, [Bits(dir.0)])?;
        Ok(())
    }

    fn quota(&mut self, key: QuotaKey) -> Result<Option<Quota>> {
        match owner_kind(key.kind) {
            None => self.one("read a quota", &self.sql.dir_quota, [Bits(key.id)], quota_at),
            Some(kind) => self.one("read a quota", &self.sql.owner_quota, params![kind, Bits(key.id)], quota_at),
        }
    }

    fn put_quota(&mut self, key: QuotaKey, q: &Quota) -> Result<()> {
        self.pending.any_dir_quota = None;
        match owner_kind(key.kind) {
            None => {
                let params = params![Bits(key.id), q.max_space, q.max_inodes, q.used_space, q.used_inodes];
                self.run("store a quota", &self.sql.put_dir_quota, params)?
            }
            Some(kind) => {
                let params = params![kind, Bits(key.id), q.max_space, q.max_inodes, q.used_space, q.used_inodes];
                self.run("store a quota", &self.sql.put_owner_quota, params)?
            }
        };
        Ok(())
    }

    fn add_quota_used(&mut self, key: QuotaKey, space: i64, inodes: i64) -> Result<bool> {
        let action = "add to a quota's usage";
        let rows = match owner_kind(key.kind) {
            None => self.run(action, &self.sql.add_dir_quota, params![Bits(key.id), space, inodes])?,
            Some(kind) => self.run(action, &self.sql.add_owner_quota, params![kind, Bits(key.id), space, inodes])?,
        };
        Ok(rows > 0)
    }

    fn remove_quota(&mut self, key: QuotaKey) -> Result<()> {
        self.pending.any_dir_quota = None;
        match owner_kind(key.kind) {
            None => self.run("remove a quota", &self.sql.remove_dir_quota, [Bits(key.id)])?,
            Some(kind) => self.run("remove a quota", &self.sql.remove_owner_quota, params![kind, Bits(key.id)])?,
        };
        Ok(())
    }

    fn quotas(&mut self, kind: QuotaKind) -> Result<Vec<(QuotaKey, Quota)>> {
        let read = |row: &Row<'_>| Ok((QuotaKey { kind, id: id(row, 4)? }, quota_at(row)?));
        match owner_kind(kind) {
            None => self.all("list quotas", &self.sql.dir_quotas, [], read),
            Some(number) => self.all("list quotas", &self.sql.owner_quotas, [number], read),
        }
    }

    fn any_dir_quota(&mut self) -> Result<bool> {
        if let Some(known) = self.pending.any_dir_quota {
            return Ok(known);
        }
        let any = self.one("look for quotas", &self.sql.any_dir_quota, [], |_| Ok(()))?.is_some();
        self.pending.any_dir_quota = Some(any);
        Ok(any)
    }

    fn acl(&mut self, id: u32) -> Result<Option<AclRule>> {
        self.one("read an access rule", &self.sql.acl, [id], |row| {
            let list = |column| {
                AclEntry::decode_list(bytes(row, column)?)
                    .ok_or_else(|| Error::Corrupt(format!("the named entries of access rule {id} are torn")))
            };
            let (users, groups) = (list(4)?, list(5)?);
            let [owner, group, mask, other] = [small(row, 0)?, small(row, 1)?, small(row, 2)?, small(row, 3)?];
            Ok(AclRule { owner, group, mask, other, users, groups })
        })
    }

    fn intern_acl(&mut self, rule: &AclRule) -> Result<u32> {
        let [users, groups] = [&rule.users, &rule.groups].map(|list| AclEntry::encode_list(list));
        let params = params![rule.owner, rule.group, rule.mask, rule.other, users, groups];
        if let Some(id) = self.one("find an access rule", &self.sql.find_acl, params, |row| small(row, 0))? {
            return Ok(id);
        }
        self.run("store an access rule", &self.sql.insert_acl, params)?;
        u32::try_from(self.conn.last_insert_rowid()).map_err(|e| Error::engine("store an access rule", e))
    }

    fn session(&mut self, sid: SessionId) -> Result<Option<SessionRecord>> {
        self.one("read a session", &self.sql.session, [Bits(sid.0)], |row| {
            Ok(SessionRecord { sid, expire_secs: int(row, 0)?, info: text(row, 1)? })
        })
    }

    fn put_session(&mut self, session: &SessionRecord) -> Result<()> {
        if !self.own_sessions.contains(&session.sid) {
            self.own_sessions.push(session.sid);
        }
        let params = params![Bits(session.sid.0), session.expire_secs, session.info.as_bytes()];
        self.run("store a session", &self.sql.put_session, params)?;
        Ok(())
    }

    fn remove_session(&mut self, sid: SessionId) -> Result<()> {
        self.own_sessions.retain(|own| *own != sid);
        self.run("remove a session", &self.sql.remove_session, [Bits(sid.0)])?;
        Ok(())
    }

    fn sessions(&mut self) -> Result<Vec<SessionRecord>> {
        self.all("list sessions", &self.sql.sessions, [], |row| {
            Ok(SessionRecord { sid: SessionId(id(row, 0)?), expire_secs: int(row, 1)?, info: text(row, 2)? })
        })
    }

    fn insert_sustained(&mut self, sid: SessionId, ino: Ino) -> Result<()> {
        self.run("sustain an inode", &self.sql.insert_sustained, params![Bits(sid.0), Bits(ino.0)])?;
        Ok(())
    }

    fn remove_sustained(&mut self, sid: SessionId, ino: Ino) -> Result<bool> {
        let params = params![Bits(sid.0), Bits(ino.0)];
        Ok(self.run("let go of a sustained inode", &self.sql.remove_sustained, params)? > 0)
    }

    fn sustained(&mut self, sid: SessionId) -> Result<Vec<Ino>> {
        self.all("list sustained inodes", &self.sql.sustained, [Bits(sid.0)], |row| Ok(Ino(id(row, 0)?)))
    }

    fn flocks(&mut self, ino: Ino) -> Result<Vec<(LockOwner, FlockKind)>> {
        let mut held = self.all("read locks", &self.sql.flocks, [Bits(ino.0)], |row| {
            let kind = FlockKind::from_letter(small(row, 2)?)
                .ok_or_else(|| Error::Corrupt(format!("inode {ino} has a lock of an unknown kind")))?;
            Ok((owner_at(row)?, kind))
        })?;
        held.sort_by_key(|(owner, _)| *owner);
        Ok(held)
    }

    fn set_flock(&mut self, ino: Ino, owner: LockOwner, kind: Option<FlockKind>) -> Result<()> {
        let [i, s, o] = [ino.0, owner.sid.0, owner.owner].map(Bits);
        match kind {
            Some(kind) => self.run("set a lock", &self.sql.put_flock, params![i, s, o, kind.letter()])?,
            None => self.run("drop a lock", &self.sql.remove_flock, params![i, s, o])?,
        };
        Ok(())
    }

    fn plocks(&mut self, ino: Ino) -> Result<Vec<(LockOwner, Vec<PlockRange>)>> {
        let mut held = self.all("read locks", &self.sql.plocks, [Bits(ino.0)], |row| {
            let ranges = PlockRange::decode_list(bytes(row, 2)?)
                .ok_or_else(|| Error::Corrupt(format!("the range locks of inode {ino} are torn")))?;
            Ok((owner_at(row)?, ranges))
        })?;
        held.retain(|(_, ranges)| !ranges.is_empty());
        held.sort_by_key(|(owner, _)| *owner);
        Ok(held)
    }

    fn set_plocks(&mut self, ino: Ino, owner: LockOwner, ranges: &[PlockRange]) -> Result<()> {
        let [i, s, o] = [ino.0, owner.sid.0, owner.owner].map(Bits);
        if ranges.is_empty() {
            self.run("drop range locks", &self.sql.remove_plock, params![i, s, o])?;
        } else {
            let records = PlockRange::encode_list(ranges);
            self.run("set range locks", &self.sql.put_plock, params![i, s, o, records])?;
        }
        Ok(())
    }

    fn remove_locks(&mut self, sid: SessionId) -> Result<()> {
        self.run("drop a session's locks", &self.sql.remove_flocks_of, [Bits(sid.0)])?;
        self.run("drop a session's locks", &self.sql.remove_plocks_of, [Bits(sid.0)])?;
        Ok(())
    }

    fn detached(&mut self) -> Result<Vec<(Ino, i64)>> {
        self.all("list detached trees", &self.sql.detached, [], |row| Ok((Ino(id(row, 0)?), int(row, 1)?)))
    }

    fn remove_detached(&mut self, ino: Ino) -> Result<()> {
        self.run("forget a detached tree", &self.sql.remove_detached, [Bits(ino.0)])?;
        Ok(())
    }

    fn setting(&mut self) -> Result<Option<String>> {
        match self.one("read the volume's setting", &self.sql.setting, [], |row| text(row, 0)) {
            Err(Error::Engine(e)) if e.reason.starts_with("no such table") => Ok(None),
            setting => setting,
        }
    }

    fn put_setting(&mut self, json: &str) -> Result<()> {
        self.run("store the volume's setting", &self.sql.put_setting, [json])?;
        Ok(())
    }

    fn log_change(&mut self, entry: &str) -> Result<()> {
        self.run("log a change", &self.sql.log_change, [entry])?;
        Ok(())
    }

    fn trim_change_log(&mut self, before_secs: i64, keep_lines: u64) -> Result<()> {
        let action = "trim the change log";
        let young = self.one(action, &self.sql.first_young_change, [before_secs], |row| int(row, 0))?;
        let old = match young {
            Some(first) => Some(first - 1),
            None => self.one(action, &self.sql.last_change, [], |row| int(row, 0))?,
        };
        let surplus = match keep_lines {
            0 => None,
            keep => self.one(action, &self.sql.surplus_change, [Bits(keep)], |row| int(row, 0))?,
        };
        if let Some(last) = old.max(surplus) {
            self.run(action, &self.sql.trim_changes, [last])?;
        }
        Ok(())
    }
}

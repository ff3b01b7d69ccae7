//! What stands under a key: the `SELECT` that reads it, and the value its rows make.

use cairn_types::{
    AclEntry, AclRule, ChunkIndex, CorruptSlices, Ino, SLICE_RECORD_BYTES, SessionId, SliceId, SliceRecord,
};

use super::Tables;
use super::columns::owner_kind;
use super::rows::Row;
use crate::engine::remote::record::{Key, Value};
use crate::record::{
    DelayedSlices, DeletedFile, FlockKind, NamedEntry, PlockRange, QuotaKey, QuotaKind, SessionRecord,
};
use crate::{Error, Result};

/// `LIMIT` of a page.
fn limit(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn corrupt_chunk(ino: Ino, index: ChunkIndex, reason: impl std::fmt::Display) -> Error {
    Error::CorruptChunk { ino, index, reason: reason.to_string() }
}

impl Tables {
    /// The statement that reads a key.
    pub(super) fn select(&self, key: &Key) -> String {
        let Tables { node, edge, chunk, chunk_ref, attr, node_attr, .. } = self;
        match key {
            Key::Attr(Ino(ino)) => format!("SELECT {attr} FROM {node} WHERE inode = {}", *ino as i64),
            Key::Entry(dir, name) => format!(
                "SELECT e.inode, e.type, n.inode, {node_attr} FROM {edge} e LEFT JOIN {node} n ON n.inode = e.inode \
                 WHERE e.parent = {} AND e.name = {}",
                dir.0 as i64,
                self.blob(name)
            ),
            Key::DirIsEmpty(dir) => format!("SELECT 1 FROM {edge} WHERE parent = {} LIMIT 1", dir.0 as i64),
            Key::Entries { dir, after, limit: n, plus } => {
                let page = format!(
                    "SELECT name, inode, type FROM {edge} WHERE parent = {} AND name > {} ORDER BY name LIMIT {}",
                    dir.0 as i64,
                    self.blob(after),
                    limit(*n)
                );
                match plus {
                    false => page,
                    true => format!(
                        "SELECT e.name, e.inode, e.type, n.inode, {node_attr} FROM ({page}) e \
                         LEFT JOIN {node} n ON n.inode = e.inode ORDER BY e.name"
                    ),
                }
            }
            Key::Parents(ino) => format!(
                "SELECT parent, count(*) FROM {edge} WHERE inode = {} GROUP BY parent ORDER BY parent",
                ino.0 as i64
            ),
            Key::Symlink(ino) => format!("SELECT target FROM {} WHERE inode = {}", self.symlink, ino.0 as i64),
            Key::Xattr(ino, name) | Key::HasXattr(ino, name) => {
                format!("SELECT value FROM {} WHERE {}", self.xattr, self.xattr_is(*ino, name))
            }
            Key::XattrNames(ino) => format!("SELECT name FROM {} WHERE inode = {}", self.xattr, ino.0 as i64),
            Key::Slices(ino, index) => {
                format!("SELECT slices FROM {chunk} WHERE inode = {} AND indx = {}", ino.0 as i64, index.0)
            }
            Key::SliceCount(ino, index) => format!(
                "SELECT {} FROM {chunk} WHERE inode = {} AND indx = {}",
                self.dialect.bytes_of("slices"),
                ino.0 as i64,
                index.0
            ),
            Key::Chunks { ino, from, limit: n } => format!(
                "SELECT indx FROM {chunk} WHERE inode = {} AND indx >= {} ORDER BY indx LIMIT {}",
                ino.0 as i64,
                from.0,
                limit(*n)
            ),
            // Lists are few and indexed: no need to guess from the length which there may be.
            Key::DeletedChunks { ino, limit: n, .. } => {
                self.select(&Key::Chunks { ino: *ino, from: ChunkIndex(0), limit: *n })
            }
            Key::SliceRefs(slice) => {
                format!("SELECT refs FROM {chunk_ref} WHERE chunkid = {} AND size = {}", slice.id.0 as i64, slice.size)
            }
            Key::UnownedSlices { after, limit: n } => format!(
                "SELECT chunkid, size FROM {chunk_ref} WHERE refs <= 0 AND chunkid > {} ORDER BY chunkid LIMIT {}",
                after.0 as i64,
                limit(*n)
            ),
            Key::SliceRecords { after, limit: n } => format!(
                "SELECT chunkid, size, refs FROM {chunk_ref} WHERE chunkid > {} ORDER BY chunkid LIMIT {}",
                after.0 as i64,
                limit(*n)
            ),
            Key::ScanChunks { after: (ino, index), limit: n } => format!(
                "SELECT inode, indx, slices FROM {chunk} WHERE inode >= {0} AND (inode > {0} OR indx > {1}) \
                 ORDER BY inode, indx LIMIT {2}",
                ino.0 as i64,
                index.0,
                limit(*n)
            ),
            Key::ScanAttrs { after, limit: n } => format!(
                "SELECT inode, {attr} FROM {node} WHERE inode > {} ORDER BY inode LIMIT {}",
                after.0 as i64,
                limit(*n)
            ),
            Key::DeletedFiles { until, limit: n } => format!(
                "SELECT inode, length, expire FROM {} WHERE expire <= {until} ORDER BY expire, inode LIMIT {}",
                self.delfile,
                limit(*n)
            ),
            Key::Delayed { until, limit: n } => format!(
                "SELECT chunkid, deleted, slices FROM {} WHERE deleted <= {until} ORDER BY deleted, chunkid LIMIT {}",
                self.delslices,
                limit(*n)
            ),
            Key::Counter(counter) | Key::CounterRoom { counter, .. } => {
                format!("SELECT value FROM {} WHERE name = '{}'", self.counter, counter.name())
            }
            Key::DirStat(dir) | Key::HasDirStat(dir) => format!(
                "SELECT data_length, used_space, used_inodes FROM {} WHERE inode = {}",
                self.dir_stats, dir.0 as i64
            ),
            Key::Quota(key) | Key::HasQuota(key) | Key::QuotaRoom { key, .. } => {
                let (table, is) = self.quota_is(*key);
                format!("SELECT max_space, max_inodes, used_space, used_inodes FROM {table} WHERE {is}")
            }
            Key::Quotas(kind) => match owner_kind(*kind) {
                None => format!(
                    "SELECT max_space, max_inodes, used_space, used_inodes, inode FROM {} ORDER BY inode",
                    self.dir_quota
                ),
                Some(kind) => format!(
                    "SELECT max_space, max_inodes, used_space, used_inodes, qkey FROM {} WHERE qtype = {kind} \
                     ORDER BY qkey",
                    self.user_group_quota
                ),
            },
            Key::AnyDirQuota => format!("SELECT 1 FROM {} LIMIT 1", self.dir_quota),
            Key::Acl(id) => format!(
                "SELECT owner, {}, mask, other, named_users, named_groups FROM {} WHERE id = {id}",
                self.group, self.acl
            ),
            Key::AclId(rule) => {
                format!("SELECT id FROM {} WHERE {} ORDER BY id LIMIT 1", self.acl, self.acl_is(rule))
            }
            Key::Session(sid) => format!("SELECT expire, info FROM {} WHERE sid = {}", self.session2, sid.0 as i64),
            Key::Sessions => format!("SELECT sid, expire, info FROM {} ORDER BY sid", self.session2),
            Key::Sustained(sid) => {
                format!("SELECT inode FROM {} WHERE sid = {} ORDER BY inode", self.sustained, sid.0 as i64)
            }
            Key::HasSustained(sid, ino) => {
                format!("SELECT 1 FROM {} WHERE sid = {} AND inode = {}", self.sustained, sid.0 as i64, ino.0 as i64)
            }
            Key::Flocks(ino) => {
                format!("SELECT sid, owner, ltype FROM {} WHERE inode = {}", self.flock, ino.0 as i64)
            }
            Key::Plocks(ino) => {
                format!("SELECT sid, owner, records FROM {} WHERE inode = {}", self.plock, ino.0 as i64)
            }
            Key::Detached => format!("SELECT inode, added FROM {} ORDER BY inode", self.detached_node),
            Key::Setting => format!("SELECT value FROM {} WHERE name = 'format'", self.setting),
            Key::HasDelayed(id, secs) => {
                format!("SELECT 1 FROM {} WHERE chunkid = {} AND deleted = {secs}", self.delslices, id.0 as i64)
            }
        }
    }

    /// Which row of `xattr`. A name that is no text is none's.
    pub(super) fn xattr_is(&self, ino: Ino, name: &[u8]) -> String {
        match std::str::from_utf8(name) {
            Ok(name) => format!("inode = {} AND name = {}", ino.0 as i64, self.dialect.text(name)),
            Err(_) => "1 = 0".into(),
        }
    }

    /// Table and row of a quota.
    pub(super) fn quota_is(&self, key: QuotaKey) -> (&str, String) {
        match owner_kind(key.kind) {
            None => (&self.dir_quota, format!("inode = {}", key.id as i64)),
            Some(kind) => (&self.user_group_quota, format!("qtype = {kind} AND qkey = {}", key.id as i64)),
        }
    }

    /// Rows of `acl` that hold this rule.
    pub(super) fn acl_is(&self, rule: &AclRule) -> String {
        let [users, groups] = [&rule.users, &rule.groups].map(|list| self.blob(&AclEntry::encode_list(list)));
        let (group, none) = (&self.group, self.blob(b""));
        format!(
            "coalesce(owner, 0) = {} AND coalesce({group}, 0) = {} AND coalesce(mask, 0) = {} AND \
             coalesce(other, 0) = {} AND coalesce(named_users, {none}) = {users} AND \
             coalesce(named_groups, {none}) = {groups}",
            rule.owner, rule.group, rule.mask, rule.other
        )
    }
}

/// What the rows of a key's statement say. An entry brings its inode's attributes along.
pub(super) fn values(key: &Key, rows: &[Row], found: &mut Vec<(Key, Value)>) -> Result<()> {
    if let (Key::Entry(..), Some(row)) = (key, rows.first()) {
        let ino = row.entry(0)?.ino;
        let attr = if row.is_null(2) { None } else { Some(row.attr(3, ino)?) };
        found.push((Key::Attr(ino), Value::Attr(attr)));
    }
    found.push((key.clone(), value(key, rows)?));
    Ok(())
}

fn value(key: &Key, rows: &[Row]) -> Result<Value> {
    let first = rows.first();
    let all = rows.iter();
    Ok(match key {
        Key::Attr(ino) => Value::Attr(first.map(|row| row.attr(0, *ino)).transpose()?),
        Key::Entry(..) => Value::Entry(first.map(|row| row.entry(0)).transpose()?),
        Key::DirIsEmpty(_) => Value::Flag(first.is_none()),
        Key::AnyDirQuota
        | Key::HasXattr(..)
        | Key::HasDirStat(_)
        | Key::HasQuota(_)
        | Key::HasSustained(..)
        | Key::HasDelayed(..) => Value::Flag(first.is_some()),
        Key::Entries { plus, .. } => Value::Entries(
            all.map(|row| {
                let entry = row.entry(1)?;
                // One unreadable inode must not hide its neighbours; asked for by itself, it says why.
                let attr = if *plus && !row.is_null(3) { row.attr(4, entry.ino).ok() } else { None };
                Ok(NamedEntry { name: row.bytes(0).to_vec(), entry, attr })
            })
            .collect::<Result<_>>()?,
        ),
        Key::Parents(_) => Value::Parents(all.map(|row| Ok((Ino(row.id(0)?), row.small(1)?))).collect::<Result<_>>()?),
        Key::Symlink(_) | Key::Xattr(..) => Value::Bytes(first.map(|row| row.bytes(0).to_vec())),
        Key::XattrNames(_) => {
            let mut names: Vec<Vec<u8>> = all.map(|row| row.bytes(0).to_vec()).collect();
            names.sort();
            Value::Names(names)
        }
        Key::Slices(ino, index) => {
            let list = first.map(|row| row.bytes(0).to_vec()).unwrap_or_default();
            SliceRecord::decode_list(&list).map_err(|e| corrupt_chunk(*ino, *index, e))?;
            Value::SliceList(list)
        }
        Key::SliceCount(ino, index) => {
            let bytes = first.map_or(Ok(0), |row| row.small::<usize>(0))?;
            if !bytes.is_multiple_of(SLICE_RECORD_BYTES) {
                return Err(corrupt_chunk(*ino, *index, CorruptSlices { bytes }));
            }
            Value::Number((bytes / SLICE_RECORD_BYTES) as i64)
        }
        Key::Chunks { .. } | Key::DeletedChunks { .. } => {
            Value::Chunks(all.map(|row| Ok(ChunkIndex(row.small(0)?))).collect::<Result<_>>()?)
        }
        Key::SliceRefs(_) | Key::Counter(_) => Value::Number(first.map_or(Ok(0), |row| row.int(0))?),
        Key::UnownedSlices { .. } => Value::SliceRefs(all.map(|row| row.slice(0)).collect::<Result<_>>()?),
        Key::SliceRecords { .. } => {
            Value::CountedSlices(all.map(|row| Ok((row.slice(0)?, row.int(2)?))).collect::<Result<_>>()?)
        }
        Key::ScanChunks { .. } => Value::RawChunks(
            all.map(|row| Ok((Ino(row.id(0)?), ChunkIndex(row.small(1)?), row.bytes(2).to_vec())))
                .collect::<Result<_>>()?,
        ),
        Key::ScanAttrs { .. } => Value::Attrs(
            all.map(|row| {
                let ino = Ino(row.id(0)?);
                Ok((ino, row.attr(1, ino)?))
            })
            .collect::<Result<_>>()?,
        ),
        Key::DeletedFiles { .. } => Value::DeletedFiles(
            all.map(|row| Ok(DeletedFile { ino: Ino(row.id(0)?), length: row.id(1)?, deleted_secs: row.int(2)? }))
                .collect::<Result<_>>()?,
        ),
        Key::Delayed { .. } => Value::Delayed(
            all.map(|row| {
                let id = SliceId(row.id(0)?);
                let slices = DelayedSlices::decode_slices(row.bytes(2))
                    .ok_or_else(|| Error::Corrupt(format!("the replaced slices of slice {id} are torn")))?;
                Ok(DelayedSlices { id, deleted_secs: row.int(1)?, slices })
            })
            .collect::<Result<_>>()?,
        ),
        Key::CounterRoom { add, limit, .. } => Value::Flag(first.map_or(Ok(0), |row| row.int(0))? + add <= *limit),
        Key::DirStat(_) => Value::DirStat(first.map(Row::dir_stat).transpose()?),
        Key::Quota(_) => Value::Quota(first.map(Row::quota).transpose()?),
        Key::QuotaRoom { space, inodes, .. } => {
            let quota = first.map(Row::quota).transpose()?;
            Value::Flag(quota.is_none_or(|q| !q.exceeded_by(*space, *inodes)))
        }
        Key::Quotas(kind) => Value::Quotas(quotas(*kind, rows)?),
        Key::Acl(id) => Value::Acl(first.map(|row| acl(*id, row)).transpose()?),
        Key::AclId(_) => Value::AclId(first.map(|row| row.small(0)).transpose()?),
        Key::Session(sid) => Value::Session(
            first
                .map(|row| Ok::<_, Error>(SessionRecord { sid: *sid, expire_secs: row.int(0)?, info: row.text(1) }))
                .transpose()?,
        ),
        Key::Sessions => Value::Sessions(
            all.map(|row| {
                Ok(SessionRecord { sid: SessionId(row.id(0)?), expire_secs: row.int(1)?, info: row.text(2) })
            })
            .collect::<Result<_>>()?,
        ),
        Key::Sustained(_) => Value::Inodes(all.map(|row| Ok(Ino(row.id(0)?))).collect::<Result<_>>()?),
        Key::Flocks(ino) => {
            let mut held = Vec::with_capacity(rows.len());
            for row in rows {
                let kind = FlockKind::from_letter(row.small(2)?)
                    .ok_or_else(|| Error::Corrupt(format!("inode {ino} has a lock of an unknown kind")))?;
                held.push((row.owner()?, kind));
            }
            held.sort_by_key(|(owner, _)| *owner);
            Value::Flocks(held)
        }
        Key::Plocks(ino) => {
            let mut held = Vec::with_capacity(rows.len());
            for row in rows {
                let ranges = PlockRange::decode_list(row.bytes(2))
                    .ok_or_else(|| Error::Corrupt(format!("the range locks of inode {ino} are torn")))?;
                held.push((row.owner()?, ranges));
            }
            held.retain(|(_, ranges)| !ranges.is_empty());
            held.sort_by_key(|(owner, _)| *owner);
            Value::Plocks(held)
        }
        Key::Detached => Value::Detached(all.map(|row| Ok((Ino(row.id(0)?), row.int(1)?))).collect::<Result<_>>()?),
        Key::Setting => Value::Setting(first.map(|row| row.text(0))),
    })
}

fn quotas(kind: QuotaKind, rows: &[Row]) -> Result<Vec<(QuotaKey, crate::record::Quota)>> {
    rows.iter().map(|row| Ok((QuotaKey { kind, id: row.id(4)? }, row.quota()?))).collect()
}

fn acl(id: u32, row: &Row) -> Result<AclRule> {
    let list = |column| {
        AclEntry::decode_list(row.bytes(column))
            .ok_or_else(|| Error::Corrupt(format!("the named entries of access rule {id} are torn")))
    };
    let (users, groups) = (list(4)?, list(5)?);
    let [owner, group, mask, other] = [row.small(0)?, row.small(1)?, row.small(2)?, row.small(3)?];
    Ok(AclRule { owner, group, mask, other, users, groups })
}

//! Changes as statements: each verb of a transaction, and where its answer is found.

use cairn_types::{AclEntry, AclRule, Attr, ChunkIndex, Ino, SliceRecord, SliceRef};

use super::Tables;
use super::columns::{columns_of, owner_kind};
use super::dialect::{Dialect, Existing};
use crate::engine::remote::record::{Key, Verb};
use crate::record::{DirStat, Entry, Quota, QuotaKey};
use crate::txn::AttrChange;
use crate::{Error, Result};

/// The statements of a verb.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) statements: Vec<String>,
    /// What the first column of the last statement's first row means.
    pub(super) answer: Option<Unanswered>,
}

/// What a verb answers if its last statement had no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unanswered(pub(super) i64);

impl From<String> for Written {
    fn from(statement: String) -> Written {
        Written { statements: vec![statement], answer: None }
    }
}

impl Written {
    fn answering(statements: Vec<String>, without_row: i64) -> Written {
        Written { statements, answer: Some(Unanswered(without_row)) }
    }
}

impl Tables {
    /// The statements of a verb. `absent`: the commit relies on there being no such row yet.
    pub(super) fn write(&self, verb: &Verb, absent: bool) -> Result<Written> {
        let new = if absent { Existing::Refused } else { Existing::Replaced };
        Ok(match verb {
            Verb::InsertAttr(ino, attr) => self.insert_attr(*ino, attr).into(),
            Verb::ChangeAttr(ino, change) => self.change_attr(*ino, change).into(),
            Verb::RemoveAttr(ino) => self.delete(&self.node, format!("inode = {}", ino.0 as i64)),
            Verb::InsertEntry(dir, name, entry) => self.insert_entry(*dir, name, entry).into(),
            Verb::ReplaceEntry(dir, name, entry) => format!(
                "UPDATE {} SET inode = {}, type = {} WHERE {}",
                self.edge,
                entry.ino.0 as i64,
                entry.kind as u8,
                self.entry_is(*dir, name)
            )
            .into(),
            Verb::RemoveEntry(dir, name) => self.delete(&self.edge, self.entry_is(*dir, name)),
            // `edge` has an index by inode.
            Verb::AddParent(..) | Verb::RemoveParents(_) => Written::default(),
            Verb::InsertSymlink(ino, target) => self.upsert(
                &self.symlink,
                "inode, target",
                format!("({}, {})", ino.0 as i64, self.blob(target)),
                "inode",
                Existing::Replaced,
            ),
            Verb::RemoveSymlink(ino) => self.delete(&self.symlink, format!("inode = {}", ino.0 as i64)),
            Verb::PutXattr(ino, name, value) => {
                let Ok(name) = std::str::from_utf8(name) else {
                    return Err(Error::Invalid(
                        "this metadata engine keeps names of extended attributes as UTF-8 text",
                    ));
                };
                let row = format!("({}, {}, {})", ino.0 as i64, self.dialect.text(name), self.blob(value));
                self.upsert(&self.xattr, "inode, name, value", row, "inode, name", new)
            }
            Verb::RemoveXattr(ino, name) => self.delete(&self.xattr, self.xattr_is(*ino, name)),
            Verb::RemoveXattrs(ino) => self.delete(&self.xattr, format!("inode = {}", ino.0 as i64)),
            Verb::AppendSlices(ino, index, records) => self.append_slices(*ino, *index, records),
            Verb::ReplaceSlices(ino, index, records) => {
                let list = self.blob(&SliceRecord::encode_list(records));
                let row = format!("({}, {}, {list})", ino.0 as i64, index.0);
                self.upsert(&self.chunk, "inode, indx, slices", row, "inode, indx", Existing::Replaced)
            }
            Verb::RemoveChunk(ino, index) => {
                self.delete(&self.chunk, format!("inode = {} AND indx = {}", ino.0 as i64, index.0))
            }
            Verb::InsertSlice(slice, refs) => {
                let row = format!("({}, {}, {refs})", slice.id.0 as i64, slice.size);
                self.upsert(&self.chunk_ref, "chunkid, size, refs", row, "chunkid", Existing::Refused)
            }
            Verb::AddSliceRefs(slice, delta) => self.add_slice_refs(*slice, *delta),
            Verb::RemoveSlice(slice) => self.delete(&self.chunk_ref, format!("chunkid = {}", slice.id.0 as i64)),
            Verb::InsertDeletedFile(file) => {
                let row = format!("({}, {}, {})", file.ino.0 as i64, file.length as i64, file.deleted_secs);
                self.upsert(&self.delfile, "inode, length, expire", row, "inode", Existing::Replaced)
            }
            Verb::RemoveDeletedFile(ino, _) => self.delete(&self.delfile, format!("inode = {}", ino.0 as i64)),
            Verb::InsertDelayed(delayed) => {
                let slices = self.blob(&delayed.encode_slices());
                let row = format!("({}, {}, {slices})", delayed.id.0 as i64, delayed.deleted_secs);
                self.upsert(&self.delslices, "chunkid, deleted, slices", row, "chunkid", Existing::Replaced)
            }
            Verb::RemoveDelayed(id, _) => self.delete(&self.delslices, format!("chunkid = {}", id.0 as i64)),
            Verb::AddCounter(counter, delta) => self.add_counter(counter.name(), *delta),
            Verb::SetCounter(counter, value) => {
                let row = format!("('{}', {value})", counter.name());
                self.upsert(&self.counter, "name, value", row, "name", Existing::Replaced)
            }
            Verb::PutDirStat(dir, s) => {
                let row = format!("({}, {}, {}, {})", dir.0 as i64, s.length, s.space, s.inodes);
                let columns = "inode, data_length, used_space, used_inodes";
                self.upsert(&self.dir_stats, columns, row, "inode", new)
            }
            Verb::AddDirStat(dir, delta) => self.add_dir_stat(*dir, delta).into(),
            Verb::RemoveDirStat(dir) => self.delete(&self.dir_stats, format!("inode = {}", dir.0 as i64)),
            Verb::PutQuota(key, quota) => self.put_quota(*key, quota, new),
            Verb::AddQuotaUsed(key, space, inodes) => self.add_quota_used(*key, *space, *inodes).into(),
            Verb::RemoveQuota(key) => {
                let (table, is) = self.quota_is(*key);
                self.delete(table, is)
            }
            Verb::InternAcl(rule) => self.intern_acl(rule),
            Verb::PutSession(s) => {
                let values = format!("{}, {}, {}", s.sid.0 as i64, s.expire_secs, self.blob(s.info.as_bytes()));
                let insert = format!("INSERT INTO {} (sid, expire, info) VALUES ({values})", self.session2);
                match self.dialect {
                    Dialect::Postgres => format!("{insert} ON CONFLICT (sid) DO UPDATE SET expire = excluded.expire"),
                    Dialect::MySql => format!("{insert} ON DUPLICATE KEY UPDATE expire = VALUES(expire)"),
                }
                .into()
            }
            Verb::RemoveSession(sid) => self.delete(&self.session2, format!("sid = {}", sid.0 as i64)),
            Verb::InsertSustained(sid, ino) => {
                let row = format!("({}, {})", sid.0 as i64, ino.0 as i64);
                self.upsert(&self.sustained, "sid, inode", row, "sid, inode", Existing::Kept)
            }
            Verb::RemoveSustained(sid, ino) => {
                self.delete(&self.sustained, format!("sid = {} AND inode = {}", sid.0 as i64, ino.0 as i64))
            }
            Verb::SetFlock(ino, owner, kind) => {
                let [i, s, o] = [ino.0, owner.sid.0, owner.owner].map(|n| n as i64);
                match kind {
                    None => self.delete(&self.flock, format!("inode = {i} AND sid = {s} AND owner = {o}")),
                    Some(kind) => self.upsert(
                        &self.flock,
                        "inode, sid, owner, ltype",
                        format!("({i}, {s}, {o}, {})", kind.letter()),
                        "inode, sid, owner",
                        Existing::Replaced,
                    ),
                }
            }
            Verb::SetPlocks(ino, owner, ranges) => {
                let [i, s, o] = [ino.0, owner.sid.0, owner.owner].map(|n| n as i64);
                if ranges.is_empty() {
                    return Ok(self.delete(&self.plock, format!("inode = {i} AND sid = {s} AND owner = {o}")));
                }
                let records = self.blob(&crate::record::PlockRange::encode_list(ranges));
                let row = format!("({i}, {s}, {o}, {records})");
                self.upsert(&self.plock, "inode, sid, owner, records", row, "inode, sid, owner", Existing::Replaced)
            }
            Verb::RemoveLocks(sid) => {
                let of = |table: &str| format!("DELETE FROM {table} WHERE sid = {}", sid.0 as i64);
                Written { statements: vec![of(&self.flock), of(&self.plock)], answer: None }
            }
            Verb::RemoveDetached(ino) => self.delete(&self.detached_node, format!("inode = {}", ino.0 as i64)),
            Verb::PutSetting(json) => {
                let row = format!("('format', {})", self.dialect.text(json));
                self.upsert(&self.setting, "name, value", row, "name", Existing::Replaced)
            }
            Verb::LogChange(entry) => {
                format!("INSERT INTO {} (entry) VALUES ({})", self.change_log, self.dialect.text(entry)).into()
            }
            Verb::TrimChangeLog { before_secs, keep_lines } => self.trim_change_log(*before_secs, *keep_lines).into(),
        })
    }

    /// The key whose absence a verb may rely on.
    pub(super) fn new_row_of(verb: &Verb) -> Vec<Key> {
        match verb {
            Verb::PutXattr(ino, name, _) => {
                vec![Key::HasXattr(*ino, name.clone()), Key::Xattr(*ino, name.clone())]
            }
            Verb::PutDirStat(dir, _) => vec![Key::HasDirStat(*dir), Key::DirStat(*dir)],
            Verb::PutQuota(key, _) => vec![Key::HasQuota(*key), Key::Quota(*key)],
            _ => vec![],
        }
    }

    fn delete(&self, table: &str, is: String) -> Written {
        format!("DELETE FROM {table} WHERE {is}").into()
    }

    fn upsert(&self, table: &str, columns: &str, row: String, key: &str, existing: Existing) -> Written {
        self.dialect.insert(table, columns, &row, key, existing).into()
    }

    fn entry_is(&self, dir: Ino, name: &[u8]) -> String {
        format!("parent = {} AND name = {}", dir.0 as i64, self.blob(name))
    }

    fn insert_entry(&self, dir: Ino, name: &[u8], entry: &Entry) -> String {
        format!(
            "INSERT INTO {} (parent, name, inode, type) VALUES ({}, {}, {}, {})",
            self.edge,
            dir.0 as i64,
            self.blob(name),
            entry.ino.0 as i64,
            entry.kind as u8
        )
    }

    fn insert_attr(&self, ino: Ino, a: &Attr) -> String {
        let [atime, mtime, ctime] = [a.atime, a.mtime, a.ctime].map(columns_of);
        format!(
            "INSERT INTO {} (inode, {}) VALUES ({}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}, \
             {}, {})",
            self.node,
            self.attr,
            ino.0 as i64,
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
            a.length as i64,
            a.rdev,
            a.parent.0 as i64,
            a.access_acl,
            a.default_acl,
            a.tier
        )
    }

    fn change_attr(&self, ino: Ino, change: &AttrChange) -> String {
        let mut sets: Vec<String> = Vec::with_capacity(12);
        for (column, time) in [("atime", change.atime), ("mtime", change.mtime), ("ctime", change.ctime)] {
            if let Some((micros, nanos)) = time.map(columns_of) {
                sets.push(format!("{column} = {micros}, {column}nsec = {nanos}"));
            }
        }
        let plain = [
            ("flags", change.flags.map(|f| i64::from(f.0))),
            ("mode", change.mode.map(|m| i64::from(m & 0o7777))),
            ("uid", change.uid.map(i64::from)),
            ("gid", change.gid.map(i64::from)),
            ("parent", change.parent.map(|p| p.0 as i64)),
            ("access_acl_id", change.access_acl.map(i64::from)),
            ("default_acl_id", change.default_acl.map(i64::from)),
            ("tier_id", change.tier.map(i64::from)),
        ];
        sets.extend(plain.iter().filter_map(|(column, value)| Some(format!("{column} = {}", (*value)?))));
        if change.nlink_add != 0 {
            sets.push(format!("nlink = GREATEST(nlink + {}, 0)", change.nlink_add));
        }
        match (change.length, change.length_at_least) {
            (Some(length), least) => sets.push(format!("length = {}", length.max(least.unwrap_or(0)) as i64)),
            (None, Some(least)) => sets.push(format!("length = GREATEST(length, {})", least as i64)),
            (None, None) => {}
        }
        if sets.is_empty() {
            sets.push("inode = inode".into());
        }
        format!("UPDATE {} SET {} WHERE inode = {}", self.node, sets.join(", "), ino.0 as i64)
    }

    fn append_slices(&self, ino: Ino, index: ChunkIndex, records: &[SliceRecord]) -> Written {
        let (table, list) = (&self.chunk, self.blob(&SliceRecord::encode_list(records)));
        let row = format!("({}, {}, {list})", ino.0 as i64, index.0);
        let bytes = self.dialect.bytes_of("slices");
        // A torn list is not appended to.
        let whole = self.dialect.stop_unless(&format!("{bytes} % 24 = 0"));
        match self.dialect {
            Dialect::Postgres => Written::answering(
                vec![format!(
                    "INSERT INTO {table} AS c (inode, indx, slices) VALUES {row} ON CONFLICT (inode, indx) \
                     DO UPDATE SET slices = c.slices || excluded.slices RETURNING {bytes} / 24, {whole}"
                )],
                0,
            ),
            Dialect::MySql => Written::answering(
                vec![
                    format!(
                        "INSERT INTO {table} (inode, indx, slices) VALUES {row} \
                         ON DUPLICATE KEY UPDATE slices = CONCAT(slices, VALUES(slices))"
                    ),
                    format!(
                        "SELECT {bytes} DIV 24, {whole} FROM {table} WHERE inode = {} AND indx = {}",
                        ino.0 as i64, index.0
                    ),
                ],
                0,
            ),
        }
    }

    fn add_slice_refs(&self, slice: SliceRef, delta: i64) -> Written {
        let table = &self.chunk_ref;
        let is = format!("chunkid = {} AND size = {}", slice.id.0 as i64, slice.size);
        let update = format!("UPDATE {table} SET refs = refs + {delta} WHERE {is}");
        // Without a record nobody knows who else owns it: it is left to gc.
        match self.dialect {
            Dialect::Postgres => Written::answering(vec![format!("{update} RETURNING refs")], 1),
            Dialect::MySql => Written::answering(vec![update, format!("SELECT refs FROM {table} WHERE {is}")], 1),
        }
    }

    fn add_counter(&self, name: &str, delta: i64) -> Written {
        let insert =
            |alias: &str| format!("INSERT INTO {}{alias} (name, value) VALUES ('{name}', {delta})", self.counter);
        match self.dialect {
            Dialect::Postgres => Written::answering(
                vec![format!(
                    "{} ON CONFLICT (name) DO UPDATE SET value = c.value + excluded.value RETURNING value",
                    insert(" AS c")
                )],
                0,
            ),
            Dialect::MySql => Written::answering(
                vec![
                    format!("{} ON DUPLICATE KEY UPDATE value = value + VALUES(value)", insert("")),
                    format!("SELECT value FROM {} WHERE name = '{name}'", self.counter),
                ],
                0,
            ),
        }
    }

    pub(super) fn add_dir_stat(&self, dir: Ino, d: &DirStat) -> String {
        format!(
            "UPDATE {} SET data_length = data_length + {}, used_space = used_space + {}, \
             used_inodes = used_inodes + {} WHERE inode = {}",
            self.dir_stats, d.length, d.space, d.inodes, dir.0 as i64
        )
    }

    fn put_quota(&self, key: QuotaKey, q: &Quota, new: Existing) -> Written {
        let values = format!("{}, {}, {}, {}", q.max_space, q.max_inodes, q.used_space, q.used_inodes);
        let (id, columns) = (key.id as i64, "max_space, max_inodes, used_space, used_inodes");
        match owner_kind(key.kind) {
            None => {
                let (columns, row) = (format!("inode, {columns}"), format!("({id}, {values})"));
                self.upsert(&self.dir_quota, &columns, row, "inode", new)
            }
            Some(kind) => {
                let (columns, row) = (format!("qtype, qkey, {columns}"), format!("({kind}, {id}, {values})"));
                self.upsert(&self.user_group_quota, &columns, row, "qtype, qkey", new)
            }
        }
    }

    pub(super) fn add_quota_used(&self, key: QuotaKey, space: i64, inodes: i64) -> String {
        let (table, is) = self.quota_is(key);
        format!("UPDATE {table} SET used_space = used_space + {space}, used_inodes = used_inodes + {inodes} WHERE {is}")
    }

    fn intern_acl(&self, rule: &AclRule) -> Written {
        let [users, groups] = [&rule.users, &rule.groups].map(|list| self.blob(&AclEntry::encode_list(list)));
        let (table, is) = (&self.acl, self.acl_is(rule));
        let from = match self.dialect {
            Dialect::Postgres => "",
            Dialect::MySql => " FROM DUAL",
        };
        let insert = format!(
            "INSERT INTO {table} (owner, {}, mask, other, named_users, named_groups) SELECT {}, {}, {}, {}, {users}, \
             {groups}{from} WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE {is})",
            self.group, rule.owner, rule.group, rule.mask, rule.other
        );
        Written::answering(vec![insert, format!("SELECT id FROM {table} WHERE {is} ORDER BY id LIMIT 1")], 0)
    }

    /// An entry begins with its second. Entries stand in the order of time, so the first young one
    /// ends the search.
    fn trim_change_log(&self, before_secs: i64, keep_lines: u64) -> String {
        let table = &self.change_log;
        let second = match self.dialect {
            Dialect::Postgres => "coalesce(substring(entry from '^[0-9]+')::bigint, 0)",
            Dialect::MySql => "CAST(SUBSTRING_INDEX(entry, '.', 1) AS SIGNED)",
        };
        let old = format!(
            "coalesce((SELECT id - 1 FROM {table} WHERE {second} >= {before_secs} ORDER BY id LIMIT 1), \
             (SELECT max(id) FROM {table}), 0)"
        );
        let surplus = match keep_lines {
            0 => "0".into(),
            keep => format!("coalesce((SELECT id FROM {table} ORDER BY id DESC LIMIT 1 OFFSET {keep}), 0)"),
        };
        format!("DELETE FROM {table} WHERE id <= (SELECT last FROM (SELECT GREATEST({old}, {surplus}) AS last) t)")
    }
}

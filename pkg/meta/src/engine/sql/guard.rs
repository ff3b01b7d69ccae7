//! What an operation relied on, as SQL: the rows to hold until its commit is through, and the
//! condition that must still be true once they are held.

use cairn_types::{Attr, Ino, SLICE_RECORD_BYTES};

use super::Tables;
use super::columns::columns_of;
use crate::engine::remote::record::{Guard, Key, Value};
use crate::record::PlockRange;
use crate::txn::Rely;
use crate::{Error, Result};

fn not_if(negated: bool, condition: String) -> String {
    if negated { format!("NOT {condition}") } else { condition }
}

impl Tables {
    /// The condition under which a guard holds.
    pub(super) fn condition(&self, guard: &Guard) -> Result<String> {
        let exists = |key: &Key, extra: &str| format!("EXISTS (SELECT 1 FROM ({}{extra}) g)", self.select(key));
        Ok(match (&guard.key, &guard.seen) {
            (Key::Attr(ino), Value::Attr(None)) => {
                format!("NOT EXISTS (SELECT 1 FROM {} WHERE inode = {})", self.node, ino.0 as i64)
            }
            (Key::Attr(ino), Value::Attr(Some(seen))) => format!(
                "EXISTS (SELECT 1 FROM {} WHERE inode = {}{})",
                self.node,
                ino.0 as i64,
                alike(seen, guard.rely)
            ),
            (Key::Entry(dir, name), Value::Entry(seen)) => {
                let target = seen
                    .map_or(String::new(), |e| format!(" AND inode = {} AND type = {}", e.ino.0 as i64, e.kind as u8));
                let is = format!(
                    "EXISTS (SELECT 1 FROM {} WHERE parent = {} AND name = {}{target})",
                    self.edge,
                    dir.0 as i64,
                    self.blob(name)
                );
                not_if(seen.is_none(), is)
            }
            (key @ Key::DirIsEmpty(_), Value::Flag(empty)) => not_if(*empty, exists(key, "")),
            (Key::CounterRoom { counter, add, limit }, Value::Flag(room)) => {
                let used = self.number(&Key::Counter(*counter));
                not_if(!room, format!("({used} + {add} <= {limit})"))
            }
            (Key::QuotaRoom { key, space, inodes }, Value::Flag(room)) => {
                let (table, is) = self.quota_is(*key);
                let mut over = vec!["1 = 0".to_string()];
                if *space > 0 {
                    over.push(format!("max_space > 0 AND used_space + {space} > max_space"));
                }
                if *inodes > 0 {
                    over.push(format!("max_inodes > 0 AND used_inodes + {inodes} > max_inodes"));
                }
                not_if(*room, format!("EXISTS (SELECT 1 FROM {table} WHERE {is} AND ({}))", over.join(" OR ")))
            }
            (key, Value::Flag(there)) => not_if(!there, exists(key, "")),
            (Key::Parents(ino), Value::Parents(seen)) => {
                let names =
                    |more: String| format!("(SELECT count(*) FROM {} WHERE inode = {}{more})", self.edge, ino.0 as i64);
                let total: u64 = seen.iter().map(|(_, n)| u64::from(*n)).sum();
                let each =
                    seen.iter().map(|(p, n)| format!(" AND {} = {n}", names(format!(" AND parent = {}", p.0 as i64))));
                format!("({} = {total}{})", names(String::new()), each.collect::<String>())
            }
            (key @ (Key::Symlink(_) | Key::Xattr(..)), Value::Bytes(seen)) => match seen {
                None => not_if(true, exists(key, "")),
                Some(seen) => {
                    let column = if matches!(key, Key::Symlink(_)) { "target" } else { "value" };
                    exists(key, &format!(" AND {column} = {}", self.blob(seen)))
                }
            },
            (key @ Key::Slices(..), Value::SliceList(seen)) => {
                format!("(coalesce(({}), {}) = {})", self.select(key), self.blob(b""), self.blob(seen))
            }
            (key @ Key::SliceCount(..), Value::Number(seen)) => {
                format!("({} = {})", self.number(key), seen * SLICE_RECORD_BYTES as i64)
            }
            (key @ (Key::SliceRefs(_) | Key::Counter(_)), Value::Number(seen)) => {
                format!("({} = {seen})", self.number(key))
            }
            (key @ Key::DirStat(_), Value::DirStat(seen)) => match seen {
                None => not_if(true, exists(key, "")),
                Some(s) => exists(
                    key,
                    &format!(
                        " AND data_length = {} AND used_space = {} AND used_inodes = {}",
                        s.length, s.space, s.inodes
                    ),
                ),
            },
            (key @ Key::Quota(_), Value::Quota(seen)) => match seen {
                None => not_if(true, exists(key, "")),
                Some(q) => exists(
                    key,
                    &format!(
                        " AND max_space = {} AND max_inodes = {} AND used_space = {} AND used_inodes = {}",
                        q.max_space, q.max_inodes, q.used_space, q.used_inodes
                    ),
                ),
            },
            (key @ Key::Acl(id), Value::Acl(seen)) => match seen {
                None => not_if(true, exists(key, "")),
                Some(rule) => {
                    format!("EXISTS (SELECT 1 FROM {} WHERE id = {id} AND {})", self.acl, self.acl_is(rule))
                }
            },
            (Key::AclId(rule), Value::AclId(seen)) => {
                let is = self.acl_is(rule);
                match seen {
                    None => format!("NOT EXISTS (SELECT 1 FROM {} WHERE {is})", self.acl),
                    Some(id) => format!("EXISTS (SELECT 1 FROM {} WHERE id = {id} AND {is})", self.acl),
                }
            }
            (key @ Key::Session(_), Value::Session(seen)) => match seen {
                None => not_if(true, exists(key, "")),
                Some(s) => {
                    exists(key, &format!(" AND expire = {} AND info = {}", s.expire_secs, self.blob(s.info.as_bytes())))
                }
            },
            (Key::Flocks(ino), Value::Flocks(seen)) => {
                let rows = seen
                    .iter()
                    .map(|(o, k)| (o, format!("ltype = {}", k.letter())))
                    .map(|(o, k)| format!("sid = {} AND owner = {} AND {k}", o.sid.0 as i64, o.owner as i64));
                self.exactly(&self.flock, *ino, "1 = 1", rows.collect())
            }
            (Key::Plocks(ino), Value::Plocks(seen)) => {
                let rows = seen.iter().map(|(o, ranges)| {
                    let records = self.blob(&PlockRange::encode_list(ranges));
                    format!("sid = {} AND owner = {} AND records = {records}", o.sid.0 as i64, o.owner as i64)
                });
                let some = format!("records <> {}", self.blob(b""));
                self.exactly(&self.plock, *ino, &some, rows.collect())
            }
            (key @ Key::Setting, Value::Setting(seen)) => match seen {
                None => not_if(true, exists(key, "")),
                Some(json) => exists(key, &format!(" AND value = {}", self.dialect.text(json))),
            },
            (key, _) => return Err(Error::engine("commit", format!("{key:?} cannot be relied on"))),
        })
    }

    /// The number a key's statement reads; 0 if there is no row.
    fn number(&self, key: &Key) -> String {
        format!("coalesce(({}), 0)", self.select(key))
    }

    /// Exactly these rows of an inode, and no others.
    fn exactly(&self, table: &str, ino: Ino, counted: &str, rows: Vec<String>) -> String {
        let of = format!("SELECT count(*) FROM {table} WHERE inode = {} AND {counted}", ino.0 as i64);
        if rows.is_empty() {
            return format!("(({of}) = 0)");
        }
        let n = rows.len();
        format!("(({of}) = {n} AND ({of} AND (({}))) = {n})", rows.join(") OR ("))
    }

    /// The rows that a guard wants held, beside inodes and names: what is not there cannot be held.
    pub(super) fn held_row(&self, guard: &Guard) -> Option<String> {
        let held = match (&guard.key, &guard.seen) {
            (Key::HasSustained(..) | Key::HasDelayed(..), Value::Flag(true)) => true,
            (Key::Symlink(_) | Key::Xattr(..), Value::Bytes(seen)) => seen.is_some(),
            (Key::Slices(..), Value::SliceList(seen)) => !seen.is_empty(),
            (Key::SliceCount(..), Value::Number(seen)) => *seen != 0,
            (Key::SliceRefs(_) | Key::Counter(_), Value::Number(_)) => true,
            (Key::DirStat(_), Value::DirStat(seen)) => seen.is_some(),
            (Key::Quota(_), Value::Quota(seen)) => seen.is_some(),
            (Key::Session(_), Value::Session(seen)) => seen.is_some(),
            (Key::Setting, Value::Setting(seen)) => seen.is_some(),
            _ => false,
        };
        held.then(|| format!("{} {}", self.select(&guard.key), self.dialect.hold(super::dialect::Hold::Exclusive)))
    }
}

/// Further conditions of a row of `node`: the fields relied on have these values.
fn alike(a: &Attr, rely: Rely) -> String {
    let mut text = String::with_capacity(160);
    let mut is = |column: &str, value: i64| text.push_str(&format!(" AND {column} = {value}"));
    if rely.has(Rely::KIND) {
        is("type", a.kind as i64);
    }
    if rely.has(Rely::PERMISSION) {
        is("mode", i64::from(a.mode & 0o7777));
        is("uid", i64::from(a.uid));
        is("gid", i64::from(a.gid));
        is("coalesce(access_acl_id, 0)", i64::from(a.access_acl));
        is("coalesce(default_acl_id, 0)", i64::from(a.default_acl));
    }
    if rely.has(Rely::FLAGS) {
        is("flags", i64::from(a.flags.0));
    }
    if rely.has(Rely::PARENT) {
        is("coalesce(parent, 0)", a.parent.0 as i64);
    }
    if rely.has(Rely::LENGTH) {
        is("length", a.length as i64);
    }
    if rely.has(Rely::NLINK) {
        is("nlink", i64::from(a.nlink));
    }
    if rely.has(Rely::TIMES) {
        for (micros, nanos, time) in
            [("atime", "atimensec", a.atime), ("mtime", "mtimensec", a.mtime), ("ctime", "ctimensec", a.ctime)]
        {
            let stored = columns_of(time);
            is(micros, stored.0);
            is(nanos, stored.1);
        }
    }
    if rely.has(Rely::TIER) {
        is("coalesce(tier_id, 0)", i64::from(a.tier));
    }
    text
}

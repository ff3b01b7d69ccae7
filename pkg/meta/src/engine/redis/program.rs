//! Keys, guards and verbs as the instructions that the scripts run (volume format 5.5.2).

use std::collections::HashMap;

use cairn_types::{Attr, Ino, SessionId, SliceRecord, SliceRef};

use crate::engine::remote::record::{Guard, Key, Value, Verb};
use crate::record::{DelayedSlices, LockOwner, PlockRange, Quota, QuotaKey, QuotaKind};
use crate::txn::{AttrChange, Counter, Rely};

/// Names of the volume's keys, all with its prefix.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// Empty, or `{db}` in a cluster.
    pub(super) prefix: String,
}

impl Names {
    fn of(&self, letter: &str, n: impl std::fmt::Display) -> Vec<u8> {
        format!("{}{letter}{n}", self.prefix).into_bytes()
    }

    pub(super) fn fixed(&self, name: &str) -> Vec<u8> {
        format!("{}{name}", self.prefix).into_bytes()
    }

    pub(super) fn attr(&self, ino: Ino) -> Vec<u8> {
        self.of("i", ino)
    }

    pub(super) fn entries(&self, dir: Ino) -> Vec<u8> {
        self.of("d", dir)
    }

    pub(super) fn chunk_stem(&self, ino: Ino) -> Vec<u8> {
        format!("{}c{ino}_", self.prefix).into_bytes()
    }

    pub(super) fn chunk(&self, ino: Ino, index: u32) -> Vec<u8> {
        format!("{}c{ino}_{index}", self.prefix).into_bytes()
    }

    pub(super) fn counter(&self, counter: Counter) -> Vec<u8> {
        self.fixed(match counter {
            Counter::NextInode => "nextinode",
            Counter::NextChunk => "nextchunk",
            Counter::NextSession => "nextsession",
            other => other.name(),
        })
    }

    pub(super) fn locked(&self, sid: SessionId) -> Vec<u8> {
        self.of("locked", sid)
    }

    /// The hashes of limits, used space and used inodes.
    pub(super) fn quota(&self, kind: QuotaKind) -> [Vec<u8>; 3] {
        let stem = match kind {
            QuotaKind::Dir => "dir",
            QuotaKind::User => "user",
            QuotaKind::Group => "group",
        };
        ["Quota", "QuotaUsedSpace", "QuotaUsedInodes"].map(|part| self.fixed(&format!("{stem}{part}")))
    }

    fn dir_stats(&self) -> [Vec<u8>; 3] {
        ["dirDataLength", "dirUsedSpace", "dirUsedInodes"].map(|name| self.fixed(name))
    }
}

/// `nextInode` and `nextChunk` are the last id given out here, elsewhere the next one.
pub(super) fn counter_offset(counter: Counter) -> i64 {
    i64::from(matches!(counter, Counter::NextInode | Counter::NextChunk))
}

/// An entry as stored.
pub(super) fn entry_bytes(entry: crate::record::Entry) -> Vec<u8> {
    let mut b = vec![entry.kind as u8];
    b.extend(entry.ino.0.to_be_bytes());
    b
}

/// A field of a lock hash.
pub(super) fn owner_field(owner: LockOwner) -> Vec<u8> {
    format!("{}_{:016X}", owner.sid, owner.owner).into_bytes()
}

/// A field of `sliceRef`.
pub(super) fn slice_field(slice: SliceRef) -> Vec<u8> {
    format!("k{}_{}", slice.id, slice.size).into_bytes()
}

fn limits(quota: &Quota) -> Vec<u8> {
    [quota.max_space.to_be_bytes(), quota.max_inodes.to_be_bytes()].concat()
}

fn text(n: impl std::fmt::Display) -> Vec<u8> {
    n.to_string().into_bytes()
}

/// Keys and arguments of one script call.
#[derive(Default)]
pub(super) struct Program {
    pub(super) keys: Vec<Vec<u8>>,
    places: HashMap<Vec<u8>, usize>,
    pub(super) args: Vec<Vec<u8>>,
}

impl Program {
    /// The number of a key, declared now if it is not yet.
    pub(super) fn key(&mut self, name: Vec<u8>) -> usize {
        if let Some(&place) = self.places.get(&name) {
            return place;
        }
        self.keys.push(name.clone());
        self.places.insert(name, self.keys.len());
        self.keys.len()
    }

    pub(super) fn arg(&mut self, arg: impl Into<Vec<u8>>) {
        self.args.push(arg.into());
    }

    /// One instruction.
    pub(super) fn instruction(&mut self, command: &str, key: Vec<u8>, args: &[&[u8]]) {
        let key = self.key(key);
        self.arg(command);
        self.arg(text(key));
        self.arg(text(args.len()));
        self.args.extend(args.iter().map(|a| a.to_vec()));
    }

    /// The instructions that read a record; answers how many. Pages are not read by instructions.
    pub(super) fn read(&mut self, names: &Names, key: &Key) -> usize {
        let start = self.args.len();
        let mut count = 0;
        let mut ask = |command: &str, name: Vec<u8>, args: &[&[u8]]| {
            self.instruction(command, name, args);
            count += 1;
        };
        match key {
            Key::Attr(ino) => ask("GET", names.attr(*ino), &[]),
            Key::Entry(dir, name) => ask("HGET", names.entries(*dir), &[name]),
            Key::DirIsEmpty(dir) => ask("EXISTS", names.entries(*dir), &[]),
            Key::Parents(ino) => ask("HGETALL", names.of("p", ino), &[]),
            Key::Symlink(ino) => ask("GET", names.of("s", ino), &[]),
            Key::Xattr(ino, name) => ask("HGET", names.of("x", ino), &[name]),
            Key::HasXattr(ino, name) => ask("HEXISTS", names.of("x", ino), &[name]),
            Key::XattrNames(ino) => ask("HKEYS", names.of("x", ino), &[]),
            Key::Slices(ino, index) => ask("LRANGE", names.chunk(*ino, index.0), &[b"0", b"-1"]),
            Key::SliceCount(ino, index) => ask("LLEN", names.chunk(*ino, index.0), &[]),
            Key::SliceRefs(slice) => ask("HGET", names.fixed("sliceRef"), &[&slice_field(*slice)]),
            Key::Counter(counter) | Key::CounterRoom { counter, .. } => ask("GET", names.counter(*counter), &[]),
            Key::DirStat(dir) => {
                names.dir_stats().into_iter().for_each(|hash| ask("HGET", hash, &[&text(dir)]));
            }
            Key::HasDirStat(dir) => ask("HEXISTS", names.fixed("dirUsedSpace"), &[&text(dir)]),
            Key::Quota(key) | Key::QuotaRoom { key, .. } => {
                names.quota(key.kind).into_iter().for_each(|hash| ask("HGET", hash, &[&text(key.id)]));
            }
            Key::HasQuota(key) => {
                let [_, _, used_inodes] = names.quota(key.kind);
                ask("HEXISTS", used_inodes, &[&text(key.id)]);
            }
            Key::Quotas(kind) => {
                names.quota(*kind).into_iter().for_each(|hash| ask("HGETALL", hash, &[]));
            }
            Key::AnyDirQuota => {
                let [_, _, used_inodes] = names.quota(QuotaKind::Dir);
                ask("HLEN", used_inodes, &[]);
            }
            Key::Acl(id) => ask("HGET", names.fixed("acl"), &[&text(id)]),
            Key::AclId(_) => ask("HGETALL", names.fixed("acl"), &[]),
            Key::Session(sid) => {
                ask("ZSCORE", names.fixed("allSessions"), &[&text(sid)]);
                ask("HGET", names.fixed("sessionInfos"), &[&text(sid)]);
            }
            Key::Sessions => {
                ask("ZRANGE", names.fixed("allSessions"), &[b"0", b"-1", b"WITHSCORES"]);
                ask("HGETALL", names.fixed("sessionInfos"), &[]);
            }
            Key::Sustained(sid) => ask("SMEMBERS", names.of("session", sid), &[]),
            Key::HasSustained(sid, ino) => ask("SISMEMBER", names.of("session", sid), &[&text(ino)]),
            Key::Flocks(ino) => ask("HGETALL", names.of("lockf", ino), &[]),
            Key::Plocks(ino) => ask("HGETALL", names.of("lockp", ino), &[]),
            Key::Detached => ask("ZRANGE", names.fixed("detachedNodes"), &[b"0", b"-1", b"WITHSCORES"]),
            Key::Setting => ask("GET", names.fixed("setting"), &[]),
            Key::DeletedFiles { until, limit } => {
                let limit = text(i64::try_from(*limit).unwrap_or(i64::MAX));
                let args: [&[u8]; 6] = [b"-inf", &text(until), b"WITHSCORES", b"LIMIT", b"0", &limit];
                ask("ZRANGEBYSCORE", names.fixed("delfiles"), &args);
            }
            Key::HasDelayed(id, secs) => ask("HEXISTS", names.fixed("delSlices"), &[format!("{id}_{secs}").as_bytes()]),
            Key::Entries { .. }
            | Key::Chunks { .. }
            | Key::DeletedChunks { .. }
            | Key::UnownedSlices { .. }
            | Key::SliceRecords { .. }
            | Key::ScanChunks { .. }
            | Key::ScanAttrs { .. }
            | Key::Delayed { .. } => {
                debug_assert!(self.args.len() == start, "pages are read step by step");
            }
        }
        count
    }

    /// A guard: how to compare, what was seen, what to read.
    pub(super) fn guard(&mut self, names: &Names, guard: &Guard) {
        let (how, seen) = expected(guard);
        self.arg(how);
        self.arg(text(seen.len()));
        self.args.extend(seen);
        let place = self.args.len();
        self.arg("");
        let count = self.read(names, &guard.key);
        self.args[place] = text(count);
    }

    fn change(&mut self, count: &mut usize, command: &str, key: Vec<u8>, args: &[&[u8]]) {
        self.arg(".");
        self.instruction(command, key, args);
        *count += 1;
    }

    /// A change whose reply is the verb's answer.
    fn asked(&mut self, count: &mut usize, command: &str, key: Vec<u8>, args: &[&[u8]]) {
        self.arg("a");
        self.instruction(command, key, args);
        *count += 1;
    }

    /// The instructions of a verb; answers how many. `locks` are the lock hashes of the session
    /// whose locks are to be dropped.
    pub(super) fn verb(&mut self, names: &Names, verb: &Verb, locks: &[Vec<u8>]) -> usize {
        let mut count = 0;
        let n = &mut count;
        match verb {
            Verb::InsertAttr(ino, attr) => self.change(n, "SET", names.attr(*ino), &[&attr.encode()]),
            Verb::ChangeAttr(ino, change) => {
                let splices = splices(change);
                let args: Vec<&[u8]> = splices.iter().map(Vec::as_slice).collect();
                self.change(n, "!attr", names.attr(*ino), &args);
            }
            Verb::RemoveAttr(ino) => self.change(n, "DEL", names.attr(*ino), &[]),
            Verb::InsertEntry(dir, name, entry) | Verb::ReplaceEntry(dir, name, entry) => {
                self.change(n, "HSET", names.entries(*dir), &[name, &entry_bytes(*entry)]);
            }
            Verb::RemoveEntry(dir, name) => self.change(n, "HDEL", names.entries(*dir), &[name]),
            Verb::AddParent(ino, parent, delta) => {
                self.change(n, "!count", names.of("p", ino), &[&text(parent), &text(delta), b"positive"]);
            }
            Verb::RemoveParents(ino) => self.change(n, "DEL", names.of("p", ino), &[]),
            Verb::InsertSymlink(ino, target) => self.change(n, "SET", names.of("s", ino), &[target]),
            Verb::RemoveSymlink(ino) => self.change(n, "DEL", names.of("s", ino), &[]),
            Verb::PutXattr(ino, name, value) => self.change(n, "HSET", names.of("x", ino), &[name, value]),
            Verb::RemoveXattr(ino, name) => self.change(n, "HDEL", names.of("x", ino), &[name]),
            Verb::RemoveXattrs(ino) => self.change(n, "DEL", names.of("x", ino), &[]),
            Verb::AppendSlices(ino, index, records) => {
                let name = names.chunk(*ino, index.0);
                let encoded: Vec<Vec<u8>> =
                    records.iter().map(|r| SliceRecord::encode_list(std::slice::from_ref(r))).collect();
                for (i, part) in encoded.chunks(PUSH_MAX).enumerate() {
                    let args: Vec<&[u8]> = part.iter().map(Vec::as_slice).collect();
                    let is_last = (i + 1) * PUSH_MAX >= encoded.len();
                    if is_last {
                        self.asked(n, "RPUSH", name.clone(), &args);
                    } else {
                        self.change(n, "RPUSH", name.clone(), &args);
                    }
                }
            }
            Verb::ReplaceSlices(ino, index, records) => {
                let name = names.chunk(*ino, index.0);
                self.change(n, "DEL", name.clone(), &[]);
                for part in records.chunks(PUSH_MAX) {
                    let encoded: Vec<Vec<u8>> =
                        part.iter().map(|r| SliceRecord::encode_list(std::slice::from_ref(r))).collect();
                    let args: Vec<&[u8]> = encoded.iter().map(Vec::as_slice).collect();
                    self.change(n, "RPUSH", name.clone(), &args);
                }
            }
            Verb::RemoveChunk(ino, index) => self.change(n, "DEL", names.chunk(*ino, index.0), &[]),
            // One owner is no record.
            Verb::InsertSlice(_, 1) => {}
            Verb::InsertSlice(slice, refs) => {
                let stored = text(i64::from(*refs) - 1);
                self.change(n, "HSET", names.fixed("sliceRef"), &[&slice_field(*slice), &stored]);
            }
            Verb::AddSliceRefs(slice, delta) => {
                let args: [&[u8]; 3] = [&slice_field(*slice), &text(delta), b"zero"];
                self.asked(n, "!count", names.fixed("sliceRef"), &args);
            }
            Verb::RemoveSlice(slice) => self.change(n, "HDEL", names.fixed("sliceRef"), &[&slice_field(*slice)]),
            Verb::InsertDeletedFile(file) => {
                let member = format!("{}:{}", file.ino, file.length);
                self.change(n, "ZADD", names.fixed("delfiles"), &[&text(file.deleted_secs), member.as_bytes()]);
            }
            Verb::RemoveDeletedFile(ino, length) => {
                self.change(n, "ZREM", names.fixed("delfiles"), &[format!("{ino}:{length}").as_bytes()]);
            }
            Verb::InsertDelayed(delayed) => {
                let DelayedSlices { id, deleted_secs, .. } = delayed;
                let field = format!("{id}_{deleted_secs}");
                self.change(n, "HSET", names.fixed("delSlices"), &[field.as_bytes(), &delayed.encode_slices()]);
            }
            Verb::RemoveDelayed(id, secs) => {
                self.change(n, "HDEL", names.fixed("delSlices"), &[format!("{id}_{secs}").as_bytes()]);
            }
            Verb::AddCounter(counter, delta) => self.asked(n, "INCRBY", names.counter(*counter), &[&text(delta)]),
            Verb::SetCounter(counter, value) => {
                let stored = text(value - counter_offset(*counter));
                self.change(n, "SET", names.counter(*counter), &[&stored]);
            }
            Verb::PutDirStat(dir, stat) => {
                for (hash, value) in names.dir_stats().into_iter().zip([stat.length, stat.space, stat.inodes]) {
                    self.change(n, "HSET", hash, &[&text(dir), &text(value)]);
                }
            }
            Verb::AddDirStat(dir, delta) => {
                for (hash, value) in names.dir_stats().into_iter().zip([delta.length, delta.space, delta.inodes]) {
                    if value != 0 {
                        self.change(n, "HINCRBY", hash, &[&text(dir), &text(value)]);
                    }
                }
            }
            Verb::RemoveDirStat(dir) => {
                names.dir_stats().into_iter().for_each(|hash| self.change(n, "HDEL", hash, &[&text(dir)]));
            }
            Verb::PutQuota(key, quota) => self.put_quota(n, names, *key, quota),
            Verb::AddQuotaUsed(key, space, inodes) => {
                let [_, used_space, used_inodes] = names.quota(key.kind);
                for (hash, value) in [(used_space, space), (used_inodes, inodes)] {
                    if *value != 0 {
                        self.change(n, "HINCRBY", hash, &[&text(key.id), &text(value)]);
                    }
                }
            }
            Verb::RemoveQuota(key) => {
                names.quota(key.kind).into_iter().for_each(|hash| self.change(n, "HDEL", hash, &[&text(key.id)]));
            }
            Verb::InternAcl(rule) => {
                let last = self.key(names.fixed("aclMaxId"));
                self.asked(n, "!acl", names.fixed("acl"), &[&rule.encode(), &text(last)]);
            }
            Verb::PutSession(session) => {
                let sid = text(session.sid);
                self.change(n, "ZADD", names.fixed("allSessions"), &[&text(session.expire_secs), &sid]);
                self.change(n, "HSETNX", names.fixed("sessionInfos"), &[&sid, session.info.as_bytes()]);
            }
            Verb::RemoveSession(sid) => {
                self.change(n, "ZREM", names.fixed("allSessions"), &[&text(sid)]);
                self.change(n, "HDEL", names.fixed("sessionInfos"), &[&text(sid)]);
            }
            Verb::InsertSustained(sid, ino) => self.change(n, "SADD", names.of("session", sid), &[&text(ino)]),
            Verb::RemoveSustained(sid, ino) => self.change(n, "SREM", names.of("session", sid), &[&text(ino)]),
            Verb::SetFlock(ino, owner, kind) => {
                let value = kind.map(|kind| vec![kind.letter()]);
                self.set_lock(n, names, names.of("lockf", ino), *owner, value);
            }
            Verb::SetPlocks(ino, owner, ranges) => {
                let value = (!ranges.is_empty()).then(|| PlockRange::encode_list(ranges));
                self.set_lock(n, names, names.of("lockp", ino), *owner, value);
            }
            Verb::RemoveLocks(sid) => {
                let places: Vec<Vec<u8>> = locks.iter().map(|hash| text(self.key(hash.clone()))).collect();
                let owner = format!("{sid}_").into_bytes();
                let args: Vec<&[u8]> =
                    std::iter::once(owner.as_slice()).chain(places.iter().map(Vec::as_slice)).collect();
                self.change(n, "!unlock-all", names.locked(*sid), &args);
            }
            Verb::RemoveDetached(ino) => self.change(n, "ZREM", names.fixed("detachedNodes"), &[&text(ino)]),
            Verb::PutSetting(json) => self.change(n, "SET", names.fixed("setting"), &[json.as_bytes()]),
            Verb::LogChange(entry) => {
                self.change(n, "RPUSH", names.fixed("txnLog"), &[entry.as_bytes()]);
                self.change(n, "INCR", names.fixed("txnLastLog"), &[]);
            }
            Verb::TrimChangeLog { before_secs, keep_lines } => {
                self.change(n, "!trim", names.fixed("txnLog"), &[&text(before_secs), &text(keep_lines)]);
            }
        }
        count
    }

    fn put_quota(&mut self, n: &mut usize, names: &Names, key: QuotaKey, quota: &Quota) {
        let [limit, used_space, used_inodes] = names.quota(key.kind);
        self.change(n, "HSET", limit, &[&text(key.id), &limits(quota)]);
        // Clients look for quotas among these fields: all three are written.
        self.change(n, "HSET", used_space, &[&text(key.id), &text(quota.used_space)]);
        self.change(n, "HSET", used_inodes, &[&text(key.id), &text(quota.used_inodes)]);
    }

    fn set_lock(&mut self, n: &mut usize, names: &Names, hash: Vec<u8>, owner: LockOwner, value: Option<Vec<u8>>) {
        let field = owner_field(owner);
        match value {
            Some(value) => {
                self.change(n, "HSET", hash.clone(), &[&field, &value]);
                self.change(n, "SADD", names.locked(owner.sid), &[&hash]);
            }
            None => {
                let note = self.key(names.locked(owner.sid));
                let session = format!("{}_", owner.sid).into_bytes();
                self.change(n, "!unlock", hash, &[&field, &session, &text(note)]);
            }
        }
    }
}

/// Records in one push: Lua unpacks no more than some 8,000 values.
const PUSH_MAX: usize = 1000;

/// Does the server answer this verb with a number?
pub(super) fn is_asked(verb: &Verb) -> bool {
    matches!(verb, Verb::AppendSlices(..) | Verb::AddSliceRefs(..) | Verb::AddCounter(..) | Verb::InternAcl(_))
}

/// What the seam calls the answer, from what the server says.
pub(super) fn answer(verb: &Verb, reply: i64) -> i64 {
    match verb {
        Verb::AddSliceRefs(..) => reply + 1,
        Verb::AddCounter(counter, _) => reply + counter_offset(*counter),
        _ => reply,
    }
}

fn splices(change: &AttrChange) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let mut put = |place: &str, bytes: &[u8]| {
        out.push(place.as_bytes().to_vec());
        out.push(bytes.to_vec());
    };
    let time = |t: cairn_types::Timestamp| [t.secs.to_be_bytes().as_slice(), &t.nanos.to_be_bytes()].concat();
    if let Some(flags) = change.flags {
        put("1", &[flags.0]);
    }
    if let Some(mode) = change.mode {
        put("mode", &(mode & 0o7777).to_be_bytes());
    }
    if let Some(uid) = change.uid {
        put("4", &uid.to_be_bytes());
    }
    if let Some(gid) = change.gid {
        put("8", &gid.to_be_bytes());
    }
    for (place, value) in [("12", change.atime), ("24", change.mtime), ("36", change.ctime)] {
        if let Some(value) = value {
            put(place, &time(value));
        }
    }
    if change.nlink_add != 0 {
        put("nlink", &text(change.nlink_add));
    }
    if let Some(length) = change.length {
        put("52", &length.to_be_bytes());
    }
    if let Some(least) = change.length_at_least {
        put("least", &least.to_be_bytes());
    }
    if let Some(parent) = change.parent {
        put("64", &parent.0.to_be_bytes());
    }
    if let Some(id) = change.access_acl {
        put("access", &id.to_be_bytes());
    }
    if let Some(id) = change.default_acl {
        put("default", &id.to_be_bytes());
    }
    if let Some(tier) = change.tier {
        put("tier", &[tier]);
    }
    out
}

/// The fields that a guard relies on, one after the other, as the script takes them from a record.
fn relied(attr: &Attr, rely: Rely) -> Vec<u8> {
    let record = attr.encode();
    let mut out = Vec::new();
    if rely.has(Rely::KIND) {
        out.push(record[1] >> 4);
    }
    if rely.has(Rely::PERMISSION) {
        out.push(record[1] & 15);
        out.extend(&record[2..11]);
        out.extend(attr.access_acl.to_be_bytes());
        out.extend(attr.default_acl.to_be_bytes());
    }
    if rely.has(Rely::FLAGS) {
        out.push(record[0]);
    }
    if rely.has(Rely::PARENT) {
        out.extend(attr.parent.0.to_be_bytes());
    }
    if rely.has(Rely::LENGTH) {
        out.extend(&record[51..59]);
    }
    if rely.has(Rely::NLINK) {
        out.extend(&record[47..51]);
    }
    if rely.has(Rely::TIMES) {
        out.extend(&record[11..47]);
    }
    if rely.has(Rely::TIER) {
        out.push(attr.tier);
    }
    out
}

/// How a guard is compared, and with what.
fn expected(guard: &Guard) -> (&'static str, Vec<Vec<u8>>) {
    let with = |how: u8, bytes: &[u8]| [&[how], bytes].concat();
    let exactly = |bytes: Option<Vec<u8>>| bytes.map_or(vec![b'-'], |b| with(b'+', &b));
    let flag = |yes: bool| text(u8::from(yes));
    match (&guard.key, &guard.seen) {
        (_, Value::Attr(None)) => ("attr", vec![vec![b'-']]),
        (_, Value::Attr(Some(attr))) => ("attr", vec![text(guard.rely.0), relied(attr, guard.rely)]),
        (_, Value::Entry(entry)) => ("same", vec![exactly(entry.map(entry_bytes))]),
        (Key::CounterRoom { counter, add, limit }, Value::Flag(yes)) => {
            let limit = limit - counter_offset(*counter);
            ("room", vec![text(add), text(limit), flag(*yes)])
        }
        (Key::QuotaRoom { space, inodes, .. }, Value::Flag(yes)) => {
            ("quota", vec![text(space), text(inodes), flag(*yes)])
        }
        (Key::DirIsEmpty(_), Value::Flag(yes)) => ("flag", vec![flag(!yes)]),
        (_, Value::Flag(yes)) => ("flag", vec![flag(*yes)]),
        (_, Value::Parents(parents)) => {
            ("counts", parents.iter().flat_map(|(parent, n)| [text(parent), text(n)]).collect())
        }
        (_, Value::Bytes(bytes)) => ("same", vec![exactly(bytes.clone())]),
        (_, Value::SliceList(bytes)) => ("list", vec![bytes.clone()]),
        (Key::SliceRefs(_), Value::Number(n)) => ("same", vec![with(b'=', &text(n - 1))]),
        (Key::Counter(counter), Value::Number(n)) => ("same", vec![with(b'=', &text(n - counter_offset(*counter)))]),
        (_, Value::Number(n)) => ("same", vec![with(b'+', &text(n))]),
        (_, Value::DirStat(None)) => ("same", vec![vec![b'*'], vec![b'-'], vec![b'*']]),
        (_, Value::DirStat(Some(stat))) => {
            let numbers = [(b'=', stat.length), (b'+', stat.space), (b'=', stat.inodes)];
            ("same", numbers.map(|(how, n)| with(how, &text(n))).to_vec())
        }
        (_, Value::Quota(None)) => ("same", vec![vec![b'*'], vec![b'*'], vec![b'-']]),
        (_, Value::Quota(Some(quota))) => {
            let used = [(b'=', quota.used_space), (b'+', quota.used_inodes)].map(|(how, n)| with(how, &text(n)));
            let [space, inodes] = used;
            ("same", vec![with(b'~', &limits(quota)), space, inodes])
        }
        (_, Value::Acl(rule)) => ("same", vec![exactly(rule.as_ref().map(|rule| rule.encode()))]),
        (_, Value::Session(None)) => ("same", vec![vec![b'-'], vec![b'*']]),
        (_, Value::Session(Some(session))) => {
            let info = if session.info.is_empty() { vec![b'*'] } else { with(b'+', session.info.as_bytes()) };
            ("same", vec![with(b'+', &text(session.expire_secs)), info])
        }
        (_, Value::Flocks(held)) => {
            ("hash", held.iter().flat_map(|(owner, kind)| [owner_field(*owner), vec![kind.letter()]]).collect())
        }
        (_, Value::Plocks(held)) => {
            let pairs = held.iter().flat_map(|(owner, ranges)| [owner_field(*owner), PlockRange::encode_list(ranges)]);
            ("hash", pairs.collect())
        }
        (_, Value::Setting(json)) => ("same", vec![exactly(json.as_ref().map(|j| j.clone().into_bytes()))]),
        (key, other) => unreachable!("{key:?} is never guarded, and {other:?} never seen under it"),
    }
}

//! Replies of the server as typed records. What breaks the format is [`Error::Corrupt`].

use cairn_types::{AclRule, Attr, FileType, Ino, SLICE_RECORD_BYTES, SessionId, SliceId, SliceRef};
use redis::Value as Reply;

use super::program::counter_offset;
use crate::engine::remote::record::{Key, Value};
use crate::record::{DeletedFile, DirStat, Entry, FlockKind, LockOwner, PlockRange, Quota, QuotaKey, SessionRecord};
use crate::{Error, Result};

/// Replies in the order of their instructions.
pub(super) struct Replies(std::vec::IntoIter<Reply>);

impl Replies {
    pub(super) fn new(reply: Reply) -> Result<Replies> {
        Ok(Replies(array(reply)?.into_iter()))
    }

    pub(super) fn next(&mut self) -> Result<Reply> {
        self.0.next().ok_or_else(|| odd("too few replies"))
    }

    /// What stands under a key, from the replies of its reading instructions.
    pub(super) fn value(&mut self, key: &Key) -> Result<Value> {
        Ok(match key {
            Key::Attr(ino) => Value::Attr(attr(*ino, self.next()?)?),
            Key::Entry(dir, name) => Value::Entry(entry(*dir, name, self.next()?)?),
            Key::DirIsEmpty(_) => Value::Flag(number(self.next()?)? == 0),
            Key::Parents(_) => Value::Parents(parents(self.next()?)?),
            Key::Symlink(_) | Key::Xattr(..) => Value::Bytes(bytes(self.next()?)?),
            Key::XattrNames(_) => {
                let mut names = strings(self.next()?)?;
                names.sort_unstable();
                Value::Names(names)
            }
            Key::Slices(..) => Value::SliceList(slice_list(self.next()?)?),
            Key::SliceCount(..) => Value::Number(number(self.next()?)?),
            Key::SliceRefs(_) => Value::Number(number(self.next()?)? + 1),
            Key::Counter(counter) => Value::Number(number(self.next()?)? + counter_offset(*counter)),
            Key::CounterRoom { counter, add, limit } => {
                Value::Flag(number(self.next()?)? + counter_offset(*counter) + add <= *limit)
            }
            Key::DirStat(_) => {
                let (length, space, inodes) = (self.next()?, bytes(self.next()?)?, self.next()?);
                let (length, inodes) = (number(length)?, number(inodes)?);
                let space = space.map(|space| parsed(&space)).transpose()?;
                Value::DirStat(space.map(|space| DirStat { length, space, inodes }))
            }
            Key::Quota(_) => Value::Quota(self.quota()?),
            Key::QuotaRoom { space, inodes, .. } => {
                Value::Flag(self.quota()?.is_none_or(|q| !q.exceeded_by(*space, *inodes)))
            }
            Key::Quotas(kind) => {
                let [limits, space, inodes] = [pairs(self.next()?)?, pairs(self.next()?)?, pairs(self.next()?)?];
                let at = |list: &[(Vec<u8>, Vec<u8>)], id: &[u8]| list.iter().find(|p| p.0 == id).map(|p| p.1.clone());
                let mut out = Vec::with_capacity(inodes.len());
                for (field, used_inodes) in &inodes {
                    let (limits, space) = (at(&limits, field), at(&space, field));
                    let quota = quota_of(limits, space, Some(used_inodes.clone()))?;
                    out.extend(quota.map(|q| (QuotaKey { kind: *kind, id: unsigned(field).unwrap_or(0) }, q)));
                }
                out.sort_unstable_by_key(|(key, _)| *key);
                Value::Quotas(out)
            }
            Key::Acl(id) => Value::Acl(match bytes(self.next()?)? {
                Some(b) => {
                    Some(AclRule::decode(&b).ok_or_else(|| Error::Corrupt(format!("access rule {id} is torn")))?)
                }
                None => None,
            }),
            Key::AclId(rule) => {
                let wanted = rule.encode();
                let all = pairs(self.next()?)?;
                let ids = all.iter().filter(|(_, rule)| *rule == wanted).map(|(id, _)| parsed(id));
                Value::AclId(ids.collect::<Result<Vec<i64>>>()?.into_iter().min().and_then(|id| u32::try_from(id).ok()))
            }
            Key::Session(sid) => {
                let (score, info) = (bytes(self.next()?)?, bytes(self.next()?)?);
                Value::Session(score.map(|score| session(*sid, &score, info)).transpose()?)
            }
            Key::Sessions => {
                let (scores, infos) = (pairs(self.next()?)?, pairs(self.next()?)?);
                let info = |sid: &[u8]| infos.iter().find(|p| p.0 == sid).map(|p| p.1.clone());
                let all = scores.iter().map(|(sid, score)| {
                    session(SessionId(unsigned(sid).ok_or_else(|| odd("a session without number"))?), score, info(sid))
                });
                let mut all = all.collect::<Result<Vec<_>>>()?;
                all.sort_unstable_by_key(|s| s.sid);
                Value::Sessions(all)
            }
            Key::Sustained(_) => {
                let mut inodes: Vec<Ino> = strings(self.next()?)?.iter().filter_map(|b| unsigned(b)).map(Ino).collect();
                inodes.sort_unstable();
                Value::Inodes(inodes)
            }
            Key::Flocks(ino) => Value::Flocks(flocks(*ino, self.next()?)?),
            Key::Plocks(ino) => Value::Plocks(plocks(*ino, self.next()?)?),
            Key::Detached => {
                let all = pairs(self.next()?)?;
                let all = all.iter().filter_map(|(ino, secs)| Some((Ino(unsigned(ino)?), score_secs(secs)?)));
                Value::Detached(all.collect())
            }
            Key::Setting => Value::Setting(bytes(self.next()?)?.map(|b| String::from_utf8_lossy(&b).into_owned())),
            Key::HasXattr(..)
            | Key::HasDirStat(_)
            | Key::HasQuota(_)
            | Key::AnyDirQuota
            | Key::HasSustained(..)
            | Key::HasDelayed(..) => Value::Flag(number(self.next()?)? > 0),
            Key::DeletedFiles { .. } => Value::DeletedFiles(deleted_files(self.next()?)?),
            Key::Entries { .. }
            | Key::Chunks { .. }
            | Key::DeletedChunks { .. }
            | Key::UnownedSlices { .. }
            | Key::SliceRecords { .. }
            | Key::ScanChunks { .. }
            | Key::ScanAttrs { .. }
            | Key::Delayed { .. } => unreachable!("pages are read step by step"),
        })
    }

    fn quota(&mut self) -> Result<Option<Quota>> {
        let (limits, space, inodes) = (bytes(self.next()?)?, bytes(self.next()?)?, bytes(self.next()?)?);
        quota_of(limits, space, inodes)
    }
}

/// A record is there if its used inodes are; without limits it has none.
fn quota_of(limits: Option<Vec<u8>>, space: Option<Vec<u8>>, inodes: Option<Vec<u8>>) -> Result<Option<Quota>> {
    let Some(inodes) = inodes else { return Ok(None) };
    let (max_space, max_inodes) = match limits.as_deref().map(|b| b.as_chunks::<8>()) {
        None => (-1, -1),
        Some(([space, inodes], [])) => (i64::from_be_bytes(*space), i64::from_be_bytes(*inodes)),
        Some(_) => return Err(Error::Corrupt("the limits of a quota are torn".into())),
    };
    let used_space = space.map_or(Ok(0), |b| parsed(&b))?;
    Ok(Some(Quota { max_space, max_inodes, used_space, used_inodes: parsed(&inodes)? }))
}

pub(super) fn odd(what: &str) -> Error {
    Error::engine("read from Redis", format!("the reply makes no sense: {what}"))
}

pub(super) fn array(reply: Reply) -> Result<Vec<Reply>> {
    match reply {
        Reply::Array(items) | Reply::Set(items) => Ok(items),
        Reply::Map(pairs) => Ok(pairs.into_iter().flat_map(|(k, v)| [k, v]).collect()),
        Reply::Nil => Ok(vec![]),
        other => Err(odd(&format!("{} where a list belongs", kind_of(&other)))),
    }
}

fn kind_of(reply: &Reply) -> &'static str {
    match reply {
        Reply::Nil => "nothing",
        Reply::Int(_) => "a number",
        Reply::BulkString(_) | Reply::SimpleString(_) | Reply::Okay => "a string",
        Reply::Array(_) | Reply::Set(_) | Reply::Map(_) => "a list",
        _ => "something else",
    }
}

pub(super) fn bytes(reply: Reply) -> Result<Option<Vec<u8>>> {
    match reply {
        Reply::Nil => Ok(None),
        Reply::BulkString(b) => Ok(Some(b)),
        Reply::SimpleString(s) => Ok(Some(s.into_bytes())),
        Reply::Int(n) => Ok(Some(n.to_string().into_bytes())),
        Reply::Double(n) => Ok(Some(format!("{n:.0}").into_bytes())),
        other => Err(odd(&format!("{} where a string belongs", kind_of(&other)))),
    }
}

/// A decimal number; nothing is 0.
pub(super) fn number(reply: Reply) -> Result<i64> {
    match reply {
        Reply::Int(n) => Ok(n),
        other => bytes(other)?.map_or(Ok(0), |b| parsed(&b)),
    }
}

pub(super) fn strings(reply: Reply) -> Result<Vec<Vec<u8>>> {
    array(reply)?.into_iter().map(|item| bytes(item)?.ok_or_else(|| odd("nothing in a list"))).collect()
}

/// A hash, or a sorted set with scores.
pub(super) fn pairs(reply: Reply) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut items = strings(reply)?.into_iter();
    let mut out = Vec::with_capacity(items.len() / 2);
    while let (Some(field), Some(value)) = (items.next(), items.next()) {
        out.push((field, value));
    }
    Ok(out)
}

fn parsed(b: &[u8]) -> Result<i64> {
    let text = std::str::from_utf8(b).ok().and_then(|s| s.parse().ok());
    text.ok_or_else(|| Error::Corrupt("something that is no number stands where one belongs".into()))
}

fn unsigned(b: &[u8]) -> Option<u64> {
    std::str::from_utf8(b).ok()?.parse().ok()
}

/// A score, which may be written with an exponent or a fraction.
fn score_secs(b: &[u8]) -> Option<i64> {
    std::str::from_utf8(b).ok()?.parse::<f64>().ok().map(|secs| secs as i64)
}

pub(super) fn attr(ino: Ino, reply: Reply) -> Result<Option<Attr>> {
    let Some(b) = bytes(reply)? else { return Ok(None) };
    let attr = Attr::decode(&b).ok_or_else(|| Error::Corrupt(format!("the attributes of inode {ino} are torn")))?;
    Ok(Some(attr))
}

pub(super) fn entry(dir: Ino, name: &[u8], reply: Reply) -> Result<Option<Entry>> {
    let Some(b) = bytes(reply)? else { return Ok(None) };
    decode_entry(&b).map(Some).ok_or_else(|| {
        Error::Corrupt(format!("the entry {} of directory {dir} is torn", String::from_utf8_lossy(name)))
    })
}

pub(super) fn decode_entry(b: &[u8]) -> Option<Entry> {
    let (kind, ino) = b.split_first()?;
    Some(Entry { ino: Ino(u64::from_be_bytes(ino.try_into().ok()?)), kind: FileType::from_u8(*kind)? })
}

fn parents(reply: Reply) -> Result<Vec<(Ino, u32)>> {
    let mut out = Vec::new();
    for (parent, count) in pairs(reply)? {
        let (parent, count) = (unsigned(&parent).ok_or_else(|| odd("a parent without number"))?, parsed(&count)?);
        if count > 0 {
            out.push((Ino(parent), u32::try_from(count).unwrap_or(u32::MAX)));
        }
    }
    out.sort_unstable();
    Ok(out)
}

/// The records one after the other. A torn one stays torn, whatever its neighbours are.
pub(super) fn slice_list(reply: Reply) -> Result<Vec<u8>> {
    let records = strings(reply)?;
    if records.iter().all(|r| r.len() == SLICE_RECORD_BYTES) {
        return Ok(records.concat());
    }
    let mut torn = records.concat();
    if torn.len() % SLICE_RECORD_BYTES == 0 {
        torn.push(0);
    }
    Ok(torn)
}

fn session(sid: SessionId, score: &[u8], info: Option<Vec<u8>>) -> Result<SessionRecord> {
    let expire_secs = score_secs(score).ok_or_else(|| odd("a session without its second"))?;
    let info = info.map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    Ok(SessionRecord { sid, expire_secs, info })
}

fn owner(ino: Ino, field: &[u8]) -> Result<LockOwner> {
    let parse = || {
        let (sid, owner) = std::str::from_utf8(field).ok()?.split_once('_')?;
        Some(LockOwner { sid: SessionId(sid.parse().ok()?), owner: u64::from_str_radix(owner, 16).ok()? })
    };
    parse().ok_or_else(|| Error::Corrupt(format!("inode {ino} has a lock without owner")))
}

fn flocks(ino: Ino, reply: Reply) -> Result<Vec<(LockOwner, FlockKind)>> {
    let mut out = Vec::new();
    for (field, value) in pairs(reply)? {
        let kind = value.first().copied().and_then(FlockKind::from_letter);
        let kind = kind.ok_or_else(|| Error::Corrupt(format!("inode {ino} has a lock of an unknown kind")))?;
        out.push((owner(ino, &field)?, kind));
    }
    out.sort_unstable_by_key(|(owner, _)| *owner);
    Ok(out)
}

fn plocks(ino: Ino, reply: Reply) -> Result<Vec<(LockOwner, Vec<PlockRange>)>> {
    let mut out = Vec::new();
    for (field, value) in pairs(reply)? {
        let ranges = PlockRange::decode_list(&value)
            .ok_or_else(|| Error::Corrupt(format!("the range locks of inode {ino} are torn")))?;
        out.push((owner(ino, &field)?, ranges));
    }
    out.sort_unstable_by_key(|(owner, _)| *owner);
    Ok(out)
}

/// Members with any other number of parts are a form of old clients, which they clean up.
pub(super) fn deleted_files(reply: Reply) -> Result<Vec<DeletedFile>> {
    let mut out = Vec::new();
    for (member, score) in pairs(reply)? {
        let text = String::from_utf8_lossy(&member);
        let mut parts = text.split(':').map(|p| p.parse::<u64>().ok());
        if let (Some(Some(ino)), Some(Some(length)), None, Some(deleted_secs)) =
            (parts.next(), parts.next(), parts.next(), score_secs(&score))
        {
            out.push(DeletedFile { ino: Ino(ino), length, deleted_secs });
        }
    }
    out.sort_unstable_by_key(|f| (f.deleted_secs, f.ino));
    Ok(out)
}

/// A field of `sliceRef`.
pub(super) fn slice_of(field: &[u8]) -> Option<SliceRef> {
    let (id, size) = std::str::from_utf8(field).ok()?.strip_prefix('k')?.split_once('_')?;
    Some(SliceRef { id: SliceId(id.parse().ok()?), size: size.parse().ok()? })
}

/// A field of `delSlices`.
pub(super) fn delayed_of(field: &[u8]) -> Option<(SliceId, i64)> {
    let (id, secs) = std::str::from_utf8(field).ok()?.split_once('_')?;
    Some((SliceId(id.parse().ok()?), secs.parse().ok()?))
}

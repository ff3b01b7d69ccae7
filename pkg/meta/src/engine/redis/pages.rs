//! Long lists in pages: directories, whole-volume scans, slices without owner.
//!
//! Redis keeps directories in hashes, which have no order. A small one comes whole in one answer; a
//! large one is read once through a cursor into a sorted list of names, from which the following
//! pages are cut, each checked against the directory as it is then. Inodes are found by counting
//! through the numbers given out, never by searching the key space.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_types::layout::chunk_at;
use cairn_types::{Attr, ChunkIndex, Ino, SliceId, SliceRef};
use parking_lot::Mutex;
use redis::Value as Reply;

use super::RedisServer;
use super::decode::{self, Replies};
use super::program::Program;
use crate::engine::remote::record::{Key, Value};
use crate::record::{DelayedSlices, NamedEntry};
use crate::txn::Counter;
use crate::{Error, Result};

/// Largest directory that comes whole in one answer.
const WHOLE_DIR_MAX: usize = 1024;
/// Entries asked for at a time of a larger one.
const CURSOR_STEP: usize = 2000;
/// Inode numbers looked at together.
const INODE_STEP: u64 = 1000;
/// Chunk indices looked at in one script.
const CHUNK_STEP: u32 = 10_000;
/// A truncated file may keep lists beyond its end: so many chunks behind it are looked at.
const BEYOND_END: u32 = 256;
/// How long the names of a large directory serve the pages that follow.
const LISTING_AGE: Duration = Duration::from_secs(60);
/// Listings kept at a time.
const LISTINGS_MAX: usize = 4;

/// Names in byte order.
type SortedNames = Arc<Vec<Vec<u8>>>;

/// The names of large directories that are being paged through, and when each was read.
#[derive(Default)]
pub(super) struct Listings(Mutex<Vec<(Ino, Instant, SortedNames)>>);

impl Listings {
    fn get(&self, dir: Ino, now: Instant) -> Option<SortedNames> {
        let mut kept = self.0.lock();
        kept.retain(|(_, taken, _)| now.saturating_duration_since(*taken) < LISTING_AGE);
        kept.iter().find(|(d, ..)| *d == dir).map(|(.., names)| names.clone())
    }

    fn put(&self, dir: Ino, now: Instant, names: &SortedNames) {
        let mut kept = self.0.lock();
        kept.retain(|(d, ..)| *d != dir);
        if kept.len() == LISTINGS_MAX {
            kept.remove(0);
        }
        kept.push((dir, now, names.clone()));
    }

    fn done(&self, dir: Ino) {
        self.0.lock().retain(|(d, ..)| *d != dir);
    }
}

impl RedisServer {
    /// A page.
    pub(super) async fn page(&self, key: &Key) -> Result<Value> {
        Ok(match key {
            Key::Entries { dir, after, limit, plus } => Value::Entries(self.entries(*dir, after, *limit, *plus).await?),
            Key::Chunks { ino, from, limit } => {
                let length = match self.one(&Key::Attr(*ino)).await? {
                    Value::Attr(Some(attr)) => attr.length,
                    _ => 0,
                };
                Value::Chunks(self.chunks(*ino, length, *from, *limit).await?)
            }
            Key::DeletedChunks { ino, length, limit } => {
                Value::Chunks(self.chunks(*ino, *length, ChunkIndex(0), *limit).await?)
            }
            Key::ScanAttrs { after, limit } => Value::Attrs(self.scan_attrs(*after, *limit).await?),
            Key::ScanChunks { after, limit } => Value::RawChunks(self.scan_chunks(*after, *limit).await?),
            Key::SliceRecords { after, limit } => {
                let mut records = self.slice_records(*after).await?;
                records.truncate(*limit);
                Value::CountedSlices(records)
            }
            Key::UnownedSlices { after, limit } => {
                let records = self.slice_records(*after).await?;
                let unowned = records.into_iter().filter(|(_, refs)| *refs <= 0).map(|(slice, _)| slice);
                Value::SliceRefs(unowned.take(*limit).collect())
            }
            Key::Delayed { until, limit } => Value::Delayed(self.delayed(*until, *limit).await?),
            other => self.one(other).await?,
        })
    }

    async fn one(&self, key: &Key) -> Result<Value> {
        let mut program = Program::default();
        program.arg("1");
        program.read(&self.names, key);
        Replies::new(self.ask(program).await?)?.value(key)
    }

    async fn entries(&self, dir: Ino, after: &[u8], limit: usize, plus: bool) -> Result<Vec<NamedEntry>> {
        let now = self.env.instant();
        let kept = if after.is_empty() { None } else { self.listings.get(dir, now) };
        let names = match kept {
            Some(names) => names,
            None => match self.whole_directory(dir, plus).await? {
                Ok(mut all) => {
                    all.retain(|e| e.name.as_slice() > after);
                    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
                    all.truncate(limit);
                    return Ok(all);
                }
                Err(names) => {
                    self.listings.put(dir, now, &names);
                    names
                }
            },
        };
        let mut rest = &names[names.partition_point(|name| name.as_slice() <= after)..];
        let mut page = Vec::new();
        while page.len() < limit && !rest.is_empty() {
            let (some, later) = rest.split_at(rest.len().min(limit - page.len()).min(CURSOR_STEP));
            page.extend(self.some_entries(dir, some, plus).await?);
            rest = later;
        }
        if rest.is_empty() {
            self.listings.done(dir);
        }
        Ok(page)
    }

    /// All entries of a directory, or all names if it is a large one.
    async fn whole_directory(&self, dir: Ino, plus: bool) -> Result<std::result::Result<Vec<NamedEntry>, SortedNames>> {
        let mut program = Program::default();
        program.arg("1");
        let (most, flag) = (WHOLE_DIR_MAX.to_string(), if plus { "1" } else { "0" });
        let args: [&[u8]; 3] = [most.as_bytes(), flag.as_bytes(), self.names.prefix.as_bytes()];
        program.instruction("!list", self.names.entries(dir), &args);
        let mut reply = Replies::new(Replies::new(self.ask(program).await?)?.next()?)?;
        if decode::number(reply.next()?)? <= WHOLE_DIR_MAX as i64 {
            let entries = decode::pairs(reply.next()?)?;
            let mut attrs = decode::array(reply.next()?)?.into_iter();
            let all = entries.into_iter().map(|(name, b)| named(dir, name, &b, attrs.next()));
            return Ok(Ok(all.collect::<Result<_>>()?));
        }
        let mut names = BTreeMap::new();
        self.cursor("HSCAN", self.names.entries(dir), |name, _| {
            names.insert(name, ());
        })
        .await?;
        Ok(Err(Arc::new(names.into_keys().collect())))
    }

    /// Those of these names that are there.
    async fn some_entries(&self, dir: Ino, names: &[Vec<u8>], plus: bool) -> Result<Vec<NamedEntry>> {
        let mut program = Program::default();
        program.arg("1");
        let mut args: Vec<&[u8]> = vec![if plus { b"1" } else { b"0" }, self.names.prefix.as_bytes()];
        args.extend(names.iter().map(Vec::as_slice));
        program.instruction("!some", self.names.entries(dir), &args);
        let mut reply = Replies::new(Replies::new(self.ask(program).await?)?.next()?)?;
        let entries = decode::array(reply.next()?)?;
        let mut attrs = decode::array(reply.next()?)?.into_iter();
        let mut out = Vec::with_capacity(names.len());
        for (name, entry) in names.iter().zip(entries) {
            let attr = attrs.next();
            if let Some(b) = decode::bytes(entry)? {
                out.push(named(dir, name.clone(), &b, attr)?);
            }
        }
        Ok(out)
    }

    /// Every field of a hash; one may come twice.
    async fn cursor(&self, command: &str, key: Vec<u8>, mut each: impl FnMut(Vec<u8>, Vec<u8>)) -> Result<()> {
        let mut cursor = b"0".to_vec();
        loop {
            let mut scan = redis::cmd(command);
            scan.arg(&key).arg(&cursor).arg("COUNT").arg(CURSOR_STEP);
            let mut reply = Replies::new(self.bulk.send("read a long list", &scan).await?)?;
            cursor = decode::bytes(reply.next()?)?.ok_or_else(|| decode::odd("a scan without cursor"))?;
            decode::pairs(reply.next()?)?.into_iter().for_each(|(field, value)| each(field, value));
            if cursor == b"0" {
                return Ok(());
            }
        }
    }

    /// Indices of chunks that have a list, for a file of this length.
    async fn chunks(&self, ino: Ino, length: u64, from: ChunkIndex, limit: usize) -> Result<Vec<ChunkIndex>> {
        let (end, _) = chunk_at(length);
        let last = end.0.saturating_add(BEYOND_END);
        let (mut found, mut from) = (Vec::new(), from.0);
        while from <= last && found.len() < limit {
            let to = last.min(from.saturating_add(CHUNK_STEP - 1));
            let mut program = Program::default();
            program.arg("1");
            let left = limit - found.len();
            let [from_arg, to_arg] = [from, to].map(|n| n.to_string().into_bytes());
            let most = left.min(CHUNK_STEP as usize).to_string().into_bytes();
            let stem = self.names.chunk_stem(ino);
            program.instruction("!chunks", self.names.attr(ino), &[&stem, &from_arg, &to_arg, &most]);
            let mut reply = Replies::new(Replies::new(self.ask(program).await?)?.next()?)?;
            for index in decode::array(reply.next()?)? {
                found.push(ChunkIndex(
                    u32::try_from(decode::number(index)?).map_err(|_| decode::odd("a chunk number"))?,
                ));
            }
            from = u32::try_from(decode::number(reply.next()?)?).unwrap_or(u32::MAX);
            if from == u32::MAX {
                break;
            }
        }
        Ok(found)
    }

    /// The numbers that inodes may have: those given out, and those of the trash.
    async fn inode_ranges(&self) -> Result<[(u64, u64); 2]> {
        let mut program = Program::default();
        program.arg("2");
        let counters = [Key::Counter(Counter::NextInode), Key::Counter(Counter::NextTrash)];
        for counter in &counters {
            program.read(&self.names, counter);
        }
        let mut replies = Replies::new(self.ask(program).await?)?;
        let mut next = || match replies.value(&counters[0]) {
            Ok(Value::Number(n)) => Ok(n.max(0) as u64),
            Ok(_) => Err(decode::odd("a counter that is no number")),
            Err(e) => Err(e),
        };
        let (last_inode, last_trash) = (next()?, next()?);
        Ok([(1, last_inode + 1), (Ino::TRASH.0, Ino::TRASH.0 + last_trash + 1)])
    }

    /// Up to one step of inodes after a number; `None` at the end. The step may be empty.
    async fn inode_step(&self, ranges: &[(u64, u64); 2], after: u64) -> Result<Option<(u64, Vec<(Ino, Attr)>)>> {
        let Some((first, last)) =
            ranges.iter().find(|(_, last)| after < *last).map(|(first, last)| ((after + 1).max(*first), *last))
        else {
            return Ok(None);
        };
        let end = last.min(first + INODE_STEP - 1);
        let mut get = redis::cmd("MGET");
        get.arg((first..=end).map(|ino| self.names.attr(Ino(ino))).collect::<Vec<_>>());
        let records = decode::array(self.bulk.send("scan inodes", &get).await?)?;
        let mut found = Vec::new();
        for (ino, record) in (first..=end).map(Ino).zip(records) {
            found.extend(decode::attr(ino, record)?.map(|attr| (ino, attr)));
        }
        Ok(Some((end, found)))
    }

    async fn scan_attrs(&self, after: Ino, limit: usize) -> Result<Vec<(Ino, Attr)>> {
        let ranges = self.inode_ranges().await?;
        let (mut out, mut after) = (Vec::new(), after.0);
        while out.len() < limit {
            let Some((end, found)) = self.inode_step(&ranges, after).await? else { break };
            out.extend(found);
            after = end;
        }
        out.truncate(limit);
        Ok(out)
    }

    async fn scan_chunks(
        &self,
        (ino, index): (Ino, ChunkIndex),
        limit: usize,
    ) -> Result<Vec<(Ino, ChunkIndex, Vec<u8>)>> {
        let ranges = self.inode_ranges().await?;
        let all = Key::DeletedFiles { until: i64::MAX, limit: usize::MAX };
        let Value::DeletedFiles(deleted) = self.one(&all).await? else { return Err(decode::odd("removed files")) };
        let deleted: BTreeMap<Ino, u64> = deleted.into_iter().map(|f| (f.ino, f.length)).collect();
        let mut out = Vec::new();
        let mut after = ino.0.saturating_sub(1);
        while out.len() < limit {
            let Some((end, found)) = self.inode_step(&ranges, after).await? else { break };
            let mut files: BTreeMap<Ino, u64> =
                deleted.range(Ino(after + 1)..=Ino(end)).map(|(ino, length)| (*ino, *length)).collect();
            files.extend(found.iter().filter(|(_, attr)| attr.is_file()).map(|(ino, attr)| (*ino, attr.length)));
            for (file, length) in files {
                let from = if file == ino { ChunkIndex(index.0.saturating_add(1)) } else { ChunkIndex(0) };
                let indices = self.chunks(file, length, from, limit - out.len()).await?;
                out.extend(self.lists(file, &indices).await?);
                if out.len() >= limit {
                    return Ok(out);
                }
            }
            after = end;
        }
        Ok(out)
    }

    async fn lists(&self, ino: Ino, indices: &[ChunkIndex]) -> Result<Vec<(Ino, ChunkIndex, Vec<u8>)>> {
        if indices.is_empty() {
            return Ok(vec![]);
        }
        let keys: Vec<Key> = indices.iter().map(|index| Key::Slices(ino, *index)).collect();
        let mut program = Program::default();
        program.arg(keys.len().to_string());
        for key in &keys {
            program.read(&self.names, key);
        }
        let mut replies = Replies::new(self.ask(program).await?)?;
        let mut out = Vec::with_capacity(indices.len());
        for (key, index) in keys.iter().zip(indices) {
            if let Value::SliceList(list) = replies.value(key)?
                && !list.is_empty()
            {
                out.push((ino, *index, list));
            }
        }
        Ok(out)
    }

    /// Stored counts of slices with a greater id, true ones: slices with one owner have no record.
    async fn slice_records(&self, after: SliceId) -> Result<Vec<(SliceRef, i64)>> {
        let mut found = BTreeMap::new();
        let mut torn = None;
        self.cursor("HSCAN", self.names.fixed("sliceRef"), |field, value| {
            let refs = std::str::from_utf8(&value).ok().and_then(|v| v.parse::<i64>().ok());
            match (decode::slice_of(&field), refs) {
                (Some(slice), Some(refs)) if slice.id > after && refs != 0 => {
                    found.insert(slice, refs + 1);
                }
                (Some(_), Some(_)) => {}
                _ => torn = Some(String::from_utf8_lossy(&field).into_owned()),
            }
        })
        .await?;
        match torn {
            Some(field) => Err(Error::Corrupt(format!("the references of slice {field} are torn"))),
            None => Ok(found.into_iter().collect()),
        }
    }

    async fn delayed(&self, until: i64, limit: usize) -> Result<Vec<DelayedSlices>> {
        let mut found = BTreeMap::new();
        let mut torn = None;
        self.cursor("HSCAN", self.names.fixed("delSlices"), |field, value| {
            match (decode::delayed_of(&field), DelayedSlices::decode_slices(&value)) {
                (Some((id, deleted_secs)), Some(slices)) if deleted_secs <= until => {
                    found.insert((deleted_secs, id), DelayedSlices { id, deleted_secs, slices });
                }
                (Some(_), Some(_)) => {}
                _ => torn = Some(String::from_utf8_lossy(&field).into_owned()),
            }
        })
        .await?;
        match torn {
            Some(field) => Err(Error::Corrupt(format!("the delayed slices {field} are torn"))),
            None => Ok(found.into_values().take(limit).collect()),
        }
    }
}

fn named(dir: Ino, name: Vec<u8>, entry: &[u8], attr: Option<Reply>) -> Result<NamedEntry> {
    let entry = decode::decode_entry(entry).ok_or_else(|| {
        Error::Corrupt(format!("the entry {} of directory {dir} is torn", String::from_utf8_lossy(&name)))
    })?;
    let attr = attr.map_or(Ok(None), |record| decode::attr(entry.ino, record))?;
    Ok(NamedEntry { name, entry, attr })
}

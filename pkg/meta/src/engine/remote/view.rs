//! One run of an operation against what is known, as a transaction.
//!
//! Reads are answered from this run's own writes, then from facts, hints or a guess; each notes
//! what it saw and what of it the operation relies on. Writes become verbs and show to later reads
//! of the same run. A record that nobody knows anything of ends the run with [`Error::Missing`].
//!
//! Not here: fetching, committing, and what to make of the outcome (the parent module).

use std::collections::{BTreeMap, HashMap};

use cairn_types::{AclRule, Attr, ChunkIndex, Ino, SLICE_RECORD_BYTES, SessionId, SliceId, SliceRecord, SliceRef};

use super::known::{Facts, Hints, Source};
use super::record::{Guard, Key, Value, Verb};
use crate::record::{
    DelayedSlices, DeletedFile, DirStat, Entry, FlockKind, LockOwner, NamedEntry, PlockRange, Quota, QuotaKey,
    QuotaKind, SessionRecord,
};
use crate::txn::{AttrChange, Counter, Rely, Txn};
use crate::{Error, Result};

/// What a run read.
pub(super) struct Read {
    pub(super) key: Key,
    pub(super) value: Value,
    pub(super) source: Source,
    /// What the outcome relies on; `None` if only shown.
    pub(super) rely: Option<Rely>,
}

/// See the module.
pub(super) struct View<'a> {
    facts: &'a Facts,
    /// None of a strict run, which takes facts only.
    hints: Option<&'a Hints>,
    /// Fetches what nobody knows, while the run waits. What it fetches is not noted.
    asks: Option<Ask<'a>>,
    /// Only wants to know what will be read: what nobody knows is taken for absent.
    scouts: bool,
    /// What the server answered to the verbs of the same run, already committed.
    answers: &'a [i64],
    reads: Vec<Read>,
    read_at: HashMap<Key, usize>,
    verbs: Vec<Verb>,
    missing: Option<Key>,
    interning: Option<AclRule>,
    /// Records as this run's writes left them.
    written: HashMap<Key, Value>,
    /// Names as this run's writes left them.
    names: BTreeMap<(Ino, Vec<u8>), Option<Entry>>,
    counters: HashMap<Counter, i64>,
    dir_stats: HashMap<Ino, DirStat>,
    quotas: HashMap<QuotaKey, (i64, i64)>,
    parents: BTreeMap<(Ino, Ino), i64>,
    appended: HashMap<(Ino, ChunkIndex), Vec<SliceRecord>>,
    slice_refs: HashMap<SliceRef, i64>,
    logs: bool,
}

/// Fetches a record, blocking the thread.
pub(super) type Ask<'a> = Box<dyn FnMut(&Key) -> Result<Value> + Send + 'a>;

/// What came of a run.
pub(super) struct Ran {
    pub(super) reads: Vec<Read>,
    pub(super) verbs: Vec<Verb>,
    pub(super) end: End,
    /// Records as the verbs leave them, as far as the run knows.
    pub(super) written: HashMap<Key, Value>,
}

/// How a run ended.
pub(super) enum End {
    /// The operation is through.
    Done,
    /// Nothing is known of this record.
    Lacks(Key),
    /// It needs the id of a rule that is not stored.
    Interns(AclRule),
    /// It says no.
    Failed(Error),
}

macro_rules! as_variant {
    ($value:expr, $variant:ident) => {
        match $value {
            Value::$variant(v) => v,
            other => unreachable!("a server answered a key with the wrong kind of value: {other:?}"),
        }
    };
}

impl<'a> View<'a> {
    /// A run on facts, hints and guesses.
    pub(super) fn speculative(facts: &'a Facts, hints: &'a Hints) -> View<'a> {
        View::new(facts, Some(hints), &[])
    }

    /// A run whose outcome does not matter: it finds out what to fetch together.
    pub(super) fn scouting(facts: &'a Facts, hints: &'a Hints) -> View<'a> {
        View { scouts: true, ..View::new(facts, Some(hints), &[]) }
    }

    /// A run on facts alone.
    pub(super) fn strict(facts: &'a Facts) -> View<'a> {
        View::new(facts, None, &[])
    }

    /// A run that reads more than a few rounds could fetch: it waits for each record.
    pub(super) fn waiting(facts: &'a Facts, asks: Ask<'a>) -> View<'a> {
        View { asks: Some(asks), ..View::new(facts, None, &[]) }
    }

    /// The run again after its commit, for its outcome only.
    pub(super) fn replay(facts: &'a Facts, answers: &'a [i64]) -> View<'a> {
        View::new(facts, None, answers)
    }

    fn new(facts: &'a Facts, hints: Option<&'a Hints>, answers: &'a [i64]) -> View<'a> {
        View {
            facts,
            hints,
            asks: None,
            scouts: false,
            answers,
            reads: Vec::new(),
            read_at: HashMap::new(),
            verbs: Vec::new(),
            missing: None,
            interning: None,
            written: HashMap::new(),
            names: BTreeMap::new(),
            counters: HashMap::new(),
            dir_stats: HashMap::new(),
            quotas: HashMap::new(),
            parents: BTreeMap::new(),
            appended: HashMap::new(),
            slice_refs: HashMap::new(),
            logs: false,
        }
    }

    /// Ends the run.
    pub(super) fn end(mut self, outcome: Result<()>) -> Ran {
        let end = match outcome {
            Ok(()) => End::Done,
            Err(Error::Missing) => match (self.interning.take(), self.missing.take()) {
                (Some(rule), _) => End::Interns(rule),
                (None, Some(key)) => End::Lacks(key),
                (None, None) => unreachable!("a run that misses nothing says that it does"),
            },
            Err(error) => End::Failed(error),
        };
        if self.logs {
            // The log tells how many records there are: the number must be right beforehand.
            for (ino, index) in self.appended.keys() {
                if let Some(&at) = self.read_at.get(&Key::SliceCount(*ino, *index)) {
                    self.reads[at].rely = Some(Rely::ALL);
                }
            }
        }
        for ((dir, name), entry) in self.names {
            self.written.insert(Key::Entry(dir, name), Value::Entry(entry));
        }
        Ran { reads: self.reads, verbs: self.verbs, end, written: self.written }
    }

    /// What stood there before this run, if anything is known. Noted once.
    fn base(&mut self, key: Key, guess: Option<Value>, rely: Option<Rely>) -> Result<Value> {
        if let Some(&at) = self.read_at.get(&key) {
            let read = &mut self.reads[at];
            read.rely = match (read.rely, rely) {
                (Some(a), Some(b)) => Some(a.and(b)),
                (a, b) => a.or(b),
            };
            return Ok(read.value.clone());
        }
        if let Some(ask) = &mut self.asks {
            return ask(&key);
        }
        let found = match self.facts.get(&key) {
            Some((value, source)) => Some((value.clone(), source)),
            None => self.hints.and_then(|hints| {
                let hint = hints.get(&key).map(|value| (value, Source::Hint));
                hint.or(guess.map(|value| (value, Source::Guess)))
            }),
        };
        let found = found.or_else(|| Some((absent(&key).filter(|_| self.scouts)?, Source::Guess)));
        let Some((value, source)) = found else {
            self.missing.get_or_insert(key);
            return Err(Error::Missing);
        };
        self.read_at.insert(key.clone(), self.reads.len());
        self.reads.push(Read { key, value: value.clone(), source, rely });
        Ok(value)
    }

    /// As this run left it, or as it stood before.
    fn get(&mut self, key: Key, guess: Option<Value>) -> Result<Value> {
        if let Some(value) = self.written.get(&key) {
            return Ok(value.clone());
        }
        let rely = (!key.is_page()).then_some(Rely::ALL);
        self.base(key, guess, rely)
    }

    /// The same, for a value that the outcome does not depend on.
    fn unrelied(&mut self, key: Key, guess: Value) -> Result<Value> {
        match self.written.get(&key) {
            Some(value) => Ok(value.clone()),
            None => self.base(key, Some(guess), None),
        }
    }

    fn flag(&mut self, key: Key, guess: bool) -> Result<bool> {
        Ok(as_variant!(self.get(key, Some(Value::Flag(guess)))?, Flag))
    }

    fn write(&mut self, key: Key, value: Value) {
        self.written.insert(key, value);
    }

    /// Notes a verb; answers what the server answered to it, if that is known already.
    fn verb(&mut self, verb: Verb) -> Option<i64> {
        let answer = self.answers.get(self.verbs.len()).copied();
        self.verbs.push(verb);
        answer
    }

    fn note_name(&mut self, dir: Ino, name: &[u8], entry: Option<Entry>) {
        self.names.insert((dir, name.to_vec()), entry);
    }

    fn names_of(&self, dir: Ino) -> impl Iterator<Item = (&Vec<u8>, &Option<Entry>)> {
        self.names.range((dir, vec![])..).take_while(move |((d, _), _)| *d == dir).map(|((_, name), e)| (name, e))
    }

    fn counter_base(&mut self, counter: Counter, guess: Option<i64>, rely: Option<Rely>) -> Result<i64> {
        let key = Key::Counter(counter);
        let value = match self.written.get(&key) {
            Some(value) => value.clone(),
            None => self.base(key, guess.map(Value::Number), rely)?,
        };
        Ok(as_variant!(value, Number) + self.counters.get(&counter).copied().unwrap_or(0))
    }
}

impl Txn for View<'_> {
    fn attr(&mut self, ino: Ino, rely: Rely) -> Result<Option<Attr>> {
        let key = Key::Attr(ino);
        let value = match self.written.get(&key) {
            Some(value) => value.clone(),
            None => self.base(key, None, (rely != Rely::NOTHING).then_some(rely))?,
        };
        Ok(as_variant!(value, Attr))
    }

    fn insert_attr(&mut self, ino: Ino, attr: &Attr) -> Result<()> {
        let key = Key::Attr(ino);
        if as_variant!(self.get(key.clone(), Some(Value::Attr(None)))?, Attr).is_some() {
            return Err(Error::engine("store inode", format!("inode {ino} exists")));
        }
        self.write(key, Value::Attr(Some(*attr)));
        self.verb(Verb::InsertAttr(ino, *attr));
        Ok(())
    }

    fn change_attr(&mut self, ino: Ino, change: &AttrChange) -> Result<()> {
        if change.is_empty() {
            return Ok(());
        }
        let attr = self.attr(ino, Rely::KIND)?.ok_or(Error::NoEntry)?;
        self.write(Key::Attr(ino), Value::Attr(Some(change.applied_to(&attr))));
        self.verb(Verb::ChangeAttr(ino, *change));
        Ok(())
    }

    fn remove_attr(&mut self, ino: Ino) -> Result<()> {
        self.write(Key::Attr(ino), Value::Attr(None));
        self.verb(Verb::RemoveAttr(ino));
        Ok(())
    }

    fn entry(&mut self, parent: Ino, name: &[u8]) -> Result<Option<Entry>> {
        let at = (parent, name.to_vec());
        if let Some(entry) = self.names.get(&at) {
            return Ok(*entry);
        }
        let guess = Some(Value::Entry(None));
        Ok(as_variant!(self.base(Key::Entry(at.0, at.1), guess, Some(Rely::ALL))?, Entry))
    }

    fn dir_is_empty(&mut self, dir: Ino) -> Result<bool> {
        if self.names_of(dir).next().is_some() {
            return Ok(self.entries(dir, b"", 1, false)?.is_empty());
        }
        self.flag(Key::DirIsEmpty(dir), true)
    }

    fn entries(&mut self, dir: Ino, after: &[u8], limit: usize, plus: bool) -> Result<Vec<NamedEntry>> {
        // As many more as this run may take out of the page.
        let removed = self.names_of(dir).filter(|(_, entry)| entry.is_none()).count();
        let stored = limit.saturating_add(removed);
        let key = Key::Entries { dir, after: after.to_vec(), limit: stored, plus };
        let mut page = as_variant!(self.get(key, None)?, Entries);
        let is_last = page.len() < stored;
        if let Some(end) = page.last().map(|e| e.name.clone()).or_else(|| is_last.then(Vec::new)) {
            let changed: Vec<(Vec<u8>, Option<Entry>)> = (self.names_of(dir))
                .filter(|(name, _)| name.as_slice() > after && (is_last || **name <= end))
                .map(|(name, entry)| (name.clone(), *entry))
                .collect();
            for (name, entry) in changed {
                page.retain(|e| e.name != name);
                if let Some(entry) = entry {
                    let attr = if plus { self.attr(entry.ino, Rely::NOTHING)? } else { None };
                    let at = page.partition_point(|e| e.name < name);
                    page.insert(at, NamedEntry { name, entry, attr });
                }
            }
        }
        for entry in page.iter_mut().filter(|_| plus) {
            if let Some(Value::Attr(attr)) = self.written.get(&Key::Attr(entry.entry.ino)) {
                entry.attr = *attr;
            }
        }
        page.truncate(limit);
        Ok(page)
    }

    fn insert_entry(&mut self, parent: Ino, name: &[u8], entry: Entry) -> Result<()> {
        if self.entry(parent, name)?.is_some() {
            return Err(Error::Exists);
        }
        self.note_name(parent, name, Some(entry));
        self.verb(Verb::InsertEntry(parent, name.to_vec(), entry));
        Ok(())
    }

    fn replace_entry(&mut self, parent: Ino, name: &[u8], entry: Entry) -> Result<()> {
        self.entry(parent, name)?.ok_or(Error::NoEntry)?;
        self.note_name(parent, name, Some(entry));
        self.verb(Verb::ReplaceEntry(parent, name.to_vec(), entry));
        Ok(())
    }

    fn remove_entry(&mut self, parent: Ino, name: &[u8]) -> Result<()> {
        self.entry(parent, name)?.ok_or(Error::NoEntry)?;
        self.note_name(parent, name, None);
        self.verb(Verb::RemoveEntry(parent, name.to_vec()));
        Ok(())
    }

    fn parents(&mut self, ino: Ino) -> Result<Vec<(Ino, u32)>> {
        let mut counts: BTreeMap<Ino, i64> = as_variant!(self.get(Key::Parents(ino), None)?, Parents)
            .into_iter()
            .map(|(parent, n)| (parent, i64::from(n)))
            .collect();
        for ((_, parent), delta) in self.parents.range((ino, Ino(0))..=(ino, Ino(u64::MAX))) {
            *counts.entry(*parent).or_insert(0) += delta;
        }
        Ok(counts.into_iter().filter(|(_, n)| *n > 0).map(|(parent, n)| (parent, n as u32)).collect())
    }

    fn add_parent(&mut self, ino: Ino, parent: Ino, delta: i32) -> Result<()> {
        *self.parents.entry((ino, parent)).or_insert(0) += i64::from(delta);
        self.verb(Verb::AddParent(ino, parent, delta));
        Ok(())
    }

    fn remove_parents(&mut self, ino: Ino) -> Result<()> {
        self.parents.retain(|(i, _), _| *i != ino);
        self.write(Key::Parents(ino), Value::Parents(vec![]));
        self.verb(Verb::RemoveParents(ino));
        Ok(())
    }

    fn symlink(&mut self, ino: Ino) -> Result<Option<Vec<u8>>> {
        Ok(as_variant!(self.get(Key::Symlink(ino), None)?, Bytes))
    }

    fn insert_symlink(&mut self, ino: Ino, target: &[u8]) -> Result<()> {
        self.write(Key::Symlink(ino), Value::Bytes(Some(target.to_vec())));
        self.verb(Verb::InsertSymlink(ino, target.to_vec()));
        Ok(())
    }

    fn remove_symlink(&mut self, ino: Ino) -> Result<()> {
        self.write(Key::Symlink(ino), Value::Bytes(None));
        self.verb(Verb::RemoveSymlink(ino));
        Ok(())
    }

    fn xattr(&mut self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(as_variant!(self.get(Key::Xattr(ino, name.to_vec()), None)?, Bytes))
    }

    fn has_xattr(&mut self, ino: Ino, name: &[u8], likely: bool) -> Result<bool> {
        self.flag(Key::HasXattr(ino, name.to_vec()), likely)
    }

    fn xattr_names(&mut self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        Ok(as_variant!(self.get(Key::XattrNames(ino), None)?, Names))
    }

    fn put_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> Result<()> {
        self.write(Key::Xattr(ino, name.to_vec()), Value::Bytes(Some(value.to_vec())));
        self.write(Key::HasXattr(ino, name.to_vec()), Value::Flag(true));
        self.verb(Verb::PutXattr(ino, name.to_vec(), value.to_vec()));
        Ok(())
    }

    fn remove_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<()> {
        if !self.has_xattr(ino, name, true)? {
            return Err(Error::NoAttribute);
        }
        self.write(Key::Xattr(ino, name.to_vec()), Value::Bytes(None));
        self.write(Key::HasXattr(ino, name.to_vec()), Value::Flag(false));
        self.verb(Verb::RemoveXattr(ino, name.to_vec()));
        Ok(())
    }

    fn remove_xattrs(&mut self, ino: Ino) -> Result<()> {
        self.write(Key::XattrNames(ino), Value::Names(vec![]));
        self.verb(Verb::RemoveXattrs(ino));
        Ok(())
    }

    fn slices(&mut self, ino: Ino, index: ChunkIndex) -> Result<Vec<SliceRecord>> {
        let stored = as_variant!(self.get(Key::Slices(ino, index), None)?, SliceList);
        let mut list =
            SliceRecord::decode_list(&stored).map_err(|e| Error::CorruptChunk { ino, index, reason: e.to_string() })?;
        list.extend(self.appended.get(&(ino, index)).into_iter().flatten());
        Ok(list)
    }

    fn chunks(&mut self, ino: Ino, from: ChunkIndex, limit: usize) -> Result<Vec<ChunkIndex>> {
        Ok(as_variant!(self.get(Key::Chunks { ino, from, limit }, None)?, Chunks))
    }

    fn deleted_chunks(&mut self, ino: Ino, length: u64, limit: usize) -> Result<Vec<ChunkIndex>> {
        Ok(as_variant!(self.get(Key::DeletedChunks { ino, length, limit }, None)?, Chunks))
    }

    fn append_slices(&mut self, ino: Ino, index: ChunkIndex, records: &[SliceRecord]) -> Result<u32> {
        let before = match self.written.get(&Key::Slices(ino, index)) {
            Some(Value::SliceList(stored)) => (stored.len() / SLICE_RECORD_BYTES) as i64,
            _ => as_variant!(self.base(Key::SliceCount(ino, index), Some(Value::Number(0)), None)?, Number),
        };
        let own = self.appended.entry((ino, index)).or_default();
        own.extend(records);
        let count = before + own.len() as i64;
        let answer = self.verb(Verb::AppendSlices(ino, index, records.to_vec()));
        Ok(answer.unwrap_or(count) as u32)
    }

    fn replace_slices(&mut self, ino: Ino, index: ChunkIndex, records: &[SliceRecord]) -> Result<()> {
        self.appended.remove(&(ino, index));
        self.write(Key::Slices(ino, index), Value::SliceList(SliceRecord::encode_list(records)));
        self.write(Key::SliceCount(ino, index), Value::Number(records.len() as i64));
        self.verb(Verb::ReplaceSlices(ino, index, records.to_vec()));
        Ok(())
    }

    fn remove_chunk(&mut self, ino: Ino, index: ChunkIndex) -> Result<()> {
        self.appended.remove(&(ino, index));
        self.write(Key::Slices(ino, index), Value::SliceList(vec![]));
        self.write(Key::SliceCount(ino, index), Value::Number(0));
        self.verb(Verb::RemoveChunk(ino, index));
        Ok(())
    }

    fn insert_slice(&mut self, slice: SliceRef, refs: u32) -> Result<()> {
        self.slice_refs.remove(&slice);
        self.write(Key::SliceRefs(slice), Value::Number(i64::from(refs)));
        self.verb(Verb::InsertSlice(slice, refs));
        Ok(())
    }

    fn add_slice_refs(&mut self, slice: SliceRef, delta: i64) -> Result<i64> {
        let key = Key::SliceRefs(slice);
        let before = match self.written.get(&key) {
            Some(value) => value.clone(),
            None => self.base(key, Some(Value::Number(1)), None).or_else(|e| match e {
                // A replay takes the server's answer below.
                Error::Missing if !self.answers.is_empty() => Ok(Value::Number(1)),
                e => Err(e),
            })?,
        };
        let own = self.slice_refs.entry(slice).or_insert(0);
        *own += delta;
        let refs = as_variant!(before, Number) + *own;
        Ok(self.verb(Verb::AddSliceRefs(slice, delta)).unwrap_or(refs))
    }

    fn slice_refs(&mut self, slice: SliceRef) -> Result<i64> {
        let stored = as_variant!(self.get(Key::SliceRefs(slice), None)?, Number);
        Ok(stored + self.slice_refs.get(&slice).copied().unwrap_or(0))
    }

    fn remove_slice(&mut self, slice: SliceRef) -> Result<()> {
        self.slice_refs.remove(&slice);
        self.write(Key::SliceRefs(slice), Value::Number(0));
        self.verb(Verb::RemoveSlice(slice));
        Ok(())
    }

    fn unowned_slices(&mut self, after: SliceId, limit: usize) -> Result<Vec<SliceRef>> {
        Ok(as_variant!(self.get(Key::UnownedSlices { after, limit }, None)?, SliceRefs))
    }

    fn slice_records(&mut self, after: SliceId, limit: usize) -> Result<Vec<(SliceRef, i64)>> {
        Ok(as_variant!(self.get(Key::SliceRecords { after, limit }, None)?, CountedSlices))
    }

    fn scan_chunks(&mut self, after: (Ino, ChunkIndex), limit: usize) -> Result<Vec<(Ino, ChunkIndex, Vec<u8>)>> {
        Ok(as_variant!(self.get(Key::ScanChunks { after, limit }, None)?, RawChunks))
    }

    fn scan_attrs(&mut self, after: Ino, limit: usize) -> Result<Vec<(Ino, Attr)>> {
        Ok(as_variant!(self.get(Key::ScanAttrs { after, limit }, None)?, Attrs))
    }

    fn insert_deleted_file(&mut self, file: &DeletedFile) -> Result<()> {
        self.verb(Verb::InsertDeletedFile(*file));
        Ok(())
    }

    fn remove_deleted_file(&mut self, ino: Ino, length: u64) -> Result<()> {
        self.verb(Verb::RemoveDeletedFile(ino, length));
        Ok(())
    }

    fn deleted_files(&mut self, until: i64, limit: usize) -> Result<Vec<DeletedFile>> {
        Ok(as_variant!(self.get(Key::DeletedFiles { until, limit }, None)?, DeletedFiles))
    }

    fn insert_delayed(&mut self, delayed: &DelayedSlices) -> Result<()> {
        self.verb(Verb::InsertDelayed(delayed.clone()));
        Ok(())
    }

    fn remove_delayed(&mut self, id: SliceId, deleted_secs: i64) -> Result<()> {
        // Two clients that release one record must not both drop its references.
        self.flag(Key::HasDelayed(id, deleted_secs), true)?;
        self.verb(Verb::RemoveDelayed(id, deleted_secs));
        Ok(())
    }

    fn delayed(&mut self, until: i64, limit: usize) -> Result<Vec<DelayedSlices>> {
        Ok(as_variant!(self.get(Key::Delayed { until, limit }, None)?, Delayed))
    }

    fn counter(&mut self, counter: Counter) -> Result<i64> {
        self.counter_base(counter, None, Some(Rely::ALL))
    }

    fn add_counter(&mut self, counter: Counter, delta: i64) -> Result<()> {
        if delta != 0 {
            *self.counters.entry(counter).or_insert(0) += delta;
            self.verb(Verb::AddCounter(counter, delta));
        }
        Ok(())
    }

    fn advance_counter(&mut self, counter: Counter, delta: i64) -> Result<i64> {
        let value = self.counter_base(counter, Some(0), None)? + delta;
        *self.counters.entry(counter).or_insert(0) += delta;
        Ok(self.verb(Verb::AddCounter(counter, delta)).unwrap_or(value))
    }

    fn counter_room(&mut self, counter: Counter, add: i64, limit: i64) -> Result<bool> {
        if self.written.contains_key(&Key::Counter(counter)) {
            return Ok(self.counter(counter)? + add <= limit);
        }
        let add = add + self.counters.get(&counter).copied().unwrap_or(0);
        self.flag(Key::CounterRoom { counter, add, limit }, true)
    }

    fn set_counter(&mut self, counter: Counter, value: i64) -> Result<()> {
        self.counters.remove(&counter);
        self.write(Key::Counter(counter), Value::Number(value));
        self.verb(Verb::SetCounter(counter, value));
        Ok(())
    }

    fn dir_stat(&mut self, dir: Ino) -> Result<Option<DirStat>> {
        let stored = as_variant!(self.get(Key::DirStat(dir), None)?, DirStat);
        Ok(stored.map(|stat| stat.plus(self.dir_stats.get(&dir).copied().unwrap_or_default())))
    }

    fn has_dir_stat(&mut self, dir: Ino) -> Result<bool> {
        self.flag(Key::HasDirStat(dir), true)
    }

    fn put_dir_stat(&mut self, dir: Ino, stat: &DirStat) -> Result<()> {
        self.dir_stats.remove(&dir);
        self.write(Key::DirStat(dir), Value::DirStat(Some(*stat)));
        self.write(Key::HasDirStat(dir), Value::Flag(true));
        self.verb(Verb::PutDirStat(dir, *stat));
        Ok(())
    }

    fn add_dir_stat(&mut self, dir: Ino, delta: &DirStat) -> Result<bool> {
        if !self.has_dir_stat(dir)? {
            return Ok(false);
        }
        let own = self.dir_stats.entry(dir).or_default();
        *own = own.plus(*delta);
        self.verb(Verb::AddDirStat(dir, *delta));
        Ok(true)
    }

    fn remove_dir_stat(&mut self, dir: Ino) -> Result<()> {
        self.dir_stats.remove(&dir);
        self.write(Key::DirStat(dir), Value::DirStat(None));
        self.write(Key::HasDirStat(dir), Value::Flag(false));
        self.verb(Verb::RemoveDirStat(dir));
        Ok(())
    }

    fn quota(&mut self, key: QuotaKey) -> Result<Option<Quota>> {
        let (space, inodes) = self.quotas.get(&key).copied().unwrap_or_default();
        let stored = as_variant!(self.get(Key::Quota(key), None)?, Quota);
        Ok(stored.map(|q| Quota { used_space: q.used_space + space, used_inodes: q.used_inodes + inodes, ..q }))
    }

    fn has_quota(&mut self, key: QuotaKey) -> Result<bool> {
        // Records of owners double as statistics; quotas of directories are few.
        self.flag(Key::HasQuota(key), key.kind != QuotaKind::Dir)
    }

    fn quota_room(&mut self, key: QuotaKey, space: i64, inodes: i64) -> Result<bool> {
        if self.written.contains_key(&Key::Quota(key)) {
            return Ok(self.quota(key)?.is_none_or(|q| !q.exceeded_by(space, inodes)));
        }
        if space <= 0 && inodes <= 0 {
            return Ok(true);
        }
        self.flag(Key::QuotaRoom { key, space, inodes }, true)
    }

    fn put_quota(&mut self, key: QuotaKey, quota: &Quota) -> Result<()> {
        self.quotas.remove(&key);
        self.write(Key::Quota(key), Value::Quota(Some(*quota)));
        self.write(Key::HasQuota(key), Value::Flag(true));
        if key.kind == QuotaKind::Dir {
            self.write(Key::AnyDirQuota, Value::Flag(true));
        }
        self.verb(Verb::PutQuota(key, *quota));
        Ok(())
    }

    fn add_quota_used(&mut self, key: QuotaKey, space: i64, inodes: i64) -> Result<bool> {
        if !self.has_quota(key)? {
            return Ok(false);
        }
        let own = self.quotas.entry(key).or_default();
        *own = (own.0 + space, own.1 + inodes);
        self.verb(Verb::AddQuotaUsed(key, space, inodes));
        Ok(true)
    }

    fn remove_quota(&mut self, key: QuotaKey) -> Result<()> {
        self.quotas.remove(&key);
        self.write(Key::Quota(key), Value::Quota(None));
        self.write(Key::HasQuota(key), Value::Flag(false));
        self.verb(Verb::RemoveQuota(key));
        Ok(())
    }

    fn quotas(&mut self, kind: QuotaKind) -> Result<Vec<(QuotaKey, Quota)>> {
        Ok(as_variant!(self.get(Key::Quotas(kind), None)?, Quotas))
    }

    fn any_dir_quota(&mut self) -> Result<bool> {
        self.flag(Key::AnyDirQuota, false)
    }

    fn acl(&mut self, id: u32) -> Result<Option<AclRule>> {
        Ok(as_variant!(self.get(Key::Acl(id), None)?, Acl))
    }

    fn intern_acl(&mut self, rule: &AclRule) -> Result<u32> {
        let id = as_variant!(self.base(Key::AclId(rule.clone()), None, None)?, AclId);
        let Some(id) = id else {
            self.interning.get_or_insert(rule.clone());
            return Err(Error::Missing);
        };
        // Rules stay as they are, unless the server went back to an older state.
        self.base(Key::Acl(id), Some(Value::Acl(Some(rule.clone()))), Some(Rely::ALL))?;
        Ok(id)
    }

    fn session(&mut self, sid: SessionId) -> Result<Option<SessionRecord>> {
        Ok(as_variant!(self.get(Key::Session(sid), None)?, Session))
    }

    fn put_session(&mut self, session: &SessionRecord) -> Result<()> {
        let known = self.session(session.sid)?;
        let info = known.map_or(session.info.clone(), |known| known.info);
        self.write(Key::Session(session.sid), Value::Session(Some(SessionRecord { info, ..session.clone() })));
        self.verb(Verb::PutSession(session.clone()));
        Ok(())
    }

    fn remove_session(&mut self, sid: SessionId) -> Result<()> {
        self.write(Key::Session(sid), Value::Session(None));
        self.verb(Verb::RemoveSession(sid));
        Ok(())
    }

    fn sessions(&mut self) -> Result<Vec<SessionRecord>> {
        Ok(as_variant!(self.get(Key::Sessions, None)?, Sessions))
    }

    fn insert_sustained(&mut self, sid: SessionId, ino: Ino) -> Result<()> {
        self.write(Key::HasSustained(sid, ino), Value::Flag(true));
        self.verb(Verb::InsertSustained(sid, ino));
        Ok(())
    }

    fn remove_sustained(&mut self, sid: SessionId, ino: Ino) -> Result<bool> {
        if !self.flag(Key::HasSustained(sid, ino), true)? {
            return Ok(false);
        }
        self.write(Key::HasSustained(sid, ino), Value::Flag(false));
        self.verb(Verb::RemoveSustained(sid, ino));
        Ok(true)
    }

    fn sustained(&mut self, sid: SessionId) -> Result<Vec<Ino>> {
        Ok(as_variant!(self.get(Key::Sustained(sid), None)?, Inodes))
    }

    fn flocks(&mut self, ino: Ino) -> Result<Vec<(LockOwner, FlockKind)>> {
        Ok(as_variant!(self.get(Key::Flocks(ino), Some(Value::Flocks(vec![])))?, Flocks))
    }

    fn set_flock(&mut self, ino: Ino, owner: LockOwner, kind: Option<FlockKind>) -> Result<()> {
        let mut held = as_variant!(self.unrelied(Key::Flocks(ino), Value::Flocks(vec![]))?, Flocks);
        held.retain(|(other, _)| *other != owner);
        held.extend(kind.map(|kind| (owner, kind)));
        held.sort_by_key(|(owner, _)| *owner);
        self.write(Key::Flocks(ino), Value::Flocks(held));
        self.verb(Verb::SetFlock(ino, owner, kind));
        Ok(())
    }

    fn plocks(&mut self, ino: Ino) -> Result<Vec<(LockOwner, Vec<PlockRange>)>> {
        Ok(as_variant!(self.get(Key::Plocks(ino), Some(Value::Plocks(vec![])))?, Plocks))
    }

    fn set_plocks(&mut self, ino: Ino, owner: LockOwner, ranges: &[PlockRange]) -> Result<()> {
        let mut held = as_variant!(self.unrelied(Key::Plocks(ino), Value::Plocks(vec![]))?, Plocks);
        held.retain(|(other, _)| *other != owner);
        if !ranges.is_empty() {
            held.push((owner, ranges.to_vec()));
        }
        held.sort_by_key(|(owner, _)| *owner);
        self.write(Key::Plocks(ino), Value::Plocks(held));
        self.verb(Verb::SetPlocks(ino, owner, ranges.to_vec()));
        Ok(())
    }

    fn remove_locks(&mut self, sid: SessionId) -> Result<()> {
        self.verb(Verb::RemoveLocks(sid));
        Ok(())
    }

    fn detached(&mut self) -> Result<Vec<(Ino, i64)>> {
        Ok(as_variant!(self.get(Key::Detached, None)?, Detached))
    }

    fn remove_detached(&mut self, ino: Ino) -> Result<()> {
        self.verb(Verb::RemoveDetached(ino));
        Ok(())
    }

    fn setting(&mut self) -> Result<Option<String>> {
        Ok(as_variant!(self.get(Key::Setting, None)?, Setting))
    }

    fn put_setting(&mut self, json: &str) -> Result<()> {
        self.write(Key::Setting, Value::Setting(Some(json.to_string())));
        self.verb(Verb::PutSetting(json.to_string()));
        Ok(())
    }

    fn log_change(&mut self, entry: &str) -> Result<()> {
        self.logs = true;
        self.verb(Verb::LogChange(entry.to_string()));
        Ok(())
    }

    fn trim_change_log(&mut self, before_secs: i64, keep_lines: u64) -> Result<()> {
        self.verb(Verb::TrimChangeLog { before_secs, keep_lines });
        Ok(())
    }
}

/// What stands under a key where nothing does; not for pages.
fn absent(key: &Key) -> Option<Value> {
    Some(match key {
        Key::Attr(_) => Value::Attr(None),
        Key::Entry(..) => Value::Entry(None),
        Key::Parents(_) => Value::Parents(vec![]),
        Key::Symlink(_) | Key::Xattr(..) => Value::Bytes(None),
        Key::XattrNames(_) => Value::Names(vec![]),
        Key::SliceRefs(_) | Key::Counter(_) => Value::Number(0),
        Key::DirStat(_) => Value::DirStat(None),
        Key::Quota(_) => Value::Quota(None),
        Key::Acl(_) => Value::Acl(None),
        Key::Session(_) => Value::Session(None),
        _ => return None,
    })
}

impl Ran {
    /// What the commit relies on.
    pub(super) fn guards(&self) -> Vec<Guard> {
        let relied = self.reads.iter().filter_map(|read| Some((read, read.rely?)));
        relied.map(|(read, rely)| Guard { key: read.key.clone(), rely, seen: read.value.clone() }).collect()
    }

    /// Everything that was read.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.reads.iter().map(|read| read.key.clone()).collect()
    }
}

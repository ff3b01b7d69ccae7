//! The whole volume, rule by rule.

use std::collections::{BTreeMap, HashMap, HashSet};

use cairn_types::{Attr, ChunkIndex, FileType, Ino, SessionId, SliceId, SliceRecord, SliceRef};

use super::inode_set::InoSet;
use super::{DirSums, PAGE, Rules, Seen, Violation, check_directory, decode_chunk};
use crate::Result;
use crate::record::{DirStat, Entry, NamedEntry, Quota, QuotaKey, QuotaKind};
use crate::txn::{Counter, Rely, Txn};

/// "All of them", in a form every engine can take as a limit.
const ALL: usize = i32::MAX as usize;

/// A check under way, and what it must remember of one pass for the next.
pub(super) struct Check<'t> {
    tx: &'t mut dyn Txn,
    rules: Rules,
    pub(super) broken: Vec<Violation>,
    pub(super) seen: Seen,
    /// Inodes that some entry names.
    named: InoSet,
    /// How many names more than one.
    more_names: HashMap<Ino, u32>,
    /// Where each directory hangs, by its (last seen) entry.
    above: HashMap<Ino, Ino>,
    files: InoSet,
    detached: HashSet<Ino>,
    sustained: Vec<(SessionId, Ino)>,
    sustained_inos: HashSet<Ino>,
    /// Files whose data waits for deletion, with what they counted for.
    deleted: HashMap<Ino, DirStat>,
    dangling: HashSet<Ino>,
    usage: DirStat,
    users: BTreeMap<u32, DirStat>,
    groups: BTreeMap<u32, DirStat>,
    max_ino: u64,
    max_hour: u64,
    max_slice: u64,
    /// Direct sums per directory, kept only if a directory quota needs them.
    direct: Option<Vec<(Ino, DirStat)>>,
    records: Vec<(SliceId, u32)>,
}

impl<'t> Check<'t> {
    pub(super) fn new(tx: &'t mut dyn Txn, rules: Rules) -> Self {
        Check {
            tx,
            rules,
            broken: Vec::new(),
            seen: Seen::default(),
            named: InoSet::default(),
            more_names: HashMap::new(),
            above: HashMap::new(),
            files: InoSet::default(),
            detached: HashSet::new(),
            sustained: Vec::new(),
            sustained_inos: HashSet::new(),
            deleted: HashMap::new(),
            dangling: HashSet::new(),
            usage: DirStat::default(),
            users: BTreeMap::new(),
            groups: BTreeMap::new(),
            max_ino: 0,
            max_hour: 0,
            max_slice: 0,
            direct: None,
            records: Vec::new(),
        }
    }

    pub(super) fn load_exceptions(&mut self) -> Result<()> {
        self.detached = self.tx.detached()?.into_iter().map(|(ino, _)| ino).collect();
        for session in self.tx.sessions()? {
            for ino in self.tx.sustained(session.sid)? {
                self.sustained.push((session.sid, ino));
                self.sustained_inos.insert(ino);
            }
        }
        for file in self.tx.deleted_files(i64::MAX, ALL)? {
            let space = cairn_types::space_of(file.length) as i64;
            self.deleted.insert(file.ino, DirStat { length: file.length as i64, space, inodes: 1 });
        }
        if self.tx.any_dir_quota()? {
            self.direct = Some(Vec::new());
        }
        Ok(())
    }

    /// Calls `each` with every inode of the volume.
    fn each_inode(&mut self, mut each: impl FnMut(&mut Self, Ino, &Attr) -> Result<()>) -> Result<()> {
        let mut after = Ino(0);
        loop {
            let page = self.tx.scan_attrs(after, PAGE)?;
            for (ino, attr) in &page {
                each(self, *ino, attr)?;
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => after = *last,
                _ => return Ok(()),
            }
        }
    }

    pub(super) fn directories(&mut self) -> Result<()> {
        self.each_inode(|this, ino, attr| if attr.is_dir() { this.directory(ino, attr) } else { Ok(()) })
    }

    fn directory(&mut self, dir: Ino, attr: &Attr) -> Result<()> {
        let Check { tx, broken, seen, named, more_names, above, dangling, .. } = self;
        let sums = check_directory(
            *tx,
            dir,
            attr,
            &mut |entry| {
                let NamedEntry { entry: Entry { ino, kind }, attr, .. } = *entry;
                seen.entries += 1;
                if !named.insert(ino) {
                    *more_names.entry(ino).or_default() += 1;
                }
                if kind == FileType::Directory {
                    above.insert(ino, dir);
                }
                if attr.is_none() {
                    dangling.insert(ino);
                }
            },
            &mut |v| broken.push(v),
        )?;
        if let Some(direct) = &mut self.direct {
            direct.push((dir, sums.stat));
        }
        self.dir_stats(dir, &sums)
    }

    fn dir_stats(&mut self, dir: Ino, sums: &DirSums) -> Result<()> {
        // The trash itself has no statistics; a directory that was never flushed may have none.
        if !self.rules.dir_stats || dir == Ino::TRASH {
            return Ok(());
        }
        let (found, expected) = (self.tx.dir_stat(dir)?, sums.stat);
        let right = match found {
            None => expected == DirStat::default(),
            Some(found) => found == expected || (self.rules.lenient && self.explains(found, expected, sums.dangling)),
        };
        if !right {
            self.broken.push(Violation::DirStats { dir, found, expected });
        }
        Ok(())
    }

    /// Could `found` be `expected` plus what waits for deletion or what dangling entries stood for?
    fn explains(&self, found: DirStat, expected: DirStat, dangling: u32) -> bool {
        let extra = found.plus(expected.negated());
        let waiting = self.deleted.values().fold(DirStat::default(), |sum, d| sum.plus(*d));
        let dangling = i64::from(dangling);
        let within = |extra: i64, most: i64| extra >= 0 && (dangling > 0 || extra <= most);
        (1..=waiting.inodes + dangling).contains(&extra.inodes)
            && within(extra.length, waiting.length)
            && within(extra.space, waiting.space)
    }

    fn names_of(&self, ino: Ino) -> u32 {
        u32::from(self.named.contains(ino)) + self.more_names.get(&ino).copied().unwrap_or(0)
    }

    pub(super) fn inodes(&mut self) -> Result<()> {
        self.each_inode(|this, ino, attr| {
            this.count(ino, attr);
            this.inode(ino, attr)
        })
    }

    fn count(&mut self, ino: Ino, attr: &Attr) {
        self.seen.inodes += 1;
        self.seen.dirs += u64::from(attr.is_dir());
        if attr.is_file() {
            self.files.insert(ino);
        }
        if ino.is_trash() {
            self.max_hour = self.max_hour.max(ino.0 - Ino::TRASH.0);
        } else {
            self.max_ino = self.max_ino.max(ino.0);
        }
        if ino == Ino::ROOT || ino == Ino::TRASH {
            return;
        }
        let one = DirStat::of(attr);
        self.usage = self.usage.plus(one);
        if self.rules.user_group {
            for (map, id) in [(&mut self.users, attr.uid), (&mut self.groups, attr.gid)] {
                let sum = map.entry(id).or_default();
                *sum = sum.plus(one);
            }
        }
    }

    fn inode(&mut self, ino: Ino, attr: &Attr) -> Result<()> {
        let names = self.names_of(ino);
        let top = ino == Ino::ROOT || ino == Ino::TRASH || self.detached.contains(&ino);
        let kept_open = attr.nlink == 0 && self.sustained_inos.contains(&ino);
        if names == 0 && !top && !kept_open {
            self.broken.push(Violation::Orphan { ino, kind: attr.kind });
        } else if attr.is_dir() {
            if names + u32::from(top) > 1 {
                self.broken.push(Violation::DirectoryNames { ino, names });
            }
        } else if attr.nlink != names && !self.detached.contains(&ino) {
            self.broken.push(Violation::Nlink { ino, found: attr.nlink, expected: names });
        }
        if !attr.is_dir() && attr.parent == Ino(0) && names > 0 {
            let found = self.tx.parents(ino)?.iter().map(|(_, n)| n).sum();
            if found != names {
                self.broken.push(Violation::ParentCounts { ino, found, expected: names });
            }
        }
        if attr.kind == FileType::Symlink {
            let found = self.tx.symlink(ino)?.map(|t| t.len() as u64);
            if found != Some(attr.length) {
                self.broken.push(Violation::Symlink { ino, found, expected: attr.length });
            }
        }
        for id in [attr.access_acl, attr.default_acl] {
            if id != 0 && self.tx.acl(id)?.is_none() {
                self.broken.push(Violation::Acl { ino, id });
            }
        }
        Ok(())
    }

    /// Follows every directory upwards. One without a name was reported as an orphan.
    pub(super) fn tree(&mut self) {
        let mut good: HashSet<Ino> = HashSet::from([Ino::ROOT, Ino::TRASH]);
        let mut dirs: Vec<Ino> = self.above.keys().copied().collect();
        dirs.sort_unstable();
        for dir in dirs {
            let mut path = Vec::new();
            let mut on_path = HashSet::new();
            let mut here = dir;
            while !good.contains(&here) {
                if !on_path.insert(here) {
                    let start = path.iter().position(|&d| d == here).expect("it is on the path");
                    let least = path[start..].iter().copied().min().expect("a cycle has members");
                    self.broken.push(Violation::Cycle { ino: least });
                    break;
                }
                path.push(here);
                match self.above.get(&here) {
                    Some(&up) => here = up,
                    None => break,
                }
            }
            good.extend(path);
        }
    }

    pub(super) fn chunks(&mut self) -> Result<()> {
        let mut after = (Ino(0), ChunkIndex(0));
        loop {
            let page = self.tx.scan_chunks(after, PAGE)?;
            for (ino, index, raw) in &page {
                self.chunk(*ino, *index, raw);
            }
            match page.last() {
                Some((ino, index, _)) if page.len() == PAGE => after = (*ino, *index),
                _ => return Ok(()),
            }
        }
    }

    fn chunk(&mut self, ino: Ino, index: ChunkIndex, raw: &[u8]) {
        self.seen.chunks += 1;
        if !self.files.contains(ino) && !self.deleted.contains_key(&ino) && !self.dangling.contains(&ino) {
            self.broken.push(Violation::OrphanChunk { ino, index });
        }
        let (records, fault) = decode_chunk(raw);
        if let Some(reason) = fault {
            self.broken.push(Violation::CorruptChunk { ino, index, reason });
        }
        self.records.extend(records.iter().filter_map(SliceRecord::slice).map(|s| (s.id, s.size)));
    }

    pub(super) fn slices(&mut self) -> Result<()> {
        self.seen.records = self.records.len() as u64;
        for delayed in self.tx.delayed(i64::MAX, ALL)? {
            self.records.extend(delayed.slices.iter().map(|s| (s.id, s.size)));
        }
        self.records.sort_unstable();
        let records = std::mem::take(&mut self.records);
        let mut counted = records.chunk_by(|a, b| a == b).map(|run| (slice_ref(run[0]), run.len() as i64)).peekable();
        let mut after = SliceId(0);
        loop {
            let page = self.tx.slice_records(after, PAGE)?;
            for &(stored, found) in &page {
                while let Some((slice, expected)) = counted.next_if(|(slice, _)| *slice < stored) {
                    self.unrecorded_slice(slice, expected)?;
                }
                let expected = counted.next_if(|(slice, _)| *slice == stored).map_or(0, |(_, n)| n);
                self.slice(stored, found, expected);
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => after = last.id,
                _ => break,
            }
        }
        for (slice, expected) in counted {
            self.unrecorded_slice(slice, expected)?;
        }
        Ok(())
    }

    /// Engines that store no record for a single owner answer 1 here, the others 0.
    fn unrecorded_slice(&mut self, slice: SliceRef, expected: i64) -> Result<()> {
        let found = self.tx.slice_refs(slice)?;
        self.slice(slice, found, expected);
        Ok(())
    }

    fn slice(&mut self, slice: SliceRef, found: i64, expected: i64) {
        self.max_slice = self.max_slice.max(slice.id.0);
        // Without owner and without record that names it: it waits for deletion.
        let waits = found <= 0 && expected == 0;
        if found != expected && !waits {
            self.broken.push(Violation::SliceRefs { slice, found, expected });
        }
    }

    pub(super) fn sessions(&mut self) -> Result<()> {
        for (sid, ino) in std::mem::take(&mut self.sustained) {
            let reason = match self.tx.attr(ino, Rely::NOTHING)? {
                None => "it does not exist",
                Some(attr) if !attr.is_file() => "it is not a file",
                Some(attr) if attr.nlink > 0 => "it has names",
                Some(_) => continue,
            };
            self.broken.push(Violation::Sustained { sid, ino, reason });
        }
        let mut waiting: Vec<Ino> = self.deleted.keys().copied().collect();
        waiting.sort_unstable();
        for ino in waiting {
            if self.tx.attr(ino, Rely::NOTHING)?.is_some() {
                self.broken.push(Violation::DeletedFileAlive { ino });
            }
        }
        Ok(())
    }

    pub(super) fn counters(&mut self) -> Result<()> {
        self.next_id(Counter::NextInode, self.max_ino.max(1))?;
        self.next_id(Counter::NextChunk, self.max_slice)?;
        // Unlike the others this one holds the last number given out.
        let hours = self.tx.counter(Counter::NextTrash)?;
        if hours < self.max_hour as i64 {
            self.broken.push(Violation::NextId { counter: Counter::NextTrash, found: hours, in_use: self.max_hour });
        }
        let found_space = self.tx.counter(Counter::UsedSpace)?;
        let found_inodes = self.tx.counter(Counter::TotalInodes)?;
        let DirStat { space, inodes, .. } = self.usage;
        let found = DirStat { length: self.usage.length, space: found_space, inodes: found_inodes };
        let exact = (found_space, found_inodes) == (space, inodes);
        let explained = self.rules.lenient && self.explains(found, self.usage, self.dangling.len() as u32);
        if !exact && !explained {
            self.broken.push(Violation::Usage { found_space, found_inodes, space, inodes });
        }
        Ok(())
    }

    fn next_id(&mut self, counter: Counter, in_use: u64) -> Result<()> {
        let found = self.tx.counter(counter)?;
        if found <= in_use as i64 && in_use > 0 {
            self.broken.push(Violation::NextId { counter, found, in_use });
        }
        Ok(())
    }

    pub(super) fn quotas(&mut self) -> Result<()> {
        if let Some(direct) = self.direct.take() {
            self.dir_quotas(&direct)?;
        }
        if self.rules.user_group {
            for (kind, sums) in [
                (QuotaKind::User, std::mem::take(&mut self.users)),
                (QuotaKind::Group, std::mem::take(&mut self.groups)),
            ] {
                for (key, quota) in self.tx.quotas(kind)? {
                    let sum = u32::try_from(key.id).ok().and_then(|id| sums.get(&id)).copied().unwrap_or_default();
                    self.quota(key, &quota, sum);
                }
            }
        }
        Ok(())
    }

    fn dir_quotas(&mut self, direct: &[(Ino, DirStat)]) -> Result<()> {
        let quotas = self.tx.quotas(QuotaKind::Dir)?;
        let mut sums: HashMap<Ino, DirStat> = quotas.iter().map(|(k, _)| (Ino(k.id), DirStat::default())).collect();
        for (dir, stat) in direct {
            let mut here = *dir;
            // A cycle was reported already; it must not hang the check.
            for _ in 0..self.above.len() + 2 {
                if let Some(sum) = sums.get_mut(&here) {
                    *sum = sum.plus(*stat);
                }
                match self.above.get(&here) {
                    Some(&up) if here != Ino::ROOT => here = up,
                    _ => break,
                }
            }
        }
        for (key, quota) in quotas {
            self.quota(key, &quota, sums.get(&Ino(key.id)).copied().unwrap_or_default());
        }
        Ok(())
    }

    fn quota(&mut self, key: QuotaKey, quota: &Quota, sum: DirStat) {
        let found = DirStat { length: sum.length, space: quota.used_space, inodes: quota.used_inodes };
        let exact = (found.space, found.inodes) == (sum.space, sum.inodes);
        let explained = self.rules.lenient && self.explains(found, sum, self.dangling.len() as u32);
        if !exact && !explained {
            self.broken.push(Violation::QuotaUsage {
                key,
                found_space: quota.used_space,
                found_inodes: quota.used_inodes,
                space: sum.space,
                inodes: sum.inodes,
            });
        }
    }
}

fn slice_ref((id, size): (SliceId, u32)) -> SliceRef {
    SliceRef { id, size }
}

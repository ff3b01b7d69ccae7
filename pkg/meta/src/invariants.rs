//! Named rules that hold between the records of every volume, checked over one scan.
//!
//! The same rules serve `fsck` and the tests that run operations and then ask whether the volume
//! is still lawful. A rule that is broken becomes a [`Violation`], which knows its name, the inodes
//! it is about, and whether it is damage or only drift: statistics that a JuiceFS client may leave
//! behind when it dies, and that nobody's data depends on.
//!
//! Memory: entries are read directory by directory in pages. What is kept for the whole volume is
//! one bit per inode, two numbers per directory and one (id, size) per slice record.
//!
//! Not here: whether the objects of a slice exist. That is `cairn-jobs`, `fsck`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use cairn_types::{
    Attr, CHUNK_BYTES, ChunkIndex, FileType, Ino, SLICE_RECORD_BYTES, SessionId, SliceId, SliceRecord, SliceRef,
};

use crate::record::{DirStat, NamedEntry, Quota, QuotaKey, QuotaKind};
use crate::txn::{Context, Counter, Op, Rely, Txn};
use crate::{Policy, Result};

/// Records read at a time.
const PAGE: usize = 1000;

/// "All of them", in a form every engine can take as a limit.
const ALL: usize = i32::MAX as usize;

/// Which rules apply to a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Directories have statistics.
    pub dir_stats: bool,
    /// Users and groups have usage records.
    pub user_group: bool,
    /// Accept accounting that still counts what was removed and waits for deletion, or what a
    /// dangling entry stood for: another client may have died before it wrote its sums.
    pub lenient: bool,
}

impl Rules {
    /// The rules of a volume with this policy, for volumes that JuiceFS may have written.
    pub fn of(policy: &Policy) -> Rules {
        Rules { dir_stats: policy.dir_stats, user_group: policy.user_group_quota, lenient: true }
    }

    /// The same, for a volume that only CairnFS has written: sums must be exact.
    pub fn strict(policy: &Policy) -> Rules {
        Rules { lenient: false, ..Rules::of(policy) }
    }
}

/// A broken rule and where.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "found and expected values under the names of the records")]
pub enum Violation {
    /// An entry names an inode that exists.
    DanglingEntry { dir: Ino, name: Vec<u8>, ino: Ino, kind: FileType },
    /// An entry repeats the type of its inode.
    EntryKind { dir: Ino, name: Vec<u8>, ino: Ino, entry: FileType, attr: FileType },
    /// The parent field names the directory that holds the inode, or is 0 if several may.
    Parent { ino: Ino, found: Ino, expected: Ino },
    /// Parent counts of an inode with several names add up to its names.
    ParentCounts { ino: Ino, found: u32, expected: u32 },
    /// Link counts: names of a file, 2 + sub-directories of a directory.
    Nlink { ino: Ino, found: u32, expected: u32 },
    /// Every inode has a name, is kept open by a session, or is the top of a detached clone.
    Orphan { ino: Ino, kind: FileType },
    /// A directory has one name.
    DirectoryNames { ino: Ino, names: u32 },
    /// Directories form a tree.
    Cycle { ino: Ino },
    /// A symbolic link has a target as long as its length.
    Symlink { ino: Ino, found: Option<u64>, expected: u64 },
    /// An ACL id names a rule.
    Acl { ino: Ino, id: u32 },
    /// A slice list is whole records that lie within the chunk and within their slices.
    CorruptChunk { ino: Ino, index: ChunkIndex, reason: String },
    /// A slice list belongs to a file, or to one that waits for deletion.
    OrphanChunk { ino: Ino, index: ChunkIndex },
    /// A slice has as many references as records name it.
    SliceRefs { slice: SliceRef, found: i64, expected: i64 },
    /// A file that waits for deletion has no attributes.
    DeletedFileAlive { ino: Ino },
    /// What a session keeps open is an existing file without names, and the session exists.
    Sustained { sid: SessionId, ino: Ino, reason: &'static str },
    /// Ids in use are below the next free one.
    NextId { counter: Counter, found: i64, in_use: u64 },
    /// Usage counters are the sums over all inodes.
    Usage { found_space: i64, found_inodes: i64, space: i64, inodes: i64 },
    /// A directory's statistics are the sums over its entries.
    DirStats { dir: Ino, found: Option<DirStat>, expected: DirStat },
    /// A quota's usage is the sum over what it governs.
    QuotaUsage { key: QuotaKey, found_space: i64, found_inodes: i64, space: i64, inodes: i64 },
}

impl Violation {
    /// The rule's name.
    pub fn rule(&self) -> &'static str {
        match self {
            Violation::DanglingEntry { .. } => "dangling-entry",
            Violation::EntryKind { .. } => "entry-kind",
            Violation::Parent { .. } => "parent",
            Violation::ParentCounts { .. } => "parent-counts",
            Violation::Nlink { .. } => "nlink",
            Violation::Orphan { .. } => "orphan-inode",
            Violation::DirectoryNames { .. } => "directory-names",
            Violation::Cycle { .. } => "directory-cycle",
            Violation::Symlink { .. } => "symlink-target",
            Violation::Acl { .. } => "acl-rule",
            Violation::CorruptChunk { .. } => "corrupt-slice-list",
            Violation::OrphanChunk { .. } => "orphan-slice-list",
            Violation::SliceRefs { .. } => "slice-references",
            Violation::DeletedFileAlive { .. } => "deleted-file-alive",
            Violation::Sustained { .. } => "sustained-inode",
            Violation::NextId { .. } => "next-id",
            Violation::Usage { .. } => "usage-counters",
            Violation::DirStats { .. } => "directory-statistics",
            Violation::QuotaUsage { .. } => "quota-usage",
        }
    }

    /// Only sums are off: nothing is lost, and a recount repairs it.
    pub fn is_drift(&self) -> bool {
        matches!(self, Violation::Usage { .. } | Violation::DirStats { .. } | Violation::QuotaUsage { .. })
    }

    /// The inode it is about, if there is one.
    pub fn ino(&self) -> Option<Ino> {
        match *self {
            Violation::DanglingEntry { ino, .. }
            | Violation::EntryKind { ino, .. }
            | Violation::Parent { ino, .. }
            | Violation::ParentCounts { ino, .. }
            | Violation::Nlink { ino, .. }
            | Violation::Orphan { ino, .. }
            | Violation::DirectoryNames { ino, .. }
            | Violation::Cycle { ino }
            | Violation::Symlink { ino, .. }
            | Violation::Acl { ino, .. }
            | Violation::CorruptChunk { ino, .. }
            | Violation::OrphanChunk { ino, .. }
            | Violation::DeletedFileAlive { ino }
            | Violation::Sustained { ino, .. } => Some(ino),
            Violation::DirStats { dir, .. } => Some(dir),
            Violation::QuotaUsage { key: QuotaKey { kind: QuotaKind::Dir, id }, .. } => Some(Ino(id)),
            Violation::SliceRefs { .. }
            | Violation::NextId { .. }
            | Violation::Usage { .. }
            | Violation::QuotaUsage { .. } => None,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |name: &[u8]| name.escape_ascii().to_string();
        match self {
            Violation::DanglingEntry { dir, name, ino, .. } => {
                write!(f, "entry {:?} of directory {dir} names inode {ino}, which does not exist", text(name))
            }
            Violation::EntryKind { dir, name, ino, entry, attr } => {
                write!(
                    f,
                    "entry {:?} of directory {dir} calls inode {ino} a {entry:?}, but it is a {attr:?}",
                    text(name)
                )
            }
            Violation::Parent { ino, found, expected } => {
                write!(f, "parent of inode {ino} should be {expected}, but is {found}")
            }
            Violation::ParentCounts { ino, found, expected } => {
                write!(f, "parent counts of inode {ino} should add up to {expected}, but give {found}")
            }
            Violation::Nlink { ino, found, expected } => {
                write!(f, "nlink of inode {ino} should be {expected}, but is {found}")
            }
            Violation::Orphan { ino, kind } => write!(f, "inode {ino} ({kind:?}) has no name"),
            Violation::DirectoryNames { ino, names } => write!(f, "directory {ino} has {names} names"),
            Violation::Cycle { ino } => write!(f, "directory {ino} is its own ancestor"),
            Violation::Symlink { ino, found: None, .. } => write!(f, "symbolic link {ino} has no target"),
            Violation::Symlink { ino, found: Some(found), expected } => {
                write!(f, "target of symbolic link {ino} should have {expected} bytes, but has {found}")
            }
            Violation::Acl { ino, id } => write!(f, "inode {ino} names ACL rule {id}, which does not exist"),
            Violation::CorruptChunk { ino, index, reason } => {
                write!(f, "slice list of inode {ino}, chunk {index} is corrupt: {reason}")
            }
            Violation::OrphanChunk { ino, index } => {
                write!(f, "slice list of chunk {index} belongs to inode {ino}, which does not exist")
            }
            Violation::SliceRefs { slice, found, expected } => {
                write!(
                    f,
                    "slice {} ({} bytes) should have {expected} references, but has {found}",
                    slice.id, slice.size
                )
            }
            Violation::DeletedFileAlive { ino } => write!(f, "inode {ino} waits for deletion, but still exists"),
            Violation::Sustained { sid, ino, reason } => write!(f, "inode {ino} kept open by session {sid}: {reason}"),
            Violation::NextId { counter, found, in_use } => {
                write!(f, "counter {} is {found}, but {in_use} is in use", counter.name())
            }
            Violation::Usage { found_space, found_inodes, space, inodes } => write!(
                f,
                "usage should be {space} bytes and {inodes} inodes, but is {found_space} bytes and {found_inodes} inodes"
            ),
            Violation::DirStats { dir, found: None, .. } => write!(f, "statistics of directory {dir} are missing"),
            Violation::DirStats { dir, found: Some(found), expected } => write!(
                f,
                "statistics of directory {dir} should be (length {}, space {}, inodes {}), but are ({}, {}, {})",
                expected.length, expected.space, expected.inodes, found.length, found.space, found.inodes
            ),
            Violation::QuotaUsage { key, found_space, found_inodes, space, inodes } => write!(
                f,
                "usage of {:?} quota {} should be {space} bytes and {inodes} inodes, \
                 but is {found_space} bytes and {found_inodes} inodes",
                key.kind, key.id
            ),
        }
    }
}

/// What a check saw besides violations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Inodes, root and trash included.
    pub inodes: u64,
    /// Directories among them.
    pub dirs: u64,
    /// Entries.
    pub entries: u64,
    /// Slice lists.
    pub chunks: u64,
    /// Slice records that name a slice.
    pub records: u64,
}

/// Checks every rule over the whole volume. Violations come in a fixed order: directories, inodes,
/// the tree, chunks, slices, sessions, counters, quotas.
///
/// The answer is that of one moment: run it in one read transaction.
pub fn check(tx: &mut dyn Txn, rules: &Rules) -> Result<(Vec<Violation>, Seen)> {
    let mut check = Check::new(tx, *rules);
    check.load_exceptions()?;
    check.directories()?;
    check.inodes()?;
    check.tree();
    check.chunks()?;
    check.slices()?;
    check.sessions()?;
    check.counters()?;
    check.quotas()?;
    Ok((check.broken, check.seen))
}

/// [`check`] as an operation, for `Meta::view`.
#[derive(Clone, Copy, Debug)]
pub struct CheckVolume {
    /// Sums must be exact (see [`Rules::lenient`]).
    pub strict: bool,
}

impl Op for CheckVolume {
    type Out = (Vec<Violation>, Seen);

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Self::Out> {
        let rules = if self.strict { Rules::strict(&cx.policy) } else { Rules::of(&cx.policy) };
        check(tx, &rules)
    }
}

/// What the entries of one directory add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirSums {
    /// Sums over entries whose inode exists.
    pub stat: DirStat,
    /// Entries that are directories.
    pub subdirs: u32,
    /// Entries whose inode does not exist.
    pub dangling: u32,
}

/// Checks what can be said of one directory by itself: its entries and its link count. `visit`
/// sees every entry.
pub fn check_directory(
    tx: &mut dyn Txn,
    dir: Ino,
    attr: &Attr,
    visit: &mut dyn FnMut(&NamedEntry),
    report: &mut dyn FnMut(Violation),
) -> Result<DirSums> {
    let mut sums = DirSums::default();
    let mut after = Vec::new();
    loop {
        let page = tx.entries(dir, &after, PAGE, true)?;
        for named in &page {
            check_entry(dir, named, &mut sums, report);
            visit(named);
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after.clone_from(&last.name),
            _ => break,
        }
    }
    let expected = expected_dir_nlink(dir, &sums);
    if attr.nlink != expected {
        report(Violation::Nlink { ino: dir, found: attr.nlink, expected });
    }
    Ok(sums)
}

/// 2 + sub-directories; the trash and its hour directories stay at 2.
pub fn expected_dir_nlink(dir: Ino, sums: &DirSums) -> u32 {
    if dir.is_trash() { 2 } else { 2 + sums.subdirs }
}

fn check_entry(dir: Ino, named: &NamedEntry, sums: &mut DirSums, report: &mut dyn FnMut(Violation)) {
    let (ino, kind) = (named.entry.ino, named.entry.kind);
    sums.subdirs += u32::from(kind == FileType::Directory);
    let Some(attr) = &named.attr else {
        sums.dangling += 1;
        return report(Violation::DanglingEntry { dir, name: named.name.clone(), ino, kind });
    };
    sums.stat = sums.stat.plus(DirStat::of(attr));
    if attr.kind != kind {
        report(Violation::EntryKind { dir, name: named.name.clone(), ino, entry: kind, attr: attr.kind });
    }
    let may_have_several = attr.parent == Ino(0) && !attr.is_dir();
    if attr.parent != dir && !may_have_several {
        report(Violation::Parent { ino, found: attr.parent, expected: dir });
    }
}

/// What is wrong with a stored slice list, if anything. The whole records at its start are decoded
/// in either case.
pub fn decode_chunk(raw: &[u8]) -> (Vec<SliceRecord>, Option<String>) {
    let whole = raw.len() / SLICE_RECORD_BYTES * SLICE_RECORD_BYTES;
    let records = SliceRecord::decode_list(&raw[..whole]).expect("cut to whole records");
    let torn = (whole < raw.len()).then(|| format!("{} bytes are not a multiple of {SLICE_RECORD_BYTES}", raw.len()));
    let fault = torn.or_else(|| records.iter().find_map(record_fault));
    (records, fault)
}

fn record_fault(r: &SliceRecord) -> Option<String> {
    let end = u64::from(r.pos) + u64::from(r.len);
    if end > CHUNK_BYTES {
        return Some(format!("a record of slice {} ends at {end}, beyond the chunk", r.id));
    }
    let needs = u64::from(r.off) + u64::from(r.len);
    (!r.is_hole() && needs > u64::from(r.size))
        .then(|| format!("a record shows bytes up to {needs} of slice {}, which has {} bytes", r.id, r.size))
}

struct Check<'t> {
    tx: &'t mut dyn Txn,
    rules: Rules,
    broken: Vec<Violation>,
    seen: Seen,
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
    fn new(tx: &'t mut dyn Txn, rules: Rules) -> Self {
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

    fn load_exceptions(&mut self) -> Result<()> {
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

    fn directories(&mut self) -> Result<()> {
        self.each_inode(|this, ino, attr| if attr.is_dir() { this.directory(ino, attr) } else { Ok(()) })
    }

    fn directory(&mut self, dir: Ino, attr: &Attr) -> Result<()> {
        let mut visits = Vec::new();
        let Check { tx, broken, seen, .. } = self;
        let sums = check_directory(
            *tx,
            dir,
            attr,
            &mut |named| {
                seen.entries += 1;
                visits.push((named.entry.ino, named.entry.kind, named.attr.is_some()));
            },
            &mut |v| broken.push(v),
        )?;
        for (ino, kind, exists) in visits {
            if !self.named.insert(ino) {
                *self.more_names.entry(ino).or_default() += 1;
            }
            if kind == FileType::Directory {
                self.above.insert(ino, dir);
            }
            if !exists {
                self.dangling.insert(ino);
            }
        }
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

    fn inodes(&mut self) -> Result<()> {
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
    fn tree(&mut self) {
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

    fn chunks(&mut self) -> Result<()> {
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

    fn slices(&mut self) -> Result<()> {
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

    fn sessions(&mut self) -> Result<()> {
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

    fn counters(&mut self) -> Result<()> {
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
        if !exact && !(self.rules.lenient && self.explains(found, self.usage, self.dangling.len() as u32)) {
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

    fn quotas(&mut self) -> Result<()> {
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
        if !exact && !(self.rules.lenient && self.explains(found, sum, self.dangling.len() as u32)) {
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

/// A set of inodes: ids are handed out in runs, so a bit each is nearly all it takes.
#[derive(Default)]
struct InoSet(HashMap<u64, [u64; 16]>);

impl InoSet {
    fn place(ino: Ino) -> (u64, usize, u64) {
        (ino.0 >> 10, (ino.0 >> 6 & 15) as usize, 1 << (ino.0 & 63))
    }

    /// True if it was not there.
    fn insert(&mut self, ino: Ino) -> bool {
        let (page, word, bit) = InoSet::place(ino);
        let word = &mut self.0.entry(page).or_default()[word];
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    fn contains(&self, ino: Ino) -> bool {
        let (page, word, bit) = InoSet::place(ino);
        self.0.get(&page).is_some_and(|words| words[word] & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_inodes_holds_trash_numbers_too() {
        let mut set = InoSet::default();
        assert!(set.insert(Ino(1)) && set.insert(Ino::TRASH) && !set.insert(Ino(1)));
        assert!(set.contains(Ino::TRASH) && !set.contains(Ino(2)));
    }

    #[test]
    fn a_torn_list_still_gives_its_whole_records() {
        let record = SliceRecord { pos: 0, id: SliceId(8), size: 10, off: 0, len: 10 };
        let mut raw = record.encode().to_vec();
        raw.extend([0, 0]);
        let (records, fault) = decode_chunk(&raw);
        assert_eq!(records, [record]);
        assert!(fault.expect("torn").contains("26 bytes"));
    }

    #[test]
    fn records_that_leave_chunk_or_slice_are_corrupt() {
        let beyond_chunk = SliceRecord::hole(CHUNK_BYTES as u32 - 1, 2);
        let beyond_slice = SliceRecord { pos: 0, id: SliceId(1), size: 4, off: 2, len: 3 };
        for record in [beyond_chunk, beyond_slice] {
            assert!(decode_chunk(&record.encode()).1.is_some());
        }
    }
}

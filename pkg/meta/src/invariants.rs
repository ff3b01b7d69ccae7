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

mod inode_set;
mod violation;
mod volume;

use cairn_types::{Attr, CHUNK_BYTES, FileType, Ino, SLICE_RECORD_BYTES, SliceRecord};

pub use violation::Violation;
use volume::Check;

use crate::record::{DirStat, NamedEntry};
use crate::txn::{Context, Op, Txn};
use crate::{Policy, Result};

/// Records read at a time.
const PAGE: usize = 1000;

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

#[cfg(test)]
mod tests {
    use cairn_types::SliceId;

    use super::*;

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

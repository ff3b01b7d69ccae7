//! The seam between semantics and engines: operations as values over typed records.
//!
//! An [`Op`] says what an operation means, reading and changing records through a [`Txn`]. An
//! [`Engine`] runs ops atomically over its own tables, hashes or maps, and knows nothing of POSIX.
//!
//! Rules an op must keep, so that every engine can run it:
//!
//! * It is deterministic: time, ids and policy come from its fields and [`Context`]; it may run
//!   several times and only the last run counts. A run may see guesses, and values that were never
//!   true together: it must not panic on them, and its errors are checked before they are told.
//! * It says what it relies on **narrowly**: [`Rely`] names the fields of an attribute whose change
//!   would change the outcome. A network engine re-checks just those at commit.
//! * It changes records by **verbs** ([`AttrChange`], `append_slices`, `add_counter`), never by
//!   writing back a whole record it read, so that unrelated changes do not fight.
//! * Reads come before writes of the same record: what a read after a write returns is the
//!   written value on local engines, but costs a network engine its single round trip.

use std::sync::Arc;

use async_trait::async_trait;
use cairn_types::{AclRule, Attr, ChunkIndex, Flags, Ino, SessionId, SliceId, SliceRecord, SliceRef, Timestamp};

use parking_lot::Mutex;

use crate::Result;
use crate::opens::{Claim, OpenTable};
use crate::policy::Policy;
use crate::record::{
    DelayedSlices, DeletedFile, DirStat, Entry, FlockKind, LockOwner, NamedEntry, PlockRange, Quota, QuotaKey,
    SessionRecord,
};

/// Which fields of an attribute an operation's outcome depends on: a bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rely(pub u16);

impl Rely {
    /// Only that the inode exists and has this type.
    pub const KIND: Rely = Rely(1);
    /// Permission bits, owner, group, ACL ids.
    pub const PERMISSION: Rely = Rely(2);
    /// Immutable, append, skip-trash.
    pub const FLAGS: Rely = Rely(4);
    /// The parent field.
    pub const PARENT: Rely = Rely(8);
    /// Length.
    pub const LENGTH: Rely = Rely(16);
    /// Link count.
    pub const NLINK: Rely = Rely(32);
    /// The three times.
    pub const TIMES: Rely = Rely(64);
    /// Tier.
    pub const TIER: Rely = Rely(128);
    /// Nothing: the value is shown, and may be older than the commit.
    pub const NOTHING: Rely = Rely(0);
    /// What every change below a directory depends on.
    pub const DIRECTORY: Rely = Rely(1 | 2 | 4 | 8 | 128);
    /// The whole record.
    pub const ALL: Rely = Rely(255);

    /// Both.
    pub const fn and(self, other: Rely) -> Rely {
        Rely(self.0 | other.0)
    }

    /// Are all fields of `other` among these?
    pub const fn has(self, other: Rely) -> bool {
        self.0 & other.0 == other.0
    }

    /// Are two attributes alike in these fields?
    pub fn same(self, a: &Attr, b: &Attr) -> bool {
        let differs = |rely: Rely, alike: bool| self.has(rely) && !alike;
        let permission = |a: &Attr| (a.mode, a.uid, a.gid, a.access_acl, a.default_acl);
        !(differs(Rely::KIND, a.kind == b.kind)
            || differs(Rely::PERMISSION, permission(a) == permission(b))
            || differs(Rely::FLAGS, a.flags == b.flags)
            || differs(Rely::PARENT, a.parent == b.parent)
            || differs(Rely::LENGTH, a.length == b.length)
            || differs(Rely::NLINK, a.nlink == b.nlink)
            || differs(Rely::TIMES, (a.atime, a.mtime, a.ctime) == (b.atime, b.mtime, b.ctime))
            || differs(Rely::TIER, a.tier == b.tier))
    }
}

/// A change of some fields of an attribute. Absent fields stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named like the fields of Attr")]
pub struct AttrChange {
    pub flags: Option<Flags>,
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub atime: Option<Timestamp>,
    pub mtime: Option<Timestamp>,
    pub ctime: Option<Timestamp>,
    /// Added to the link count.
    pub nlink_add: i32,
    pub length: Option<u64>,
    /// Raises the length to at least this.
    pub length_at_least: Option<u64>,
    pub parent: Option<Ino>,
    pub access_acl: Option<u32>,
    pub default_acl: Option<u32>,
    pub tier: Option<u8>,
}

impl AttrChange {
    /// `attr` after this change.
    pub fn applied_to(&self, attr: &Attr) -> Attr {
        let mut a = *attr;
        macro_rules! set {
            ($($field:ident),*) => { $(if let Some(v) = self.$field { a.$field = v; })* };
        }
        set!(flags, mode, uid, gid, atime, mtime, ctime, length, parent, access_acl, default_acl, tier);
        a.nlink = a.nlink.saturating_add_signed(self.nlink_add);
        if let Some(least) = self.length_at_least {
            a.length = a.length.max(least);
        }
        a
    }

    /// Changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == AttrChange::default()
    }
}

/// Numbers the volume counts by name (volume format 5.2.2). The SQL convention: `nextInode` and
/// `nextChunk` are the next free id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "named like the stored counters")]
pub enum Counter {
    NextInode,
    NextChunk,
    NextSession,
    NextTrash,
    UsedSpace,
    TotalInodes,
    LastCleanupSessions,
    LastCleanupFiles,
    NextCleanupSlices,
    LastCleanupTrash,
    LastCleanupChangelog,
}

impl Counter {
    /// The stored name.
    pub fn name(self) -> &'static str {
        match self {
            Counter::NextInode => "nextInode",
            Counter::NextChunk => "nextChunk",
            Counter::NextSession => "nextSession",
            Counter::NextTrash => "nextTrash",
            Counter::UsedSpace => "usedSpace",
            Counter::TotalInodes => "totalInodes",
            Counter::LastCleanupSessions => "lastCleanupSessions",
            Counter::LastCleanupFiles => "lastCleanupFiles",
            Counter::NextCleanupSlices => "nextCleanupSlices",
            Counter::LastCleanupTrash => "lastCleanupTrash",
            Counter::LastCleanupChangelog => "lastCleanupChangelog",
        }
    }

    /// All of them.
    pub const ALL: [Counter; 11] = [
        Counter::NextInode,
        Counter::NextChunk,
        Counter::NextSession,
        Counter::NextTrash,
        Counter::UsedSpace,
        Counter::TotalInodes,
        Counter::LastCleanupSessions,
        Counter::LastCleanupFiles,
        Counter::NextCleanupSlices,
        Counter::LastCleanupTrash,
        Counter::LastCleanupChangelog,
    ];
}

/// One atomic step over the volume's records. See the module's rules.
///
/// Every method may fail with [`crate::Error::Missing`] (fetch and run again) or an engine error;
/// an op passes both on with `?`.
pub trait Txn {
    // --- inodes
    /// The attributes of `ino`, and what of them the outcome depends on.
    fn attr(&mut self, ino: Ino, rely: Rely) -> Result<Option<Attr>>;
    /// Stores a new inode.
    fn insert_attr(&mut self, ino: Ino, attr: &Attr) -> Result<()>;
    /// Changes fields of an existing inode. An empty change does nothing.
    fn change_attr(&mut self, ino: Ino, change: &AttrChange) -> Result<()>;
    /// Removes the inode's attributes.
    fn remove_attr(&mut self, ino: Ino) -> Result<()>;

    // --- entries
    /// What `name` in `parent` stands for. `None` is a claim too: absence is relied on.
    fn entry(&mut self, parent: Ino, name: &[u8]) -> Result<Option<Entry>>;
    /// Is the directory empty? Relied on.
    fn dir_is_empty(&mut self, dir: Ino) -> Result<bool>;
    /// Up to `limit` entries whose name sorts after `after` (all if empty), in byte order of names;
    /// with attributes if `plus` (an entry whose inode is gone comes without).
    fn entries(&mut self, dir: Ino, after: &[u8], limit: usize, plus: bool) -> Result<Vec<NamedEntry>>;
    /// Adds a name that must be absent.
    fn insert_entry(&mut self, parent: Ino, name: &[u8], entry: Entry) -> Result<()>;
    /// Makes an existing name stand for something else.
    fn replace_entry(&mut self, parent: Ino, name: &[u8], entry: Entry) -> Result<()>;
    /// Removes a name that must exist.
    fn remove_entry(&mut self, parent: Ino, name: &[u8]) -> Result<()>;
    /// The directories that hold an inode whose `parent` is 0, with the number of names in each.
    fn parents(&mut self, ino: Ino) -> Result<Vec<(Ino, u32)>>;
    /// Adds `delta` names of `ino` in `parent`, kept only where entries cannot be searched by inode
    /// (not SQL). Call it for inodes whose `parent` is 0.
    fn add_parent(&mut self, ino: Ino, parent: Ino, delta: i32) -> Result<()>;
    /// Forgets all counts of [`Txn::add_parent`] for an inode that goes away.
    fn remove_parents(&mut self, ino: Ino) -> Result<()>;

    // --- symlinks, extended attributes
    /// A symlink's target.
    fn symlink(&mut self, ino: Ino) -> Result<Option<Vec<u8>>>;
    /// Stores a target.
    fn insert_symlink(&mut self, ino: Ino, target: &[u8]) -> Result<()>;
    /// Removes a target.
    fn remove_symlink(&mut self, ino: Ino) -> Result<()>;
    /// One extended attribute.
    fn xattr(&mut self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>>;
    /// Is there an extended attribute of this name? Relied on: just that. `likely` is the caller's
    /// guess, which costs nothing if it is right.
    fn has_xattr(&mut self, ino: Ino, name: &[u8], _likely: bool) -> Result<bool> {
        Ok(self.xattr(ino, name)?.is_some())
    }
    /// Names of all extended attributes, sorted.
    fn xattr_names(&mut self, ino: Ino) -> Result<Vec<Vec<u8>>>;
    /// Sets one.
    fn put_xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) -> Result<()>;
    /// Removes one that must exist.
    fn remove_xattr(&mut self, ino: Ino, name: &[u8]) -> Result<()>;
    /// Removes all.
    fn remove_xattrs(&mut self, ino: Ino) -> Result<()>;

    // --- chunks and slices
    /// The slice list of a chunk, oldest first; empty if there is none.
    fn slices(&mut self, ino: Ino, index: ChunkIndex) -> Result<Vec<SliceRecord>>;
    /// Existing chunks of a file with `from <= index`, ascending, up to `limit`.
    fn chunks(&mut self, ino: Ino, from: ChunkIndex, limit: usize) -> Result<Vec<ChunkIndex>>;
    /// Up to `limit` existing chunks of a removed file that had this length, ascending.
    fn deleted_chunks(&mut self, ino: Ino, _length: u64, limit: usize) -> Result<Vec<ChunkIndex>> {
        self.chunks(ino, ChunkIndex(0), limit)
    }
    /// Appends records to a chunk's list; returns the number of records after it.
    fn append_slices(&mut self, ino: Ino, index: ChunkIndex, records: &[SliceRecord]) -> Result<u32>;
    /// Replaces a whole list that was read in this transaction.
    fn replace_slices(&mut self, ino: Ino, index: ChunkIndex, records: &[SliceRecord]) -> Result<()>;
    /// Removes a list. Corrupt lists can be removed.
    fn remove_chunk(&mut self, ino: Ino, index: ChunkIndex) -> Result<()>;
    /// Registers a fresh slice with `refs` references.
    fn insert_slice(&mut self, slice: SliceRef, refs: u32) -> Result<()>;
    /// Adds `delta` references; returns how many there are now (0 or less: nobody owns it).
    fn add_slice_refs(&mut self, slice: SliceRef, delta: i64) -> Result<i64>;
    /// True number of references; 0 if the slice is unknown.
    fn slice_refs(&mut self, slice: SliceRef) -> Result<i64>;
    /// Forgets a slice whose objects are gone.
    fn remove_slice(&mut self, slice: SliceRef) -> Result<()>;
    /// Up to `limit` slices without owner, with an id greater than `after`.
    fn unowned_slices(&mut self, after: SliceId, limit: usize) -> Result<Vec<SliceRef>>;
    /// Every registered slice with `id > after`, ascending, up to `limit`, with its true count.
    /// Engines that store no record for single owners leave those out.
    fn slice_records(&mut self, after: SliceId, limit: usize) -> Result<Vec<(SliceRef, i64)>>;
    /// Up to `limit` chunk lists after `(ino, index)` in key order, raw, for whole-volume scans.
    fn scan_chunks(&mut self, after: (Ino, ChunkIndex), limit: usize) -> Result<Vec<(Ino, ChunkIndex, Vec<u8>)>>;
    /// Up to `limit` inodes greater than `after`, ascending, for whole-volume scans.
    fn scan_attrs(&mut self, after: Ino, limit: usize) -> Result<Vec<(Ino, Attr)>>;

    // --- files and slices waiting for deletion
    /// Remembers a removed file whose data is still to be deleted.
    fn insert_deleted_file(&mut self, file: &DeletedFile) -> Result<()>;
    /// Forgets it.
    fn remove_deleted_file(&mut self, ino: Ino, length: u64) -> Result<()>;
    /// Up to `limit` such files removed at or before `until` (Unix seconds), oldest first.
    fn deleted_files(&mut self, until: i64, limit: usize) -> Result<Vec<DeletedFile>>;
    /// Keeps replaced slices for the trash days.
    fn insert_delayed(&mut self, delayed: &DelayedSlices) -> Result<()>;
    /// Forgets them.
    fn remove_delayed(&mut self, id: SliceId, deleted_secs: i64) -> Result<()>;
    /// Up to `limit` such records made at or before `until` (Unix seconds).
    fn delayed(&mut self, until: i64, limit: usize) -> Result<Vec<DelayedSlices>>;

    // --- counters and statistics
    /// A counter's value; 0 if it was never set.
    fn counter(&mut self, counter: Counter) -> Result<i64>;
    /// Adds to a counter.
    fn add_counter(&mut self, counter: Counter, delta: i64) -> Result<()>;
    /// Adds to a counter and answers the value after it.
    fn advance_counter(&mut self, counter: Counter, delta: i64) -> Result<i64> {
        let value = self.counter(counter)? + delta;
        self.set_counter(counter, value)?;
        Ok(value)
    }
    /// Is there room for `add` more below `limit`? Relied on: that there is, not how much.
    fn counter_room(&mut self, counter: Counter, add: i64, limit: i64) -> Result<bool> {
        Ok(self.counter(counter)? + add <= limit)
    }
    /// Sets a counter.
    fn set_counter(&mut self, counter: Counter, value: i64) -> Result<()>;
    /// Statistics of a directory's direct entries.
    fn dir_stat(&mut self, dir: Ino) -> Result<Option<DirStat>>;
    /// Has the directory statistics? Relied on: just that.
    fn has_dir_stat(&mut self, dir: Ino) -> Result<bool> {
        Ok(self.dir_stat(dir)?.is_some())
    }
    /// Sets them.
    fn put_dir_stat(&mut self, dir: Ino, stat: &DirStat) -> Result<()>;
    /// Adds to them if the record exists; returns whether it did.
    fn add_dir_stat(&mut self, dir: Ino, delta: &DirStat) -> Result<bool>;
    /// Removes them.
    fn remove_dir_stat(&mut self, dir: Ino) -> Result<()>;
    /// A quota and its usage.
    fn quota(&mut self, key: QuotaKey) -> Result<Option<Quota>>;
    /// Is there such a record? Relied on: just that.
    fn has_quota(&mut self, key: QuotaKey) -> Result<bool> {
        Ok(self.quota(key)?.is_some())
    }
    /// Is there no such record, or room in it for this much more? Relied on: that there is, not how much.
    fn quota_room(&mut self, key: QuotaKey, space: i64, inodes: i64) -> Result<bool> {
        Ok(self.quota(key)?.is_none_or(|q| !q.exceeded_by(space, inodes)))
    }
    /// Sets limits and usage.
    fn put_quota(&mut self, key: QuotaKey, quota: &Quota) -> Result<()>;
    /// Adds to the usage of an existing record; returns whether it exists.
    fn add_quota_used(&mut self, key: QuotaKey, space: i64, inodes: i64) -> Result<bool>;
    /// Removes a record.
    fn remove_quota(&mut self, key: QuotaKey) -> Result<()>;
    /// All records of one kind.
    fn quotas(&mut self, kind: crate::record::QuotaKind) -> Result<Vec<(QuotaKey, Quota)>>;
    /// Is there any directory quota? Cheap: asked by every change of size.
    fn any_dir_quota(&mut self) -> Result<bool>;

    // --- ACL rules
    /// The rule with this id.
    fn acl(&mut self, id: u32) -> Result<Option<AclRule>>;
    /// The id of an equal rule, stored now if there is none.
    fn intern_acl(&mut self, rule: &AclRule) -> Result<u32>;

    // --- sessions, sustained inodes, locks
    /// A session.
    fn session(&mut self, sid: SessionId) -> Result<Option<SessionRecord>>;
    /// Stores or refreshes one (`info` only if it is new).
    fn put_session(&mut self, session: &SessionRecord) -> Result<()>;
    /// Removes one.
    fn remove_session(&mut self, sid: SessionId) -> Result<()>;
    /// All sessions.
    fn sessions(&mut self) -> Result<Vec<SessionRecord>>;
    /// Marks an unlinked inode as still open in a session.
    fn insert_sustained(&mut self, sid: SessionId, ino: Ino) -> Result<()>;
    /// Takes the mark off; returns whether it was there.
    fn remove_sustained(&mut self, sid: SessionId, ino: Ino) -> Result<bool>;
    /// Inodes a session keeps alive.
    fn sustained(&mut self, sid: SessionId) -> Result<Vec<Ino>>;
    /// BSD locks of an inode.
    fn flocks(&mut self, ino: Ino) -> Result<Vec<(LockOwner, FlockKind)>>;
    /// Sets or (with `None`) drops one owner's BSD lock.
    fn set_flock(&mut self, ino: Ino, owner: LockOwner, kind: Option<FlockKind>) -> Result<()>;
    /// POSIX locks of an inode.
    fn plocks(&mut self, ino: Ino) -> Result<Vec<(LockOwner, Vec<PlockRange>)>>;
    /// Replaces one owner's POSIX locks; an empty list drops the record.
    fn set_plocks(&mut self, ino: Ino, owner: LockOwner, ranges: &[PlockRange]) -> Result<()>;
    /// Drops every lock of a session.
    fn remove_locks(&mut self, sid: SessionId) -> Result<()>;

    // --- the rest
    /// Detached clone trees: inode and Unix second of creation.
    fn detached(&mut self) -> Result<Vec<(Ino, i64)>>;
    /// Forgets one.
    fn remove_detached(&mut self, ino: Ino) -> Result<()>;
    /// The volume setting as stored, if the volume is formatted.
    fn setting(&mut self) -> Result<Option<String>>;
    /// Stores the setting.
    fn put_setting(&mut self, json: &str) -> Result<()>;
    /// Appends a change-log entry.
    fn log_change(&mut self, entry: &str) -> Result<()>;
    /// Trims the change log: drops entries older than `before_secs` and all but the last `keep_lines` (0: all).
    fn trim_change_log(&mut self, before_secs: i64, keep_lines: u64) -> Result<()>;
}

/// What an operation knows besides its own fields. One per run.
#[derive(Debug)]
pub struct Context {
    /// The time the operation takes as now.
    pub now: Timestamp,
    /// What the volume's setting asks for.
    pub policy: Arc<Policy>,
    /// Our session; `None` for administrative commands and read-only mounts.
    pub sid: Option<SessionId>,
    /// Number of this change in the client's change log.
    pub sequence: u64,
    pub(crate) opens: Arc<OpenTable>,
    /// Held through every run until the outcome is known.
    pub(crate) claims: Mutex<Vec<Claim>>,
}

impl Context {
    /// Is the inode open in this client (and must be kept)? If not, opening it waits until this
    /// operation's outcome is known.
    pub(crate) fn claim_for_removal(&self, ino: Ino) -> bool {
        let mut claims = self.claims.lock();
        // Another run of the same operation finds what the first one found: no file is opened
        // meanwhile, and one that is closed meanwhile is let go of afterwards.
        if let Some(claim) = claims.iter().find(|claim| claim.ino() == ino) {
            return claim.open && self.sid.is_some();
        }
        let claim = self.opens.claim(ino);
        let open = claim.open;
        claims.push(claim);
        open && self.sid.is_some()
    }

    /// The context of a run outside any client: tests of operations and engines.
    pub fn detached(now: Timestamp, policy: Policy) -> Context {
        Context {
            now,
            policy: Arc::new(policy),
            sid: None,
            sequence: 0,
            opens: Arc::default(),
            claims: Mutex::default(),
        }
    }
}

/// An operation on metadata. See the module's rules.
pub trait Op: Send + Sync + 'static {
    /// What it answers.
    type Out: Send + 'static;
    /// Runs it. Called again after a conflict; nothing of an earlier run remains.
    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Self::Out>;
}

/// How much must be true before a commit is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Survives our own death, not necessarily a power cut.
    Process,
    /// Survives a power cut, with everything committed before it: fsync and its kin wait for it.
    Power,
}

/// An erased operation, as an engine sees it. The engine may call it several times.
pub type Work = Box<dyn FnMut(&mut dyn Txn) -> Result<()> + Send>;

/// A place where the volume's records live.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// Scheme and place, for people; never a secret.
    fn describe(&self) -> String;

    /// Runs `work` atomically and commits what it changed. If it fails nothing is changed.
    ///
    /// Works of concurrent callers may share one commit, but each fails or succeeds by itself.
    async fn write(&self, work: Work, durability: Durability) -> Result<()>;

    /// Runs `work`, which changes nothing, over one consistent view.
    async fn read(&self, work: Work) -> Result<()>;

    /// Attributes as this client's own last commit left them, at most `age` ago and unless somebody
    /// else's change was seen since: for the question about a directory that the kernel asks after
    /// each change in it. Nothing on engines that cost no round trip.
    fn own_attr(&self, _ino: Ino, _age: std::time::Duration) -> Option<Attr> {
        None
    }

    /// Changes whenever the engine may have gone back to an older state (R9).
    fn generation(&self) -> u64 {
        0
    }

    /// Makes the empty tables of a new volume. Leaves existing ones alone.
    async fn create_tables(&self) -> Result<()>;

    /// Closes files and connections; later calls fail.
    async fn close(&self);
}

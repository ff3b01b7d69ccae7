//! What travels between a speculative transaction and a server: which records it reads, what it
//! saw of them, and what it wants changed. No SQL, no Lua, no POSIX.

use cairn_types::{AclRule, Attr, ChunkIndex, Ino, SessionId, SliceId, SliceRecord, SliceRef};

use crate::Result;
use crate::record::{
    DelayedSlices, DeletedFile, DirStat, Entry, FlockKind, LockOwner, NamedEntry, PlockRange, Quota, QuotaKey,
    QuotaKind, SessionRecord,
};
use crate::txn::{AttrChange, Counter, Durability, Rely};

/// A record, or a page of records, or a question about one, that an operation reads. Named like
/// the methods of [`crate::txn::Txn`]. The questions exist so that an operation relies on as little
/// as its outcome depends on: two that add to one record do not fight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "named like the methods of Txn that read them")]
pub enum Key {
    Attr(Ino),
    Entry(Ino, Vec<u8>),
    DirIsEmpty(Ino),
    Entries {
        dir: Ino,
        after: Vec<u8>,
        limit: usize,
        plus: bool,
    },
    Parents(Ino),
    Symlink(Ino),
    Xattr(Ino, Vec<u8>),
    XattrNames(Ino),
    Slices(Ino, ChunkIndex),
    Chunks {
        ino: Ino,
        from: ChunkIndex,
        limit: usize,
    },
    /// The same, from the start, of a removed file that had this length.
    DeletedChunks {
        ino: Ino,
        length: u64,
        limit: usize,
    },
    SliceRefs(SliceRef),
    UnownedSlices {
        after: SliceId,
        limit: usize,
    },
    SliceRecords {
        after: SliceId,
        limit: usize,
    },
    ScanChunks {
        after: (Ino, ChunkIndex),
        limit: usize,
    },
    ScanAttrs {
        after: Ino,
        limit: usize,
    },
    DeletedFiles {
        until: i64,
        limit: usize,
    },
    Delayed {
        until: i64,
        limit: usize,
    },
    Counter(Counter),
    DirStat(Ino),
    Quota(QuotaKey),
    Quotas(QuotaKind),
    AnyDirQuota,
    Acl(u32),
    /// The id of an equal rule.
    AclId(AclRule),
    Session(SessionId),
    Sessions,
    Sustained(SessionId),
    Flocks(Ino),
    Plocks(Ino),
    Detached,
    Setting,

    /// Is there an extended attribute of this name?
    HasXattr(Ino, Vec<u8>),
    /// How many records has the chunk's list? 0 if there is none.
    SliceCount(Ino, ChunkIndex),
    /// Has the directory statistics?
    HasDirStat(Ino),
    /// Is there such a quota record?
    HasQuota(QuotaKey),
    /// Is the counter, with this much more, still at or below the limit?
    CounterRoom {
        counter: Counter,
        add: i64,
        limit: i64,
    },
    /// Is there no such quota record, or room in it for this much more ([`Quota::exceeded_by`])?
    QuotaRoom {
        key: QuotaKey,
        space: i64,
        inodes: i64,
    },
    /// Does the session keep this inode alive?
    HasSustained(SessionId, Ino),
    /// Is there a record of delayed slices with this id and second?
    HasDelayed(SliceId, i64),
}

impl Key {
    /// Is it a page of a longer list? Pages are read, never guarded: what an operation does with
    /// one it relies on record by record.
    pub fn is_page(&self) -> bool {
        matches!(
            self,
            Key::Entries { .. }
                | Key::XattrNames(_)
                | Key::Chunks { .. }
                | Key::DeletedChunks { .. }
                | Key::UnownedSlices { .. }
                | Key::SliceRecords { .. }
                | Key::ScanChunks { .. }
                | Key::ScanAttrs { .. }
                | Key::DeletedFiles { .. }
                | Key::Delayed { .. }
                | Key::Quotas(_)
                | Key::Sessions
                | Key::Sustained(_)
                | Key::Detached
        )
    }
}

/// What stands under a [`Key`]. The variant follows from the key.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `Attr`.
    Attr(Option<Attr>),
    /// `Entry`.
    Entry(Option<Entry>),
    /// `DirIsEmpty`, `AnyDirQuota`, and every question above that asks for yes or no.
    Flag(bool),
    /// `Entries`.
    Entries(Vec<NamedEntry>),
    /// `Parents`.
    Parents(Vec<(Ino, u32)>),
    /// `Symlink`, `Xattr`.
    Bytes(Option<Vec<u8>>),
    /// `XattrNames`, sorted.
    Names(Vec<Vec<u8>>),
    /// `Slices`: the list as stored, 24 bytes a record, oldest first.
    SliceList(Vec<u8>),
    /// `Chunks`, `DeletedChunks`.
    Chunks(Vec<ChunkIndex>),
    /// `SliceRefs`, `SliceCount`, `Counter` (in the convention of [`Counter`]).
    Number(i64),
    /// `UnownedSlices`.
    SliceRefs(Vec<SliceRef>),
    /// `SliceRecords`.
    CountedSlices(Vec<(SliceRef, i64)>),
    /// `ScanChunks`.
    RawChunks(Vec<(Ino, ChunkIndex, Vec<u8>)>),
    /// `ScanAttrs`.
    Attrs(Vec<(Ino, Attr)>),
    /// `DeletedFiles`.
    DeletedFiles(Vec<DeletedFile>),
    /// `Delayed`.
    Delayed(Vec<DelayedSlices>),
    /// `DirStat`.
    DirStat(Option<DirStat>),
    /// `Quota`.
    Quota(Option<Quota>),
    /// `Quotas`.
    Quotas(Vec<(QuotaKey, Quota)>),
    /// `Acl`.
    Acl(Option<AclRule>),
    /// `AclId`.
    AclId(Option<u32>),
    /// `Session`.
    Session(Option<SessionRecord>),
    /// `Sessions`.
    Sessions(Vec<SessionRecord>),
    /// `Sustained`.
    Inodes(Vec<Ino>),
    /// `Flocks`.
    Flocks(Vec<(LockOwner, FlockKind)>),
    /// `Plocks`.
    Plocks(Vec<(LockOwner, Vec<PlockRange>)>),
    /// `Detached`.
    Detached(Vec<(Ino, i64)>),
    /// `Setting`.
    Setting(Option<String>),
}

/// Something an operation's outcome depends on: it must still hold when the commit is applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Guard {
    /// The record.
    pub key: Key,
    /// Which of an attribute's fields; [`Rely::ALL`] for every other record.
    pub rely: Rely,
    /// What the operation saw.
    pub seen: Value,
}

impl Guard {
    /// Does it hold if this is what stands there now?
    pub fn holds(&self, now: &Value) -> bool {
        match (&self.seen, now) {
            (Value::Attr(Some(seen)), Value::Attr(Some(now))) => self.rely.same(seen, now),
            (seen, now) => seen == now,
        }
    }
}

/// A change, applied on the server. One per changing verb of [`crate::txn::Txn`], in the order the
/// operation made them.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "named like the methods of Txn")]
pub enum Verb {
    InsertAttr(Ino, Attr),
    ChangeAttr(Ino, AttrChange),
    RemoveAttr(Ino),
    InsertEntry(Ino, Vec<u8>, Entry),
    ReplaceEntry(Ino, Vec<u8>, Entry),
    RemoveEntry(Ino, Vec<u8>),
    AddParent(Ino, Ino, i32),
    RemoveParents(Ino),
    InsertSymlink(Ino, Vec<u8>),
    RemoveSymlink(Ino),
    PutXattr(Ino, Vec<u8>, Vec<u8>),
    RemoveXattr(Ino, Vec<u8>),
    RemoveXattrs(Ino),
    /// Answers the number of records after it.
    AppendSlices(Ino, ChunkIndex, Vec<SliceRecord>),
    ReplaceSlices(Ino, ChunkIndex, Vec<SliceRecord>),
    RemoveChunk(Ino, ChunkIndex),
    InsertSlice(SliceRef, u32),
    /// Answers the true number of references after it.
    AddSliceRefs(SliceRef, i64),
    RemoveSlice(SliceRef),
    InsertDeletedFile(DeletedFile),
    RemoveDeletedFile(Ino, u64),
    InsertDelayed(DelayedSlices),
    RemoveDelayed(SliceId, i64),
    /// Answers the value after it.
    AddCounter(Counter, i64),
    SetCounter(Counter, i64),
    PutDirStat(Ino, DirStat),
    /// Guarded by [`Key::HasDirStat`]: the record exists.
    AddDirStat(Ino, DirStat),
    RemoveDirStat(Ino),
    PutQuota(QuotaKey, Quota),
    /// Guarded by [`Key::HasQuota`]: the record exists.
    AddQuotaUsed(QuotaKey, i64, i64),
    RemoveQuota(QuotaKey),
    /// Stores the rule unless an equal one is there; answers its id. Always alone in its commit.
    InternAcl(AclRule),
    PutSession(SessionRecord),
    RemoveSession(SessionId),
    InsertSustained(SessionId, Ino),
    /// Guarded by [`Key::HasSustained`].
    RemoveSustained(SessionId, Ino),
    SetFlock(Ino, LockOwner, Option<FlockKind>),
    SetPlocks(Ino, LockOwner, Vec<PlockRange>),
    RemoveLocks(SessionId),
    RemoveDetached(Ino),
    PutSetting(String),
    LogChange(String),
    TrimChangeLog {
        before_secs: i64,
        keep_lines: u64,
    },
}

/// One transaction, ready to be applied.
#[derive(Clone, Debug)]
pub struct Commit {
    /// All must hold, or nothing is applied.
    pub guards: Vec<Guard>,
    /// Applied in order, all or none.
    pub verbs: Vec<Verb>,
    /// Records whose values after the commit should come back with its answer.
    pub learn: Vec<Key>,
    /// What must be true before it is acknowledged.
    pub durability: Durability,
    /// Who asks and the how-manieth of his commits this is: a commit sent again after a broken
    /// connection must not be applied twice (R14).
    pub stamp: Stamp,
}

/// Identifies a commit among those of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Stamp {
    /// A lane: commits of one lane are sent one after the other. Unique among all clients.
    pub lane: u64,
    /// Grows by one with each commit of the lane.
    pub sequence: u64,
}

/// What became of a commit.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It happened.
    Applied {
        /// One number per verb, in order: what the verb answers, or 0.
        answers: Vec<i64>,
        /// Values of `learn` after the commit, and whatever else came to be known.
        learned: Vec<(Key, Value)>,
    },
    /// A guard did not hold. Nothing was changed. Carries the current values of at least one
    /// guarded record that moved; best of all guarded ones, of one moment: then an error that
    /// follows from them is believed without asking again.
    Moved(Vec<(Key, Value)>),
}

/// A server that keeps the volume's records: what an engine over the network has to supply.
///
/// Implementations connect, reconnect and settle unknown outcomes by themselves, waiting as long
/// as the server is away; they return an error only for what waiting does not cure.
#[async_trait::async_trait]
pub trait Server: Send + Sync + 'static {
    /// Scheme and place, for people; never a secret.
    fn describe(&self) -> String;

    /// Reads records in one round trip and over one consistent view. The answer holds every key
    /// asked for and may hold more: an entry brings the attributes of its inode along.
    async fn fetch(&self, keys: &[Key]) -> Result<Vec<(Key, Value)>>;

    /// Changes whenever the connection was made anew, so that the server may have gone back to an
    /// older state: ids held by this client are then compared with its counters (R9).
    fn generation(&self) -> u64 {
        0
    }

    /// Applies a transaction in one round trip, if all it relies on still holds.
    async fn commit(&self, commit: &Commit) -> Result<Outcome>;

    /// Makes the empty tables of a new volume. Leaves existing ones alone.
    async fn create_tables(&self) -> Result<()>;

    /// Closes connections; later calls fail.
    async fn close(&self);
}

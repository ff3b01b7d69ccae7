//! What every engine must make true: the semantics suite.
//!
//! Each fact is a function over an open [`Meta`] of a fresh volume with trash on; [`suite`] runs
//! them all, each on a volume of its own. `mem` and SQLite run the same ones, so they can't differ.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use cairn_env::Env;
use cairn_types::{
    AclEntry, AclRule, ChunkIndex, FileType, Flags, Format, Ino, SliceId, SliceRecord, SliceRef, Timestamp,
};

use crate::ops::remove::ReleaseSustained;
use crate::ops::session::{EndSession, SetIfSmall};
use crate::record::{FlockKind, Quota, QuotaKey, QuotaKind};
use crate::txn::{Context, Counter, Engine, Op, Txn};
use crate::{
    AclKind, Commit, Config, Cred, Durability, Error, FallocMode, Fate, Meta, NewNode, NewSlice, OpenHow, RenameMode,
    Result, SetAttr, SetTime, Want, XattrMode,
};

/// A volume for one fact.
pub struct Fixture {
    /// Its client.
    pub meta: Arc<Meta>,
    env: Env,
}

/// The setting of the suite's volumes: everything switched on.
pub fn suite_format() -> Format {
    Format {
        name: "suite".into(),
        uuid: "00000000-0000-4000-8000-000000000000".into(),
        bucket: "/nowhere/".into(),
        trash_days: 1,
        meta_version: 1,
        dir_stats: true,
        user_group_quota: true,
        enable_acl: true,
        change_log: true,
        ..Format::default()
    }
}

/// Formats a fresh engine and opens it with a session.
pub async fn open_fresh(env: &Env, engine: Arc<dyn Engine>, format: &Format, config: Config) -> Result<Arc<Meta>> {
    crate::format_volume(env, &*engine, format).await?;
    let meta = Meta::open(env.clone(), engine, config).await?;
    meta.start_session(r#"{"Version":"1.4.1+suite","HostName":"h","MountPoint":"/m","ProcessID":1}"#.into()).await?;
    Ok(meta)
}

type Fact = fn(Fixture) -> Pin<Box<dyn Future<Output = ()> + Send>>;

macro_rules! facts {
    ($($name:ident),* $(,)?) => {
        /// Name and body of every fact.
        const FACTS: &[(&str, Fact)] = &[$((stringify!($name), |f| Box::pin($name(f)))),*];
    };
}

facts! {
    created_names_are_found,
    names_are_limited,
    mkdir_counts_links,
    unlink_moves_to_the_trash_under_the_hour,
    skip_trash_flag_is_inherited_and_deletes,
    open_files_outlive_their_names,
    hard_links_lose_their_parent_field,
    rename_replaces_and_respects_flags,
    rename_exchange_swaps,
    no_directory_moves_below_itself,
    rmdir_wants_empty_directories,
    setattr_follows_the_ownership_rules,
    immutable_and_append_flags_bind,
    commits_show_in_order_and_grow_the_file,
    truncate_hides_old_bytes,
    punch_hole_hides_bytes_and_keeps_length,
    copy_range_shares_slices,
    packs_have_a_reference_for_each_record,
    several_files_commit_together_or_not_at_all,
    a_commit_may_demand_the_list_it_has_seen,
    a_commit_may_replace_the_end_of_a_list,
    deleted_files_drop_references,
    xattrs_obey_their_modes,
    acls_rule_and_are_inherited,
    flocks_exclude,
    posix_locks_split_and_merge,
    quotas_stop_growth,
    volume_limits_stop_growth,
    statistics_follow_every_change,
    missing_statistics_are_counted,
    changing_owners_asks_only_the_new_one_for_room,
    owners_are_recounted,
    the_trash_takes_nothing_by_exchange,
    restored_directories_have_statistics,
    sub_directory_mounts_show_their_own_root,
    sessions_clean_up_after_themselves,
    a_reaped_session_goes_on_as_a_new_one,
    stamps_are_won_once,
    directories_are_paged_by_name,
    a_failed_operation_changes_nothing,
    ids_found_elsewhere_are_passed,
}

/// Runs every fact on a volume of its own, made by `fresh`. Panics with the fact's name.
pub async fn suite<F>(env: &Env, mut fresh: impl FnMut() -> F)
where
    F: Future<Output = Arc<dyn Engine>>,
{
    for (name, fact) in FACTS {
        let engine = fresh().await;
        let config = Config { skip_dir_mtime: std::time::Duration::ZERO, ..Config::mount() };
        let meta = open_fresh(env, engine, &suite_format(), config).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        let fixture = Fixture { meta: meta.clone(), env: env.clone() };
        let outcome = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(fact(fixture))).await;
        assert!(outcome.is_ok(), "the fact {name} does not hold on {}", meta.engine().describe());
        let violations = meta.view(CheckInvariants).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(violations.is_empty(), "{name} leaves a volume that breaks the rules: {violations:#?}");
        meta.close().await;
    }
}

/// The invariants checker as an operation.
#[derive(Debug)]
pub struct CheckInvariants;

impl Op for CheckInvariants {
    type Out = Vec<String>;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Vec<String>> {
        let rules = crate::invariants::Rules::strict(&cx.policy);
        let (violations, _) = crate::invariants::check(tx, &rules)?;
        Ok(violations.iter().map(|v| format!("{v:?}")).collect())
    }
}

impl Fixture {
    async fn file(&self, parent: Ino, name: &str) -> Ino {
        self.meta.mknod(&Cred::root(), parent, name.as_bytes(), NewNode::file(0o644)).await.expect(name).0
    }

    async fn dir(&self, parent: Ino, name: &str) -> Ino {
        self.meta.mknod(&Cred::root(), parent, name.as_bytes(), NewNode::dir(0o755)).await.expect(name).0
    }

    /// Appends a slice of `size` bytes at `pos` of chunk 0.
    async fn write(&self, ino: Ino, pos: u32, size: u32) -> SliceRef {
        let slice = SliceRef { id: self.meta.next_slice_id().await.expect("id"), size };
        let new = NewSlice { index: ChunkIndex(0), record: SliceRecord::whole(pos, slice), mtime: self.meta.now() };
        self.meta.commit(ino, vec![new], None, Durability::Process).await.expect("commit");
        slice
    }

    async fn counter(&self, name: &str) -> i64 {
        self.meta.counters().await.expect("counters").iter().find(|c| c.0 == name).expect("known").1
    }

    async fn refs(&self, slice: SliceRef) -> i64 {
        self.meta.view(Refs(slice)).await.expect("refs")
    }
}

struct Refs(SliceRef);
impl Op for Refs {
    type Out = i64;
    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<i64> {
        tx.slice_refs(self.0)
    }
}

fn root() -> Cred {
    Cred::root()
}

const ROOT: Ino = Ino::ROOT;

macro_rules! assert_err {
    ($result:expr, $pattern:pat) => {{
        let result = $result;
        assert!(matches!(result, Err($pattern)), "expected {}, got {result:?}", stringify!($pattern));
    }};
}

async fn created_names_are_found(f: Fixture) {
    let ino = f.file(ROOT, "a").await;
    let (found, attr) = f.meta.lookup(&root(), ROOT, b"a").await.unwrap();
    assert_eq!((found, attr.kind, attr.nlink, attr.parent), (ino, FileType::File, 1, ROOT));
    assert_err!(f.meta.lookup(&root(), ROOT, b"b").await, Error::NoEntry);
    assert_err!(f.meta.lookup(&root(), ino, b"b").await, Error::NotDirectory);
    assert_err!(f.meta.mknod(&root(), ROOT, b"a", NewNode::dir(0o755)).await, Error::Exists);
    assert_err!(f.meta.mknod(&root(), ino, b"x", NewNode::dir(0o755)).await, Error::NotDirectory);
    let (link, attr) = f.meta.mknod(&root(), ROOT, b"l", NewNode::symlink(b"to/where")).await.unwrap();
    assert_eq!((f.meta.readlink(link).await.unwrap(), attr.length), (b"to/where".to_vec(), 8));
    let again = f.meta.create(&root(), ROOT, b"a", NewNode::file(0o600), false).await.unwrap();
    assert_eq!((again.ino, again.is_new, again.attr.mode), (ino, false, 0o644));
    assert_err!(f.meta.create(&root(), ROOT, b"a", NewNode::file(0o600), true).await, Error::Exists);
    assert!(f.meta.opens().is_empty(), "neither an old file nor a failure counts as an open");
    let other = Cred::user(7, 8);
    let made = f.meta.create(&other, ROOT, b"u", NewNode { umask: 0o027, ..NewNode::file(0o666) }, true).await.unwrap();
    assert_eq!((made.attr.uid, made.attr.gid, made.attr.mode), (7, 8, 0o640));
    assert_eq!(f.meta.opens().count(made.ino), 1);
}

async fn names_are_limited(f: Fixture) {
    let long = vec![b'n'; 255];
    f.meta.mknod(&root(), ROOT, &long, NewNode::file(0o644)).await.unwrap();
    assert_err!(f.meta.mknod(&root(), ROOT, &[b'n'; 256], NewNode::file(0o644)).await, Error::NameTooLong);
    for bad in [&b""[..], b"a/b", b"a\0"] {
        assert_err!(f.meta.mknod(&root(), ROOT, bad, NewNode::file(0o644)).await, Error::Invalid(_));
    }
    for dots in [&b"."[..], b".."] {
        assert_err!(f.meta.mknod(&root(), ROOT, dots, NewNode::file(0o644)).await, Error::Exists);
    }
    f.meta.mknod(&root(), ROOT, b"s", NewNode::symlink(&[b't'; 4095])).await.unwrap();
    assert_err!(f.meta.mknod(&root(), ROOT, b"s2", NewNode::symlink(&[b't'; 4096])).await, Error::NameTooLong);
    f.meta.mknod(&root(), ROOT, b"\xff\xfe not utf-8", NewNode::file(0o644)).await.unwrap();
    f.meta.lookup(&root(), ROOT, b"\xff\xfe not utf-8").await.unwrap();
}

async fn mkdir_counts_links(f: Fixture) {
    let d = f.dir(ROOT, "d").await;
    f.dir(d, "x").await;
    f.file(d, "y").await;
    assert_eq!(f.meta.getattr(d).await.unwrap().nlink, 3);
    f.meta.rmdir(&root(), d, b"x", false).await.unwrap();
    assert_eq!(f.meta.getattr(d).await.unwrap().nlink, 2);
    let setgid = SetAttr { mode: Some(0o2775), gid: Some(50), ..Default::default() };
    f.meta.setattr(&root(), d, SetAttr { mode: None, ..setgid }).await.unwrap();
    f.meta.setattr(&root(), d, SetAttr { gid: None, ..setgid }).await.unwrap();
    let sub = f.meta.mknod(&Cred::user(9, 9), d, b"sub", NewNode::dir(0o755)).await.unwrap().1;
    assert_eq!((sub.gid, sub.mode), (50, 0o2755));
    let file = f.meta.mknod(&Cred::user(9, 9), d, b"f", NewNode::file(0o2755)).await.unwrap().1;
    assert_eq!((file.gid, file.mode), (50, 0o755));
}

async fn unlink_moves_to_the_trash_under_the_hour(f: Fixture) {
    let d = f.dir(ROOT, "d").await;
    let ino = f.file(d, "a").await;
    let used = f.counter("usedSpace").await;
    let removed = f.meta.unlink(&root(), d, b"a", false).await.unwrap();
    let Fate::Trashed(hour) = removed.fate else { panic!("{removed:?}") };
    assert_eq!(f.counter("usedSpace").await, used + 4096, "the hour directory counts, the file goes on counting");
    let name = format!("{d}-{ino}-a");
    let (found, attr) = f.meta.lookup(&root(), hour, name.as_bytes()).await.unwrap();
    assert_eq!((found, attr.nlink, attr.parent), (ino, 1, hour));
    assert_err!(f.meta.unlink(&Cred::user(5, 5), hour, name.as_bytes(), false).await, Error::NotPermitted);
    assert_err!(f.meta.mknod(&root(), hour, b"x", NewNode::file(0o644)).await, Error::NotPermitted);
    assert_err!(f.meta.rename(&root(), (ROOT, b"d"), (hour, b"d"), RenameMode::Replace).await, Error::NotPermitted);
    // Restore, then remove for good from within the trash.
    f.meta.rename(&root(), (hour, name.as_bytes()), (d, b"back"), RenameMode::NoReplace).await.unwrap();
    assert_eq!(f.meta.getattr(ino).await.unwrap().parent, d);
    f.meta.unlink(&root(), d, b"back", false).await.unwrap();
    let removed = f.meta.unlink(&root(), hour, format!("{d}-{ino}-back").as_bytes(), false).await.unwrap();
    assert!(matches!(removed.fate, Fate::Deleted(_)), "{removed:?}");
    assert_err!(f.meta.getattr(ino).await, Error::NoEntry);
}

async fn skip_trash_flag_is_inherited_and_deletes(f: Fixture) {
    let d = f.dir(ROOT, "d").await;
    let set = SetAttr { flags: Some(Flags::SKIP_TRASH), ..Default::default() };
    f.meta.setattr(&root(), d, set).await.unwrap();
    f.file(d, "a").await;
    assert!(matches!(f.meta.unlink(&root(), d, b"a", false).await.unwrap().fate, Fate::Deleted(_)));
    f.file(ROOT, "b").await;
    assert!(matches!(f.meta.unlink(&root(), ROOT, b"b", true).await.unwrap().fate, Fate::Deleted(_)));
}

async fn open_files_outlive_their_names(f: Fixture) {
    let ino = f.file(ROOT, "a").await;
    let slice = f.write(ino, 0, 5000).await;
    let how = OpenHow { read: true, write: true, ..Default::default() };
    f.meta.open_file(&root(), ino, how).await.unwrap();
    let removed = f.meta.unlink(&root(), ROOT, b"a", true).await.unwrap();
    assert_eq!((removed.fate, removed.attr.nlink), (Fate::Sustained, 0));
    assert_eq!(f.meta.getattr(ino).await.unwrap().nlink, 0);
    f.write(ino, 5000, 5000).await;
    f.meta.open_file(&root(), ino, how).await.unwrap();
    f.meta.close_file(ino).await.unwrap();
    assert_eq!(f.meta.getattr(ino).await.unwrap().length, 10_000);
    f.meta.close_file(ino).await.unwrap();
    assert_err!(f.meta.getattr(ino).await, Error::NoEntry);
    assert_eq!(f.refs(slice).await, 1, "the data goes later");
}

async fn hard_links_lose_their_parent_field(f: Fixture) {
    let (d, e) = (f.dir(ROOT, "d").await, f.dir(ROOT, "e").await);
    let ino = f.file(d, "a").await;
    let attr = f.meta.link(&root(), ino, e, b"b").await.unwrap();
    assert_eq!((attr.nlink, attr.parent), (2, Ino(0)));
    let mut parents = f.meta.parents(ino).await.unwrap();
    parents.sort();
    assert_eq!(parents, [(d, 1), (e, 1)]);
    f.write(ino, 0, 9000).await;
    assert_err!(f.meta.link(&root(), d, e, b"dd").await, Error::NotPermitted);
    assert_err!(f.meta.link(&root(), ino, e, b"b").await, Error::Exists);
    // Two names of one inode: rename does nothing.
    f.meta.rename(&root(), (d, b"a"), (e, b"b"), RenameMode::Replace).await.unwrap();
    f.meta.lookup(&root(), d, b"a").await.unwrap();
    f.meta.rename(&root(), (d, b"a"), (ROOT, b"a"), RenameMode::Replace).await.unwrap();
    f.meta.unlink(&root(), e, b"b", true).await.unwrap();
    let attr = f.meta.getattr(ino).await.unwrap();
    assert_eq!((attr.nlink, attr.parent), (1, Ino(0)), "never a number again");
    f.meta.unlink(&root(), ROOT, b"a", true).await.unwrap();
    assert_err!(f.meta.getattr(ino).await, Error::NoEntry);
}

async fn rename_replaces_and_respects_flags(f: Fixture) {
    let (a, b) = (f.file(ROOT, "a").await, f.file(ROOT, "b").await);
    assert_err!(f.meta.rename(&root(), (ROOT, b"a"), (ROOT, b"b"), RenameMode::NoReplace).await, Error::Exists);
    let done = f.meta.rename(&root(), (ROOT, b"a"), (ROOT, b"b"), RenameMode::Replace).await.unwrap();
    assert_eq!((done.ino, done.replaced.unwrap().ino), (a, b));
    assert_err!(f.meta.lookup(&root(), ROOT, b"a").await, Error::NoEntry);
    let d = f.dir(ROOT, "d").await;
    assert_err!(f.meta.rename(&root(), (ROOT, b"b"), (ROOT, b"d"), RenameMode::Replace).await, Error::IsDirectory);
    assert_err!(f.meta.rename(&root(), (ROOT, b"d"), (ROOT, b"b"), RenameMode::Replace).await, Error::NotDirectory);
    let e = f.dir(ROOT, "e").await;
    f.file(e, "x").await;
    assert_err!(f.meta.rename(&root(), (ROOT, b"d"), (ROOT, b"e"), RenameMode::Replace).await, Error::NotEmpty);
    f.meta.rename(&root(), (ROOT, b"e"), (ROOT, b"d"), RenameMode::Replace).await.unwrap();
    assert!(f.meta.getattr(d).await.unwrap().parent.is_trash(), "the replaced directory waits in the trash");
}

async fn rename_exchange_swaps(f: Fixture) {
    let (d, e) = (f.dir(ROOT, "d").await, f.dir(ROOT, "e").await);
    let (file, sub) = (f.file(d, "x").await, f.dir(e, "y").await);
    assert_err!(f.meta.rename(&root(), (d, b"x"), (e, b"z"), RenameMode::Exchange).await, Error::NoEntry);
    f.meta.rename(&root(), (d, b"x"), (e, b"y"), RenameMode::Exchange).await.unwrap();
    assert_eq!(f.meta.lookup(&root(), d, b"x").await.unwrap().0, sub);
    assert_eq!(f.meta.lookup(&root(), e, b"y").await.unwrap().0, file);
    assert_eq!(f.meta.getattr(d).await.unwrap().nlink, 3);
    assert_eq!(f.meta.getattr(e).await.unwrap().nlink, 2);
}

async fn no_directory_moves_below_itself(f: Fixture) {
    let a = f.dir(ROOT, "a").await;
    let b = f.dir(a, "b").await;
    let c = f.dir(b, "c").await;
    f.dir(c, "d").await;
    for (parent, name) in [(a, &b"x"[..]), (c, b"x"), (b, b"x")] {
        assert_err!(f.meta.rename(&root(), (ROOT, b"a"), (parent, name), RenameMode::Replace).await, Error::Invalid(_));
    }
    assert_err!(f.meta.rename(&root(), (ROOT, b"a"), (c, b"d"), RenameMode::Exchange).await, Error::Invalid(_));
    assert_err!(f.meta.rename(&root(), (c, b"d"), (ROOT, b"a"), RenameMode::Exchange).await, Error::Invalid(_));
}

async fn rmdir_wants_empty_directories(f: Fixture) {
    let d = f.dir(ROOT, "d").await;
    f.file(d, "x").await;
    assert_err!(f.meta.rmdir(&root(), ROOT, b"d", false).await, Error::NotEmpty);
    assert_err!(f.meta.rmdir(&root(), d, b"x", false).await, Error::NotDirectory);
    assert_err!(f.meta.unlink(&root(), ROOT, b"d", false).await, Error::IsDirectory);
    f.meta.unlink(&root(), d, b"x", false).await.unwrap();
    f.meta.rmdir(&root(), ROOT, b"d", true).await.unwrap();
    assert_err!(f.meta.getattr(d).await, Error::NoEntry);
    assert_err!(f.meta.mknod(&root(), d, b"late", NewNode::file(0o644)).await, Error::NoEntry);
}

async fn setattr_follows_the_ownership_rules(f: Fixture) {
    let ino = f.file(ROOT, "a").await;
    let mode = |m| SetAttr { mode: Some(m), ..Default::default() };
    let owner = Cred::user(7, 8);
    assert_err!(f.meta.setattr(&owner, ino, mode(0o600)).await, Error::NotPermitted);
    f.meta.setattr(&root(), ino, SetAttr { uid: Some(7), gid: Some(8), ..Default::default() }).await.unwrap();
    assert_eq!(f.meta.setattr(&owner, ino, mode(0o6755)).await.unwrap().mode, 0o6755);
    assert_err!(f.meta.setattr(&owner, ino, SetAttr { uid: Some(9), ..Default::default() }).await, Error::NotPermitted);
    let chowned = f.meta.setattr(&root(), ino, SetAttr { gid: Some(9), ..Default::default() }).await.unwrap();
    assert_eq!(chowned.mode, 0o755, "chown takes setuid and setgid");
    let outside = f.meta.setattr(&owner, ino, mode(0o2755)).await.unwrap();
    assert_eq!(outside.mode, 0o755, "no setgid outside the group");
    let dropping = SetAttr { drop_privilege: true, ..mode(0o4755) };
    assert_eq!(f.meta.setattr(&owner, ino, dropping).await.unwrap().mode, 0o755);
    let t = Timestamp { secs: -5, nanos: 0 };
    let set = SetAttr { mtime: Some(SetTime::At(t)), ..Default::default() };
    assert_eq!(f.meta.setattr(&owner, ino, set).await.unwrap().mtime, t);
    assert_eq!(f.meta.getattr(ino).await.unwrap().mtime, t);
    assert_err!(f.meta.setattr(&Cred::user(1, 1), ino, set).await, Error::NotPermitted);
    let before = f.meta.getattr(ino).await.unwrap();
    assert_eq!(f.meta.setattr(&owner, ino, SetAttr::default()).await.unwrap().ctime, before.ctime);
    assert_err!(f.meta.access(&Cred { check: true, ..Cred::user(1, 1) }, ino, Want::WRITE).await, Error::Access);
}

async fn immutable_and_append_flags_bind(f: Fixture) {
    let d = f.dir(ROOT, "d").await;
    let ino = f.file(d, "a").await;
    let flags = |flags| SetAttr { flags: Some(flags), ..Default::default() };
    assert_err!(f.meta.setattr(&Cred::user(0x77, 1), ino, flags(Flags::IMMUTABLE)).await, Error::NotPermitted);
    f.meta.setattr(&root(), ino, flags(Flags::IMMUTABLE)).await.unwrap();
    let write = OpenHow { write: true, ..Default::default() };
    assert_err!(f.meta.open_file(&root(), ino, write).await, Error::NotPermitted);
    assert_err!(f.meta.truncate(&root(), ino, 5, false).await, Error::NotPermitted);
    assert_err!(f.meta.unlink(&root(), d, b"a", false).await, Error::NotPermitted);
    assert_err!(f.meta.link(&root(), ino, d, b"b").await, Error::NotPermitted);
    assert_err!(f.meta.rename(&root(), (d, b"a"), (d, b"b"), RenameMode::Replace).await, Error::NotPermitted);
    assert_err!(
        f.meta.setattr(&root(), ino, SetAttr { mode: Some(0), ..Default::default() }).await,
        Error::NotPermitted
    );
    f.meta.setattr(&root(), ino, flags(Flags::APPEND)).await.unwrap();
    assert_err!(f.meta.open_file(&root(), ino, write).await, Error::NotPermitted);
    f.meta.open_file(&root(), ino, OpenHow { append: true, ..write }).await.unwrap();
    assert_err!(f.meta.truncate(&root(), ino, 5, false).await, Error::NotPermitted);
    f.meta.setattr(&root(), d, flags(Flags::APPEND)).await.unwrap();
    f.file(d, "new").await;
    assert_err!(f.meta.unlink(&root(), d, b"new", false).await, Error::NotPermitted);
    f.meta.setattr(&root(), d, flags(Flags::IMMUTABLE)).await.unwrap();
    assert_err!(f.meta.mknod(&root(), d, b"newer", NewNode::file(0o644)).await, Error::NotPermitted);
    f.meta.setattr(&root(), d, flags(Flags::default())).await.unwrap();
    f.meta.setattr(&root(), ino, flags(Flags::default())).await.unwrap();
    f.meta.unlink(&root(), d, b"a", false).await.unwrap();
}

async fn commits_show_in_order_and_grow_the_file(f: Fixture) {
    let ino = f.file(ROOT, "a").await;
    let (one, two) = (f.write(ino, 0, 100).await, f.write(ino, 50, 100).await);
    let attr = f.meta.getattr(ino).await.unwrap();
    assert_eq!(attr.length, 150);
    let view = f.meta.slices(ino, ChunkIndex(0)).await.unwrap();
    assert_eq!(view.iter().map(|s| (s.id, s.pos, s.len)).collect::<Vec<_>>(), [(one.id, 0, 50), (two.id, 50, 100)]);
    assert_eq!((f.refs(one).await, f.refs(two).await), (1, 1));
    let mtime = attr.mtime;
    f.write(ino, 0, 1).await;
    assert!(f.meta.getattr(ino).await.unwrap().mtime > mtime, "each change of content moves mtime");
    f.meta.unlink(&root(), ROOT, b"a", true).await.unwrap();
    let late = NewSlice { index: ChunkIndex(0), record: SliceRecord::whole(0, one), mtime };
    assert_err!(f.meta.commit(ino, vec![late], None, Durability::Process).await, Error::NoEntry);
}

async fn truncate_hides_old_bytes(f: Fixture) {
    let ino = f.file(ROOT, "a").await;
    let slice = f.write(ino, 0, 1000).await;
    f.meta.truncate(&root(), ino, 400, true).await.unwrap();
    let attr = f.meta.truncate(&root(), ino, 200 << 20, true).await.unwrap();
    assert_eq!(attr.length, 200 << 20);
    let view = f.meta.slices(ino, ChunkIndex(0)).await.unwrap();
    assert_eq!((view[0].id, view[0].len), (slice.id, 400));
    assert!(view[1..].iter().all(SliceRecord::is_hole));
    assert_err!(f.meta.truncate(&root(), ino, (1 << 57) + 1, true).await, Error::TooLarge);
    assert_err!(f.meta.truncate(&root(), ROOT, 0, true).await, Error::IsDirectory);
}

async fn punch_hole_hides_bytes_and_keeps_length(f: Fixture) {
    let ino = f.file(ROOT, "a").await;
    f.write(ino, 0, 10_000).await;
    let punch = FallocMode::from_bits(3).unwrap();
    let attr = f.meta.fallocate(&root(), ino, punch, 4000, 100_000).await.unwrap();
    assert_eq!(attr.length, 10_000);
    let view = f.meta.slices(ino, ChunkIndex(0)).await.unwrap();
    assert_eq!((view[0].len, view[1].is_hole(), view[1].len), (4000, true, 6000));
    let plain = FallocMode::from_bits(0).unwrap();
    assert_eq!(f.meta.fallocate(&root(), ino, plain, 0, 50_000).await.unwrap().length, 50_000);
    assert_err!(f.meta.fallocate(&root(), ino, plain, 0, 0).await, Error::Invalid(_));
    assert_err!(FallocMode::from_bits(2), Error::Invalid(_));
    assert_err!(FallocMode::from_bits(8), Error::NotSupported);
    assert_err!(FallocMode::from_bits(9), Error::Invalid(_));
}

async fn copy_range_shares_slices(f: Fixture) {
    let (a, b) = (f.file(ROOT, "a").await, f.file(ROOT, "b").await);
    let slice = f.write(a, 0, 10_000).await;
    let (copied, attr) = f.meta.copy_range(&root(), (a, 1000), (b, (64 << 20) - 100), 50_000).await.unwrap();
    assert_eq!((copied, attr.length), (9000, (64 << 20) + 8900));
    assert_eq!(f.refs(slice).await, 3, "split at the chunk border: two records more");
    let view = f.meta.slices(b, ChunkIndex(1)).await.unwrap();
    assert_eq!((view[0].id, view[0].off, view[0].len), (slice.id, 1100, 8900));
    assert_err!(f.meta.copy_range(&root(), (a, 0), (a, 10), 100).await, Error::Invalid(_));
    assert_eq!(f.meta.copy_range(&root(), (a, 99_999), (b, 0), 10).await.unwrap().0, 0);
}

/// A part of a slice, shown at `pos` of chunk 0.
fn part(slice: SliceRef, pos: u32, off: u32, len: u32, mtime: Timestamp) -> NewSlice {
    let record = SliceRecord { pos, id: slice.id, size: slice.size, off, len };
    NewSlice { index: ChunkIndex(0), record, mtime }
}

async fn packs_have_a_reference_for_each_record(f: Fixture) {
    let (a, b) = (f.file(ROOT, "a").await, f.file(ROOT, "b").await);
    let pack = SliceRef { id: f.meta.next_slice_id().await.unwrap(), size: 1000 };
    let now = f.meta.now();
    let three = [(0, 0), (5000, 100), (2000, 200)].map(|(pos, off)| part(pack, pos, off, 100, now)).to_vec();
    f.meta.commit_as(Commit::new(a, three, None), Durability::Process).await.unwrap();
    assert_eq!(f.refs(pack).await, 3);
    let later = Commit { named: vec![pack.id], ..Commit::new(b, vec![part(pack, 0, 300, 700, now)], None) };
    f.meta.commit_as(later, Durability::Process).await.unwrap();
    assert_eq!(f.refs(pack).await, 4);
    let view = f.meta.slices(a, ChunkIndex(0)).await.unwrap();
    let shown: Vec<(u32, u32)> = view.iter().filter(|s| !s.is_hole()).map(|s| (s.pos, s.off)).collect();
    assert_eq!(shown, [(0, 0), (2000, 200), (5000, 100)]);
}

async fn several_files_commit_together_or_not_at_all(f: Fixture) {
    let (a, b) = (f.file(ROOT, "a").await, f.file(ROOT, "b").await);
    let pack = SliceRef { id: f.meta.next_slice_id().await.unwrap(), size: 200 };
    let now = f.meta.now();
    let both = || {
        vec![
            Commit::new(a, vec![part(pack, 0, 0, 100, now)], None),
            Commit::new(b, vec![part(pack, 50, 100, 100, now)], None),
        ]
    };
    f.meta.unlink(&root(), ROOT, b"b", true).await.unwrap();
    assert_err!(f.meta.commit_many(both(), Durability::Process).await, Error::NoEntry);
    assert_eq!(f.meta.getattr(a).await.unwrap().length, 0);
    assert_eq!(f.meta.raw_slices(a, ChunkIndex(0)).await.unwrap(), []);
    let b = f.file(ROOT, "b").await;
    let both = both().into_iter().zip([a, b]).map(|(commit, ino)| Commit { ino, ..commit }).collect();
    let done = f.meta.commit_many(both, Durability::Power).await.unwrap();
    assert_eq!(done.iter().map(|d| d.attr.length).collect::<Vec<_>>(), [100, 150]);
    assert_eq!(f.refs(pack).await, 2);
}

async fn a_commit_may_demand_the_list_it_has_seen(f: Fixture) {
    let a = f.file(ROOT, "a").await;
    let seen = SliceRecord::whole(0, f.write(a, 0, 100).await);
    let new = SliceRef { id: f.meta.next_slice_id().await.unwrap(), size: 100 };
    let commit = |seen: Vec<SliceRecord>| Commit {
        unchanged: vec![(ChunkIndex(0), seen)],
        ..Commit::new(a, vec![part(new, 0, 0, 100, f.meta.now())], None)
    };
    assert_err!(f.meta.commit_as(commit(vec![]), Durability::Process).await, Error::Changed);
    assert_eq!(f.meta.raw_slices(a, ChunkIndex(0)).await.unwrap(), [seen]);
    f.meta.commit_as(commit(vec![seen]), Durability::Process).await.unwrap();
    assert_eq!(f.meta.raw_slices(a, ChunkIndex(0)).await.unwrap().len(), 2);
}

async fn a_commit_may_replace_the_end_of_a_list(f: Fixture) {
    let a = f.file(ROOT, "a").await;
    let (one, two, three) = (f.write(a, 0, 100).await, f.write(a, 100, 100).await, f.write(a, 200, 100).await);
    let merged = SliceRef { id: f.meta.next_slice_id().await.unwrap(), size: 300 };
    let commit = |tail: Vec<SliceRecord>| Commit {
        replaces: vec![(ChunkIndex(0), tail)],
        ..Commit::new(a, vec![part(merged, 100, 0, 300, f.meta.now())], None)
    };
    let (second, third) = (SliceRecord::whole(100, two), SliceRecord::whole(200, three));
    assert_err!(f.meta.commit_as(commit(vec![second]), Durability::Process).await, Error::Changed);
    assert_eq!((f.meta.raw_slices(a, ChunkIndex(0)).await.unwrap().len(), f.refs(two).await), (3, 1));
    f.meta.commit_as(commit(vec![second, third]), Durability::Process).await.unwrap();
    let list = f.meta.raw_slices(a, ChunkIndex(0)).await.unwrap();
    assert_eq!(list, [SliceRecord::whole(0, one), SliceRecord::whole(100, merged)]);
    assert_eq!(f.meta.getattr(a).await.unwrap().length, 400);
    let kept = i64::from(f.meta.format().trash_days > 0);
    assert_eq!((f.refs(two).await, f.refs(three).await, f.refs(merged).await), (kept, kept, 1));
}

async fn deleted_files_drop_references(f: Fixture) {
    use crate::ops::data::{DeleteChunks, ForgetFile, ForgetSlice};
    let (a, b) = (f.file(ROOT, "a").await, f.file(ROOT, "b").await);
    let (shared, own) = (f.write(a, 0, 1000).await, f.write(a, 1000, 1000).await);
    f.meta.copy_range(&root(), (a, 0), (b, 0), 1000).await.unwrap();
    let Fate::Deleted(file) = f.meta.unlink(&root(), ROOT, b"a", true).await.unwrap().fate else { panic!() };
    assert_eq!(file.length, 2000);
    let step = f.meta.run(DeleteChunks { ino: a, length: 2000, limit: 10 }).await.unwrap();
    assert_eq!((step.unowned, step.done), (vec![own], true));
    f.meta.run(ForgetSlice(own)).await.unwrap();
    f.meta.run(ForgetSlice(shared)).await.unwrap();
    assert_eq!(f.refs(shared).await, 1, "somebody owns it: not forgotten");
    f.meta.run(ForgetFile { ino: a, length: 2000 }).await.unwrap();
}

async fn xattrs_obey_their_modes(f: Fixture) {
    let ino = f.file(ROOT, "a").await;
    let ctime = f.meta.getattr(ino).await.unwrap().ctime;
    assert_err!(f.meta.setxattr(&root(), ino, b"user.k", b"1", XattrMode::Replace).await, Error::NoAttribute);
    f.meta.setxattr(&root(), ino, b"user.k", b"v\0\xff", XattrMode::Create).await.unwrap();
    assert_err!(f.meta.setxattr(&root(), ino, b"user.k", b"1", XattrMode::Create).await, Error::Exists);
    f.meta.setxattr(&root(), ino, b"user.empty", b"", XattrMode::Set).await.unwrap();
    assert_eq!(f.meta.getxattr(ino, b"user.k").await.unwrap(), b"v\0\xff");
    assert_eq!(f.meta.listxattr(ino).await.unwrap(), [b"user.empty".to_vec(), b"user.k".to_vec()]);
    f.meta.removexattr(&root(), ino, b"user.k").await.unwrap();
    assert_err!(f.meta.removexattr(&root(), ino, b"user.k").await, Error::NoAttribute);
    assert_err!(f.meta.getxattr(ino, b"user.k").await, Error::NoAttribute);
    assert_err!(f.meta.setxattr(&root(), ino, b"user.k", &vec![0; 65_537], XattrMode::Set).await, Error::TooBig);
    assert_err!(f.meta.setxattr(&root(), ino, &[b'n'; 256], b"", XattrMode::Set).await, Error::Range);
    assert_eq!(f.meta.getattr(ino).await.unwrap().ctime, ctime);
}

async fn acls_rule_and_are_inherited(f: Fixture) {
    let d = f.dir(ROOT, "d").await;
    let rule =
        AclRule { owner: 7, group: 5, mask: 7, other: 0, users: vec![AclEntry { id: 1001, perm: 6 }], groups: vec![] };
    let value = rule.to_xattr();
    f.meta.setxattr(&root(), d, AclKind::Default.xattr_name(), &value, XattrMode::Set).await.unwrap();
    let attr =
        f.meta.setxattr(&root(), d, AclKind::Access.xattr_name(), &value, XattrMode::Set).await.unwrap().unwrap();
    assert_eq!((attr.mode, attr.access_acl, attr.default_acl), (0o770, attr.default_acl, attr.access_acl));
    let checked = |uid| Cred { check: true, ..Cred::user(uid, uid) };
    f.meta.access(&checked(1001), d, Want::WRITE).await.unwrap();
    assert_err!(f.meta.access(&checked(1001), d, Want::EXEC).await, Error::Access);
    assert_err!(f.meta.access(&checked(1002), d, Want::READ).await, Error::Access);
    let node = NewNode { umask: 0o777, ..NewNode::file(0o640) };
    let child = f.meta.mknod(&root(), d, b"f", node).await.unwrap().1;
    assert_eq!((child.mode, child.default_acl), (0o640, 0), "the umask does not count");
    assert_ne!(child.access_acl, 0);
    let sub = f.meta.mknod(&root(), d, b"sub", NewNode::dir(0o755)).await.unwrap().1;
    assert_eq!(sub.default_acl, attr.default_acl);
    let chmodded = f.meta.setattr(&root(), d, SetAttr { mode: Some(0o700), ..Default::default() }).await.unwrap();
    assert_eq!(chmodded.mode, 0o700);
    assert_err!(f.meta.access(&checked(1001), d, Want::READ).await, Error::Access);
    f.meta.removexattr(&root(), d, AclKind::Access.xattr_name()).await.unwrap();
    assert_err!(f.meta.getxattr(d, AclKind::Access.xattr_name()).await, Error::NoAttribute);
}

async fn flocks_exclude(f: Fixture) {
    let ino = f.file(ROOT, "a").await;
    f.meta.flock(ino, 1, Some(FlockKind::Read)).await.unwrap();
    f.meta.flock(ino, 2, Some(FlockKind::Read)).await.unwrap();
    assert_err!(f.meta.flock(ino, 1, Some(FlockKind::Write)).await, Error::WouldBlock);
    f.meta.flock(ino, 2, None).await.unwrap();
    f.meta.flock(ino, 1, Some(FlockKind::Write)).await.unwrap();
    assert_err!(f.meta.flock(ino, 2, Some(FlockKind::Read)).await, Error::WouldBlock);
    f.meta.flock(ino, 1, None).await.unwrap();
}

async fn posix_locks_split_and_merge(f: Fixture) {
    let ino = f.file(ROOT, "a").await;
    f.meta.set_plock(ino, 1, Some(FlockKind::Write), (0, 99), 11).await.unwrap();
    assert_err!(f.meta.set_plock(ino, 2, Some(FlockKind::Read), (50, 60), 12).await, Error::WouldBlock);
    let held = f.meta.get_plock(ino, 2, FlockKind::Read, (50, 60)).await.unwrap().unwrap();
    assert_eq!((held.pid, held.start, held.end), (11, 0, 99));
    f.meta.set_plock(ino, 1, None, (40, 69), 11).await.unwrap();
    f.meta.set_plock(ino, 2, Some(FlockKind::Read), (50, 60), 12).await.unwrap();
    assert_err!(f.meta.set_plock(ino, 2, Some(FlockKind::Read), (50, 70), 12).await, Error::WouldBlock);
    f.meta.set_plock(ino, 1, None, (0, i64::MAX as u64), 11).await.unwrap();
    assert_eq!(f.meta.get_plock(ino, 1, FlockKind::Write, (0, 10)).await.unwrap(), None);
}

struct PutQuota(QuotaKey, Quota);
impl Op for PutQuota {
    type Out = ();
    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<()> {
        tx.put_quota(self.0, &self.1)
    }
}

async fn ids_found_elsewhere_are_passed(f: Fixture) {
    let id = f.meta.next_slice_id().await.unwrap();
    assert!(!f.meta.pass_slice_ids(id).await.unwrap(), "the engine knows of it");
    let far = SliceId(id.0 + 1_000_000);
    assert!(f.meta.pass_slice_ids(far).await.unwrap(), "the engine was behind");
    assert!(f.meta.next_slice_id().await.unwrap() > far);
}

async fn quotas_stop_growth(f: Fixture) {
    let d = f.dir(ROOT, "d").await;
    let sub = f.dir(d, "sub").await;
    let limit = Quota { max_space: 40_960, max_inodes: 4, used_space: 4096, used_inodes: 1 };
    f.meta.run(PutQuota(QuotaKey { kind: QuotaKind::Dir, id: d.0 }, limit)).await.unwrap();
    let a = f.file(sub, "a").await;
    f.write(a, 0, 20_000).await;
    let slice = SliceRef { id: f.meta.next_slice_id().await.unwrap(), size: 30_000 };
    let big = NewSlice { index: ChunkIndex(0), record: SliceRecord::whole(20_000, slice), mtime: f.meta.now() };
    assert_err!(f.meta.commit(a, vec![big], None, Durability::Process).await, Error::Quota);
    f.file(sub, "b").await;
    f.file(sub, "c").await;
    assert_err!(f.meta.mknod(&root(), sub, b"d", NewNode::file(0o644)).await, Error::Quota);
    f.file(ROOT, "outside").await;
    assert_err!(f.meta.rename(&root(), (ROOT, b"outside"), (d, b"in"), RenameMode::Replace).await, Error::Quota);
    f.meta.unlink(&root(), sub, b"c", false).await.unwrap();
    f.meta.rename(&root(), (ROOT, b"outside"), (d, b"in"), RenameMode::Replace).await.unwrap();
    let user = Quota { max_inodes: 1, ..Quota::UNLIMITED };
    f.meta.run(PutQuota(QuotaKey { kind: QuotaKind::User, id: 77 }, user)).await.unwrap();
    f.meta.mknod(&Cred::user(77, 77), ROOT, b"u1", NewNode::file(0o644)).await.unwrap();
    assert_err!(f.meta.mknod(&Cred::user(77, 77), ROOT, b"u2", NewNode::file(0o644)).await, Error::Quota);
    assert_err!(f.meta.lookup(&root(), ROOT, b"u2").await, Error::NoEntry);
}

async fn volume_limits_stop_growth(f: Fixture) {
    let format = Format { capacity: 20_480, inodes: 3, ..suite_format() };
    crate::store_format(&f.env, &**f.meta.engine(), &format, false).await.unwrap();
    assert!(f.meta.refresh().await.unwrap().is_some());
    let a = f.file(ROOT, "a").await;
    f.file(ROOT, "b").await;
    let attr = f.meta.fallocate(&root(), a, FallocMode::from_bits(0).unwrap(), 0, 16_384).await.unwrap();
    assert_eq!(attr.length, 16_384);
    assert_err!(f.meta.truncate(&root(), a, 16_385, true).await, Error::NoSpace);
    let stat = f.meta.statfs().await.unwrap();
    assert_eq!((stat.total_bytes, stat.avail_bytes, stat.used_inodes, stat.avail_inodes), (20_480, 0, 2, 1));
    f.meta.truncate(&root(), a, 0, true).await.unwrap();
    f.file(ROOT, "c").await;
    assert_err!(f.meta.mknod(&root(), ROOT, b"d", NewNode::file(0o644)).await, Error::NoSpace);
    let removed = f.meta.unlink(&root(), ROOT, b"c", false).await.unwrap();
    assert!(matches!(removed.fate, Fate::Trashed(_)), "a full volume has room for the hour directory: {removed:?}");
}

struct DirStatOf(Ino);
impl Op for DirStatOf {
    type Out = Option<crate::record::DirStat>;
    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Option<crate::record::DirStat>> {
        tx.dir_stat(self.0)
    }
}

async fn statistics_follow_every_change(f: Fixture) {
    let d = f.dir(ROOT, "d").await;
    let a = f.file(d, "a").await;
    f.dir(d, "sub").await;
    f.write(a, 0, 5000).await;
    f.meta.link(&root(), a, d, b"a2").await.unwrap();
    let stat = f.meta.view(DirStatOf(d)).await.unwrap().unwrap();
    assert_eq!((stat.length, stat.space, stat.inodes), (10_000, 2 * 8192 + 4096, 3));
    f.meta.truncate(&root(), a, 1, true).await.unwrap();
    f.meta.rename(&root(), (d, b"a2"), (ROOT, b"a2"), RenameMode::Replace).await.unwrap();
    f.meta.rmdir(&root(), d, b"sub", false).await.unwrap();
    let stat = f.meta.view(DirStatOf(d)).await.unwrap().unwrap();
    assert_eq!((stat.length, stat.space, stat.inodes), (1, 4096, 1));
    assert_eq!(f.counter("totalInodes").await, 4, "d, a, sub in the trash, the hour directory");
}

async fn missing_statistics_are_counted(f: Fixture) {
    let d = f.dir(ROOT, "d").await;
    let skip_trash = SetAttr { flags: Some(Flags::SKIP_TRASH), ..Default::default() };
    f.meta.setattr(&root(), d, skip_trash).await.unwrap();
    let a = f.file(d, "a").await;
    let format = suite_format();
    let forget = || crate::store_format(&f.env, &**f.meta.engine(), &format, true);
    let of_d = async || f.meta.view(DirStatOf(d)).await.unwrap().map(|s| (s.length, s.space, s.inodes));
    forget().await.unwrap();
    assert_eq!(of_d().await, None);
    f.write(a, 0, 5000).await;
    assert_eq!(of_d().await, Some((5000, 8192, 1)), "the growth that made the record is in it");
    f.meta.link(&root(), a, d, b"a2").await.unwrap();
    forget().await.unwrap();
    f.meta.truncate(&root(), a, 1, true).await.unwrap();
    assert_eq!(of_d().await, Some((2, 8192, 2)));
    forget().await.unwrap();
    f.meta.unlink(&root(), d, b"a2", true).await.unwrap();
    assert_eq!(of_d().await, Some((1, 4096, 1)));
    f.file(d, "over").await;
    forget().await.unwrap();
    f.meta.rename(&root(), (d, b"over"), (d, b"a"), RenameMode::Replace).await.unwrap();
    assert_eq!(of_d().await, Some((0, 4096, 1)), "the one that moved is counted");
    let e = f.dir(ROOT, "e").await;
    let big = f.file(e, "big").await;
    f.write(big, 0, 9000).await;
    forget().await.unwrap();
    f.meta.rename(&root(), (d, b"a"), (e, b"big"), RenameMode::Exchange).await.unwrap();
    assert_eq!(of_d().await, Some((9000, 12_288, 1)));
    assert_eq!(f.meta.view(DirStatOf(ROOT)).await.unwrap(), None, "nothing in the root has changed since");
    f.file(ROOT, "b").await;
    let of_root = f.meta.view(DirStatOf(ROOT)).await.unwrap().unwrap();
    assert_eq!((of_root.length, of_root.space, of_root.inodes), (0, 3 * 4096, 3));
}

struct QuotaOf(QuotaKey);
impl Op for QuotaOf {
    type Out = Option<Quota>;
    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Option<Quota>> {
        tx.quota(self.0)
    }
}

async fn changing_owners_asks_only_the_new_one_for_room(f: Fixture) {
    let ino = f.meta.mknod(&Cred::user(7, 50), ROOT, b"a", NewNode::file(0o644)).await.unwrap().0;
    f.meta.mknod(&Cred::user(7, 50), ROOT, b"b", NewNode::file(0o644)).await.unwrap();
    let (group, user) = (QuotaKey { kind: QuotaKind::Group, id: 50 }, QuotaKey { kind: QuotaKind::User, id: 8 });
    let used = Quota { used_space: 8192, used_inodes: 2, ..Quota::UNLIMITED };
    f.meta.run(PutQuota(group, Quota { max_inodes: 1, ..used })).await.unwrap();
    f.meta.run(PutQuota(user, Quota { max_inodes: 1, ..Quota::UNLIMITED })).await.unwrap();
    let to = |uid| SetAttr { uid: Some(uid), ..Default::default() };
    f.meta.setattr(&root(), ino, to(8)).await.expect("the group, over its limit, is not asked");
    let other = f.meta.lookup(&root(), ROOT, b"b").await.unwrap().0;
    assert_err!(f.meta.setattr(&root(), other, to(8)).await, Error::Quota);
    assert_eq!(f.meta.getattr(other).await.unwrap().uid, 7);
}

async fn owners_are_recounted(f: Fixture) {
    let a = f.meta.mknod(&Cred::user(7, 50), ROOT, b"a", NewNode::file(0o644)).await.unwrap().0;
    f.write(a, 0, 5000).await;
    f.meta.unlink(&root(), ROOT, b"a", false).await.unwrap();
    let (mine, gone) = (QuotaKey { kind: QuotaKind::User, id: 7 }, QuotaKey { kind: QuotaKind::User, id: 99 });
    let wrong = Quota { max_space: 1 << 30, max_inodes: -1, used_space: -5, used_inodes: 44 };
    f.meta.run(PutQuota(mine, wrong)).await.unwrap();
    f.meta.run(PutQuota(gone, wrong)).await.unwrap();
    crate::recount_owners(&f.env, &**f.meta.engine(), true).await.unwrap();
    let right = Quota { used_space: 8192, used_inodes: 1, ..wrong };
    assert_eq!(f.meta.view(QuotaOf(mine)).await.unwrap(), Some(right), "what lies in the trash counts");
    let nothing = Quota { used_space: 0, used_inodes: 0, ..wrong };
    assert_eq!(f.meta.view(QuotaOf(gone)).await.unwrap(), Some(nothing));
    crate::recount_owners(&f.env, &**f.meta.engine(), false).await.unwrap();
    let unlimited = Quota { used_space: 8192, used_inodes: 1, ..Quota::UNLIMITED };
    assert_eq!(f.meta.view(QuotaOf(mine)).await.unwrap(), Some(unlimited));
    assert_eq!(f.meta.view(QuotaOf(gone)).await.unwrap(), None);
}

async fn the_trash_takes_nothing_by_exchange(f: Fixture) {
    let (a, b) = (f.file(ROOT, "a").await, f.file(ROOT, "b").await);
    let Fate::Trashed(hour) = f.meta.unlink(&root(), ROOT, b"a", false).await.unwrap().fate else { panic!() };
    let name = format!("{ROOT}-{a}-a");
    let swapped = f.meta.rename(&root(), (hour, name.as_bytes()), (ROOT, b"b"), RenameMode::Exchange).await;
    assert_err!(swapped, Error::NotPermitted);
    assert_eq!(f.meta.lookup(&root(), ROOT, b"b").await.unwrap().0, b);
    let minimal = AclRule { owner: 7, group: 0, mask: 0xffff, other: 0, users: vec![], groups: vec![] };
    let acl = AclKind::Access.xattr_name();
    assert_err!(f.meta.setxattr(&root(), a, acl, &minimal.to_xattr(), XattrMode::Set).await, Error::NotPermitted);
}

async fn restored_directories_have_statistics(f: Fixture) {
    let d = f.dir(ROOT, "d").await;
    let Fate::Trashed(hour) = f.meta.rmdir(&root(), ROOT, b"d", false).await.unwrap().fate else { panic!() };
    assert_eq!(f.meta.view(DirStatOf(d)).await.unwrap(), None);
    let name = format!("{ROOT}-{d}-d");
    f.meta.rename(&root(), (hour, name.as_bytes()), (ROOT, b"d"), RenameMode::NoReplace).await.unwrap();
    assert!(f.meta.view(DirStatOf(d)).await.unwrap().is_some());
    assert_eq!(f.meta.getattr(ROOT).await.unwrap().nlink, 3);
}

async fn sub_directory_mounts_show_their_own_root(f: Fixture) {
    let d = f.dir(ROOT, "d").await;
    let (file, sub) = (f.file(d, "a").await, f.dir(d, "sub").await);
    let limit = Quota { max_space: 1 << 20, max_inodes: 10, used_space: 8192, used_inodes: 2 };
    f.meta.run(PutQuota(QuotaKey { kind: QuotaKind::Dir, id: d.0 }, limit)).await.unwrap();
    let config = Config { root: d, ..f.meta.config().clone() };
    let meta = Meta::open(f.env.clone(), f.meta.engine().clone(), config).await.unwrap();
    assert_eq!(meta.lookup(&root(), ROOT, b"a").await.unwrap().0, file);
    assert_eq!(meta.lookup(&root(), sub, b"..").await.unwrap().0, ROOT);
    assert_eq!(meta.lookup(&root(), ROOT, b"..").await.unwrap().0, ROOT);
    assert_eq!(meta.parents(file).await.unwrap(), [(ROOT, 1)]);
    meta.rename(&root(), (ROOT, b"a"), (sub, b"a"), RenameMode::Replace).await.unwrap();
    meta.rename(&root(), (sub, b"a"), (ROOT, b"b"), RenameMode::Replace).await.unwrap();
    meta.link(&root(), file, ROOT, b"c").await.unwrap();
    let stat = meta.statfs().await.unwrap();
    assert_eq!((stat.total_bytes, stat.used_inodes, stat.avail_inodes), (1 << 20, 3, 7));
    meta.flock(ROOT, 1, Some(FlockKind::Write)).await.unwrap();
    assert_err!(f.meta.flock(d, 1, Some(FlockKind::Read)).await, Error::WouldBlock);
    f.meta.flock(ROOT, 1, Some(FlockKind::Write)).await.unwrap();
}

async fn a_reaped_session_goes_on_as_a_new_one(f: Fixture) {
    let read = OpenHow { read: true, ..Default::default() };
    let (gone, kept, locked) = (f.file(ROOT, "gone").await, f.file(ROOT, "kept").await, f.file(ROOT, "locked").await);
    for ino in [gone, kept] {
        f.meta.open_file(&root(), ino, read).await.unwrap();
    }
    f.meta.unlink(&root(), ROOT, b"gone", true).await.unwrap();
    f.meta.flock(locked, 1, Some(FlockKind::Write)).await.unwrap();
    f.meta.heartbeat().await.unwrap();
    let old = f.meta.sid().unwrap();
    // What another client does to a session that has expired.
    f.meta.run(ReleaseSustained { sid: old, ino: gone }).await.unwrap();
    f.meta.run(EndSession { sid: old }).await.unwrap();
    // Not yet aware of it.
    f.meta.unlink(&root(), ROOT, b"kept", true).await.unwrap();
    f.meta.heartbeat().await.unwrap();

    let new = f.meta.sid().unwrap();
    assert_ne!(new, old);
    let sessions: Vec<_> = f.meta.sessions().await.unwrap().iter().map(|s| s.sid).collect();
    assert_eq!(sessions, [new]);
    assert_err!(f.meta.getattr(gone).await, Error::SessionLost);
    assert_err!(f.meta.slices(gone, ChunkIndex(0)).await, Error::SessionLost);
    assert_err!(f.meta.open_file(&root(), gone, read).await, Error::SessionLost);
    assert_err!(f.meta.truncate(&root(), gone, 1, true).await, Error::SessionLost);
    assert_eq!(f.meta.getattr(kept).await.unwrap().nlink, 0);
    f.meta.close_file(gone).await.unwrap();
    f.meta.close_file(kept).await.unwrap();
    assert_err!(f.meta.getattr(gone).await, Error::NoEntry);
    assert_err!(f.meta.getattr(kept).await, Error::NoEntry);

    assert_err!(f.meta.flock(locked, 1, Some(FlockKind::Write)).await, Error::SessionLost);
    f.meta.flock(locked, 2, Some(FlockKind::Write)).await.expect("the lock is free");
    f.meta.flock(locked, 2, None).await.unwrap();
    let late = NewSlice {
        index: ChunkIndex(0),
        record: SliceRecord::whole(0, SliceRef { id: f.meta.next_slice_id().await.unwrap(), size: 9 }),
        mtime: f.meta.now(),
    };
    let commit = || f.meta.commit(locked, vec![late], None, Durability::Process);
    assert_err!(commit().await, Error::SessionLost);
    f.meta.flock(locked, 1, None).await.unwrap();
    commit().await.expect("nobody thinks that it holds the lock");
    f.meta.flock(locked, 1, Some(FlockKind::Write)).await.expect("it has let go, and knows");
    f.meta.heartbeat().await.unwrap();
    assert_eq!(f.meta.sid(), Some(new));
}

async fn sessions_clean_up_after_themselves(f: Fixture) {
    let ino = f.file(ROOT, "a").await;
    f.meta.open_file(&root(), ino, OpenHow { read: true, ..Default::default() }).await.unwrap();
    f.meta.unlink(&root(), ROOT, b"a", true).await.unwrap();
    let other = f.file(ROOT, "b").await;
    f.meta.flock(other, 1, Some(FlockKind::Write)).await.unwrap();
    assert_eq!(f.meta.sessions().await.unwrap().len(), 1);
    f.meta.heartbeat().await.unwrap();
    f.meta.close_session().await.unwrap();
    assert!(f.meta.sessions().await.unwrap().is_empty());
    assert_err!(f.meta.getattr(ino).await, Error::NoEntry);
    f.meta.start_session("{}".into()).await.unwrap();
    f.meta.flock(other, 2, Some(FlockKind::Write)).await.unwrap();
}

async fn stamps_are_won_once(f: Fixture) {
    let stamp = SetIfSmall { stamp: Counter::LastCleanupFiles, within_secs: 3240 };
    assert!(f.meta.run(stamp).await.unwrap());
    assert!(!f.meta.run(stamp).await.unwrap());
}

async fn directories_are_paged_by_name(f: Fixture) {
    let d = f.dir(ROOT, "d").await;
    for i in 0..25 {
        f.file(d, &format!("n{:02}", (i * 7) % 25)).await;
    }
    let (mut names, mut after) = (vec![], vec![]);
    loop {
        let page = f.meta.readdir(d, &after, 10, true).await.unwrap();
        assert!(page.iter().all(|e| e.attr.is_some()));
        names.extend(page.iter().map(|e| String::from_utf8(e.name.clone()).unwrap()));
        match page.last() {
            Some(e) if page.len() == 10 => after = e.name.clone(),
            _ => break,
        }
    }
    assert_eq!(names, (0..25).map(|i| format!("n{i:02}")).collect::<Vec<_>>());
}

struct FailLate(Ino);
impl Op for FailLate {
    type Out = ();
    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<()> {
        tx.add_counter(Counter::UsedSpace, 4096)?;
        tx.remove_entry(ROOT, b"a")?;
        tx.remove_attr(self.0)?;
        tx.append_slices(self.0, ChunkIndex(0), &[SliceRecord::hole(0, 5)])?;
        Err(Error::Quota)
    }
}

async fn a_failed_operation_changes_nothing(f: Fixture) {
    let ino = f.file(ROOT, "a").await;
    let used = f.counter("usedSpace").await;
    assert_err!(f.meta.run(FailLate(ino)).await, Error::Quota);
    assert_eq!(f.counter("usedSpace").await, used);
    assert_eq!(f.meta.lookup(&root(), ROOT, b"a").await.unwrap().0, ino);
    assert!(f.meta.raw_slices(ino, ChunkIndex(0)).await.unwrap().is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{self, Options, mem::MemEngine};

    #[tokio::test]
    async fn semantics_hold_on_mem() {
        let env = Env::real();
        suite(&env, || async { MemEngine::new(env.clone()) as Arc<dyn Engine> }).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn semantics_hold_on_sqlite() {
        let (env, dir) = (Env::real(), tempfile::tempdir().expect("a directory"));
        let volumes = std::sync::atomic::AtomicU32::new(0);
        suite(&env, || async {
            let n = volumes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let url = format!("sqlite3://{}/{n}.db", dir.path().display());
            engine::open(env.clone(), &url, Options { create: true, read_only: false }).await.expect("open")
        })
        .await;
    }
}

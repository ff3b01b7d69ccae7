//! Engines across a network: operations run here against records already known, and commit with
//! what they relied on in one round trip (ADR 0008).
//!
//! A change runs on facts, hints and guesses ([`View`]); its commit carries what it saw, and the
//! server applies it only if that still holds. If it does not, the answer carries the current
//! values and the operation runs again on those; it is never half-applied. An error, or an outcome
//! without a change, is told only once everything it depends on came in one answer of the server.
//! A question is answered from one answer of the server alone: hints only tell what to fetch
//! together.
//!
//! Not here: how records are stored and commits are applied ([`Server`]).

mod known;
mod lanes;
#[cfg(any(test, feature = "testing"))]
pub mod local;
pub mod record;
mod view;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cairn_env::Env;
use cairn_types::{Attr, Ino};
use tokio::sync::{Mutex, MutexGuard, mpsc, oneshot};

use crate::txn::{AttrChange, Durability, Engine, Rely, Work};
use crate::{Error, Result};
use known::{Facts, Hints, Source};
use lanes::Lanes;
use record::{Commit, Key, Outcome, Server, Value, Verb};
use view::{End, Ran, View};

/// Records kept as hints: some 40 MB when all are names.
const HINTS_MAX: usize = 200_000;
/// Rounds of one operation: fetches, commits and lost races together.
const ROUNDS_MAX: u32 = 400;
/// Races an operation may lose before it waits longer and longer between tries.
const POLITE_AFTER: u32 = 3;
/// Races an operation may lose before it gives up.
const RACES_MAX: u32 = 100;
/// An operation that reads more than this is not held to one moment: scans of a whole volume.
const ONE_MOMENT_MAX: usize = 128;
/// Rounds after which a question is answered record by record, on a thread that may wait.
const QUESTION_ROUNDS: u32 = 16;
/// Locks that operations of this client wait for after they lost a race over the same record.
const QUEUES: usize = 64;

/// How commits went, for tests and metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Batches of records fetched.
    pub fetches: AtomicU64,
    /// Commits applied.
    pub commits: AtomicU64,
    /// Commits refused because something had moved.
    pub moved: AtomicU64,
}

/// An engine over a [`Server`]. See the module.
pub struct Remote<S> {
    env: Env,
    server: S,
    read_only: bool,
    hints: Hints,
    lanes: Lanes,
    queues: Vec<Mutex<()>>,
    hasher: RandomState,
    counts: Counts,
}

impl<S: Server> Remote<S> {
    /// An engine over this server.
    pub fn new(env: Env, server: S, read_only: bool) -> Arc<Remote<S>> {
        Arc::new(Remote {
            lanes: Lanes::new(&env),
            env,
            server,
            read_only,
            hints: Hints::new(HINTS_MAX),
            queues: (0..QUEUES).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            counts: Counts::default(),
        })
    }

    /// The server below.
    pub fn server(&self) -> &S {
        &self.server
    }

    /// How commits went so far.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    async fn fetch(&self, facts: &mut Facts, keys: &[Key]) -> Result<()> {
        self.counts.fetches.fetch_add(1, Ordering::Relaxed);
        let records = self.server.fetch(keys).await?;
        self.take_in(facts, records);
        Ok(())
    }

    fn take_in(&self, facts: &mut Facts, records: Vec<(Key, Value)>) {
        for (key, value) in &records {
            self.hints.learn(key, value);
        }
        facts.add_answer(records);
    }

    async fn commit(&self, commit: &mut Commit) -> Result<Outcome> {
        let mut lane = self.lanes.take().await;
        commit.stamp = lane.next();
        let outcome = self.server.commit(commit).await;
        if outcome.is_ok() {
            lane.give_back();
        }
        let counter = if matches!(outcome, Ok(Outcome::Moved(_))) { &self.counts.moved } else { &self.counts.commits };
        counter.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    /// Stores an access rule in a commit of its own. If the operation that needs it fails, the
    /// rule is left over, and serves the next one that needs it.
    async fn intern(&self, facts: &mut Facts, rule: cairn_types::AclRule) -> Result<()> {
        let mut commit = Commit {
            guards: vec![],
            verbs: vec![Verb::InternAcl(rule.clone())],
            learn: vec![],
            durability: Durability::Process,
            stamp: Default::default(),
        };
        match self.commit(&mut commit).await? {
            Outcome::Applied { answers, .. } => {
                let id = answers.first().and_then(|&id| u32::try_from(id).ok());
                let id = id.ok_or_else(|| Error::engine("store an access rule", "the server told no id"))?;
                let known =
                    vec![(Key::AclId(rule.clone()), Value::AclId(Some(id))), (Key::Acl(id), Value::Acl(Some(rule)))];
                self.take_in(facts, known);
                Ok(())
            }
            Outcome::Moved(_) => Err(Error::engine("store an access rule", "a commit without guards was refused")),
        }
    }

    /// After a lost race: waits for other operations of this client that lost one over the same
    /// record, and from the third on a while that grows.
    async fn queue<'a>(&'a self, ran: &Ran, now: &[(Key, Value)], lost: u32, held: &mut Option<MutexGuard<'a, ()>>) {
        if held.is_none()
            && let Some(moved) = now.iter().find(|(key, value)| ran.saw_otherwise(key, value))
        {
            let at = self.hasher.hash_one(&moved.0) as usize % self.queues.len();
            *held = Some(self.queues[at].lock().await);
        }
        if lost > POLITE_AFTER {
            let most = u64::from(lost - POLITE_AFTER).pow(2).min(100) * 1000;
            self.env.sleep(Duration::from_micros(200 + self.env.random_below(most))).await;
        }
    }

    /// What our own commit left behind, for later operations.
    fn keep(&self, ran: &Ran, sent: std::time::Instant, learned: &[(Key, Value)], answers: &[i64]) {
        for (key, value) in ran.written.iter().filter(|(key, _)| !matches!(key, Key::Attr(_))) {
            self.hints.learn(key, value);
        }
        let told: HashSet<&Key> = learned.iter().map(|(key, _)| key).collect();
        for (verb, answer) in ran.verbs.iter().zip(answers) {
            match verb {
                Verb::InsertAttr(ino, attr) => self.hints.learn_own(*ino, *attr, sent),
                Verb::ChangeAttr(ino, _) | Verb::RemoveAttr(ino) if !told.contains(&Key::Attr(*ino)) => {
                    self.hints.forget(&Key::Attr(*ino));
                }
                Verb::AppendSlices(ino, index, _) => {
                    self.hints.learn(&Key::SliceCount(*ino, *index), &Value::Number(*answer));
                }
                Verb::RemoveEntry(dir, _) | Verb::InsertEntry(dir, ..) => self.hints.forget(&Key::DirIsEmpty(*dir)),
                Verb::RemoveQuota(_) => self.hints.forget(&Key::AnyDirQuota),
                _ => {}
            }
        }
        for (key, value) in learned {
            match (key, value) {
                (Key::Attr(ino), Value::Attr(Some(attr))) => self.hints.learn_own(*ino, *attr, sent),
                (key, value) => self.hints.learn(key, value),
            }
        }
    }

    /// Runs the operation once more, on what the server answered to its commit: its outcome then
    /// tells what is, where it relied on less than it tells.
    fn replay(&self, work: &mut Work, ran: &Ran, learned: &[(Key, Value)], answers: &[i64]) {
        let mut facts = Facts::default();
        facts.add_answer(ran.reads.iter().map(|read| {
            let value = match (&read.key, &read.value) {
                (Key::Attr(ino), Value::Attr(Some(seen))) => {
                    let after = learned.iter().find(|(key, _)| *key == read.key);
                    match after {
                        Some((_, Value::Attr(Some(after)))) => {
                            let relied = read.rely.unwrap_or(Rely::NOTHING);
                            Value::Attr(Some(before_changes(*ino, seen, *after, relied, &ran.verbs)))
                        }
                        _ => read.value.clone(),
                    }
                }
                _ => read.value.clone(),
            };
            (read.key.clone(), value)
        }));
        let mut view = View::replay(&facts, answers);
        if let Err(error) = work(&mut view) {
            // The outcome of the run that was committed stays.
            tracing::debug!(%error, "a committed operation could not be run again on what the server answered");
        }
    }

    async fn run(&self, mut work: Work, durability: Durability) -> Result<()> {
        let mut facts = Facts::default();
        let (mut lost, mut held) = (0, None);
        for _ in 0..ROUNDS_MAX {
            let mut view = View::speculative(&facts, &self.hints);
            let outcome = work(&mut view);
            let ran = view.end(outcome);
            match &ran.end {
                End::Lacks(key) => {
                    // With it what was only assumed so far: the round trip is paid anyway.
                    let assumed = ran.reads.iter().filter(|read| !matches!(read.source, Source::Answer(_)));
                    let mut keys: Vec<Key> = assumed.map(|read| read.key.clone()).collect();
                    keys.push(key.clone());
                    self.fetch(&mut facts, &keys).await?;
                    continue;
                }
                End::Interns(rule) => {
                    self.intern(&mut facts, rule.clone()).await?;
                    continue;
                }
                End::Failed(error) => {
                    if ran.is_confirmed() {
                        return Err(error.clone());
                    }
                    self.fetch(&mut facts, &ran.keys()).await?;
                    continue;
                }
                End::Done => {}
            }
            if ran.verbs.is_empty() && durability != Durability::Power {
                if ran.is_confirmed() {
                    return Ok(());
                }
                self.fetch(&mut facts, &ran.keys()).await?;
                continue;
            }
            let learn = ran.learnable();
            let mut commit =
                Commit { guards: ran.guards(), verbs: ran.verbs.clone(), learn, durability, stamp: Default::default() };
            let sent = self.env.instant();
            match self.commit(&mut commit).await? {
                Outcome::Applied { answers, learned } => {
                    self.keep(&ran, sent, &learned, &answers);
                    self.replay(&mut work, &ran, &learned, &answers);
                    return Ok(());
                }
                Outcome::Moved(now) => {
                    lost += 1;
                    if lost > RACES_MAX {
                        break;
                    }
                    self.queue(&ran, &now, lost, &mut held).await;
                    facts.forget_pages();
                    self.take_in(&mut facts, now);
                }
            }
        }
        tracing::warn!(lost, engine = self.server.describe(), "an operation lost every race for its records");
        Err(Error::engine("commit", "other clients changed the same records each time it was tried"))
    }

    async fn answer(&self, mut work: Work) -> Result<()> {
        let mut facts = Facts::default();
        let guessed = {
            let mut view = View::scouting(&facts, &self.hints);
            let outcome = work(&mut view);
            view.end(outcome)
        };
        let mut wanted = guessed.keys();
        if let End::Lacks(key) = guessed.end {
            wanted.push(key);
        }
        for round in 0.. {
            // A simulated world has no threads that may wait.
            if round > QUESTION_ROUNDS && !self.env.is_simulated() {
                break;
            }
            if !wanted.is_empty() {
                self.fetch(&mut facts, &wanted).await?;
            }
            let mut view = View::strict(&facts);
            let outcome = work(&mut view);
            let ran = view.end(outcome);
            if !ran.verbs.is_empty() {
                return Err(Error::engine("read", "an operation that only reads wants to change something"));
            }
            wanted = ran.keys();
            match ran.end {
                End::Done if ran.is_confirmed() => return Ok(()),
                End::Failed(ref error) if ran.is_confirmed() => return Err(error.clone()),
                // First all of it, then all of one moment.
                End::Lacks(key) => wanted = vec![key],
                End::Interns(_) => return Err(Error::engine("read", "an operation that only reads stores a rule")),
                End::Done | End::Failed(_) => {}
            }
        }
        self.answer_waiting(work).await
    }

    /// Answers a question that reads a good part of the volume: on a thread of its own, which waits
    /// for each record and forgets it. Not of one moment.
    async fn answer_waiting(&self, mut work: Work) -> Result<()> {
        let (ask, mut asked) = mpsc::channel::<(Key, oneshot::Sender<Result<Vec<(Key, Value)>>>)>(1);
        let run = self.env.blocking(move || {
            let mut beside: HashMap<Key, Value> = HashMap::new();
            let fetch = Box::new(move |key: &Key| {
                if let Some(value) = beside.remove(key) {
                    return Ok(value);
                }
                let (tell, told) = oneshot::channel();
                let gone = || Error::engine("read", "the caller is gone");
                ask.blocking_send((key.clone(), tell)).map_err(|_| gone())?;
                beside = told.blocking_recv().map_err(|_| gone())??.into_iter().collect();
                beside.remove(key).ok_or_else(|| Error::engine("read", "the server left a record out"))
            });
            let facts = Facts::default();
            let mut view = View::waiting(&facts, fetch);
            let outcome = work(&mut view);
            view.end(outcome)
        });
        let serve = async {
            while let Some((key, tell)) = asked.recv().await {
                self.counts.fetches.fetch_add(1, Ordering::Relaxed);
                // Whoever asked waits for the answer, unless its thread panicked.
                let _ = tell.send(self.server.fetch(std::slice::from_ref(&key)).await);
            }
        };
        let (ran, ()) = tokio::join!(run, serve);
        match ran.end {
            _ if !ran.verbs.is_empty() => {
                Err(Error::engine("read", "an operation that only reads wants to change something"))
            }
            End::Done => Ok(()),
            End::Failed(error) => Err(error),
            End::Lacks(_) | End::Interns(_) => Err(Error::engine("read", "an operation that only reads stores a rule")),
        }
    }
}

impl Ran {
    /// Did everything the outcome depends on come in one answer of the server?
    fn is_confirmed(&self) -> bool {
        let mut moment = None;
        self.reads.iter().all(|read| match read.source {
            // Rules never change once they have an id.
            Source::Answer(_) if matches!(read.key, Key::Acl(_) | Key::AclId(_)) => true,
            Source::Answer(_) if self.reads.len() > ONE_MOMENT_MAX => true,
            Source::Answer(n) => *moment.get_or_insert(n) == n,
            Source::Guess | Source::Hint => false,
        })
    }

    fn saw_otherwise(&self, key: &Key, now: &Value) -> bool {
        self.reads.iter().any(|read| read.key == *key && read.value != *now)
    }

    /// Attributes that are told or kept and may differ from what was seen: of every inode the
    /// operation touched, but not of directories it only passed on the way up.
    fn learnable(&self) -> Vec<Key> {
        let changed = |key: &Key| {
            let of = |ino: &Ino| *key == Key::Attr(*ino);
            self.verbs.iter().any(|verb| matches!(verb, Verb::ChangeAttr(ino, _) if of(ino)))
        };
        let read = self.reads.iter().filter(|read| matches!(read.key, Key::Attr(_)));
        read.filter(|read| matches!(self.written.get(&read.key), None | Some(Value::Attr(Some(_)))))
            .filter(|read| changed(&read.key) || !matches!(read.rely, None | Some(Rely::PARENT)))
            .map(|read| read.key.clone())
            .chain(self.verbs.iter().filter_map(|verb| match verb {
                Verb::AddParent(ino, ..) => Some(Key::Parents(*ino)),
                _ => None,
            }))
            .collect()
    }
}

/// Attributes from which `verbs` make `after`: as they were just before the commit, whatever the
/// operation had seen of the fields it did not rely on.
fn before_changes(ino: Ino, seen: &Attr, after: Attr, relied: Rely, verbs: &[Verb]) -> Attr {
    let mut before = after;
    for verb in verbs {
        let Verb::ChangeAttr(changed, change) = verb else { continue };
        if *changed != ino {
            continue;
        }
        let AttrChange { flags, mode, uid, gid, atime, mtime, ctime, nlink_add, length, length_at_least, .. } = change;
        macro_rules! back {
            ($($field:ident),*) => { $(if $field.is_some() { before.$field = seen.$field; })* };
        }
        back!(flags, mode, uid, gid, atime, mtime, ctime, length);
        if change.parent.is_some() {
            before.parent = seen.parent;
        }
        if change.access_acl.is_some() {
            before.access_acl = seen.access_acl;
        }
        if change.default_acl.is_some() {
            before.default_acl = seen.default_acl;
        }
        if change.tier.is_some() {
            before.tier = seen.tier;
        }
        if length_at_least.is_some() && relied.has(Rely::LENGTH) {
            before.length = seen.length;
        }
        before.nlink = before.nlink.saturating_add_signed(-nlink_add);
    }
    before
}

#[async_trait]
impl<S: Server> Engine for Remote<S> {
    fn describe(&self) -> String {
        self.server.describe()
    }

    async fn write(&self, work: Work, durability: Durability) -> Result<()> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        self.run(work, durability).await
    }

    async fn read(&self, work: Work) -> Result<()> {
        self.answer(work).await
    }

    fn own_attr(&self, ino: Ino, age: Duration) -> Option<Attr> {
        self.hints.own_attr(ino, self.env.instant(), age)
    }

    fn generation(&self) -> u64 {
        self.server.generation()
    }

    async fn create_tables(&self) -> Result<()> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        self.server.create_tables().await
    }

    async fn close(&self) {
        self.server.close().await;
    }
}

impl<S: Server> std::fmt::Debug for Remote<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({})", self.server.describe())
    }
}

#[cfg(test)]
mod tests;

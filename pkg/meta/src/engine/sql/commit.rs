//! One transaction as one message: the rows it relies on are held in the order every client of the
//! volume holds them, then checked, then changed; the server stops at a check that fails.
//!
//! The order (volume format 5.3.6): what identifies the commit, inodes that change, names, and last
//! the directories the names are in, ascending; sums that many clients add to come at the very end,
//! so that they are held shortest. Inserting a name makes its unique index the arbiter of racing
//! creates.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use cairn_types::{FileType, Ino};

use super::Tables;
use super::dialect::{Dialect, Existing, Hold};
use super::read;
use super::rows::Answer;
use super::write::Unanswered;
use crate::Result;
use crate::engine::remote::record::{Commit, Guard, Key, Stamp, Value, Verb};
use crate::record::{DirStat, QuotaKey};
use crate::txn::Counter;

/// A message, and where its answers are.
#[derive(Debug)]
pub(super) struct Message {
    statements: Vec<String>,
    /// The statement that stops a commit which was applied already.
    stamp_at: Option<usize>,
    /// Per verb.
    answers: Vec<Option<(usize, Unanswered)>>,
    learn: Vec<(Key, usize)>,
}

impl Message {
    pub(super) fn text(&self) -> String {
        self.statements.join(";\n")
    }

    /// Did the server stop because the commit had been applied?
    pub(super) fn is_known_after(&self, answered: usize) -> bool {
        self.stamp_at == Some(answered)
    }

    /// What the verbs answer, in their order.
    pub(super) fn answers(&self, said: &[Answer]) -> Result<Vec<i64>> {
        let answer = |place: &Option<(usize, Unanswered)>| match place {
            None => Ok(0),
            Some((at, Unanswered(without))) => {
                said.get(*at).and_then(|answer| answer.rows.first()).map_or(Ok(*without), |row| row.int(0))
            }
        };
        self.answers.iter().map(answer).collect()
    }

    /// The records to be learned.
    pub(super) fn learned(&self, said: &[Answer]) -> Result<Vec<(Key, Value)>> {
        let mut learned = Vec::with_capacity(self.learn.len());
        for (key, at) in &self.learn {
            read::values(key, said.get(*at).map(|answer| answer.rows.as_slice()).unwrap_or_default(), &mut learned)?;
        }
        Ok(learned)
    }
}

/// Inodes of a commit by what they are to it.
#[derive(Default)]
struct Inodes {
    /// Their attributes change or go.
    changed: HashSet<Ino>,
    /// They come into being: the primary key sees to it that they are new.
    inserted: HashSet<Ino>,
    /// Directories of names, and others that are only passed through.
    parents: BTreeSet<Ino>,
    /// Everything else that is relied on.
    children: BTreeSet<Ino>,
}

impl Inodes {
    fn of(commit: &Commit) -> Inodes {
        let mut inodes = Inodes::default();
        for verb in &commit.verbs {
            match verb {
                Verb::ChangeAttr(ino, _) | Verb::RemoveAttr(ino) => drop(inodes.changed.insert(*ino)),
                Verb::InsertAttr(ino, _) => drop(inodes.inserted.insert(*ino)),
                Verb::InsertEntry(dir, ..) | Verb::ReplaceEntry(dir, ..) | Verb::RemoveEntry(dir, _) => {
                    inodes.parents.insert(*dir);
                }
                _ => {}
            }
        }
        let mut targets = HashSet::new();
        for guard in &commit.guards {
            match (&guard.key, &guard.seen) {
                (Key::Entry(dir, _), seen) => {
                    inodes.parents.insert(*dir);
                    if let Value::Entry(Some(entry)) = seen {
                        targets.insert(entry.ino);
                    }
                }
                (Key::DirIsEmpty(ino) | Key::Flocks(ino) | Key::Plocks(ino), _) => {
                    // Nobody may come to hold a lock or a name meanwhile.
                    inodes.changed.insert(*ino);
                    inodes.children.insert(*ino);
                }
                _ => {}
            }
        }
        for guard in &commit.guards {
            let (Key::Attr(ino), Value::Attr(Some(seen))) = (&guard.key, &guard.seen) else { continue };
            if seen.kind == FileType::Directory && !targets.contains(ino) {
                inodes.parents.insert(*ino);
            } else {
                inodes.children.insert(*ino);
            }
        }
        // What decides alone comes first; a directory of names comes last even where it is a target.
        let decisive: HashSet<Ino> = (commit.guards.iter())
            .filter_map(|guard| match guard.key {
                Key::DirIsEmpty(ino) => Some(ino),
                _ => None,
            })
            .collect();
        inodes.parents.retain(|ino| !decisive.contains(ino) && !inodes.inserted.contains(ino));
        inodes.children.retain(|ino| !inodes.parents.contains(ino));
        inodes
    }
}

impl Tables {
    /// The message of a commit. `stamped`: there is a table that remembers which were applied.
    pub(super) fn message(&self, commit: &Commit, stamped: bool) -> Result<Message> {
        let inodes = Inodes::of(commit);
        let relied: HashSet<Ino> = (commit.guards.iter())
            .filter_map(|guard| match (&guard.key, &guard.seen) {
                (Key::Attr(ino), Value::Attr(Some(_))) | (Key::DirIsEmpty(ino), _) => Some(*ino),
                (Key::Flocks(ino) | Key::Plocks(ino), _) => Some(*ino),
                _ => None,
            })
            .collect();
        let mut statements: Vec<String> = Vec::new();
        let (begin, end) = self.dialect.transaction();
        statements.extend(begin.map(String::from));

        let stamp_at = (stamped && !commit.verbs.is_empty()).then_some(statements.len());
        if stamp_at.is_some() {
            statements.push(self.stamp(commit.stamp));
        }
        let hold = |ino: &Ino| {
            let how = if inodes.changed.contains(ino) { Hold::Exclusive } else { Hold::Shared };
            format!("SELECT 1 FROM {} WHERE inode = {} {}", self.node, ino.0 as i64, self.dialect.hold(how))
        };
        statements.extend(inodes.children.iter().filter(|ino| relied.contains(ino)).map(hold));
        statements.extend(self.missing_counters(commit));
        let rows: BTreeSet<String> = commit.guards.iter().filter_map(|guard| self.held_row(guard)).collect();
        statements.extend(rows);
        let names: BTreeSet<(Ino, &[u8])> = (commit.guards.iter())
            .filter_map(|guard| match (&guard.key, &guard.seen) {
                (Key::Entry(dir, name), Value::Entry(Some(_))) => Some((*dir, name.as_slice())),
                _ => None,
            })
            .collect();
        statements.extend(names.into_iter().map(|(dir, name)| {
            let is = format!("parent = {} AND name = {}", dir.0 as i64, self.blob(name));
            format!("SELECT 1 FROM {} WHERE {is} {}", self.edge, self.dialect.hold(Hold::Exclusive))
        }));

        let (late, early): (Vec<&Guard>, Vec<&Guard>) = (commit.guards.iter())
            .filter(|guard| !self.is_arbitrated(guard, &inodes, commit))
            .partition(|guard| matches!(guard.key, Key::Attr(ino) if inodes.parents.contains(&ino)));
        statements.extend(self.check(&early)?);

        let mut answers = vec![None; commit.verbs.len()];
        let (edges, others): (Vec<_>, Vec<_>) = commit.verbs.iter().enumerate().partition(|(_, verb)| {
            matches!(verb, Verb::InsertEntry(..) | Verb::ReplaceEntry(..) | Verb::RemoveEntry(..))
        });
        for (_, verb) in edges {
            statements.extend(self.write(verb, false)?.statements);
        }
        statements.extend(inodes.parents.iter().filter(|ino| relied.contains(ino)).map(hold));
        statements.extend(self.check(&late)?);

        let mut sums = Sums::of(&commit.verbs);
        for (i, verb) in others {
            if sums.takes(i, verb) {
                continue;
            }
            let absent = Tables::new_row_of(verb).iter().any(|key| is_seen_absent(commit, key));
            let written = self.write(verb, absent)?;
            statements.extend(written.statements);
            answers[i] = written.answer.map(|answer| (statements.len() - 1, answer));
        }
        statements.extend(sums.dirs.iter().map(|(dir, delta)| self.add_dir_stat(*dir, delta)));
        statements.extend(sums.quotas.iter().map(|(key, (space, inodes))| self.add_quota_used(*key, *space, *inodes)));
        for (counter, (delta, verbs)) in &sums.counters {
            let written = self.write(&Verb::AddCounter(*counter, *delta), false)?;
            statements.extend(written.statements);
            for &i in verbs {
                answers[i] = written.answer.map(|answer| (statements.len() - 1, answer));
            }
        }

        let mut learn = Vec::with_capacity(commit.learn.len());
        for key in &commit.learn {
            learn.push((key.clone(), statements.len()));
            statements.push(self.select(key));
        }
        statements.extend(end.map(String::from));
        Ok(Message { statements, stamp_at, answers, learn })
    }

    /// Is the guard kept by a unique index that the commit writes to?
    fn is_arbitrated(&self, guard: &Guard, inodes: &Inodes, commit: &Commit) -> bool {
        match (&guard.key, &guard.seen) {
            (Key::Attr(ino), Value::Attr(None)) => inodes.inserted.contains(ino),
            (Key::Entry(dir, name), Value::Entry(None)) => {
                let first = commit.verbs.iter().find_map(|verb| match verb {
                    Verb::InsertEntry(d, n, _) if (d, n) == (dir, name) => Some(true),
                    Verb::ReplaceEntry(d, n, _) if (d, n) == (dir, name) => Some(false),
                    Verb::RemoveEntry(d, n) if (d, n) == (dir, name) => Some(false),
                    _ => None,
                });
                first == Some(true)
            }
            _ => false,
        }
    }

    /// One statement that stops the server unless all guards hold.
    fn check(&self, guards: &[&Guard]) -> Result<Option<String>> {
        if guards.is_empty() {
            return Ok(None);
        }
        let conditions: Vec<String> = guards.iter().map(|guard| self.condition(guard)).collect::<Result<_>>()?;
        Ok(Some(format!("SELECT {}", self.dialect.stop_unless(&conditions.join(" AND ")))))
    }

    /// Counters that were never set, made so that they can be held.
    fn missing_counters(&self, commit: &Commit) -> Vec<String> {
        let unset: BTreeSet<Counter> = (commit.guards.iter())
            .filter_map(|guard| match (&guard.key, &guard.seen) {
                (Key::Counter(counter), Value::Number(0)) => Some(*counter),
                _ => None,
            })
            .collect();
        let row = |counter: Counter| format!("('{}', 0)", counter.name());
        let insert = |row: String| self.dialect.insert(&self.counter, "name, value", &row, "name", Existing::Kept);
        unset.into_iter().map(|counter| insert(row(counter))).collect()
    }

    /// Notes that a commit was applied; stops the server if it was noted before.
    fn stamp(&self, Stamp { lane, sequence }: Stamp) -> String {
        let (table, lane, sequence) = (&self.op, lane as i64, sequence as i64);
        match self.dialect {
            Dialect::Postgres => format!(
                "INSERT INTO {table} AS o (lane, sequence, touched) VALUES ({lane}, {sequence}, \
                 extract(epoch from now())::bigint) ON CONFLICT (lane) DO UPDATE SET touched = excluded.touched, \
                 sequence = excluded.sequence / (CASE WHEN o.sequence < excluded.sequence THEN 1 ELSE 0 END)"
            ),
            Dialect::MySql => format!(
                "INSERT INTO {table} (lane, sequence, touched) VALUES ({lane}, {sequence}, UNIX_TIMESTAMP()) \
                 ON DUPLICATE KEY UPDATE touched = VALUES(touched), \
                 sequence = IF(sequence < {sequence}, {sequence}, 18446744073709551615 + sequence)"
            ),
        }
    }
}

fn is_seen_absent(commit: &Commit, key: &Key) -> bool {
    commit.guards.iter().any(|guard| {
        guard.key == *key
            && matches!(guard.seen, Value::Flag(false) | Value::Bytes(None) | Value::DirStat(None) | Value::Quota(None))
    })
}

/// Additions that commute with everything else in their commit, summed up.
#[derive(Default)]
struct Sums {
    /// Verbs that do not commute.
    fixed: HashSet<usize>,
    dirs: BTreeMap<Ino, DirStat>,
    quotas: BTreeMap<QuotaKey, (i64, i64)>,
    counters: BTreeMap<Counter, (i64, Vec<usize>)>,
}

impl Sums {
    fn of(verbs: &[Verb]) -> Sums {
        let mut set = HashSet::new();
        for verb in verbs {
            match verb {
                Verb::SetCounter(counter, _) => drop(set.insert(Key::Counter(*counter))),
                Verb::PutDirStat(dir, _) | Verb::RemoveDirStat(dir) => drop(set.insert(Key::DirStat(*dir))),
                Verb::PutQuota(key, _) | Verb::RemoveQuota(key) => drop(set.insert(Key::Quota(*key))),
                _ => {}
            }
        }
        let is_fixed = |verb: &Verb| match verb {
            Verb::AddCounter(counter, _) => set.contains(&Key::Counter(*counter)),
            Verb::AddDirStat(dir, _) => set.contains(&Key::DirStat(*dir)),
            Verb::AddQuotaUsed(key, ..) => set.contains(&Key::Quota(*key)),
            _ => true,
        };
        let fixed = verbs.iter().enumerate().filter(|(_, verb)| is_fixed(verb)).map(|(i, _)| i).collect();
        Sums { fixed, ..Sums::default() }
    }

    /// Takes a verb if it commutes.
    fn takes(&mut self, i: usize, verb: &Verb) -> bool {
        if self.fixed.contains(&i) {
            return false;
        }
        match verb {
            Verb::AddCounter(counter, delta) => {
                let sum = self.counters.entry(*counter).or_default();
                sum.0 += delta;
                sum.1.push(i);
            }
            Verb::AddDirStat(dir, delta) => {
                let sum = self.dirs.entry(*dir).or_default();
                *sum = sum.plus(*delta);
            }
            Verb::AddQuotaUsed(key, space, inodes) => {
                let sum = self.quotas.entry(*key).or_default();
                *sum = (sum.0 + space, sum.1 + inodes);
            }
            _ => return false,
        }
        true
    }
}

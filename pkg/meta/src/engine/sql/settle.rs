//! What became of a commit whose connection broke, and what it would have answered.
//!
//! With our own table the server itself says whether the commit was applied. Without it, the commit
//! is looked for by what it would have left behind, which a later change may have hidden.

use cairn_types::Ino;

use super::SqlServer;
use super::link::Wire;
use crate::engine::remote::record::{Commit, Key, Outcome, Server, Value, Verb};
use crate::txn::{Counter, Durability};
use crate::{Error, Result};

impl<W: Wire> SqlServer<W> {
    /// The outcome of a commit that is known to be applied, from what stands there now.
    pub(super) async fn settled(&self, commit: &Commit) -> Result<Outcome> {
        let mut answers = Vec::with_capacity(commit.verbs.len());
        for verb in &commit.verbs {
            answers.push(self.answer_again(commit, verb).await?);
        }
        Ok(Outcome::Applied { answers, learned: self.fetch(&commit.learn).await? })
    }

    async fn answer_again(&self, commit: &Commit, verb: &Verb) -> Result<i64> {
        let key = match verb {
            Verb::AppendSlices(ino, index, _) => Key::SliceCount(*ino, *index),
            Verb::AddSliceRefs(slice, _) => Key::SliceRefs(*slice),
            Verb::InternAcl(rule) => Key::AclId(rule.clone()),
            // Somebody may have taken ids meanwhile: those of the lost answer are given up for new ones.
            Verb::AddCounter(counter @ (Counter::NextInode | Counter::NextChunk | Counter::NextSession), delta) => {
                return self.add_again(commit, *counter, *delta).await;
            }
            Verb::AddCounter(counter, _) => Key::Counter(*counter),
            _ => return Ok(0),
        };
        Ok(match self.fetch(std::slice::from_ref(&key)).await?.pop() {
            Some((_, Value::Number(n))) => n,
            Some((_, Value::AclId(Some(id)))) => i64::from(id),
            _ => return Err(Error::engine("find out what a commit answered", "the record is gone")),
        })
    }

    /// Adds to a counter of ids in a commit of its own. If its connection breaks too it is added once
    /// more: ids are plenty.
    async fn add_again(&self, commit: &Commit, counter: Counter, delta: i64) -> Result<i64> {
        let add = Commit {
            guards: vec![],
            verbs: vec![Verb::AddCounter(counter, delta)],
            learn: vec![],
            durability: Durability::Process,
            stamp: commit.stamp,
        };
        let message = self.tables.message(&add, false)?;
        loop {
            let (said, trouble) = self.link.send(message.text()).await?;
            use super::link::Trouble;
            match trouble {
                None => return Ok(message.answers(&said)?.first().copied().unwrap_or(0)),
                Some(Trouble::Lost(_) | Trouble::Away(_) | Trouble::Conflict(_)) => {}
                Some(trouble) => return Err(super::fail("commit", &trouble)),
            }
        }
    }

    /// Does something stand there that only this commit would have put there?
    pub(super) async fn left_its_mark(&self, commit: &Commit) -> Result<bool> {
        for verb in &commit.verbs {
            let (key, expected): (Key, fn(&Value, &Verb) -> bool) = match verb {
                Verb::InsertAttr(ino, _) => (Key::Attr(*ino), |v, _| matches!(v, Value::Attr(Some(_)))),
                Verb::InsertSlice(slice, _) => (Key::SliceRefs(*slice), |v, _| matches!(v, Value::Number(1..))),
                Verb::ChangeAttr(ino, change) if change.ctime.is_some() => (Key::Attr(*ino), |v, verb| {
                    let (Value::Attr(Some(attr)), Verb::ChangeAttr(_, change)) = (v, verb) else { return false };
                    change.ctime == Some(attr.ctime)
                }),
                Verb::RemoveAttr(ino) => (Key::Attr(*ino), |v, _| matches!(v, Value::Attr(None))),
                Verb::RemoveEntry(dir, name) => {
                    (Key::Entry(*dir, name.clone()), |v, _| matches!(v, Value::Entry(None)))
                }
                _ => continue,
            };
            let found = self.fetch(std::slice::from_ref(&key)).await?;
            return Ok(found.iter().any(|(k, value)| *k == key && expected(value, verb)));
        }
        Ok(false)
    }

    /// A commit that the server stopped although all it relied on holds: was it to append to a torn
    /// list? Then reading the list says so.
    pub(super) async fn check_lists(&self, commit: &Commit) -> Result<()> {
        for verb in &commit.verbs {
            if let Verb::AppendSlices(Ino(ino), index, _) = verb {
                self.fetch(&[Key::SliceCount(Ino(*ino), *index)]).await?;
            }
        }
        Ok(())
    }
}

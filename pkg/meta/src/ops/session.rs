//! Sessions: who is here, and what the dead leave behind (volume format 7.1 to 7.4).

use std::ops::Range;

use cairn_types::{Ino, SessionId};

use crate::Result;
use crate::changelog::{Escaped, log};
use crate::record::SessionRecord;
use crate::txn::{Context, Counter, Op, Txn};

/// Registers a new session.
#[derive(Clone, Debug)]
pub struct StartSession {
    /// Unix seconds after which it counts as dead.
    pub expire_secs: i64,
    /// JSON.
    pub info: String,
}

impl Op for StartSession {
    type Out = SessionId;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<SessionId> {
        let mut sid = SessionId((tx.counter(Counter::NextSession)? + 1) as u64);
        while tx.session(sid)?.is_some() {
            sid.0 += 1;
        }
        tx.set_counter(Counter::NextSession, sid.0 as i64)?;
        log(cx, tx, "INCR_COUNTER", &[&Counter::NextSession.name(), &1], None)?;
        tx.put_session(&SessionRecord { sid, expire_secs: self.expire_secs, info: self.info.clone() })?;
        log(cx, tx, "NEWSESSION", &[&sid, &self.expire_secs, &Escaped(self.info.as_bytes())], None)?;
        Ok(sid)
    }
}

/// Says that a session lives. If it was reaped, it goes on under a new number.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    /// The session as it should be.
    pub session: SessionRecord,
}

/// The new life of a session that was reaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reborn {
    /// Its new number.
    pub sid: SessionId,
    /// Unlinked inodes that are still alive: they were marked under the old number after it was reaped.
    pub kept: Vec<Ino>,
}

impl Op for Heartbeat {
    type Out = Option<Reborn>;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Option<Reborn>> {
        let SessionRecord { sid: old, expire_secs, info } = self.session.clone();
        if tx.session(old)?.is_some() {
            tx.put_session(&self.session)?;
            return Ok(None);
        }
        let sid = StartSession { expire_secs, info }.apply(cx, tx)?;
        // Whatever still stands under the old number nobody would ever clean up.
        let kept = tx.sustained(old)?;
        for &ino in &kept {
            tx.remove_sustained(old, ino)?;
            tx.insert_sustained(sid, ino)?;
        }
        tx.remove_locks(old)?;
        Ok(Some(Reborn { sid, kept }))
    }
}

/// Drops a session's locks and record. Its sustained inodes must be released before.
#[derive(Clone, Copy, Debug)]
pub struct EndSession {
    /// Which.
    pub sid: SessionId,
}

impl Op for EndSession {
    type Out = ();

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<()> {
        tx.remove_locks(self.sid)?;
        tx.remove_session(self.sid)?;
        log(cx, tx, "CLEANSESSION", &[&self.sid], None)
    }
}

/// Inodes a session keeps alive.
#[derive(Clone, Copy, Debug)]
pub struct SustainedOf {
    /// Which.
    pub sid: SessionId,
}

impl Op for SustainedOf {
    type Out = Vec<Ino>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Vec<Ino>> {
        tx.sustained(self.sid)
    }
}

/// All sessions.
#[derive(Clone, Copy, Debug)]
pub struct Sessions;

impl Op for Sessions {
    type Out = Vec<SessionRecord>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Vec<SessionRecord>> {
        tx.sessions()
    }
}

/// Wins a job for this client: sets the stamp unless somebody did within `within_secs`.
#[derive(Clone, Copy, Debug)]
pub struct SetIfSmall {
    /// The stamp.
    pub stamp: Counter,
    /// Seconds.
    pub within_secs: i64,
}

impl Op for SetIfSmall {
    type Out = bool;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<bool> {
        if tx.counter(self.stamp)? > cx.now.secs - self.within_secs {
            return Ok(false);
        }
        tx.set_counter(self.stamp, cx.now.secs)?;
        Ok(true)
    }
}

/// Takes `count` ids from a counter of next free ids; answers those that may be handed out.
#[derive(Clone, Copy, Debug)]
pub struct TakeIds {
    /// `NextInode` or `NextChunk`.
    pub counter: Counter,
    /// How many.
    pub count: u64,
}

impl Op for TakeIds {
    type Out = Range<u64>;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<Range<u64>> {
        let end = tx.advance_counter(self.counter, self.count as i64)?;
        log(cx, tx, "INCR_COUNTER", &[&self.counter.name(), &self.count], None)?;
        // A counter that was never written starts below the first id that may be handed out.
        let least = if self.counter == Counter::NextInode { 2 } else { 1 };
        let first = (end - self.count as i64).max(least);
        Ok(first as u64..end.max(first) as u64)
    }
}

/// Makes sure that ids up to these are never handed out again: the engine may have gone back to an
/// older state since we took them. Answers which counters had to be pushed forward.
#[derive(Clone, Copy, Debug)]
pub struct FenceIds {
    /// The highest inode number this client knows to be taken, 0 for none.
    pub inode: u64,
    /// The same of slices.
    pub slice: u64,
}

impl Op for FenceIds {
    type Out = [bool; 2];

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<[bool; 2]> {
        let mut pushed = [false; 2];
        let known = [(Counter::NextInode, self.inode), (Counter::NextChunk, self.slice)];
        for (pushed, (counter, highest)) in pushed.iter_mut().zip(known) {
            let next = highest as i64 + 1;
            if highest > 0 && tx.counter(counter)? < next {
                tx.set_counter(counter, next)?;
                *pushed = true;
            }
        }
        Ok(pushed)
    }
}

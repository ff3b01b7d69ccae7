//! Sessions: who is here, and what the dead leave behind (volume format 7.1 to 7.4).

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

/// Takes `count` ids from a counter of next free ids; answers the first.
#[derive(Clone, Copy, Debug)]
pub struct TakeIds {
    /// `NextInode` or `NextChunk`.
    pub counter: Counter,
    /// How many.
    pub count: u64,
}

impl Op for TakeIds {
    type Out = u64;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<u64> {
        // A counter that was never written counts from the first id that may be handed out.
        let first = tx.counter(self.counter)?.max(if self.counter == Counter::NextInode { 2 } else { 1 });
        tx.set_counter(self.counter, first + self.count as i64)?;
        log(cx, tx, "INCR_COUNTER", &[&self.counter.name(), &self.count], None)?;
        Ok(first as u64)
    }
}

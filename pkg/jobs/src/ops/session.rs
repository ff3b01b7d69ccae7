//! What dead sessions leave behind, and the change log's length.

use cairn_meta::Result;
use cairn_meta::changelog::log;
use cairn_meta::txn::{Context, Op, Txn};
use cairn_types::SessionId;

/// Drops the locks of a session that is dead. Answers whether it is: it may have come back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReleaseLocks(pub(crate) SessionId);

impl Op for ReleaseLocks {
    type Out = bool;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<bool> {
        let dead = is_dead(cx, tx, self.0)?;
        if dead {
            tx.remove_locks(self.0)?;
        }
        Ok(dead)
    }
}

fn is_dead(cx: &Context, tx: &mut dyn Txn, sid: SessionId) -> Result<bool> {
    Ok(tx.session(sid)?.is_some_and(|s| s.expire_secs < cx.now.secs))
}

/// Removes the record of a dead session that keeps nothing open any more. Answers whether it did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndDead(pub(crate) SessionId);

impl Op for EndDead {
    type Out = bool;

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<bool> {
        if !is_dead(cx, tx, self.0)? || !tx.sustained(self.0)?.is_empty() {
            return Ok(false);
        }
        tx.remove_session(self.0)?;
        log(cx, tx, "CLEANSESSION", &[&self.0], None)?;
        Ok(true)
    }
}

/// Trims the change log by age and length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrimChangeLog {
    /// Older entries go; 0 keeps any age.
    pub(crate) max_age_secs: u64,
    /// Only this many stay; 0 keeps all.
    pub(crate) max_lines: u64,
}

impl Op for TrimChangeLog {
    type Out = ();

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<()> {
        let before = match self.max_age_secs {
            0 => 0,
            age => cx.now.secs.saturating_sub_unsigned(age),
        };
        tx.trim_change_log(before, self.max_lines)
    }
}

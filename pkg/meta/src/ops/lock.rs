//! BSD and POSIX locks (volume format 5.2.6, 7.5). Waiting is done by whoever calls again.

use cairn_types::Ino;

use super::attr;
use crate::changelog::log;
use crate::record::{FlockKind, LockOwner, PlockRange};
use crate::txn::{Context, Op, Rely, Txn};
use crate::{Error, Result};

/// Takes, changes or drops a BSD lock.
#[derive(Clone, Copy, Debug)]
pub struct Flock {
    /// The inode.
    pub ino: Ino,
    /// Who.
    pub owner: LockOwner,
    /// `None` drops it.
    pub kind: Option<FlockKind>,
}

impl Op for Flock {
    type Out = ();

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<()> {
        if let Some(kind) = self.kind {
            attr(tx, self.ino, Rely::KIND)?;
            let conflicts = |held: FlockKind| kind == FlockKind::Write || held == FlockKind::Write;
            if tx.flocks(self.ino)?.iter().any(|(owner, held)| *owner != self.owner && conflicts(*held)) {
                return Err(Error::WouldBlock);
            }
        }
        tx.set_flock(self.ino, self.owner, self.kind)?;
        let letter = self.kind.map_or('U', |k| k.letter() as char);
        log(cx, tx, "FLOCK", &[&self.ino, &self.owner.owner, &letter], None)
    }
}

/// Takes, changes or drops a POSIX lock on a range.
#[derive(Clone, Copy, Debug)]
pub struct SetPlock {
    /// The inode.
    pub ino: Ino,
    /// Who.
    pub owner: LockOwner,
    /// `None` unlocks the range.
    pub kind: Option<FlockKind>,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// Process.
    pub pid: u32,
}

impl Op for SetPlock {
    type Out = ();

    fn apply(&self, cx: &Context, tx: &mut dyn Txn) -> Result<()> {
        let all = tx.plocks(self.ino)?;
        if let Some(kind) = self.kind {
            attr(tx, self.ino, Rely::KIND)?;
            if first_conflict(&all, self.owner, kind, self.start, self.end).is_some() {
                return Err(Error::WouldBlock);
            }
        }
        let own = all.into_iter().find(|(owner, _)| *owner == self.owner).map(|(_, r)| r).unwrap_or_default();
        let new = set_range(&own, self.kind, self.pid, self.start, self.end);
        if new != own {
            tx.set_plocks(self.ino, self.owner, &new)?;
            let letter = self.kind.map_or('U', |k| k.letter() as char);
            log(cx, tx, "SETLK", &[&self.ino, &self.owner.owner, &letter, &self.start, &self.end, &self.pid], None)?;
        }
        Ok(())
    }
}

/// Which lock would keep this one out?
#[derive(Clone, Copy, Debug)]
pub struct GetPlock {
    /// The inode.
    pub ino: Ino,
    /// Who asks.
    pub owner: LockOwner,
    /// What it wants.
    pub kind: FlockKind,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
}

impl Op for GetPlock {
    type Out = Option<PlockRange>;

    fn apply(&self, _: &Context, tx: &mut dyn Txn) -> Result<Option<PlockRange>> {
        let all = tx.plocks(self.ino)?;
        Ok(first_conflict(&all, self.owner, self.kind, self.start, self.end).map(|(owner, range)| PlockRange {
            // A process number means something on its own machine only.
            pid: if owner.sid == self.owner.sid { range.pid } else { 0 },
            ..range
        }))
    }
}

fn first_conflict(
    all: &[(LockOwner, Vec<PlockRange>)],
    owner: LockOwner,
    kind: FlockKind,
    start: u64,
    end: u64,
) -> Option<(LockOwner, PlockRange)> {
    all.iter()
        .filter(|(other, _)| *other != owner)
        .flat_map(|(other, ranges)| ranges.iter().map(|r| (*other, *r)))
        .filter(|(_, r)| r.start <= end && start <= r.end)
        .filter(|(_, r)| kind == FlockKind::Write || r.kind == FlockKind::Write)
        .min_by_key(|(_, r)| r.start)
}

/// One owner's ranges after `[start, end]` became `kind`: sorted, apart, merged where alike.
fn set_range(own: &[PlockRange], kind: Option<FlockKind>, pid: u32, start: u64, end: u64) -> Vec<PlockRange> {
    let mut out = Vec::with_capacity(own.len() + 2);
    for r in own {
        if r.start < start {
            out.push(PlockRange { end: r.end.min(start - 1), ..*r });
        }
        if r.end > end {
            out.push(PlockRange { start: r.start.max(end + 1), ..*r });
        }
    }
    out.extend(kind.map(|kind| PlockRange { kind, pid, start, end }));
    out.retain(|r| r.start <= r.end);
    out.sort_by_key(|r| r.start);
    out.dedup_by(|next, prev| {
        let alike = prev.kind == next.kind && prev.pid == next.pid && prev.end.checked_add(1) == Some(next.start);
        if alike {
            prev.end = next.end;
        }
        alike
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn r(kind: FlockKind, start: u64, end: u64) -> PlockRange {
        PlockRange { kind, pid: 1, start, end }
    }

    #[test]
    fn unlocking_the_middle_splits_a_lock() {
        let own = [r(FlockKind::Write, 0, 99)];
        let left = set_range(&own, None, 1, 40, 59);
        assert_eq!(left, [r(FlockKind::Write, 0, 39), r(FlockKind::Write, 60, 99)]);
    }

    #[test]
    fn neighbours_alike_become_one() {
        let own = [r(FlockKind::Read, 0, 9), r(FlockKind::Read, 20, 29)];
        assert_eq!(set_range(&own, Some(FlockKind::Read), 1, 10, 19), [r(FlockKind::Read, 0, 29)]);
        assert_eq!(
            set_range(&own, Some(FlockKind::Write), 1, 0, i64::MAX as u64),
            [r(FlockKind::Write, 0, i64::MAX as u64)]
        );
    }
}

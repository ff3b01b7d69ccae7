//! Locks that wait. Metadata only tries; here is the waiting.

use std::sync::Arc;
use std::time::Duration;

use cairn_meta::Error as MetaError;
use cairn_meta::record::FlockKind;
use cairn_types::Ino;

use crate::commit::Core;
use crate::handle::FileHandle;
use crate::{Error, Result};

/// A range of a file as fcntl(2) locks know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockRange {
    /// Shared or exclusive; `None` unlocks.
    pub kind: Option<FlockKind>,
    /// First byte.
    pub start: u64,
    /// Last byte, inclusive; `i64::MAX` (or more) for "to the end".
    pub end: u64,
    /// Process.
    pub pid: u32,
}

impl LockRange {
    fn bounds(&self) -> (u64, u64) {
        (self.start, self.end.min(i64::MAX as u64))
    }
}

/// Pause before a lock that another client holds is tried again: doubled from the first to the last.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_LAST: Duration = Duration::from_secs(1);

/// How often a waiting caller is asked whether it still waits.
const ASK: Duration = Duration::from_millis(100);

/// What is wanted.
#[derive(Clone, Copy)]
pub(crate) enum Lock {
    Flock { kind: Option<FlockKind> },
    Posix { range: LockRange },
}

impl Core {
    /// Takes, changes or drops a lock; if `block`, waits until it can be taken or `interrupted`.
    pub(crate) async fn lock(
        self: &Arc<Core>,
        ino: Ino,
        owner: u64,
        lock: Lock,
        block: bool,
        interrupted: impl Fn() -> bool,
    ) -> Result<()> {
        let mut pause = PAUSE_FIRST;
        loop {
            // Listen first, try second: a release in between is not missed.
            let released = self.meta.lock_released().notified();
            match self.try_lock(ino, owner, lock).await {
                Err(MetaError::WouldBlock) if block => {}
                done => return Ok(done?),
            }
            tokio::select! {
                () = released => {}
                () = self.pause(pause, &interrupted) => {}
            }
            if interrupted() {
                return Err(Error::Interrupted);
            }
            pause = (pause * 2).min(PAUSE_LAST);
        }
    }

    /// Waits for `pause`, or until the caller gives up.
    async fn pause(&self, pause: Duration, interrupted: &impl Fn() -> bool) {
        let mut left = pause;
        while !left.is_zero() && !interrupted() {
            let step = left.min(ASK);
            self.env.sleep(step).await;
            left -= step;
        }
    }

    async fn try_lock(&self, ino: Ino, owner: u64, lock: Lock) -> cairn_meta::Result<()> {
        match lock {
            Lock::Flock { kind } => self.meta.flock(ino, owner, kind).await,
            Lock::Posix { range } => self.meta.set_plock(ino, owner, range.kind, range.bounds(), range.pid).await,
        }
    }

    /// Takes a POSIX lock and remembers that its owner has some.
    pub(crate) async fn posix_lock(
        self: &Arc<Core>,
        handle: &FileHandle,
        owner: u64,
        range: LockRange,
        block: bool,
        interrupted: impl Fn() -> bool,
    ) -> Result<()> {
        if range.kind.is_some() {
            handle.file.state().lock_owners.insert(owner);
        }
        self.lock(handle.file.ino, owner, Lock::Posix { range }, block, interrupted).await
    }

    pub(crate) async fn lock_in_the_way(&self, ino: Ino, owner: u64, range: LockRange) -> Result<Option<LockRange>> {
        let Some(kind) = range.kind else { return Ok(None) };
        let found = self.meta.get_plock(ino, owner, kind, range.bounds()).await?;
        Ok(found.map(|l| LockRange { kind: Some(l.kind), start: l.start, end: l.end, pid: l.pid }))
    }
}

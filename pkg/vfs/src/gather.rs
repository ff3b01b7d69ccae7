//! Small files that are closed at the same moment share objects and one transaction.
//!
//! The first to come stores its file at once and alone: nobody waits for company. Whoever comes while
//! that is under way waits for it to end and is stored together with all others who wait. So one
//! closer is as fast as ever, and many need few objects and few transactions.
//!
//! Files are locked in the order of their numbers, so that two groups never wait for each other.
//!
//! If metadata refuses the common transaction, each file is committed alone, so that each hears its
//! own verdict; references to a pack then grow from commit to commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_meta::Durability;
use cairn_types::Ino;
use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::commit::{COMMIT_SLICES_MAX, Core, stored_front, unnamed};
use crate::file::File;
use crate::pack_plan as plan;
use crate::packing::{Home, Part};
use crate::patches::SMALL_BYTES;
use crate::pending::{Upload, Upto};
use crate::{Error, Result};

/// Groups stored at a time. With two, one is on its way to the store while the other is committed.
const GROUPS_MAX: usize = 2;

/// Files in a group at most.
const FILES_MAX: usize = 256;

/// Who waits to be stored in company.
#[derive(Default)]
pub(crate) struct Gather {
    state: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    members: Vec<Member>,
    groups: usize,
}

struct Member {
    file: Arc<File>,
    durability: Durability,
    done: oneshot::Sender<Result<()>>,
}

/// A file of a group, and who waits for it.
struct Seat {
    file: Arc<File>,
    /// The newest slot that is stored in company; `None` if it is no longer small.
    newest: Option<u64>,
    waiting: Vec<oneshot::Sender<Result<()>>>,
}

impl Core {
    /// Stores and commits a small file, with whoever comes at the same moment.
    pub(crate) async fn store_in_company(self: &Arc<Core>, file: &Arc<File>, durability: Durability) -> Result<()> {
        let (done, outcome) = oneshot::channel();
        let turn = {
            let mut waiting = self.gather.state.lock();
            waiting.members.push(Member { file: file.clone(), durability, done });
            (waiting.groups < GROUPS_MAX).then(|| {
                waiting.groups += 1;
                Turn { core: self.clone(), is_over: false }
            })
        };
        if let Some(turn) = turn {
            self.store_group(self.next_members()).await;
            if let Some(turn) = turn.end() {
                self.tasks.spawn(turn.go_on());
            }
        }
        outcome.await.unwrap_or(Err(Error::Closing))
    }

    fn next_members(&self) -> Vec<Member> {
        let mut waiting = self.gather.state.lock();
        let count = waiting.members.len().min(FILES_MAX);
        waiting.members.drain(..count).collect()
    }

    async fn store_group(&self, members: Vec<Member>) {
        let durability = members.iter().map(|m| m.durability).max().unwrap_or(Durability::Process);
        let mut files: BTreeMap<Ino, Seat> = BTreeMap::new();
        for Member { file, done, .. } in members {
            let seat = files.entry(file.ino).or_insert_with(|| Seat { file, newest: None, waiting: vec![] });
            seat.waiting.push(done);
        }
        let mut seats: Vec<Seat> = files.into_values().collect();
        let outcomes = match &mut seats[..] {
            [] => return,
            [one] => vec![self.store_and_commit(&one.file, Upto::All, durability).await],
            many => self.store_together(many, durability).await,
        };
        for (seat, outcome) in seats.into_iter().zip(outcomes) {
            // Who no longer waits finds the outcome in the file's state.
            seat.waiting.into_iter().for_each(|done| drop(done.send(outcome.clone())));
        }
    }

    async fn store_together(&self, seats: &mut [Seat], durability: Durability) -> Vec<Result<()>> {
        let done = match self.pack_together(seats).await {
            Ok(uploads) => {
                let stored = join_all(uploads.iter().map(|upload| upload.store())).await;
                match stored.into_iter().collect::<cairn_chunk::Result<()>>() {
                    Ok(()) => self.commit_together(seats, durability).await,
                    Err(error) => Err(error.into()),
                }
            }
            Err(error) => Err(error),
        };
        // One after the other, where there is no common outcome: each has its own verdict.
        // Other failures are all the same for all: what they left is tried again later.
        let alone = done.as_ref().is_err_and(Error::is_final);
        let mut outcomes = Vec::new();
        for seat in seats {
            let outcome = match seat.newest {
                Some(_) if !alone => done.clone(),
                Some(newest) => self.store_and_commit(&seat.file, Upto::Slot(newest), durability).await,
                None => self.store_and_commit(&seat.file, Upto::All, durability).await,
            };
            outcomes.push(outcome);
        }
        outcomes
    }

    /// Puts all small files into common packs. Answers the slices to be stored.
    async fn pack_together(&self, seats: &mut [Seat]) -> Result<Vec<Arc<Upload>>> {
        let most = u64::from(SMALL_BYTES) * seats.len() as u64;
        let mut ids = self.ids.several(&self.meta, plan::objects_max(most, self.config.pack_bytes)).await?;
        let files: Vec<Arc<File>> = seats.iter().map(|seat| seat.file.clone()).collect();
        let _deciding = lock_all(files.iter().map(|file| &file.packing)).await;
        let mut parts: Vec<(Arc<File>, Part)> = Vec::new();
        for seat in seats.iter_mut() {
            let mut state = seat.file.state();
            if !state.is_small() {
                continue;
            }
            let Some(slot) = state.queue.back_mut() else { continue };
            let Some(loose) = slot.upload.writer.take() else { continue };
            slot.leaving = true;
            let newest = slot.seq;
            state.freeze(newest);
            seat.newest = Some(newest);
            parts.push((seat.file.clone(), Part { loose, home: Home::Slot(newest) }));
        }
        let lens: Vec<u32> = parts.iter().map(|(_, part)| part.loose.len()).collect();
        let mut parts = parts.into_iter();
        let mut uploads = Vec::new();
        for object in plan::objects(&lens, self.config.pack_bytes) {
            let parts: Vec<(Arc<File>, Part)> = parts.by_ref().take(object.len()).collect();
            let id = ids.pop().expect("ids were counted");
            let upload = Upload::shared(self.chunk.pack(id, parts.iter().map(|(_, part)| part.loose.clone())));
            let mut off = 0;
            for ((file, part), len) in parts.into_iter().zip(&lens[object]) {
                file.state().settle_part(part.home, *len, off, &upload);
                off += len;
            }
            uploads.push(upload);
        }
        self.ids.give_back(ids);
        Ok(uploads)
    }

    /// All files of the group in one transaction.
    async fn commit_together(&self, seats: &[Seat], durability: Durability) -> Result<()> {
        let seats: Vec<(&File, u64)> = seats.iter().filter_map(|s| Some((&*s.file, s.newest?))).collect();
        let _order = lock_all(seats.iter().map(|(file, _)| &file.commit)).await;
        let mut batches = Vec::new();
        for (file, newest) in &seats {
            let state = file.state();
            batches.push((stored_front(&state, *newest, COMMIT_SLICES_MAX), state.set_mtime()));
        }
        let safe = seats.iter().zip(&batches).filter(|(_, (batch, _))| batch.slots > 0);
        let safe = join_all(safe.map(|((file, _), (batch, _))| self.make_safe(file, batch.slots))).await;
        safe.into_iter().collect::<Result<()>>()?;
        let shared = unnamed(batches.iter().flat_map(|(batch, _)| &batch.uploads));
        let _naming = lock_all(shared.iter().map(|upload| &upload.naming)).await;
        // A background flush may have been faster: then there is nothing left to name.
        let (mut told, mut commits) = (Vec::new(), Vec::new());
        for ((file, _), (batch, set_mtime)) in seats.iter().zip(batches).filter(|(_, (batch, _))| batch.slots > 0) {
            let count = batch.slots;
            let (commit, uploads) = batch.commit(file.ino, set_mtime);
            told.push((*file, count, uploads));
            commits.push(commit);
        }
        if commits.is_empty() {
            return Ok(());
        }
        let before = self.change_count();
        let done = self.meta.commit_many(commits, durability).await?;
        for ((file, count, uploads), done) in told.into_iter().zip(done) {
            self.take_over(file, &uploads, done.attr, count);
            self.settle_notes(file).await;
        }
        self.note_committed(before, durability);
        Ok(())
    }
}

/// The right to store a group. Given back however it ends.
struct Turn {
    core: Arc<Core>,
    is_over: bool,
}

impl Turn {
    /// Gives the turn back unless somebody waits. Both under one lock: nobody waits for a turn that
    /// has just ended.
    fn end(mut self) -> Option<Turn> {
        let core = self.core.clone();
        let mut waiting = core.gather.state.lock();
        if waiting.members.is_empty() {
            waiting.groups -= 1;
            self.is_over = true;
        }
        drop(waiting);
        (!self.is_over).then_some(self)
    }

    /// Stores all who wait.
    async fn go_on(self) {
        let mut turn = Some(self);
        while let Some(now) = turn {
            now.core.store_group(now.core.next_members()).await;
            turn = now.end();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if !self.is_over {
            self.core.gather.state.lock().groups -= 1;
        }
    }
}

/// Locks in the order given.
pub(crate) async fn lock_all<'a>(
    locks: impl Iterator<Item = &'a tokio::sync::Mutex<()>>,
) -> Vec<tokio::sync::MutexGuard<'a, ()>> {
    let mut guards = Vec::new();
    for lock in locks {
        guards.push(lock.lock().await);
    }
    guards
}

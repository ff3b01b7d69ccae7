//! Who goes by the S3-FIFO rule: newcomers prove themselves in a short queue before they may stay. Pure.
//!
//! A new block enters a short queue. If it is used again before it reaches its end it moves to the long
//! one, else it goes; what comes back soon after that enters the long one at once. The long queue gives
//! each use a further round. So a scan of blocks that nobody reads twice passes through a tenth of the
//! space and leaves the rest alone.

use std::collections::{HashMap, HashSet, VecDeque};

use cairn_types::BlockKey;

/// Share of the space that newcomers have, in percent.
const NEWCOMERS_PERCENT: u64 = 10;
/// Rounds that uses can earn.
const USES_MAX: u8 = 3;
/// Blocks remembered after they went, however few are held.
const GONE_MIN: usize = 64;

/// The two queues, and what has left the first.
#[derive(Debug, Default)]
pub(crate) struct Fifo {
    members: HashMap<BlockKey, Member>,
    short: Queue,
    long: Queue,
    gone: VecDeque<BlockKey>,
    gone_set: HashSet<BlockKey>,
    tickets: u64,
}

/// Keys with the tickets they entered under; one that left is skipped when it comes up.
#[derive(Debug, Default)]
struct Queue {
    keys: VecDeque<(BlockKey, u64)>,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    ticket: u64,
    bytes: u64,
    is_long: bool,
    uses: u8,
}

impl Fifo {
    /// A block is new here. `proven`: it was kept before, so it need not prove itself.
    pub(crate) fn insert(&mut self, key: BlockKey, bytes: u64, proven: bool) {
        let is_long = self.gone_set.remove(&key) || proven;
        self.remove(key);
        self.enter(key, Member { ticket: 0, bytes, is_long, uses: 0 });
    }

    /// It was used.
    pub(crate) fn touch(&mut self, key: BlockKey) {
        if let Some(member) = self.members.get_mut(&key) {
            member.uses = (member.uses + 1).min(USES_MAX);
        }
    }

    /// It has left for another reason.
    pub(crate) fn remove(&mut self, key: BlockKey) {
        if let Some(member) = self.members.remove(&key) {
            self.queue(member.is_long).bytes -= member.bytes;
        }
    }

    /// The next to go, of those that `may` go. It stays until it is removed; if it was a newcomer it will
    /// be known when it comes back.
    pub(crate) fn victim(&mut self, mut may: impl FnMut(BlockKey) -> bool) -> Option<BlockKey> {
        // Each step uses up a round of somebody, or moves somebody who may not go to the end.
        let steps = (self.members.len() + 1) * (usize::from(USES_MAX) + 2);
        for _ in 0..steps {
            let total = self.short.bytes + self.long.bytes;
            let from_long = self.short.bytes * 100 <= total * NEWCOMERS_PERCENT && self.long.bytes > 0;
            let Some((key, member)) = self.head(from_long).or_else(|| self.head(!from_long)) else { return None };
            if !may(key) {
                self.requeue(key, member);
            } else if member.uses == 0 {
                if !member.is_long {
                    self.remember(key);
                }
                return Some(key);
            } else if member.is_long {
                self.requeue(key, Member { uses: member.uses - 1, ..member });
            } else {
                self.requeue(key, Member { uses: 0, is_long: true, ..member });
            }
        }
        None
    }

    fn queue(&mut self, is_long: bool) -> &mut Queue {
        if is_long { &mut self.long } else { &mut self.short }
    }

    fn enter(&mut self, key: BlockKey, member: Member) {
        self.tickets += 1;
        let member = Member { ticket: self.tickets, ..member };
        self.members.insert(key, member);
        let queue = self.queue(member.is_long);
        queue.bytes += member.bytes;
        queue.keys.push_back((key, member.ticket));
        let (held, keys) = (self.members.len(), &self.queue(member.is_long).keys);
        if keys.len() > 2 * held + GONE_MIN {
            self.compact(member.is_long);
        }
    }

    /// Drops the places of those that left.
    fn compact(&mut self, is_long: bool) {
        let members = std::mem::take(&mut self.members);
        let stays = |(key, ticket): &(BlockKey, u64)| members.get(key).is_some_and(|m| m.ticket == *ticket);
        self.queue(is_long).keys.retain(stays);
        self.members = members;
    }

    fn requeue(&mut self, key: BlockKey, member: Member) {
        self.remove(key);
        self.enter(key, member);
    }

    /// The first of a queue that is still a member.
    fn head(&mut self, is_long: bool) -> Option<(BlockKey, Member)> {
        loop {
            let (key, ticket) = *self.queue(is_long).keys.front()?;
            match self.members.get(&key) {
                Some(member) if member.ticket == ticket => return Some((key, *member)),
                _ => _ = self.queue(is_long).keys.pop_front(),
            }
        }
    }

    fn remember(&mut self, key: BlockKey) {
        if self.gone_set.insert(key) {
            self.gone.push_back(key);
        }
        while self.gone.len() > self.members.len().max(GONE_MIN) {
            if let Some(oldest) = self.gone.pop_front() {
                self.gone_set.remove(&oldest);
            }
        }
    }
}

//! Operations of several threads on two mounts at the same time: there is an order, in which no
//! operation comes before one that had ended when it began, that explains all answers.
//!
//! The order is searched for as Wing and Gong do, with what was tried before kept aside. Everything
//! made here is a symbolic link whose length says which one it is: the look-up of a name then answers
//! all at one moment, whereas an open file might be gone before its number is asked for. A rename moves
//! to a name of its own: the kernel looks up source and target at two moments, and for one inode that
//! it saw under both names it answers by itself.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use super::whole;
use crate::support::{Chance, Engine, Kind, Mounted, Volume, env_number};

on_every_engine!(two_mounts_at_once_can_be_put_in_order);

/// Threads of each mount.
const THREADS: usize = 2;
/// Operations of each thread between two points where all wait for all.
const OPS: usize = 6;
/// Names are asked for each time; attributes come with them.
const FRESH_NAMES: [&str; 4] = ["--entry-cache", "0", "--dir-entry-cache", "0"];

fn two_mounts_at_once_can_be_put_in_order(kind: Kind) {
    let engine = Engine::shared(kind);
    let volume = Volume::on(&engine, &[]);
    let mounts = [volume.mount(&FRESH_NAMES), volume.mount(&FRESH_NAMES)];
    let first = env_number("CAIRN_SEED").unwrap_or(1);
    for seed in first..first + if whole() { 1_500 } else { 60 } {
        one_round(seed, [mounts[0].root(), mounts[1].root()]);
    }
    mounts.into_iter().for_each(Mounted::unmount);
    volume.fsck_is_clean();
}

/// Several threads at once in a fresh directory.
fn one_round(seed: u64, roots: [&Path; 2]) {
    let dir = format!("round-{seed}");
    fs::create_dir(roots[0].join(&dir)).unwrap();
    let (clock, start) = (AtomicU64::new(0), Barrier::new(2 * THREADS));
    let done: Vec<Done> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..2 * THREADS)
            .map(|t| {
                let (root, clock, start) = (roots[t % 2].join(&dir), &clock, &start);
                scope.spawn(move || {
                    let mut chance = Chance::new(seed << 8 | t as u64 | 1 << 40);
                    start.wait();
                    let ops = (0..OPS).map(|n| Op::by_chance(&mut chance, (t * OPS + n + 1) as u64));
                    ops.map(|op| Done::of(op, t, &root, clock)).collect::<Vec<_>>()
                })
            })
            .collect();
        handles.into_iter().flat_map(|h| h.join().expect("an operation answered something strange")).collect()
    });
    let order = Search { done: &done, tried: HashSet::new() }.find(0, &State::new());
    assert!(order, "seed {seed}: no order explains\n{}", show(&done));
}

/// What can be done with the few names of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    /// A name, and the mark that what is made will bear.
    Create(usize, u64),
    Unlink(usize),
    /// A name, and a fresh one.
    Rename(usize, usize),
    Stat(usize),
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Names and the marks of what they stand for.
type State = BTreeMap<usize, u64>;

/// An operation, when it ran, and what it answered: a mark (0: none to tell), or an errno.
#[derive(Debug)]
struct Done {
    op: Op,
    thread: usize,
    began: u64,
    ended: u64,
    answer: Result<u64, i32>,
}

impl Op {
    fn by_chance(chance: &mut Chance, mark: u64) -> Op {
        let a = chance.below(NAMES.len() as u64) as usize;
        match chance.below(10) {
            0..4 => Op::Create(a, mark),
            4..6 => Op::Unlink(a),
            6..8 => Op::Rename(a, NAMES.len() + mark as usize),
            _ => Op::Stat(a),
        }
    }

    fn real(self, dir: &Path) -> io::Result<u64> {
        let at = |n: usize| dir.join(NAMES.get(n).map_or_else(|| format!("moved-{n}"), |name| (*name).to_owned()));
        match self {
            Op::Create(n, mark) => symlink("x".repeat(mark as usize), at(n)).map(|()| 0),
            Op::Unlink(n) => fs::remove_file(at(n)).map(|()| 0),
            Op::Rename(a, b) => fs::rename(at(a), at(b)).map(|()| 0),
            Op::Stat(n) => fs::symlink_metadata(at(n)).map(|m| m.len()),
        }
    }

    /// The state after it, if this answer is right in `state`.
    fn after(self, state: &State, answer: Result<u64, i32>) -> Option<State> {
        let mut next = state.clone();
        let right = match self {
            Op::Create(n, _) if state.contains_key(&n) => Err(libc::EEXIST),
            Op::Create(n, mark) => {
                next.insert(n, mark);
                Ok(0)
            }
            Op::Unlink(n) => next.remove(&n).map(|_| 0).ok_or(libc::ENOENT),
            Op::Rename(a, b) => match state.get(&a) {
                None => Err(libc::ENOENT),
                Some(mark) => {
                    next.remove(&a);
                    next.insert(b, *mark);
                    Ok(0)
                }
            },
            Op::Stat(n) => state.get(&n).copied().ok_or(libc::ENOENT),
        };
        (right == answer).then_some(next)
    }
}

impl Done {
    fn of(op: Op, thread: usize, dir: &Path, clock: &AtomicU64) -> Done {
        let began = clock.fetch_add(1, Ordering::SeqCst);
        let answer = op.real(dir).map_err(|e| e.raw_os_error().unwrap_or(0));
        let ended = clock.fetch_add(1, Ordering::SeqCst);
        Done { op, thread, began, ended, answer }
    }
}

struct Search<'a> {
    done: &'a [Done],
    tried: HashSet<(u64, State)>,
}

impl Search<'_> {
    /// Can what is not in `placed` follow, from this state?
    fn find(&mut self, placed: u64, state: &State) -> bool {
        if placed.count_ones() as usize == self.done.len() {
            return true;
        }
        if !self.tried.insert((placed, state.clone())) {
            return false;
        }
        let left = |n: &usize| placed & 1 << n == 0;
        let all = 0..self.done.len();
        // What began after another of those left had ended cannot come before it.
        let first_end = all.clone().filter(left).map(|n| self.done[n].ended).min().expect("some are left");
        let candidates: Vec<usize> = all.filter(left).filter(|n| self.done[*n].began < first_end).collect();
        candidates.into_iter().any(|n| {
            let next = self.done[n].op.after(state, self.done[n].answer);
            next.is_some_and(|next| self.find(placed | 1 << n, &next))
        })
    }
}

fn show(done: &[Done]) -> String {
    let mut lines: Vec<_> = done.iter().collect();
    lines.sort_by_key(|d| d.began);
    let line = |d: &&Done| format!("  {:3}..{:3} thread {} {:?} -> {:?}", d.began, d.ended, d.thread, d.op, d.answer);
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The search tells right histories from wrong ones.
#[test]
fn an_order_is_found_only_where_there_is_one() {
    let at = |op, began, ended, answer| Done { op, thread: 0, began, ended, answer };
    let explains = |done: &[Done]| Search { done, tried: HashSet::new() }.find(0, &State::new());
    let overlapping = [
        at(Op::Create(0, 7), 0, 5, Ok(0)),
        at(Op::Stat(0), 1, 2, Err(libc::ENOENT)),
        at(Op::Stat(0), 3, 4, Ok(7)),
        at(Op::Create(0, 8), 1, 6, Err(libc::EEXIST)),
    ];
    assert!(explains(&overlapping));
    let forgetful = [at(Op::Create(0, 7), 0, 1, Ok(0)), at(Op::Stat(0), 2, 3, Err(libc::ENOENT))];
    assert!(!explains(&forgetful));
    let twice = [at(Op::Create(0, 7), 0, 3, Ok(0)), at(Op::Create(0, 8), 1, 4, Ok(0))];
    assert!(!explains(&twice));
}

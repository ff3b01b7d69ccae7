//! What a test does to a file system, as values that a seed makes and a shrinker removes.
//!
//! A step names files by path and handles by slot, never by what an earlier step returned: so any
//! part of a sequence is a sequence, and a failing one can be shrunk by leaving steps out.

use cairn_types::FileType;
use cairn_vfs::{FallocMode, RenameMode, Whence, XattrMode};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// A place for an open file.
pub type Slot = u8;

/// One call, or one event of the world around it.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "named like the system calls and their arguments")]
pub enum Step {
    Make {
        path: String,
        kind: FileType,
        mode: u16,
        by: (u32, u32),
    },
    Symlink {
        path: String,
        target: String,
    },
    Create {
        path: String,
        slot: Slot,
        exclusive: bool,
        mode: u16,
    },
    Open {
        path: String,
        slot: Slot,
        write: bool,
        append: bool,
        truncate: bool,
    },
    Close {
        slot: Slot,
    },
    Read {
        slot: Slot,
        offset: u64,
        len: u32,
    },
    Write {
        slot: Slot,
        offset: u64,
        len: u32,
        fill: u8,
        sync: bool,
    },
    Fsync {
        slot: Slot,
    },
    Truncate {
        path: String,
        length: u64,
    },
    TruncateOpen {
        slot: Slot,
        length: u64,
    },
    Fallocate {
        slot: Slot,
        mode: FallocMode,
        offset: u64,
        len: u64,
    },
    CopyRange {
        from: Slot,
        from_offset: u64,
        to: Slot,
        to_offset: u64,
        len: u64,
    },
    Seek {
        slot: Slot,
        offset: u64,
        whence: Whence,
    },
    Unlink {
        path: String,
    },
    Rmdir {
        path: String,
    },
    Rename {
        from: String,
        to: String,
        mode: RenameMode,
    },
    Link {
        from: String,
        to: String,
    },
    Readlink {
        path: String,
    },
    Stat {
        path: String,
    },
    List {
        path: String,
    },
    Chmod {
        path: String,
        mode: u16,
    },
    Chown {
        path: String,
        uid: u32,
        gid: u32,
    },
    Utimens {
        path: String,
        secs: i64,
        nanos: u32,
    },
    SetXattr {
        path: String,
        name: String,
        bytes: u16,
        mode: XattrMode,
    },
    GetXattr {
        path: String,
        name: String,
    },
    ListXattr {
        path: String,
    },
    RemoveXattr {
        path: String,
        name: String,
    },
    /// Time passes.
    Wait {
        millis: u64,
    },
    /// Compares everything that can be seen.
    Compare,
    /// An orderly close, and open again.
    Reopen,
    /// The store stops answering.
    StoreDown,
    /// The store is back.
    StoreUp,
    /// This client dies, and with it what was not promised.
    PowerCut,
}

/// What a generated sequence may contain.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Number of steps.
    pub steps: usize,
    /// Store outages and power cuts too.
    pub faults: bool,
}

/// The steps of a seed.
pub fn generate(seed: u64, mix: Mix) -> Vec<Step> {
    let mut chance = Chance(SmallRng::seed_from_u64(seed));
    let mut steps = Vec::with_capacity(mix.steps);
    let mut down_for = 0;
    while steps.len() < mix.steps {
        if down_for > 0 {
            down_for -= 1;
            if down_for == 0 {
                steps.push(Step::StoreUp);
            }
        }
        match chance.below(100) {
            0..4 => steps.push(Step::Wait { millis: chance.pick(&[1, 150, 1_200, 7_000]) }),
            4..6 => steps.push(Step::Compare),
            6 if chance.below(3) == 0 => steps.push(Step::Reopen),
            7 if mix.faults && down_for == 0 => {
                down_for = 1 + chance.below(12);
                steps.push(Step::StoreDown);
            }
            8 if mix.faults && chance.below(3) == 0 => steps.push(Step::PowerCut),
            9..40 => steps.push(chance.name_step()),
            _ => steps.push(chance.file_step()),
        }
    }
    steps.push(Step::StoreUp);
    steps.push(Step::Compare);
    steps.push(Step::Reopen);
    steps
}

const SLOTS: u64 = 5;

struct Chance(SmallRng);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0.random_range(0..n)
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    fn flip(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    fn slot(&mut self) -> Slot {
        self.below(SLOTS) as Slot
    }

    /// Few names, so that steps meet.
    fn path(&mut self) -> String {
        let depth = self.pick(&[1, 1, 1, 2, 2, 3]);
        let names: Vec<&str> = (0..depth).map(|_| self.pick(&["a", "b", "c", "d"])).collect();
        if self.flip(60) { [names.join("/"), "n".repeat(self.pick(&[255, 256]))].join("/") } else { names.join("/") }
    }

    fn mode(&mut self) -> u16 {
        self.pick(&[0o644, 0o755, 0o600, 0o777, 0o2755, 0o2775, 0o4755, 0o1777, 0o000])
    }

    /// Small files mostly; sometimes around a chunk border, seldom far out.
    fn offset(&mut self) -> u64 {
        let near = self.below(200_000);
        match self.below(40) {
            0..12 => 0,
            12 => (64 << 20) - 70_000 + near,
            13 if self.flip(3) => (5 << 30) + near,
            14..20 => near / 65_536 * 65_536,
            _ => near,
        }
    }

    fn len(&mut self) -> u64 {
        let any = self.below(150_000);
        self.pick(&[1, 10, 4_096, 65_536, 70_001, any, any, any / 10])
    }

    fn name_step(&mut self) -> Step {
        let path = self.path();
        let names = ["user.x", "user.y", "trusted.z"];
        match self.below(24) {
            0..4 => Step::Make { path, kind: FileType::Directory, mode: self.mode(), by: self.owner() },
            4 => {
                let kinds =
                    [FileType::File, FileType::Fifo, FileType::Socket, FileType::CharDevice, FileType::BlockDevice];
                Step::Make { path, kind: self.pick(&kinds), mode: self.mode(), by: self.owner() }
            }
            5 => Step::Symlink { path, target: self.path() },
            6..8 => Step::Unlink { path },
            8..10 => Step::Rmdir { path },
            10..14 => {
                let modes = [RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
                Step::Rename { from: path, to: self.path(), mode: self.pick(&modes) }
            }
            14 => Step::Link { from: path, to: self.path() },
            15 => Step::Readlink { path },
            16 => Step::Stat { path },
            17 => Step::List { path },
            18 => Step::Chmod { path, mode: self.mode() },
            19 => Step::Chown { path, uid: self.pick(&[0, 7, 1000]), gid: self.pick(&[0, 7, 1000]) },
            20 => Step::Utimens {
                path,
                secs: self.pick(&[0, 1, 1_700_000_000, 4_000_000_000]),
                nanos: self.pick(&[0, 1, 999_999_999]),
            },
            21 => {
                let mode = self.pick(&[XattrMode::Set, XattrMode::Set, XattrMode::Create, XattrMode::Replace]);
                Step::SetXattr { path, name: self.pick(&names).into(), bytes: self.pick(&[0, 5, 300]), mode }
            }
            22 if self.flip(2) => Step::ListXattr { path },
            22 => Step::GetXattr { path, name: self.pick(&names).into() },
            _ => Step::RemoveXattr { path, name: self.pick(&names).into() },
        }
    }

    fn owner(&mut self) -> (u32, u32) {
        self.pick(&[(0, 0), (0, 0), (1000, 1000)])
    }

    fn file_step(&mut self) -> Step {
        let slot = self.slot();
        match self.below(40) {
            0..5 => Step::Create { path: self.path(), slot, exclusive: self.flip(4), mode: self.mode() },
            5..8 => {
                let write = !self.flip(4);
                let append = write && self.flip(6);
                Step::Open { path: self.path(), slot, write, append, truncate: write && self.flip(6) }
            }
            8..10 => Step::Close { slot },
            10..16 => Step::Read { slot, offset: self.offset(), len: self.len() as u32 },
            16..28 => {
                let fill = 1 + self.below(255) as u8;
                Step::Write { slot, offset: self.offset(), len: self.len() as u32, fill, sync: self.flip(25) }
            }
            28..31 => Step::Fsync { slot },
            31 => Step::Truncate { path: self.path(), length: self.offset() },
            32..34 => Step::TruncateOpen { slot, length: self.offset() },
            34..36 => {
                let mode = |keep_size, punch_hole, zero_range| FallocMode { keep_size, punch_hole, zero_range };
                let modes = [
                    mode(false, false, false),
                    mode(true, false, false),
                    mode(true, true, false),
                    mode(false, false, true),
                    mode(true, false, true),
                ];
                Step::Fallocate { slot, mode: self.pick(&modes), offset: self.offset(), len: self.len() }
            }
            36..38 => Step::CopyRange {
                from: slot,
                from_offset: self.offset(),
                to: self.slot(),
                to_offset: self.offset(),
                len: self.len(),
            },
            _ => Step::Seek { slot, offset: self.offset(), whence: self.pick(&[Whence::Data, Whence::Hole]) },
        }
    }
}

/// The bytes a write of `fill` puts at `offset`: a pattern that moves, so that a shifted block shows.
pub fn pattern(fill: u8, offset: u64, len: u32) -> Vec<u8> {
    (offset..offset + u64::from(len)).map(|at| fill ^ (at % 251) as u8 ^ (at / 4096) as u8 | 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_sequence() {
        let mix = Mix { steps: 300, faults: true };
        assert_eq!(generate(7, mix), generate(7, mix));
        assert_ne!(generate(7, mix), generate(8, mix));
    }
}

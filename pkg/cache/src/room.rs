//! How much a directory may hold, and how much has to go. Pure.

use rustix::fs::StatVfs;

/// Once a limit is passed, eviction goes on down to this share of it.
const BYTES_TARGET_PERCENT: u64 = 95;
const ITEMS_TARGET_PERCENT: u64 = 99;

/// Limits of one directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) bytes: u64,
    /// 0: no limit.
    pub(crate) items: u64,
    pub(crate) free_space_ratio: f64,
}

/// What has to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Excess {
    pub(crate) bytes: u64,
    pub(crate) items: u64,
}

impl Excess {
    pub(crate) fn is_none(&self) -> bool {
        *self == Excess::default()
    }

    pub(crate) fn max(self, other: Excess) -> Excess {
        Excess { bytes: self.bytes.max(other.bytes), items: self.items.max(other.items) }
    }

    /// One file of `bytes` is gone.
    pub(crate) fn reduce(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.items = self.items.saturating_sub(1);
    }
}

impl Limits {
    /// May the directory hold this much?
    pub(crate) fn allow(&self, bytes: u64, items: u64) -> bool {
        bytes <= self.bytes && (self.items == 0 || items <= self.items)
    }

    /// What has to go before it holds this much.
    pub(crate) fn excess(&self, bytes: u64, items: u64) -> Excess {
        let over = |n: u64, max: u64, percent: u64| if n > max { n - max + max / 100 * (100 - percent) } else { 0 };
        Excess {
            bytes: over(bytes, self.bytes, BYTES_TARGET_PERCENT),
            items: if self.items == 0 { 0 } else { over(items, self.items, ITEMS_TARGET_PERCENT) },
        }
    }

    /// What has to go before the file system can take another file of `bytes`.
    pub(crate) fn file_system_excess(&self, fs: &StatVfs, bytes: u64) -> Excess {
        let keep = |total: u64| (total as f64 * self.free_space_ratio) as u64;
        let wanted_bytes = keep(fs.f_blocks * fs.f_frsize) + bytes;
        // Some file systems have no fixed number of inodes and report 0.
        let wanted_items = if fs.f_files == 0 { 0 } else { keep(fs.f_files) };
        Excess {
            bytes: wanted_bytes.saturating_sub(fs.f_bavail * fs.f_frsize),
            items: wanted_items.saturating_sub(fs.f_favail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eviction_goes_below_the_limit_it_passed() {
        let limits = Limits { bytes: 1000, items: 100, free_space_ratio: 0.1 };
        assert!(limits.allow(1000, 100) && !limits.allow(1001, 1) && !limits.allow(1, 101));
        assert_eq!(limits.excess(1000, 100), Excess::default());
        assert_eq!(limits.excess(1010, 101), Excess { bytes: 60, items: 2 });
    }
}

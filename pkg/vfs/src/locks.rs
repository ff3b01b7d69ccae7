//! Locks that wait.

use cairn_meta::record::FlockKind;

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

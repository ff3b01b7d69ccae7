//! What the root hands to the vfs.

use std::sync::Arc;
use std::time::Duration;

use crate::Control;

/// Settings. The root decides all of them.
#[derive(Clone, Debug)]
pub struct Config {
    /// Bytes read ahead of one sequential reader at most; 0 for none. As much as of all readers together, unless
    /// somebody set it: how much is worth while is found out.
    pub readahead_max_bytes: u64,
    /// Bytes read ahead of all readers together; none begins more once they are used.
    pub readahead_total_bytes: u64,
    /// A slice is closed and stored once it is this old (5 s).
    pub flush_age: Duration,
    /// A slice is closed and stored once nothing was written to it for this long (1 s).
    pub flush_idle: Duration,
    /// A stored slice that could not be committed for this long is uploaded again (30 min), since
    /// garbage collection elsewhere may delete it after an hour.
    pub reupload_age: Duration,
    /// Small writes share slices (packs) of at most so many bytes; 0: every run is a slice of its own.
    pub pack_bytes: u32,
    /// How often a read refreshes the slice list and tries again before it fails.
    pub read_retries: u32,
    /// Entries fetched from metadata at a time when a directory is listed.
    pub readdir_page: usize,
    /// Leave the virtual files out of the root's listing.
    pub hide_internal: bool,
    /// Name the virtual files `.jfs.stats` and so on.
    pub prefix_internal: bool,
    /// The mount shows a sub-directory: the trash is not visible.
    pub subdir: bool,
}

/// What the root lends: texts of virtual files, and the work behind `.control`.
#[derive(Clone)]
pub struct Parts {
    /// Text of `.stats`: one `name value` a line.
    pub stats: Arc<dyn Fn() -> String + Send + Sync>,
    /// Text of `.config`: indented JSON, secrets removed.
    pub config: Arc<dyn Fn() -> String + Send + Sync>,
    /// What `.control` can do; `None` answers every message with EINVAL.
    pub control: Option<Arc<dyn Control>>,
}

impl Parts {
    /// Empty texts, no control: for tests and for doors without a root directory of files.
    pub fn none() -> Parts {
        Parts { stats: Arc::new(String::new), config: Arc::new(|| "{}".into()), control: None }
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Parts(control: {})", self.control.is_some())
    }
}

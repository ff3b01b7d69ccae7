//! How large a run is: from the environment, with defaults that take about five minutes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

/// What one run does.
pub(crate) struct Settings {
    /// Where database, store, cache and mount points are put (`CAIRN_BENCH_DIR`).
    pub(crate) folder: PathBuf,
    /// Counted turns of each side (`CAIRN_BENCH_TURNS`); one more before them warms up.
    pub(crate) turns: usize,
    /// Bytes of one sequential write (`CAIRN_BENCH_WRITE_MIB`).
    pub(crate) write_bytes: u64,
    /// Bytes of the file that is read at random (`CAIRN_BENCH_READ_MIB`).
    pub(crate) read_bytes: u64,
    /// Random reads in one turn (`CAIRN_BENCH_READS`).
    pub(crate) reads: u64,
    /// Files one turn creates and removes (`CAIRN_BENCH_NAMES`).
    pub(crate) names: u64,
    /// Files of the listed directory (`CAIRN_BENCH_LISTED`).
    pub(crate) listed: u64,
    /// Pause before memory is read (`CAIRN_BENCH_REST_SECS`).
    pub(crate) rest: Duration,
}

impl Settings {
    /// Reads them; what is not set has its default.
    pub(crate) fn from_environment() -> anyhow::Result<Settings> {
        Ok(Settings {
            folder: std::env::var_os("CAIRN_BENCH_DIR").map_or_else(default_folder, PathBuf::from),
            turns: number("CAIRN_BENCH_TURNS", 7)? as usize,
            write_bytes: number("CAIRN_BENCH_WRITE_MIB", 512)? << 20,
            read_bytes: number("CAIRN_BENCH_READ_MIB", 512)? << 20,
            reads: number("CAIRN_BENCH_READS", 20_000)?,
            names: number("CAIRN_BENCH_NAMES", 8_000)?,
            listed: number("CAIRN_BENCH_LISTED", 100_000)?,
            rest: Duration::from_secs(number("CAIRN_BENCH_REST_SECS", 60)?),
        })
    }
}

/// Memory, if there is a place in it: a disk's moods hide what a client costs.
fn default_folder() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

fn number(name: &str, default: u64) -> anyhow::Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text:?} is no number")),
        Err(_) => Ok(default),
    }
}

//! What a person may set about the cache, as code hands it to code.

use std::path::PathBuf;
use std::str::FromStr;

use cairn_types::KeyLayout;

/// How the cache of one volume is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// One folder for each disk, each `<cache-dir>/<volume UUID>`. None: memory only.
    pub dirs: Vec<PathBuf>,
    /// Memory for whole blocks, in bytes. 0: none.
    pub memory_bytes: u64,
    /// Space for cached files over all directories, in bytes. 0: nothing is written to disk.
    pub disk_bytes: u64,
    /// Cached files over all directories; 0 for no limit.
    pub disk_items: u64,
    /// Share of each file system (space and inodes) that stays free, 0 to 1.
    pub free_space_ratio: f64,
    /// What is verified when a cached file is read.
    pub checksum: ChecksumLevel,
    /// Who goes when there is no room.
    pub eviction: Eviction,
    /// Mode of cached files; folders get the matching search bits.
    pub file_mode: u32,
    /// How the volume names its objects; cached files are named alike.
    pub key_layout: KeyLayout,
}

/// When the checksum of a cached file is looked at. Every level but `None` writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ChecksumLevel {
    /// Never; files carry none.
    None,
    /// Only when the whole block is read.
    Full,
    /// The 32 KiB pieces that lie wholly inside what is read.
    Shrink,
    /// What is read is widened to whole pieces. The default.
    #[default]
    Extend,
}

/// Who is evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Eviction {
    /// Nobody: a full cache takes nothing new.
    None,
    /// Newcomers that were not used a second time, then those not used for a round. The default.
    #[default]
    S3Fifo,
    /// Of two blocks picked at random, the one used longer ago. JuiceFS's default.
    TwoRandom,
    /// The block used longest ago.
    Lru,
}

impl FromStr for ChecksumLevel {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Ok(match s {
            "none" => ChecksumLevel::None,
            "full" => ChecksumLevel::Full,
            "shrink" => ChecksumLevel::Shrink,
            "extend" => ChecksumLevel::Extend,
            _ => return Err(format!("unknown checksum level {s:?}: expected none, full, shrink or extend")),
        })
    }
}

impl FromStr for Eviction {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        Ok(match s {
            "none" => Eviction::None,
            "s3-fifo" => Eviction::S3Fifo,
            "2-random" => Eviction::TwoRandom,
            "lru" => Eviction::Lru,
            _ => return Err(format!("unknown eviction {s:?}: expected none, s3-fifo, 2-random or lru")),
        })
    }
}

//! Blocks that another client still has to upload from this machine (volume format 9.3).

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cairn_types::BlockKey;

use crate::ChecksumLevel;
use crate::block_file::{BlockFile, Fault};

/// Where such blocks lie, below a volume's folder in a cache directory.
const RAW_STAGING: &str = "rawstaging";

/// The staged blocks of a cache directory. Unfinished files (`.tmp`) are not blocks; those that
/// nobody finishes any more are removed if `nobody_is_at_work`.
///
/// # Errors
///
/// A folder cannot be read.
pub fn list(cache_dir: &Path, nobody_is_at_work: bool) -> io::Result<Vec<(BlockKey, PathBuf)>> {
    let mut found = Vec::new();
    walk(&cache_dir.join(RAW_STAGING).join("chunks"), "chunks", 2, &mut |name, path| {
        match BlockKey::parse_object_key(name) {
            Some(key) => found.push((key, path)),
            None if nobody_is_at_work && name.ends_with(".tmp") => std::fs::remove_file(path)?,
            None => {}
        }
        Ok(())
    })?;
    Ok(found)
}

/// Visits the files `depth` folders down, by their names relative to the walk's start.
fn walk(at: &Path, name: &str, depth: u32, visit: &mut dyn FnMut(&str, PathBuf) -> io::Result<()>) -> io::Result<()> {
    let entries = match std::fs::read_dir(at) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let Some(child) = entry.file_name().to_str().map(|part| format!("{name}/{part}")) else { continue };
        match entry.file_type()?.is_dir() {
            true if depth > 0 => walk(&entry.path(), &child, depth - 1, visit)?,
            false if depth == 0 => visit(&child, entry.path())?,
            _ => {}
        }
    }
    Ok(())
}

/// The plain bytes of a staged block's file, verified where it has checksums.
///
/// # Errors
///
/// It cannot be read, or is not the block.
pub fn read(path: &Path, len: u32) -> io::Result<Bytes> {
    let told = |fault| match fault {
        Fault::Damaged => io::Error::new(io::ErrorKind::InvalidData, "its checksum is wrong"),
        Fault::Io(e) => e,
    };
    let file = BlockFile::open(path, len, ChecksumLevel::Full).map_err(told)?;
    file.read(0..len, ChecksumLevel::Full).map_err(told)
}

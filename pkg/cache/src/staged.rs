//! Blocks that another client still has to upload from this machine (volume format 9.3).

use std::io;
use std::path::{Path, PathBuf};

/// The first file found below `rawstaging` of a cache directory, if there is one: such blocks exist
/// nowhere else, so the directory is not ours to use.
///
/// # Errors
///
/// The folder cannot be read.
pub fn find_staged(cache_dir: &Path) -> io::Result<Option<PathBuf>> {
    first_file(&cache_dir.join("rawstaging"))
}

fn first_file(dir: &Path) -> io::Result<Option<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let found = if entry.file_type()?.is_dir() { first_file(&entry.path())? } else { Some(entry.path()) };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

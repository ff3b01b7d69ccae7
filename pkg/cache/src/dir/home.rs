//! A cache directory before it is in use: its folders and its identity (volume format 9.1).

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use cairn_env::Env;

/// Where a directory keeps the text its place on the ring is computed from.
pub(super) fn lock_path(dir: &Path) -> PathBuf {
    dir.join(".lock")
}

/// Without its `.lock` the directory itself is gone.
pub(super) fn has_lock(dir: &Path) -> bool {
    fs::metadata(lock_path(dir)).is_ok()
}

/// Folders with the search bits that match the files' read bits.
pub(super) fn make_dirs(path: &Path, file_mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(file_mode | ((file_mode & 0o444) >> 2)).create(path)
}

pub(super) fn read_lock(dir: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(lock_path(dir)) {
        Ok(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// The directory's identity; made up once if it has none.
pub(super) fn ensure_lock(env: &Env, dir: &Path) -> io::Result<String> {
    if let Some(text) = read_lock(dir)? {
        probe_writable(dir)?;
        return Ok(text);
    }
    fs::write(lock_path(dir), random_uuid(env))?;
    // Another client may have written its own at the same time: the text that stayed counts.
    read_lock(dir)?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// An error if the directory cannot be written.
fn probe_writable(dir: &Path) -> io::Result<()> {
    Ok(rustix::fs::access(dir, rustix::fs::Access::WRITE_OK)?)
}

/// Writes a little and reads it back.
pub(super) fn probe(dir: &Path, file_mode: u32) -> io::Result<()> {
    const TEXT: &[u8] = b"still here";
    let path = dir.join(".probe");
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(file_mode).open(&path)?;
    file.write_all(TEXT)?;
    file.sync_all()?;
    let read = fs::read(&path)?;
    fs::remove_file(&path)?;
    if read == TEXT { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn random_uuid(env: &Env) -> String {
    let (a, b) = (env.random(), env.random());
    let variant = 0x8000 | (b >> 48 & 0x3fff);
    format!("{:08x}-{:04x}-4{:03x}-{variant:04x}-{:012x}", a >> 32, a >> 16 & 0xffff, a & 0xfff, b & 0xffff_ffff_ffff)
}

//! Recursive removal, bottom up, one directory page at a time.

use cairn_meta::{Cred, Error as MetaError, Meta};
use cairn_types::{FileType, Ino};
use futures::StreamExt;

use crate::Result;
use crate::progress::{Phase, Progress, Watch};

/// Names read at a time.
const PAGE: usize = 1000;

/// How to remove.
#[derive(Clone, Copy, Debug)]
pub struct RemoveOptions {
    /// Nothing goes to the trash.
    pub skip_trash: bool,
    /// Removals at the same time within a directory.
    pub threads: usize,
}

impl Default for RemoveOptions {
    fn default() -> Self {
        RemoveOptions { skip_trash: false, threads: 16 }
    }
}

/// Removes `name` and everything below it. Answers how many entries went.
///
/// # Errors
/// The first thing that could not be removed. What went before is gone.
pub async fn remove(
    meta: &Meta,
    cred: &Cred,
    parent: Ino,
    name: &[u8],
    options: &RemoveOptions,
    watch: Watch<'_>,
) -> Result<u64> {
    match meta.unlink(cred, parent, name, options.skip_trash).await {
        Ok(_) => return Ok(1),
        Err(MetaError::IsDirectory) => {}
        Err(e) => return Err(e.into()),
    }
    let mut removed = 0;
    match meta.lookup(cred, parent, name).await {
        Ok((dir, _)) => removed += empty(meta, cred, dir, options, watch).await?,
        // An entry whose directory does not exist: only the entry goes.
        Err(MetaError::NoEntry) => {}
        Err(e) => return Err(e.into()),
    }
    meta.rmdir(cred, parent, name, options.skip_trash).await?;
    Ok(removed + 1)
}

/// A directory on the way down.
struct Level {
    dir: Ino,
    /// How to remove it once it is empty: where its name is.
    parent: Ino,
    name: Vec<u8>,
    after: Vec<u8>,
    subdirs: Vec<(Vec<u8>, Ino)>,
}

impl Level {
    fn new(dir: Ino, parent: Ino, name: Vec<u8>) -> Level {
        Level { dir, parent, name, after: Vec::new(), subdirs: Vec::new() }
    }
}

/// Removes everything below `dir`, but not the directory itself.
///
/// # Errors
/// As [`remove`].
pub async fn empty(meta: &Meta, cred: &Cred, dir: Ino, options: &RemoveOptions, watch: Watch<'_>) -> Result<u64> {
    let mut removed = 0;
    let mut levels = vec![Level::new(dir, dir, Vec::new())];
    while let Some(level) = levels.last_mut() {
        if let Some((name, ino)) = level.subdirs.pop() {
            let parent = level.dir;
            levels.push(Level::new(ino, parent, name));
            continue;
        }
        let page = meta.readdir(level.dir, &level.after, PAGE, false).await?;
        if let Some(last) = page.last() {
            level.after.clone_from(&last.name);
            let (dirs, others): (Vec<_>, Vec<_>) = page.into_iter().partition(|e| e.entry.kind == FileType::Directory);
            level.subdirs = dirs.into_iter().map(|e| (e.name, e.entry.ino)).collect();
            let dir = level.dir;
            removed += unlink_all(meta, cred, dir, others.into_iter().map(|e| e.name), options).await?;
        } else if let Some(done) = levels.pop()
            && !levels.is_empty()
        {
            removed += gone(meta.rmdir(cred, done.parent, &done.name, options.skip_trash).await)?;
        }
        watch(Progress { phase: Phase::Remove, done: removed, total: None, bytes: 0 });
    }
    Ok(removed)
}

async fn unlink_all(
    meta: &Meta,
    cred: &Cred,
    dir: Ino,
    names: impl Iterator<Item = Vec<u8>>,
    options: &RemoveOptions,
) -> Result<u64> {
    let mut removals = futures::stream::iter(names)
        .map(|name| async move { meta.unlink(cred, dir, &name, options.skip_trash).await })
        .buffer_unordered(options.threads.max(1));
    let mut removed = 0;
    while let Some(outcome) = removals.next().await {
        removed += gone(outcome)?;
    }
    Ok(removed)
}

/// Somebody else may have been quicker.
fn gone<T>(outcome: cairn_meta::Result<T>) -> Result<u64> {
    match outcome {
        Ok(_) => Ok(1),
        Err(MetaError::NoEntry) => Ok(0),
        Err(e) => Err(e.into()),
    }
}

//! Write-back of one client: its journal, and what others have left on this machine.
//!
//! The journal lies in the volume's folder of the first cache directory, or of whichever has one
//! already, so that it is found again. A mount that does not write back still uploads what is in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_cache::journal::{self, Journal, OpenError, RealDoor, Recovered, Settings};
use cairn_cache::staged;
use cairn_chunk::{RawStaging, Staging, StagingRules, UploadHours};
use cairn_env::Env;
use cairn_meta::Meta;
use cairn_types::{Format, SliceId};

use crate::config::Config;
use crate::error::refused;
use crate::{Error, Result};

/// The journal's folder, below the volume's folder of a cache directory.
const JOURNAL: &str = "journal";
/// Where blocks go that were set aside, beside it.
const SET_ASIDE: &str = "set-aside";

/// What was found on this machine.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// `None`: nothing is staged, and nothing will be.
    pub(crate) staging: Option<Staging>,
    pub(crate) recovered: Recovered,
    /// The highest slice id among what was found.
    pub(crate) highest: Option<SliceId>,
}

/// Opens the journal, and adopts what a dead JuiceFS left in `rawstaging`.
///
/// # Errors
/// A sentence where blocks could not be staged as asked, or staged ones would be overlooked.
pub(crate) async fn open(env: &Env, config: &Config, format: &Format, meta: &Meta) -> Result<Opened> {
    let dirs: Vec<PathBuf> = config.cache.dirs.iter().map(|dir| dir.join(&format.uuid)).collect();
    if config.client.read_only {
        dirs.iter().filter(|dir| holds_blocks(dir)).for_each(|dir| {
            tracing::warn!(dir = %dir.display(), "blocks wait for upload here: a read-only mount leaves them alone");
        });
        return Ok(Opened::default());
    }
    let place = place(&dirs, config)?;
    let opened = match &place {
        Some(dir) => open_journal(env, dir, config, format).await?,
        None => None,
    };
    let raw = raw(env, &dirs, meta).await?;
    if opened.is_none() && raw.is_empty() {
        return Ok(Opened::default());
    }
    let highest_raw = raw.iter().map(|(key, _)| key.id).max();
    let (journal, recovered) = opened.map_or((None, Recovered::default()), |(j, r)| (Some(j), r));
    let home = place.or_else(|| dirs.first().cloned()).expect("something was found in a directory");
    let highest = recovered.highest.max(highest_raw);
    let staging = Staging::new(rules(config, home.join(SET_ASIDE)), journal, RawStaging::new(raw));
    Ok(Opened { staging: Some(staging), recovered, highest })
}

fn rules(config: &Config, set_aside: PathBuf) -> StagingRules {
    let write_back = &config.write_back;
    StagingRules {
        write_back: write_back.enabled,
        upload_delay: write_back.upload_delay,
        upload_hours: write_back.upload_hours.map(|(from, to)| UploadHours {
            from,
            to,
            utc_offset_secs: utc_offset_secs(),
        }),
        threshold_bytes: u32::try_from(write_back.threshold_bytes).unwrap_or(u32::MAX),
        stage_writes_max: write_back.stage_writes_max,
        uploads_max: config.storage.max_uploads as usize,
        set_aside,
    }
}

/// The folder whose journal is used; `None` if there is none and none is wanted.
fn place(dirs: &[PathBuf], config: &Config) -> Result<Option<PathBuf>> {
    let mut with_journal = dirs.iter().filter(|dir| has_segments(dir));
    let found = with_journal.next().cloned();
    for other in with_journal {
        tracing::warn!(dir = %other.display(), "a second journal is left alone: mount with this directory first");
    }
    if !config.write_back.enabled {
        return Ok(found);
    }
    match found.or_else(|| dirs.first().cloned()) {
        Some(dir) => Ok(Some(dir)),
        None => refused("--writeback needs a cache directory on a disk (cache-dir)"),
    }
}

async fn open_journal(
    env: &Env,
    dir: &Path,
    config: &Config,
    format: &Format,
) -> Result<Option<(Arc<Journal>, Recovered)>> {
    let door = RealDoor::new(dir.join(JOURNAL), config.cache.file_mode);
    let settings = Settings {
        volume: format.uuid.clone(),
        segment_bytes: journal::SEGMENT_BYTES,
        staged_bytes_max: config.write_back.staged_bytes_max,
        keep_free: config.cache.free_space_ratio / 2.0,
    };
    let shown = dir.join(JOURNAL).display().to_string();
    match Journal::open(env, Arc::new(door), settings).await {
        Ok((journal, recovered)) => {
            if recovered.blocks > 0 || !recovered.open.is_empty() {
                tracing::info!(dir = shown, blocks = recovered.blocks, "blocks were left here: they are uploaded now");
            }
            Ok(Some((journal, recovered)))
        }
        Err(OpenError::InUse) if !config.write_back.enabled => Ok(None),
        Err(OpenError::InUse) => refused(format!(
            "another mount stages blocks in {shown}: give this one a --cache-dir of its own, or leave --writeback out"
        )),
        Err(OpenError::OtherVolume { volume }) => {
            refused(format!("{shown} belongs to volume {volume}: give another --cache-dir"))
        }
        Err(OpenError::Disk(source)) => Err(Error::CacheDir { dir: shown, source }),
    }
}

fn has_segments(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir.join(JOURNAL)).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).any(|name| name.to_string_lossy().ends_with(".seg"))
}

fn holds_blocks(dir: &Path) -> bool {
    has_segments(dir) || staged::list(dir, false).is_ok_and(|files| !files.is_empty())
}

/// What a JuiceFS client that is gone has staged and not uploaded.
async fn raw(env: &Env, dirs: &[PathBuf], meta: &Meta) -> Result<Vec<(cairn_types::BlockKey, PathBuf)>> {
    let listed = |dir: &PathBuf, nobody: bool| {
        let shown = dir.display().to_string();
        staged::list(dir, nobody).map_err(|source| Error::CacheDir { dir: shown, source })
    };
    let with_files: Vec<&PathBuf> = dirs.iter().filter(|dir| dir.join("rawstaging").exists()).collect();
    if with_files.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(pid) = living_owner(meta).await? {
        for dir in with_files {
            tracing::warn!(dir = %dir.display(), pid, "rawstaging is left to the JuiceFS client that is still running");
        }
        return Ok(Vec::new());
    }
    let mut all = Vec::new();
    for dir in with_files {
        let (dir, from) = (dir.clone(), dir.clone());
        let found = env.blocking(move || listed(&dir, true)).await?;
        if !found.is_empty() {
            tracing::info!(dir = %from.display(), blocks = found.len(), "JuiceFS left blocks here: they are uploaded now");
        }
        all.extend(found);
    }
    Ok(all)
}

/// A JuiceFS client of this volume that runs on this machine.
async fn living_owner(meta: &Meta) -> Result<Option<u64>> {
    let here = rustix::system::uname().nodename().to_string_lossy().into_owned();
    for session in meta.sessions().await? {
        let Ok(info) = serde_json::from_str::<serde_json::Value>(&session.info) else { continue };
        let Some(pid) = info["ProcessID"].as_u64().filter(|_| info["HostName"].as_str() == Some(&here)) else {
            continue;
        };
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.contains("juicefs") {
            return Ok(Some(pid));
        }
    }
    Ok(None)
}

/// Seconds that local time is ahead of UTC now.
fn utc_offset_secs() -> i64 {
    // SAFETY: both are plain values of ours; localtime_r writes the second and keeps neither.
    unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut local: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&now, &mut local).is_null() { 0 } else { local.tm_gmtoff }
    }
}

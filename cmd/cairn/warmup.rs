//! `cairn warmup`: files into the local cache before they are read, out of it, or what is there.
//!
//! The mount process does it, told through `.control`. A read-only mount takes no messages: there the files
//! are read through the mount instead, which fills the same cache.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use cairn_env::Env;
use cairn_jobs::warm::Action;
use cairn_jobs::{Phase, Progress};
use cairn_types::Ino;
use clap::Args;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::control::{self, Reply};
use crate::progress::Bars;
use crate::{Global, units};

/// Message type on `.control`.
const CACHE: u32 = 1004;
/// Bytes of paths in one message: the mount takes no more than 1 MiB.
const PATHS_BYTES_MAX: usize = 512 << 10;
/// Bytes read at a time from a read-only mount.
const READ_BYTES: usize = 1 << 20;

/// Flags of `warmup`.
#[derive(Args, Debug)]
pub(crate) struct WarmupArgs {
    /// Files and directories
    paths: Vec<PathBuf>,
    /// A file that names more of them, one a line
    #[arg(short = 'f', long)]
    file: Option<PathBuf>,
    /// Blocks at a time
    #[arg(short = 'p', long, default_value_t = 50)]
    threads: u16,
    /// Return at once; the mount goes on
    #[arg(short = 'b', long)]
    background: bool,
    /// Take them out of the cache
    #[arg(long, conflicts_with = "check")]
    evict: bool,
    /// Only say what is in the cache
    #[arg(long)]
    check: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a mount answers.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
struct Answer {
    file_count: u64,
    slice_count: u64,
    total_bytes: u64,
    miss_bytes: u64,
    locations: BTreeMap<String, u64>,
}

impl Answer {
    fn add(&mut self, other: Answer) {
        self.file_count += other.file_count;
        self.slice_count += other.slice_count;
        self.total_bytes += other.total_bytes;
        self.miss_bytes += other.miss_bytes;
        other.locations.into_iter().for_each(|(place, bytes)| *self.locations.entry(place).or_default() += bytes);
    }
}

pub(crate) async fn run(args: WarmupArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let env = Env::real();
    let action = match (args.evict, args.check) {
        (true, _) => Action::Evict,
        (_, true) => Action::Check,
        _ => Action::Fill,
    };
    let paths = all_paths(&args)?;
    let bars = Bars::new(&env, global, args.json);
    let mut sum = Answer::default();
    for (mountpoint, inside) in by_mount(&paths)? {
        let watch = |done, bytes| bars.watch(Progress { phase: Phase::Warm(action), done, total: None, bytes });
        for batch in batches(&inside) {
            let body = body(&batch, &args, action);
            let reply = control::ask(&env, &mountpoint, &control::message(CACHE, &body), watch).await;
            match reply {
                Ok(Reply::Json(json)) => sum.add(serde_json::from_slice(&json).context("read the answer")?),
                // JuiceFS 1.0 and 1.1 answer without figures.
                Ok(Reply::Done) => {}
                Err(e) if control::is_read_only(&e) && action == Action::Fill => {
                    sum.add(read_through(&env, &mountpoint, &batch, args.threads, &watch).await?);
                }
                Err(e) => return Err(e).with_context(|| mountpoint.display().to_string()),
            }
        }
    }
    bars.done();
    if args.json {
        crate::show(&(serde_json::to_string_pretty(&sum)? + "\n"))?;
    } else {
        crate::show(&shown(&sum, action, args.background))?;
    }
    Ok(if action == Action::Fill && sum.miss_bytes > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The paths given, and those in the file.
fn all_paths(args: &WarmupArgs) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths = args.paths.clone();
    if let Some(list) = &args.file {
        let file = File::open(list).with_context(|| format!("open {}", list.display()))?;
        for line in io::BufReader::new(file).split(b'\n') {
            let line = line.with_context(|| format!("read {}", list.display()))?;
            let name = line.trim_ascii();
            if !name.is_empty() {
                paths.push(PathBuf::from(std::ffi::OsStr::from_bytes(name)));
            }
        }
    }
    if paths.is_empty() {
        bail!("no path given");
    }
    Ok(paths)
}

/// Each mount with the paths inside of it, as it sees them.
fn by_mount(paths: &[PathBuf]) -> anyhow::Result<BTreeMap<PathBuf, Vec<Vec<u8>>>> {
    let mut mounts: BTreeMap<PathBuf, Vec<Vec<u8>>> = BTreeMap::new();
    for path in paths {
        let real = control::real(path).with_context(|| path.display().to_string())?;
        let mountpoint = control::mount_of(&real).with_context(|| path.display().to_string())?;
        let inside = real.strip_prefix(&mountpoint).context("a path lies below its mount point")?;
        if inside.as_os_str().as_bytes().contains(&b'\n') {
            bail!("{:?} has a line break in its name: warm up its directory instead", path);
        }
        let inside = [b"/", inside.as_os_str().as_bytes()].concat();
        mounts.entry(mountpoint).or_default().push(inside);
    }
    Ok(mounts)
}

fn batches(paths: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
    let mut batches: Vec<Vec<Vec<u8>>> = vec![vec![]];
    let mut bytes = 0;
    for path in paths {
        if bytes + path.len() + 1 > PATHS_BYTES_MAX && bytes > 0 {
            batches.push(vec![]);
            bytes = 0;
        }
        bytes += path.len() + 1;
        batches.last_mut().expect("one at least").push(path.clone());
    }
    batches
}

fn body(paths: &[Vec<u8>], args: &WarmupArgs, action: Action) -> Vec<u8> {
    let joined = paths.join(&b'\n');
    let mut body = (joined.len() as u32).to_be_bytes().to_vec();
    body.extend(joined);
    body.extend(args.threads.max(1).to_be_bytes());
    let action = match action {
        Action::Fill => 0,
        Action::Evict => 1,
        Action::Check => 2,
    };
    body.extend([u8::from(args.background), action]);
    body
}

/// Reads the files to their end, many at a time.
async fn read_through(
    env: &Env,
    mountpoint: &Path,
    paths: &[Vec<u8>],
    threads: u16,
    watch: &(dyn Fn(u64, u64) + Sync),
) -> anyhow::Result<Answer> {
    let mut files = Vec::new();
    for path in paths {
        let inside = std::ffi::OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path));
        find_files(&mountpoint.join(inside), &mut files)?;
    }
    let read =
        |path: PathBuf| env.blocking(move || read_file(&path).with_context(|| format!("read {}", path.display())));
    let mut reads = futures::stream::iter(files.into_iter().map(read)).buffer_unordered(usize::from(threads.max(1)));
    let mut sum = Answer::default();
    while let Some(bytes) = reads.try_next().await? {
        sum.add(Answer { file_count: 1, total_bytes: bytes, ..Answer::default() });
        watch(sum.file_count, sum.total_bytes);
    }
    Ok(sum)
}

fn find_files(path: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let seen = path.symlink_metadata().with_context(|| path.display().to_string())?;
    // The access log has no end, and the trash is not asked for.
    if seen.ino() >= Ino::VIRTUAL_BASE.0 {
        return Ok(());
    }
    let kind = seen.file_type();
    if kind.is_file() {
        files.push(path.to_owned());
    } else if kind.is_dir() {
        for entry in fs::read_dir(path).with_context(|| path.display().to_string())? {
            find_files(&entry?.path(), files)?;
        }
    }
    Ok(())
}

fn read_file(path: &Path) -> io::Result<u64> {
    let (mut file, mut buffer, mut bytes) = (File::open(path)?, vec![0; READ_BYTES], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(bytes),
            n => bytes += n as u64,
        }
    }
}

fn shown(sum: &Answer, action: Action, background: bool) -> String {
    let (files, total) = (sum.file_count, units::shown_bytes(sum.total_bytes));
    if background {
        return "the mount goes on in the background\n".to_owned();
    }
    let missing = units::shown_bytes(sum.miss_bytes);
    match action {
        Action::Fill if sum.miss_bytes > 0 => format!("{files} files, {total}; {missing} could not be fetched\n"),
        Action::Fill => format!("{files} files, {total}: in the cache\n"),
        Action::Evict => format!("{files} files, {total}: out of the cache\n"),
        Action::Check => {
            let percent =
                |bytes: u64| if sum.total_bytes == 0 { 100.0 } else { bytes as f64 * 100.0 / sum.total_bytes as f64 };
            let mut out = format!("{files} files, {total}\n");
            for (place, bytes) in &sum.locations {
                out += &format!("  {place}: {} ({:.1}%)\n", units::shown_bytes(*bytes), percent(*bytes));
            }
            out + &format!("  not cached: {missing} ({:.1}%)\n", percent(sum.miss_bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_go_in_several_messages() {
        let paths: Vec<Vec<u8>> = (0..100_000).map(|i| format!("/some/where/file-{i}").into_bytes()).collect();
        let batches = batches(&paths);
        assert!(batches.len() > 2 && batches.concat() == paths);
        assert!(batches.iter().all(|batch| batch.join(&b'\n').len() <= PATHS_BYTES_MAX));
    }

    #[test]
    fn a_message_is_as_the_protocol_has_it() {
        let args = WarmupArgs {
            paths: vec![],
            file: None,
            threads: 5,
            background: true,
            evict: false,
            check: true,
            json: false,
        };
        let wanted = [0, 0, 0, 5, b'/', b'a', b'\n', b'/', b'b', 0, 5, 1, 2];
        assert_eq!(body(&[b"/a".to_vec(), b"/b".to_vec()], &args, Action::Check), wanted);
    }
}

//! A history of operations, each on one of the mounts of a volume by chance, one after the other:
//! every answer is the one the model gives. So metadata is linearizable over mounts, and data is
//! there at the next open after a close.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use cairn_testkit::model::{ModelFs, ModelSet, NewModelNode, No, ROOT};
use cairn_types::FileType;
use cairn_vfs::RenameMode;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{NO_KERNEL_CACHE, whole};
use crate::mount::VIRTUAL;
use crate::support::{Chance, Engine, Kind, Mounted, Volume, bytes, env_number};

on_every_engine!(two_mounts_answer_like_the_model);

/// Operations of the short form.
const STEPS: u64 = 600;
/// Operations shown when one was wrong.
const SHOWN: usize = 12;

fn two_mounts_answer_like_the_model(kind: Kind) {
    let engine = Engine::shared(kind);
    let volume = Volume::on(&engine, &[]);
    let mounts = [volume.mount(&NO_KERNEL_CACHE), volume.mount(&NO_KERNEL_CACHE)];
    let seed = env_number("CAIRN_SEED").unwrap_or(1);
    let mut history = History::new(seed);
    for _ in 0..if whole() { STEPS * 20 } else { STEPS } {
        history.step(&[mounts[0].root(), mounts[1].root()]);
    }
    mounts.iter().for_each(|m| history.compare(m.root()));
    mounts.into_iter().for_each(Mounted::unmount);
    let again = volume.mount(&[]);
    history.compare(again.root());
    again.unmount();
    volume.fsck_is_clean();
}

/// A model, and what was done to it and to the mounts.
pub(super) struct History {
    model: ModelFs,
    chance: Chance,
    seed: u64,
    done: VecDeque<String>,
    steps: u64,
}

impl History {
    pub(super) fn new(seed: u64) -> History {
        History { model: ModelFs::new(), chance: Chance::new(seed), seed, done: VecDeque::new(), steps: 0 }
    }

    /// One operation on one of the mounts, and on the model.
    #[track_caller]
    pub(super) fn step(&mut self, mounts: &[&Path]) {
        self.steps += 1;
        let who = self.chance.below(mounts.len() as u64) as usize;
        let op = Op::by_chance(&mut self.chance, self.steps);
        let real = op.real(mounts[who]).map_err(|e| e.raw_os_error().unwrap_or(0));
        let right = op.right(&mut self.model);
        // Nothing here dies: all of the past is settled.
        self.model.all_synced();
        self.done.push_back(format!("{:5} mount {who}: {op:?} -> {real:?}", self.steps));
        while self.done.len() > SHOWN {
            self.done.pop_front();
        }
        let same = match (&real, &right) {
            (Ok(a), Ok(b)) => a == b,
            (Err(errno), Err(no)) => errnos(*no).contains(errno),
            _ => false,
        };
        assert!(
            same,
            "seed {}: {real:?}, not {right:?} ({:?}) after\n{}",
            self.seed,
            right.as_ref().err().map(|no| errnos(*no)),
            Vec::from(self.done.clone()).join("\n")
        );
    }

    /// All that is seen through a mount is what the model holds.
    #[track_caller]
    pub(super) fn compare(&self, root: &Path) {
        let mut right: Vec<String> = self
            .model
            .seen()
            .nodes
            .iter()
            .filter(|(p, _)| !p.is_empty())
            .map(|(path, node)| {
                let names: Vec<_> = path.iter().map(|n| String::from_utf8_lossy(n)).collect();
                let content =
                    if node.kind == FileType::File { node.content.read(0, node.content.len()) } else { Vec::new() };
                describe(&names.join("/"), node.kind, node.mode, node.nlink, &node.target, &content)
            })
            .collect();
        let mut found = Vec::new();
        walk(root, root, &mut found)
            .unwrap_or_else(|e| panic!("seed {}: {} cannot be read: {e}", self.seed, root.display()));
        right.sort();
        found.sort();
        let missing: Vec<_> = right.iter().filter(|l| !found.contains(l)).collect();
        let extra: Vec<_> = found.iter().filter(|l| !right.contains(l)).collect();
        assert!(
            missing.is_empty() && extra.is_empty(),
            "seed {}: missing {missing:#?}\nthere instead: {extra:#?}",
            self.seed
        );
    }
}

fn describe(path: &str, kind: FileType, mode: u16, nlink: u32, target: &[u8], content: &[u8]) -> String {
    let target = String::from_utf8_lossy(target);
    let hash = crate::support::sha256(content);
    // Links have whatever mode the kernel says.
    let mode = if kind == FileType::Symlink { 0 } else { mode };
    format!("{path} {kind:?} {mode:04o} nlink {nlink} -> {target:?}, {} bytes {}", content.len(), &hash[..12])
}

fn walk(root: &Path, dir: &Path, found: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if dir == root && VIRTUAL.contains(&&*entry.file_name().to_string_lossy()) {
            continue;
        }
        let (path, meta) = (entry.path(), entry.path().symlink_metadata()?);
        let kind = kind_of(&meta);
        let target =
            if meta.is_symlink() { fs::read_link(&path)?.to_string_lossy().into_owned() } else { String::new() };
        let content = if meta.is_file() { fs::read(&path)? } else { Vec::new() };
        let shown = path.strip_prefix(root).expect("below it").to_string_lossy().into_owned();
        found.push(describe(
            &shown,
            kind,
            (meta.mode() & 0o7777) as u16,
            meta.nlink() as u32,
            target.as_bytes(),
            &content,
        ));
        if meta.is_dir() {
            walk(root, &path, found)?;
        }
    }
    Ok(())
}

fn kind_of(meta: &fs::Metadata) -> FileType {
    let kind = meta.file_type();
    match () {
        () if kind.is_dir() => FileType::Directory,
        () if kind.is_file() => FileType::File,
        () if kind.is_symlink() => FileType::Symlink,
        () if kind.is_fifo() => FileType::Fifo,
        () => panic!("nobody made a {kind:?}"),
    }
}

/// What can be done. Paths are relative to a mount.
#[derive(Clone, Debug)]
enum Op {
    Create { path: String, content: (u64, usize) },
    Overwrite { path: String, content: (u64, usize) },
    Append { path: String, content: (u64, usize) },
    Read { path: String },
    Truncate { path: String, length: u64 },
    Mkdir { path: String },
    Unlink { path: String },
    Rmdir { path: String },
    Rename { from: String, to: String, mode: RenameMode },
    Link { from: String, to: String },
    Symlink { path: String, target: String },
    Readlink { path: String },
    Chmod { path: String, mode: u16 },
    Stat { path: String },
    List { path: String },
}

/// Lengths of what is written: within a page, a page, more than a block of a 64 KiB volume.
const LENGTHS: [usize; 5] = [0, 3, 4096, 10_000, 150_000];

impl Op {
    fn by_chance(chance: &mut Chance, step: u64) -> Op {
        let content = (step, *chance.pick(&LENGTHS));
        let path = any_path(chance);
        match chance.below(100) {
            0..18 => Op::Create { path, content },
            18..24 => Op::Overwrite { path, content },
            24..28 => Op::Append { path, content },
            28..36 => Op::Read { path },
            36..40 => Op::Truncate { path, length: chance.below(200_000) },
            40..48 => Op::Mkdir { path },
            48..56 => Op::Unlink { path },
            56..60 => Op::Rmdir { path },
            60..74 => {
                let mode = *chance.pick(&[
                    RenameMode::Replace,
                    RenameMode::Replace,
                    RenameMode::NoReplace,
                    RenameMode::Exchange,
                ]);
                Op::Rename { from: path, to: any_path(chance), mode }
            }
            74..79 => Op::Link { from: path, to: any_path(chance) },
            79..82 => Op::Symlink { path: a_link(chance), target: format!("to-{step}") },
            82..84 => Op::Readlink { path: a_link(chance) },
            84..87 => Op::Chmod { path, mode: *chance.pick(&[0o600, 0o644, 0o755, 0o700]) },
            87..94 => Op::Stat { path },
            _ => Op::List { path: a_directory(chance) },
        }
    }

    fn real(&self, root: &Path) -> io::Result<String> {
        let at = |path: &str| -> PathBuf { root.join(path) };
        let put = |file: &mut fs::File, (seed, len): (u64, usize)| file.write_all(&bytes(seed, len));
        match self {
            Op::Create { path, content } => {
                put(&mut OpenOptions::new().write(true).create_new(true).open(at(path))?, *content)?
            }
            Op::Overwrite { path, content } => {
                put(&mut OpenOptions::new().write(true).truncate(true).open(at(path))?, *content)?
            }
            Op::Append { path, content } => put(&mut OpenOptions::new().append(true).open(at(path))?, *content)?,
            Op::Read { path } => return Ok(crate::support::sha256(&fs::read(at(path))?)),
            Op::Truncate { path, length } => OpenOptions::new().write(true).open(at(path))?.set_len(*length)?,
            Op::Mkdir { path } => {
                fs::create_dir(at(path))?;
            }
            Op::Unlink { path } => fs::remove_file(at(path))?,
            Op::Rmdir { path } => fs::remove_dir(at(path))?,
            Op::Rename { from, to, mode } => {
                let flags = match mode {
                    RenameMode::NoReplace => RenameFlags::NOREPLACE,
                    RenameMode::Exchange => RenameFlags::EXCHANGE,
                    _ => RenameFlags::empty(),
                };
                renameat_with(CWD, at(from), CWD, at(to), flags)?;
            }
            Op::Link { from, to } => fs::hard_link(at(from), at(to))?,
            Op::Symlink { path, target } => std::os::unix::fs::symlink(target, at(path))?,
            Op::Readlink { path } => return Ok(fs::read_link(at(path))?.to_string_lossy().into_owned()),
            Op::Chmod { path, mode } => fs::set_permissions(at(path), PermissionsExt::from_mode(u32::from(*mode)))?,
            Op::Stat { path } => {
                let meta = at(path).symlink_metadata()?;
                let length = if meta.is_file() { meta.len() } else { 0 };
                return Ok(stat_line(kind_of(&meta), (meta.mode() & 0o7777) as u16, meta.nlink() as u32, length));
            }
            Op::List { path } => {
                let names = fs::read_dir(at(path))?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned()));
                let mut names = names.collect::<io::Result<Vec<String>>>()?;
                names.retain(|n| !VIRTUAL.contains(&n.as_str()));
                names.sort();
                return Ok(names.join(" "));
            }
        }
        Ok(String::new())
    }

    fn right(&self, model: &mut ModelFs) -> Result<String, No> {
        const ME: (u32, u32) = (0, 0);
        let new = |kind, mode, target: &str| NewModelNode {
            kind,
            mode,
            umask: 0o022,
            rdev: 0,
            target: target.as_bytes().to_vec(),
        };
        match self {
            Op::Create { path, content } => {
                let (dir, name) = parent(model, path)?;
                let id = model.make(ME, dir, name, new(FileType::File, 0o666, ""))?;
                model.write(id, 0, &bytes(content.0, content.1))?;
            }
            Op::Overwrite { path, content } => {
                let id = file(model, path)?;
                model.truncate(id, 0)?;
                model.write(id, 0, &bytes(content.0, content.1))?;
            }
            Op::Append { path, content } => {
                let id = file(model, path)?;
                let end = model.content(id).len();
                model.write(id, end, &bytes(content.0, content.1))?;
            }
            Op::Read { path } => {
                let id = file(model, path)?;
                let content = model.content(id);
                return Ok(crate::support::sha256(&content.read(0, content.len())));
            }
            Op::Truncate { path, length } => {
                let id = file(model, path)?;
                model.truncate(id, *length)?;
            }
            Op::Mkdir { path } => {
                let (dir, name) = parent(model, path)?;
                model.make(ME, dir, name, new(FileType::Directory, 0o777, ""))?;
            }
            Op::Unlink { path } => {
                let (dir, name) = parent(model, path)?;
                model.unlink(dir, name)?;
            }
            Op::Rmdir { path } => {
                let (dir, name) = parent(model, path)?;
                model.rmdir(dir, name)?;
            }
            Op::Rename { from, to, mode } => {
                let (from, to) = (parent(model, from)?, parent(model, to)?);
                model.rename(from, to, *mode)?;
            }
            Op::Link { from, to } => {
                let (old, new) = (parent(model, from)?, parent(model, to));
                let id = model.lookup(old.0, old.1)?;
                let (dir, name) = new?;
                model.link(id, dir, name)?;
            }
            Op::Symlink { path, target } => {
                let (dir, name) = parent(model, path)?;
                model.make(ME, dir, name, new(FileType::Symlink, 0o777, target))?;
            }
            Op::Readlink { path } => {
                let id = find(model, path)?;
                let node = model.node(id)?;
                let target = String::from_utf8_lossy(&node.target).into_owned();
                return if node.kind == FileType::Symlink { Ok(target) } else { Err(No::Invalid) };
            }
            Op::Chmod { path, mode } => {
                let id = find(model, path)?;
                model.set_attr(id, ModelSet { mode: Some(*mode), ..ModelSet::default() })?;
            }
            Op::Stat { path } => {
                let id = find(model, path)?;
                let node = model.node(id)?;
                let length = if node.kind == FileType::File { model.content(id).len() } else { 0 };
                return Ok(stat_line(node.kind, node.mode, node.nlink, length));
            }
            Op::List { path } => {
                let id = find(model, path)?;
                let node = model.node(id)?;
                if node.kind != FileType::Directory {
                    return Err(No::NotDirectory);
                }
                let names: Vec<_> = node.entries.keys().map(|n| String::from_utf8_lossy(n).into_owned()).collect();
                return Ok(names.join(" "));
            }
        }
        Ok(String::new())
    }
}

fn stat_line(kind: FileType, mode: u16, nlink: u32, length: u64) -> String {
    let mode = if kind == FileType::Symlink { 0 } else { mode };
    format!("{kind:?} {mode:04o} nlink {nlink} length {length}")
}

/// Few names, so that operations meet.
fn a_directory(chance: &mut Chance) -> String {
    (*chance.pick(&["", "d0", "d1", "d0/e0", "d1/e0", "d1/e1"])).to_owned()
}

fn any_path(chance: &mut Chance) -> String {
    let dir = a_directory(chance);
    let name = *chance.pick(&["f0", "f1", "f2", "f3", "d0", "d1", "e0", "e1"]);
    if dir.is_empty() { name.to_owned() } else { format!("{dir}/{name}") }
}

/// Links have names of their own: a path through one would mean something else.
fn a_link(chance: &mut Chance) -> String {
    let dir = a_directory(chance);
    let name = format!("s{}", chance.below(3));
    if dir.is_empty() { name } else { format!("{dir}/{name}") }
}

/// The directory a path's last name is in, as the kernel walks.
fn parent<'p>(model: &ModelFs, path: &'p str) -> Result<(usize, &'p [u8]), No> {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let dir = find(model, dir)?;
    let is_dir = model.node(dir)?.kind == FileType::Directory;
    if is_dir { Ok((dir, name.as_bytes())) } else { Err(No::NotDirectory) }
}

fn find(model: &ModelFs, path: &str) -> Result<usize, No> {
    path.split('/').filter(|n| !n.is_empty()).try_fold(ROOT, |dir, name| model.lookup(dir, name.as_bytes()))
}

/// A file that can be opened for writing.
fn file(model: &ModelFs, path: &str) -> Result<usize, No> {
    let id = find(model, path)?;
    if model.node(id)?.kind == FileType::Directory { Err(No::IsDirectory) } else { Ok(id) }
}

/// The errnos that mean it. Where an operation is wrong in two ways, the kernel may find the other first.
fn errnos(no: No) -> &'static [i32] {
    match no {
        No::NoEntry => &[libc::ENOENT],
        No::Exists => &[libc::EEXIST],
        No::NotDirectory => &[libc::ENOTDIR, libc::ENOTEMPTY],
        No::IsDirectory => &[libc::EISDIR, libc::ENOTEMPTY],
        No::NotEmpty => &[libc::ENOTEMPTY],
        No::NotPermitted => &[libc::EPERM, libc::EEXIST],
        No::Invalid => &[libc::EINVAL, libc::EEXIST, libc::ENOTEMPTY, libc::ENOENT],
        other => panic!("no operation here is answered {other:?}"),
    }
}

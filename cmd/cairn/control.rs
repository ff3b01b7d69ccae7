//! Talking to the mount process through `.control` (volume format 8).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use cairn_env::Env;

/// Shortest and longest pause between looks at the answer.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(300));

/// Inode of a mount's root.
const ROOT_INO: u64 = 1;

/// How a message ended well.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Done.
    Done,
    /// An answer in JSON.
    Json(Vec<u8>),
}

/// `path` without dots and links, but for its last name, which is not followed.
///
/// An inode number means something on its own file system only, so what is asked of a mount must lie
/// there for sure: `MNT/..` does not.
pub(crate) fn real(path: &Path) -> std::io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if parent.as_os_str().is_empty() => Ok(Path::new(".").canonicalize()?.join(name)),
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => path.canonicalize(),
    }
}

/// The mount point `path` lies in, if it is a mount of ours or of JuiceFS.
pub(crate) fn mount_of(path: &Path) -> anyhow::Result<PathBuf> {
    let path = real(path)?;
    let device = path.symlink_metadata()?.dev();
    for dir in path.ancestors() {
        let is_root = dir.symlink_metadata().is_ok_and(|m| m.ino() == ROOT_INO && m.dev() == device);
        if is_root && internal(dir, "config").is_some() {
            return Ok(dir.to_owned());
        }
    }
    bail!("{} is not on a mounted volume", path.display())
}

/// A virtual file of a mount, under either of its names.
pub(crate) fn internal(mountpoint: &Path, name: &str) -> Option<PathBuf> {
    [format!(".{name}"), format!(".jfs.{name}")].into_iter().map(|n| mountpoint.join(n)).find(|p| p.exists())
}

/// A message with its frame.
pub(crate) fn message(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut out = kind.to_be_bytes().to_vec();
    out.extend((body.len() as u32).to_be_bytes());
    out.extend(body);
    out
}

/// Sends `request` to the mount at `mountpoint` and waits for its end; `watch` hears of progress.
///
/// # Errors
/// What the mount process answered, as the system's words for its errno.
pub(crate) async fn ask(
    env: &Env,
    mountpoint: &Path,
    request: &[u8],
    mut watch: impl FnMut(u64, u64),
) -> anyhow::Result<Reply> {
    let path = internal(mountpoint, "control").context("the mount shows no .control: it hides its internal files")?;
    let control = OpenOptions::new().read(true).write(true).open(&path);
    let control = match control {
        Err(e) if e.kind() == std::io::ErrorKind::ReadOnlyFilesystem => {
            let sentence = format!("{} is mounted read-only: its control file cannot be used", mountpoint.display());
            return Err(anyhow::Error::new(e).context(sentence));
        }
        control => control.with_context(|| format!("open {}", path.display()))?,
    };
    control.write_all_at(request, 0).context("send the message")?;
    let mut answer = Answer { control, at: request.len() as u64, seen: Vec::new() };
    let mut pause = PAUSE.0;
    loop {
        while let Some(item) = answer.item()? {
            match item {
                Item::Progress(a, b) => watch(a, b),
                Item::End(reply) => return reply,
            }
        }
        if answer.more()? {
            pause = (pause / 2).max(PAUSE.0);
        } else {
            env.sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }
}

/// Did [`ask`] fail because the mount is read-only?
pub(crate) fn is_read_only(error: &anyhow::Error) -> bool {
    let is = |e: &std::io::Error| e.kind() == std::io::ErrorKind::ReadOnlyFilesystem;
    error.downcast_ref::<std::io::Error>().is_some_and(is)
}

enum Item {
    Progress(u64, u64),
    End(anyhow::Result<Reply>),
}

struct Answer {
    control: File,
    at: u64,
    /// Bytes read and not yet understood.
    seen: Vec<u8>,
}

impl Answer {
    fn more(&mut self) -> anyhow::Result<bool> {
        let mut buffer = vec![0; 64 << 10];
        let n = self.control.read_at(&mut buffer, self.at).context("read the answer")?;
        self.at += n as u64;
        self.seen.extend(&buffer[..n]);
        Ok(n > 0)
    }

    /// The next item, if it is complete.
    fn item(&mut self) -> anyhow::Result<Option<Item>> {
        let u64_at = |b: &[u8], i: usize| u64::from_be_bytes(b[i..i + 8].try_into().expect("8 bytes"));
        let (item, used) = match self.seen.first() {
            None => return Ok(None),
            Some(0xFE) if self.seen.len() >= 17 => (Item::Progress(u64_at(&self.seen, 1), u64_at(&self.seen, 9)), 17),
            Some(0xFF) if self.seen.len() >= 5 => {
                let len = u32::from_be_bytes(self.seen[1..5].try_into().expect("4 bytes")) as usize;
                match self.seen.get(5..5 + len) {
                    Some(json) => (Item::End(Ok(Reply::Json(json.to_vec()))), 5 + len),
                    None => return Ok(None),
                }
            }
            Some(0xFE | 0xFF) => return Ok(None),
            Some(0) => (Item::End(Ok(Reply::Done)), 1),
            Some(errno) => {
                let e = std::io::Error::from_raw_os_error(i32::from(*errno));
                (Item::End(Err(anyhow::Error::new(e))), 1)
            }
        };
        self.seen.drain(..used);
        Ok(Some(item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_understood_piece_by_piece() {
        let control = tempfile::tempfile().expect("a file");
        let mut answer = Answer { control, at: 0, seen: vec![0xFE, 0, 0, 0, 0, 0, 0, 0, 6] };
        assert!(answer.item().expect("no error").is_none());
        answer.seen.extend([0; 8]);
        assert!(matches!(answer.item(), Ok(Some(Item::Progress(6, 0)))));
        answer.seen.extend([0xFF, 0, 0, 0, 2, b'{', b'}']);
        assert!(matches!(answer.item(), Ok(Some(Item::End(Ok(Reply::Json(j))))) if j == b"{}"));
        answer.seen.push(2);
        let Ok(Some(Item::End(Err(e)))) = answer.item() else { panic!("an errno") };
        assert!(e.to_string().contains("No such file"), "{e}");
    }
}

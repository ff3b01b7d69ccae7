//! Is this a place to mount at? Looked at before anything is opened.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::control;

/// Types in /proc/self/mountinfo that are ours or the reference's.
const OURS: [&str; 2] = ["fuse.cairn", "fuse.juicefs"];

/// What is mounted there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Existing {
    /// UUID of the volume.
    pub(crate) uuid: String,
    /// Its name.
    pub(crate) name: String,
}

/// Checks the folder to mount at; a mount whose process died is taken away. Answers what live
/// volume is mounted there already.
pub(crate) fn check(path: &Path) -> anyhow::Result<(PathBuf, Option<Existing>)> {
    let shown = path.display();
    // Asked first: looking at the folder itself would hang or fail on a dead mount.
    let place = std::path::absolute(path)?;
    if is_dead(&place) {
        eprintln!("the process of an old mount at {shown} is gone: unmounting it");
        unmount(&place, true).with_context(|| format!("unmount what is left of an old mount at {shown}"))?;
    }
    match place.metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            bail!("mount point {shown} does not exist: make the directory first")
        }
        Err(e) => return Err(e).with_context(|| format!("look at mount point {shown}")),
        Ok(m) if !m.is_dir() => bail!("mount point {shown} is not a directory"),
        Ok(_) => {}
    }
    let place = place.canonicalize().with_context(|| format!("look at mount point {shown}"))?;
    let existing = existing(&place)?;
    Ok((place, existing))
}

fn existing(place: &Path) -> anyhow::Result<Option<Existing>> {
    let Some(kind) = type_at(place) else { return Ok(None) };
    if !OURS.contains(&kind.as_str()) {
        return Ok(None);
    }
    let read = control::internal(place, "config").map(std::fs::read_to_string);
    let Some(Ok(text)) = read else {
        bail!("{} is busy: a volume is mounted there that does not say which", place.display());
    };
    let config: serde_json::Value = serde_json::from_str(&text).context("read .config of what is mounted there")?;
    let member = |name: &str| config["Format"][name].as_str().unwrap_or_default().to_owned();
    Ok(Some(Existing { uuid: member("UUID"), name: member("Name") }))
}

/// Its process is gone: every call answers ENOTCONN.
fn is_dead(place: &Path) -> bool {
    let kind = type_at(place);
    kind.is_some_and(|k| OURS.contains(&k.as_str()))
        // Not stat: the kernel may answer that from its cache.
        && rustix::fs::statfs(place).is_err_and(|e| e == rustix::io::Errno::NOTCONN)
}

/// A file system that is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Its type, as in /proc/self/mountinfo.
    pub(crate) name: String,
    source: String,
}

impl Kind {
    /// Was it mounted by this client?
    pub(crate) fn is_cairn(&self) -> bool {
        self.name == "fuse.cairn" || (self.name == "fuse" && self.source.starts_with("CairnFS:"))
    }
}

/// Type of the topmost file system mounted exactly at `place`.
fn type_at(place: &Path) -> Option<String> {
    kind_at(place).map(|k| k.name)
}

/// The topmost file system mounted exactly at `place`.
pub(crate) fn kind_at(place: &Path) -> Option<Kind> {
    kind_in(&std::fs::read(Path::new("/proc/self/mountinfo")).ok()?, place)
}

fn kind_in(info: &[u8], place: &Path) -> Option<Kind> {
    let wanted = cairn_fuse::mountinfo_path(place.as_os_str().as_bytes());
    let mut found = None;
    for line in info.split(|b| *b == b'\n') {
        let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
        let dash = fields.iter().position(|f| *f == b"-");
        if fields.get(4) == Some(&wanted.as_slice())
            && let Some([name, source, ..]) = dash.and_then(|d| fields.get(d + 1..))
        {
            let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
            found = Some(Kind { name: text(name), source: text(source) });
        }
    }
    found
}

/// Unmounts; `lazy` takes it out of sight even if somebody uses it.
pub(crate) fn unmount(place: &Path, lazy: bool) -> io::Result<()> {
    let path = CString::new(place.as_os_str().as_bytes())?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazy { libc::MNT_DETACH } else { 0 };
    // SAFETY: `path` is a NUL-terminated string that outlives the call.
    if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 {
        return Ok(());
    }
    let err = io::Error::last_os_error();
    if err.raw_os_error() != Some(libc::EPERM) {
        return Err(err);
    }
    let out = Command::new("fusermount3").arg(if lazy { "-uz" } else { "-u" }).arg("--").arg(place).output()?;
    match out.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&out.stderr).trim().to_owned())),
    }
}

/// Refuses a database, cache or bucket that would lie on the mount itself: opening it would wait
/// for us, for ever.
pub(crate) fn refuse_inside(place: &Path, what: &str, path: &Path) -> anyhow::Result<()> {
    if crate::paths::absolute(path).starts_with(place) {
        bail!("{what} {} lies on the mount point {} itself: put it elsewhere", path.display(), place.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_on_the_mount_itself_is_refused() {
        let said = refuse_inside(Path::new("/nowhere/mnt"), "the database", Path::new("/nowhere/mnt/x.db"));
        assert!(said.expect_err("refused").to_string().contains("/nowhere/mnt/x.db"));
        assert!(refuse_inside(Path::new("/nowhere/mnt"), "the database", Path::new("/nowhere/mnt2/x.db")).is_ok());
    }

    #[test]
    fn the_topmost_mount_counts_and_only_ours_is_ours() {
        let info = b"1 0 0:1 / /a rw - tmpfs tmpfs rw\n\
            2 0 0:2 / /a rw shared:1 - fuse.cairn CairnFS:vol rw\n\
            3 0 0:3 / /b rw - fuse CairnFS:vol rw\n\
            4 0 0:4 / /c\\040d rw - fuse.sshfs host:/ rw\n\
            5 0 0:5 / /e rw - fuse elsewhere rw\n";
        let ours = |place: &str| kind_in(info, Path::new(place)).map(|k| (k.is_cairn(), k.name));
        assert_eq!(ours("/a"), Some((true, "fuse.cairn".into())));
        assert_eq!(ours("/b"), Some((true, "fuse".into())));
        assert_eq!(ours("/c d"), Some((false, "fuse.sshfs".into())));
        assert_eq!(ours("/e"), Some((false, "fuse".into())));
        assert_eq!(ours("/nowhere"), None);
    }

    #[test]
    fn a_place_that_is_missing_or_no_folder_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("file");
        std::fs::write(&file, "x").expect("a file");
        assert!(check(&dir.path().join("gone")).expect_err("refused").to_string().contains("does not exist"));
        assert!(check(&file).expect_err("refused").to_string().contains("not a directory"));
        assert_eq!(check(dir.path()).expect("fine").1, None);
    }
}

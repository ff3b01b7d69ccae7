//! Where removed inodes wait: one directory an hour, named after it (volume format 6.7).

use cairn_types::{Attr, Date, FileType, Flags, Ino, Timestamp};

use super::account;
use crate::Result;
use crate::changelog::log;
use crate::record::{DirStat, Entry};
use crate::txn::{Context, Counter, Rely, Txn};

/// The hour's directory, made now if it is the first to be needed. `None` if the volume has no trash.
pub(crate) fn hour_directory(cx: &Context, tx: &mut dyn Txn) -> Result<Option<Ino>> {
    if cx.policy.trash_days == 0 {
        return Ok(None);
    }
    let name = hour_name(cx.now);
    if let Some(found) = tx.entry(Ino::TRASH, name.as_bytes())? {
        return Ok(Some(found.ino));
    }
    if tx.attr(Ino::TRASH, Rely::KIND)?.is_none() {
        tx.insert_attr(Ino::TRASH, &trash_root(cx.now))?;
    }
    let number = tx.counter(Counter::NextTrash)? + 1;
    tx.set_counter(Counter::NextTrash, number)?;
    let ino = Ino(Ino::TRASH.0 + number as u64);
    let attr = Attr { parent: Ino::TRASH, ..trash_root(cx.now) };
    tx.insert_entry(Ino::TRASH, name.as_bytes(), Entry { ino, kind: FileType::Directory })?;
    tx.insert_attr(ino, &attr)?;
    if cx.policy.dir_stats {
        tx.put_dir_stat(ino, &DirStat::default())?;
    }
    // A full volume must still let its files go.
    account::volume_without_limit(cx, tx, &attr, account::Usage::of(&attr))?;
    let kind = FileType::Directory as u8;
    log(cx, tx, "CREATE", &[&Ino::TRASH, &name, &0, &0, &kind, &attr.mode, &0, &"", &"linux", &false], Some(&ino))?;
    Ok(Some(ino))
}

/// Attributes of the trash root, made at format or when trash is first needed.
pub fn trash_root(now: Timestamp) -> Attr {
    Attr {
        kind: FileType::Directory,
        mode: 0o555,
        nlink: 2,
        length: 4096,
        parent: Ino::ROOT,
        atime: now,
        mtime: now,
        ctime: now,
        ..Attr::default()
    }
}

/// Does removing this inode from this directory put it in the trash?
pub(crate) fn takes(cx: &Context, parent: Ino, attr: &Attr, skip_trash: bool) -> bool {
    cx.policy.trash_days > 0 && !parent.is_trash() && !skip_trash && !attr.flags.has(Flags::SKIP_TRASH)
}

/// Name of an inode in the trash: where it was, which it is, how it was called; at most 255 bytes.
pub(crate) fn entry_name(parent: Ino, ino: Ino, name: &[u8]) -> Vec<u8> {
    let mut full = format!("{parent}-{ino}-").into_bytes();
    full.extend(name);
    full.truncate(crate::MAX_NAME_BYTES);
    full
}

/// `YYYY-MM-DD-HH`, UTC.
pub fn hour_name(t: Timestamp) -> String {
    let Date { year, month, day, hour, .. } = Date::from(t);
    format!("{year:04}-{month:02}-{day:02}-{hour:02}")
}

/// The Unix second at which the hour of such a name starts; `None` for other names.
pub fn parse_hour(name: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(name).ok()?;
    let mut parts = text.split('-').map(|p| p.parse::<i64>().ok().filter(|n| *n < 10_000));
    let (year, month, day, hour) = (parts.next()??, parts.next()??, parts.next()??, parts.next()??);
    let secs = Date { year, month, day, hour, minute: 0, second: 0 }.secs();
    (parts.next().is_none() && hour_name(Timestamp { secs, nanos: 0 }) == text).then_some(secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_have_the_names_of_the_format() {
        let t = Timestamp { secs: 1_795_228_314, nanos: 5 };
        assert_eq!(hour_name(t), "2026-11-21-02");
        assert_eq!(parse_hour(b"2026-11-21-02"), Some(1_795_228_314 / 3600 * 3600));
        for other in ["2026-11-21", "2026-13-01-00", "x-1-1-1", "2026-11-21-24", "2026-11-21-02-1"] {
            assert_eq!(parse_hour(other.as_bytes()), None, "{other}");
        }
    }
}

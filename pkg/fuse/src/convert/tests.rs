use std::time::Duration;

use super::*;

#[test]
fn times_before_1970_survive_how_fuser_reads_them() {
    // The kernel says (-2 s, 500 ms), meaning 1.5 s before 1970; fuser 0.18 makes 2.5 s of it.
    let as_fuser_reads = UNIX_EPOCH - Duration::new(2, 500_000_000);
    assert_eq!(given_time(as_fuser_reads), Timestamp { secs: -2, nanos: 500_000_000 });
    assert_eq!(given_time(UNIX_EPOCH - Duration::from_secs(3)), Timestamp { secs: -3, nanos: 0 });
    assert_eq!(given_time(UNIX_EPOCH + Duration::new(3, 7)), Timestamp { secs: 3, nanos: 7 });
    let oldest = UNIX_EPOCH - Duration::from_secs(1 << 63);
    assert_eq!(given_time(oldest), Timestamp { secs: i64::MIN, nanos: 0 });
}

#[test]
fn open_flags_translate() {
    let how = |flags| open_flags(flags, Extra::default());
    assert_eq!(how(libc::O_RDONLY), OpenFlags { read: true, ..Default::default() });
    let log = how(libc::O_WRONLY | libc::O_APPEND | libc::O_DSYNC);
    assert_eq!(log, OpenFlags { write: true, append: true, sync: true, uncached: true, ..Default::default() });
    assert!(how(libc::O_RDWR | libc::O_TRUNC).truncate);
    assert!(!how(libc::O_RDONLY | libc::O_TRUNC).truncate, "what may not write may not cut");
    let extra = |writeback_cache, no_dio_write| Extra { writeback_cache, no_dio_write };
    let gathered = open_flags(libc::O_WRONLY | libc::O_APPEND, extra(true, false));
    assert!(gathered.read && !gathered.append, "the kernel reads what it writes, and places appends");
    assert!(
        !gathered.uncached && !open_flags(libc::O_WRONLY, extra(false, true)).uncached && !how(libc::O_RDWR).uncached
    );
}

#[test]
fn sync_means_either_flag() {
    assert!(is_sync(libc::O_SYNC) && is_sync(libc::O_DSYNC) && !is_sync(libc::O_DIRECT | libc::O_APPEND));
}

#[test]
fn rename_flags_translate_and_whiteout_is_refused() {
    assert_eq!(rename_mode(RenameFlags::empty()), Some(RenameMode::Replace));
    assert_eq!(rename_mode(RenameFlags::RENAME_NOREPLACE), Some(RenameMode::NoReplace));
    assert_eq!(rename_mode(RenameFlags::RENAME_EXCHANGE), Some(RenameMode::Exchange));
    assert_eq!(rename_mode(RenameFlags::RENAME_WHITEOUT), None);
    assert_eq!(rename_mode(RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE), None);
    assert_eq!(rename_mode(RenameFlags::from_bits_retain(64)), None);
}

#[test]
fn xattr_flags_and_whence_translate() {
    assert_eq!(xattr_mode(0), Some(XattrMode::Set));
    assert_eq!(xattr_mode(libc::XATTR_CREATE), Some(XattrMode::Create));
    assert_eq!(xattr_mode(libc::XATTR_REPLACE), Some(XattrMode::Replace));
    assert_eq!(xattr_mode(3), None);
    assert_eq!((whence(3), whence(4), whence(0)), (Some(Whence::Data), Some(Whence::Hole), None));
}

#[test]
fn modes_name_a_kind() {
    assert_eq!(kind_of_mode(0o644), Some(FileType::File));
    assert_eq!(kind_of_mode(libc::S_IFIFO | 0o600), Some(FileType::Fifo));
    assert_eq!(kind_of_mode(libc::S_IFSOCK), Some(FileType::Socket));
    assert_eq!(kind_of_mode(0o170_000), None);
}

#[test]
fn truncate_needs_no_second_change_for_its_mtime() {
    let set = |mtime, resizes| set_attr(None, None, None, None, Some(mtime), resizes).mtime;
    assert_eq!(set(TimeOrNow::Now, true), None);
    assert_eq!(set(TimeOrNow::Now, false), Some(SetTime::Now));
    let at = Timestamp { secs: 5, nanos: 0 };
    assert_eq!(set(TimeOrNow::SpecificTime(at.into()), true), Some(SetTime::At(at)));
}

#[test]
fn attributes_translate() {
    let attr = Attr { mode: 0o4755, length: 1000, rdev: 9, nlink: 2, uid: 3, gid: 4, ..Attr::default() };
    let seen = file_attr(Ino(5), &attr);
    assert_eq!((seen.ino.0, seen.size, seen.blocks, seen.perm, seen.rdev), (5, 1000, 2, 0o4755, 0));
    let device = file_attr(Ino(5), &Attr { kind: FileType::CharDevice, ..attr });
    assert_eq!((device.kind, device.rdev), (fuser::FileType::CharDevice, 9));
}

//! statfs(2): what df(1) shows.

use std::os::unix::fs::FileExt;

use rustix::fs::statvfs;

use super::Fs;

#[test]
fn use_grows_and_shrinks_with_files() {
    let m = Fs::new();
    let before = statvfs(m.root()).unwrap();
    let file = m.create("f");
    file.write_all_at(&vec![1; 10 << 20], 0).unwrap();
    file.sync_all().unwrap();
    let during = statvfs(m.root()).unwrap();
    let used = (before.f_bavail - during.f_bavail) * before.f_frsize;
    assert_eq!(used, 10 << 20);
    assert_eq!(inodes(&during) - inodes(&before), 1);
    drop(file);
    std::fs::remove_file(m.path("f")).unwrap();
    // The kernel tells of the last close after close(2) has returned, and until then the file lives.
    crate::support::eventually("the removed file's room is free again", crate::support::PATIENCE, || {
        let after = statvfs(m.root()).unwrap();
        ((after.f_bavail, inodes(&after)) == (before.f_bavail, inodes(&before))).then_some(())
    });
}

fn inodes(fs: &rustix::fs::StatVfs) -> u64 {
    fs.f_files - fs.f_ffree
}

#[test]
fn capacity_and_inode_limit_are_the_size() {
    let m = Fs::with(&["--capacity", "1", "--inodes", "1000"], &[]);
    let fs = statvfs(m.root()).unwrap();
    assert_eq!(fs.f_blocks * fs.f_frsize, 1 << 30);
    assert_eq!(fs.f_files, 1000);
    assert_eq!(fs.f_namemax, 255);
}

#[test]
fn df_names_the_volume_and_its_type() {
    let m = Fs::new();
    let said = crate::support::run(m.root(), "df", ["--output=source,fstype", "."]).ok();
    assert!(said.contains("test-volume") && said.contains("fuse.cairn"), "{said}");
}

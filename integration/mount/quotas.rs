//! Limits on space and inodes: of the volume, of a directory, of a user.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};

use rusqlite::Connection;

use super::Fs;
use crate::support::{Volume, as_user, errno, nobody};

#[test]
fn a_full_volume_says_so_and_goes_on_when_there_is_room() {
    let m = Fs::with(&["--inodes", "12"], &[]);
    let mut made = 0;
    let full = loop {
        match File::create(m.path(&format!("f{made}"))) {
            Ok(_) => made += 1,
            Err(e) => break e.raw_os_error(),
        }
        assert!(made < 100, "the limit of 12 inodes does nothing");
    };
    assert_eq!(full, Some(libc::ENOSPC));
    fs::remove_file(m.path("f0")).unwrap();
    // The room is there once the kernel has told of f0's close, which is after close(2) returned.
    crate::support::eventually("there is room again", crate::support::PATIENCE, || File::create(m.path("again")).ok());
}

#[test]
fn capacity_is_kept() {
    let m = Fs::with(&["--capacity", "1"], &[]);
    let file = m.create("f");
    file.set_len(1 << 29).unwrap();
    assert_eq!(errno(file.set_len(2 << 30)), libc::ENOSPC);
    assert_eq!(file.metadata().unwrap().len(), 1 << 29);
}

/// A volume whose database got a quota row, as `juicefs quota set` writes it.
fn with_quota(make: impl FnOnce(&Fs) -> String) -> Fs {
    let m = Fs::new();
    let sql = make(&m);
    let Fs { mounted, volume } = m;
    mounted.unmount();
    let db = Connection::open(volume.database()).unwrap();
    db.execute_batch(&sql).unwrap();
    drop(db);
    Fs { mounted: volume.mount(&[]), volume }
}

#[test]
fn a_directory_quota_counts_everything_below() {
    let m = with_quota(|m| {
        fs::create_dir_all(m.path("team/deep")).unwrap();
        let ino = fs::metadata(m.path("team")).unwrap().ino();
        // Space 1 MiB, 5 inodes; `deep` counts already.
        format!(
            "insert into jfs_dir_quota (inode, max_space, max_inodes, used_space, used_inodes) values ({ino}, 1048576, 5, 4096, 1)"
        )
    });
    let file = File::create(m.path("team/deep/big")).unwrap();
    file.write_all_at(&vec![1; 900_000], 0).unwrap();
    file.sync_all().unwrap();
    // Whoever commits first is told: the write, or the fsync after it.
    let told = file.write_all_at(&vec![1; 900_000], 900_000).and_then(|()| file.sync_all());
    assert_eq!(errno(told), libc::EDQUOT);
    drop(file);
    let mut made = 0;
    let full = loop {
        match File::create(m.path(&format!("team/f{made}"))) {
            Ok(_) => made += 1,
            Err(e) => break e.raw_os_error(),
        }
        assert!(made < 20, "the limit of 5 inodes does nothing");
    };
    assert_eq!((full, made), (Some(libc::EDQUOT), 3));
    m.write("elsewhere", &vec![1; 2 << 20]);
    // Moving into the quota is refused as well.
    assert_eq!(errno(fs::rename(m.path("elsewhere"), m.path("team/x"))), libc::EDQUOT);
}

#[test]
fn a_user_quota_binds_that_user_alone() {
    let volume = Volume::new(&[]);
    {
        let db = Connection::open(volume.database()).unwrap();
        let (uid, setting) = (nobody().0, "select value from jfs_setting where name = 'format'");
        let json: String = db.query_row(setting, [], |row| row.get(0)).unwrap();
        let mut format: serde_json::Value = serde_json::from_str(&json).unwrap();
        format["UserGroupQuota"] = true.into();
        db.execute("update jfs_setting set value = ?1 where name = 'format'", [format.to_string()]).unwrap();
        db.execute(
            "insert into jfs_user_group_quota (qtype, qkey, max_space, max_inodes, used_space, used_inodes) values (1, ?1, -1, 2, 0, 0)",
            [uid],
        )
        .unwrap();
    }
    let m = Fs { mounted: volume.mount(&[]), volume };
    let root = m.root().to_owned();
    as_user(nobody(), &[], || {
        File::create(root.join("a")).unwrap();
        File::create(root.join("b")).unwrap().write_all(b"x").unwrap();
        assert_eq!(errno(File::create(root.join("c"))), libc::EDQUOT);
    });
    m.write("roots", b"");
}

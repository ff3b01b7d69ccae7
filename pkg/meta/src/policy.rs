//! What the volume's setting and the mount's options ask of operations.

use std::time::Duration;

use cairn_types::Format;

/// The rules operations follow: a digest of the setting, replaced when it is reloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Days removed files stay in the trash; 0 for no trash.
    pub trash_days: u32,
    /// Bytes the volume may use; 0 for no limit.
    pub capacity: u64,
    /// Inodes the volume may use; 0 for no limit.
    pub inodes: u64,
    /// Keep statistics of directories.
    pub dir_stats: bool,
    /// Keep usage of users and groups, and enforce their quotas.
    pub user_group_quota: bool,
    /// POSIX ACLs are on.
    pub acl: bool,
    /// Every change leaves a record.
    pub change_log: bool,
    /// A directory's times are left alone if they are younger than this and nothing else changes.
    pub skip_dir_mtime: Duration,
}

impl Policy {
    /// The rules of a volume for a client with this `skip_dir_mtime`.
    pub fn new(format: &Format, skip_dir_mtime: Duration) -> Policy {
        Policy {
            trash_days: format.trash_days,
            capacity: format.capacity,
            inodes: format.inodes,
            dir_stats: format.dir_stats,
            user_group_quota: format.user_group_quota,
            acl: format.enable_acl,
            change_log: format.change_log,
            skip_dir_mtime,
        }
    }
}

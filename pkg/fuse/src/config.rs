//! Settings of a mount, and what they mean to the kernel.

use std::time::Duration;

use fuser::{InitFlags, MountOption, SessionACL};

use crate::{Error, Result};

/// Settings of a mount. The root decides all of them.
#[derive(Clone, Debug)]
pub struct Config {
    /// First column of /proc/mounts: `CairnFS:<volume>`.
    pub fsname: String,
    /// Second half of the type in /proc/mounts (`fuse.cairn`).
    pub subtype: String,
    /// Users other than the one that mounts may use it. Default for root only.
    pub allow_other: bool,
    /// The kernel checks permission bits and ACLs. Without it (or with `all_squash`) metadata does, which costs a
    /// look at `/proc` per request for the caller's groups.
    pub default_permissions: bool,
    /// Mounted `ro`: the kernel refuses changes before we see them.
    pub read_only: bool,
    /// Largest WRITE and READ request in bytes. 1 MiB is the most a kernel takes unless told otherwise.
    pub max_write: u32,
    /// Threads that take requests, each with its own descriptor: `min(cores, 16)`.
    pub threads: usize,
    /// How long the kernel may answer stat(2) by itself. Longer saves round trips and shows others' changes later.
    pub attr_timeout: Duration,
    /// How long the kernel may trust the name of something that is not a directory.
    pub entry_timeout: Duration,
    /// How long the kernel may trust the name of a directory.
    pub dir_entry_timeout: Duration,
    /// How long the kernel may believe that a name does not exist. Zero: not at all.
    pub negative_timeout: Duration,
    /// The kernel may keep listings of directories until their mtime changes.
    pub readdir_cache: bool,
    /// Serve extended attributes. Off: the kernel is told once and never asks again, which saves a request per write.
    pub enable_xattr: bool,
    /// Serve `security.capability`; needs `enable_xattr`.
    pub enable_cap: bool,
    /// Serve `security.selinux`; needs `enable_xattr`.
    pub enable_selinux: bool,
    /// Serve FS_IOC_GETFLAGS and its family (`lsattr`, `chattr`).
    pub enable_ioctl: bool,
    /// The volume has POSIX ACLs: the kernel reads and enforces them, and leaves the umask to us.
    pub enable_acl: bool,
    /// Treat uid 0 as this user and group.
    pub root_squash: Option<(u32, u32)>,
    /// Treat everybody as this user and group.
    pub all_squash: Option<(u32, u32)>,
    /// Bits taken from every new mode, whatever the umask of the caller.
    pub umask: Option<u16>,
    /// Further `-o` options, as given (each may hold several, separated by commas).
    pub options: Vec<String>,
    /// Background requests (read-ahead, asynchronous direct I/O) the kernel may have under way.
    pub max_background: u16,
}

impl Config {
    /// Does the kernel check permissions?
    pub(crate) fn kernel_checks(&self) -> bool {
        self.default_permissions && self.all_squash.is_none()
    }

    /// Are extended attributes served at all?
    pub(crate) fn xattr_served(&self) -> bool {
        self.enable_xattr || self.enable_acl
    }

    /// What to ask of a kernel that can do `offered`. Never more than it can: it would not say so.
    pub(crate) fn capabilities(&self, offered: InitFlags, extra: Extra) -> InitFlags {
        let mut wanted = InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_POSIX_LOCKS
            | InitFlags::FUSE_FLOCK_LOCKS
            | InitFlags::FUSE_AUTO_INVAL_DATA
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_CACHE_SYMLINKS
            // Without it every write may cost a GETXATTR. What it leaves to us is in `privilege`.
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP;
        if self.enable_acl && self.kernel_checks() {
            wanted |= InitFlags::FUSE_POSIX_ACL;
        }
        if self.leaves_umask() {
            wanted |= InitFlags::FUSE_DONT_MASK;
        }
        if extra.writeback_cache {
            wanted |= InitFlags::FUSE_WRITEBACK_CACHE;
        } else {
            // The two exclude each other.
            wanted |= InitFlags::FUSE_PASSTHROUGH;
        }
        wanted & offered
    }

    /// Is the umask applied by us? Default ACLs replace it, and a forced one overrides it.
    pub(crate) fn leaves_umask(&self) -> bool {
        self.enable_acl || self.umask.is_some()
    }

    /// The umask metadata is to apply, given what the request carries.
    pub(crate) fn umask_for(&self, of_request: u32) -> u16 {
        match self.umask {
            Some(forced) => forced & 0o777,
            None if self.leaves_umask() => (of_request & 0o777) as u16,
            // The kernel has applied it.
            None => 0,
        }
    }

    /// The options as fuser and the kernel want them.
    pub(crate) fn session(&self) -> Result<(fuser::Config, Extra)> {
        let mut plan = Plan {
            // As a custom option, because fuser's own never reaches mount(2).
            options: vec![
                MountOption::FSName(self.fsname.clone()),
                MountOption::CUSTOM(format!("subtype={}", self.subtype)),
            ],
            acl: if self.allow_other { SessionACL::All } else { SessionACL::Owner },
            extra: Extra::default(),
        };
        if self.read_only {
            plan.add(MountOption::RO);
        }
        if self.kernel_checks() {
            plan.add(MountOption::DefaultPermissions);
        }
        for option in self.options.iter().flat_map(|list| list.split(',')) {
            plan.take(option.trim())?;
        }
        let mut session = fuser::Config::default();
        session.mount_options = plan.options;
        session.acl = plan.acl;
        session.n_threads = Some(self.threads.max(1));
        session.clone_fd = self.threads > 1;
        Ok((session, plan.extra))
    }
}

/// What `-o` options ask of us rather than of mount(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extra {
    /// `-o writeback_cache`: the kernel gathers small writes.
    pub(crate) writeback_cache: bool,
    /// `-o no_dio_write`: writers that never read go through the kernel's pages like all others.
    pub(crate) no_dio_write: bool,
}

struct Plan {
    options: Vec<MountOption>,
    acl: SessionACL,
    extra: Extra,
}

impl Plan {
    fn add(&mut self, option: MountOption) {
        if !self.options.contains(&option) {
            self.options.push(option);
        }
    }

    fn take(&mut self, option: &str) -> Result<()> {
        let refuse = |reason| Err(Error::Option { option: option.to_owned(), reason });
        match option {
            // What mount(8) and fstab add, and what is on already.
            "" | "rw" | "defaults" | "auto" | "noauto" | "user" | "users" | "nofail" | "_netdev" | "nonempty"
            | "async_dio" | "big_writes" | "debug" => {}
            "ro" => self.add(MountOption::RO),
            "default_permissions" => self.add(MountOption::DefaultPermissions),
            "dev" => self.add(MountOption::Dev),
            "nodev" => self.add(MountOption::NoDev),
            "suid" => self.add(MountOption::Suid),
            "nosuid" => self.add(MountOption::NoSuid),
            "exec" => self.add(MountOption::Exec),
            "noexec" => self.add(MountOption::NoExec),
            "atime" => self.add(MountOption::Atime),
            "noatime" => self.add(MountOption::NoAtime),
            "sync" => self.add(MountOption::Sync),
            "async" => self.add(MountOption::Async),
            "dirsync" => self.add(MountOption::DirSync),
            "allow_other" => self.acl = SessionACL::All,
            "allow_root" => self.acl = SessionACL::RootAndOwner,
            "writeback_cache" => self.extra.writeback_cache = true,
            "no_dio_write" => self.extra.no_dio_write = true,
            "auto_unmount" => return refuse("not offered: it leaves the mount behind when only the session ends"),
            _ if option.starts_with("x-") || option.starts_with("comment=") => {}
            _ if option.starts_with("max_read=") => self.add(MountOption::CUSTOM(option.to_owned())),
            _ => match option.split_once('=') {
                Some(("fsname", name)) => self.options[0] = MountOption::FSName(name.to_owned()),
                Some(("subtype", _)) => self.options[1] = MountOption::CUSTOM(option.to_owned()),
                _ => return refuse("unknown"),
            },
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn settings() -> Config {
        Config {
            fsname: "CairnFS:test".into(),
            subtype: "cairn".into(),
            allow_other: true,
            default_permissions: true,
            read_only: false,
            max_write: 1 << 20,
            threads: 2,
            attr_timeout: Duration::from_secs(1),
            entry_timeout: Duration::from_secs(2),
            dir_entry_timeout: Duration::from_secs(3),
            negative_timeout: Duration::ZERO,
            readdir_cache: false,
            enable_xattr: true,
            enable_cap: false,
            enable_selinux: false,
            enable_ioctl: true,
            enable_acl: false,
            root_squash: None,
            all_squash: None,
            umask: None,
            options: vec![],
            max_background: 64,
        }
    }

    #[test]
    fn only_what_the_kernel_offers_is_asked_for() {
        let few = InitFlags::FUSE_ATOMIC_O_TRUNC | InitFlags::FUSE_SETXATTR_EXT;
        assert_eq!(settings().capabilities(few, Extra::default()), InitFlags::FUSE_ATOMIC_O_TRUNC);
        let all = settings().capabilities(InitFlags::all(), Extra::default());
        for never in [InitFlags::FUSE_SETXATTR_EXT, InitFlags::FUSE_OVER_IO_URING, InitFlags::FUSE_WRITEBACK_CACHE] {
            assert!(!all.contains(never), "{never:?}");
        }
        assert!(!all.intersects(InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_DONT_MASK));
    }

    #[test]
    fn acls_and_a_forced_umask_leave_the_umask_to_us() {
        let acl = Config { enable_acl: true, ..settings() };
        let asked = acl.capabilities(InitFlags::all(), Extra::default());
        assert!(asked.contains(InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_DONT_MASK));
        assert_eq!(acl.umask_for(0o22), 0o22);
        let forced = Config { umask: Some(0o77), ..settings() };
        assert!(forced.capabilities(InitFlags::all(), Extra::default()).contains(InitFlags::FUSE_DONT_MASK));
        assert_eq!(forced.umask_for(0o22), 0o77);
        assert_eq!(settings().umask_for(0o22), 0, "the kernel has applied it");
    }

    #[test]
    fn options_become_flags_or_an_error_that_names_them() {
        let given = |o: &str| Config { options: vec![o.into()], ..settings() }.session();
        let (session, extra) = given("ro,noatime,allow_root,writeback_cache,x-systemd.automount").unwrap();
        assert!(
            session.mount_options.contains(&MountOption::RO) && session.mount_options.contains(&MountOption::NoAtime)
        );
        assert_eq!((session.acl, extra.writeback_cache), (SessionACL::RootAndOwner, true));
        assert!(given("wurst=1").unwrap_err().to_string().contains("wurst=1"));
        assert!(given("auto_unmount").is_err());
    }

    #[test]
    fn squashing_everybody_takes_permissions_from_the_kernel() {
        let squashed = Config { all_squash: Some((99, 99)), ..settings() };
        let (session, _) = squashed.session().unwrap();
        assert!(!session.mount_options.contains(&MountOption::DefaultPermissions));
    }
}

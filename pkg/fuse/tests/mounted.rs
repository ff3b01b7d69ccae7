//! A volume in memory, mounted, and used by system calls. Needs /dev/fuse and root; skipped elsewhere.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use cairn_cache::{BlockCache, ChecksumLevel, Eviction};
use cairn_chunk::ChunkStore;
use cairn_env::Env;
use cairn_fuse::{Config, Mounted, State};
use cairn_meta::Meta;
use cairn_meta::engine::mem::MemEngine;
use cairn_object::testing::{FaultyStore, MemStore};
use cairn_types::{AclEntry, AclRule, Compression, Format, Ino, KeyLayout};
use cairn_vfs::{Cred, Parts, SetAttr, Vfs};
use tokio::runtime::Runtime;

/// A mounted volume; dropping it unmounts, whatever happened.
struct Volume {
    mounted: Mounted,
    vfs: Arc<Vfs>,
    store: Arc<FaultyStore>,
    place: tempfile::TempDir,
    rt: Runtime,
}

impl Drop for Volume {
    fn drop(&mut self) {
        // A failed test must not leave a mount behind.
        if self.mounted.unmount(true).is_ok() {
            self.rt.block_on(self.mounted.wait()).ok();
        }
        self.rt.block_on(self.vfs.close()).ok();
    }
}

impl Volume {
    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// Unmounts and waits for the end. Children that other tests start hold our files open until they exec.
    fn unmount(&self) {
        eventually("nobody uses the mount", || self.mounted.unmount(false).is_ok());
        self.rt.block_on(self.mounted.wait()).unwrap();
    }

    /// The same volume in a new mount.
    fn remounted(mut self) -> Volume {
        self.unmount();
        self.mounted =
            cairn_fuse::mount(self.vfs.clone(), self.rt.handle().clone(), self.place.path(), settings()).unwrap();
        self
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }
}

fn settings() -> Config {
    Config {
        fsname: "CairnFS:test".into(),
        subtype: "cairn".into(),
        allow_other: true,
        default_permissions: true,
        read_only: false,
        max_write: 1 << 20,
        threads: 2,
        attr_timeout: Duration::from_secs(1),
        entry_timeout: Duration::from_secs(1),
        dir_entry_timeout: Duration::from_secs(1),
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

/// A volume in memory. Without a cache, every read of what is stored goes to the store.
async fn vfs(env: &Env, cache_bytes: u64, enable_acl: bool) -> (Arc<Vfs>, Arc<FaultyStore>) {
    let engine = MemEngine::new(env.clone());
    let format = Format {
        name: "test".into(),
        uuid: "00000000-0000-4000-8000-000000000001".into(),
        meta_version: 1,
        enable_acl,
        ..Format::default()
    };
    cairn_meta::format_volume(env, &*engine, &format).await.unwrap();
    let meta = Meta::open(env.clone(), engine, cairn_meta::Config::mount()).await.unwrap();
    meta.start_session("{}".into()).await.unwrap();
    let cache = cairn_cache::Config {
        dirs: vec![],
        memory_bytes: cache_bytes,
        disk_bytes: 0,
        disk_items: 0,
        free_space_ratio: 0.0,
        checksum: ChecksumLevel::None,
        eviction: Eviction::None,
        file_mode: 0o600,
        key_layout: KeyLayout::Plain,
    };
    let chunk = cairn_chunk::Config {
        block_bytes: 4 << 20,
        compression: Compression::None,
        key_layout: KeyLayout::Plain,
        buffer_bytes: 32 << 20,
        prefetch: 1,
        max_readahead: 32 << 20,
        cache_full_blocks: true,
    };
    let cache = BlockCache::open(env.clone(), cache).unwrap();
    let store = FaultyStore::new(env, Arc::new(MemStore::new(env)));
    let chunk = ChunkStore::new(env.clone(), store.clone(), cache, chunk);
    let config = cairn_vfs::Config {
        readahead_max_bytes: 32 << 20,
        readahead_total_bytes: 64 << 20,
        flush_age: Duration::from_secs(5),
        flush_idle: Duration::from_secs(1),
        reupload_age: Duration::from_secs(1800),
        pack_bytes: 65_536,
        read_retries: 3,
        readdir_page: 1000,
        hide_internal: false,
        prefix_internal: false,
        subdir: false,
    };
    (Vfs::new(env, meta, chunk, Parts::none(), config), store)
}

fn mounted_with(config: Config, cache_bytes: u64) -> Option<Volume> {
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (vfs, store) = rt.block_on(vfs(&Env::real(), cache_bytes, config.enable_acl));
    let place = tempfile::tempdir().unwrap();
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: cannot mount here");
        return None;
    }
    let root = SetAttr { mode: Some(0o777), ..SetAttr::default() };
    rt.block_on(vfs.setattr(&Cred::root(), Ino::ROOT, None, root, None)).unwrap();
    let mounted = cairn_fuse::mount(vfs.clone(), rt.handle().clone(), place.path(), config).unwrap();
    Some(Volume { mounted, vfs, store, place, rt })
}

/// A volume with the usual settings; returns from the test if there can be none.
macro_rules! volume {
    () => {
        volume!(settings())
    };
    ($config:expr) => {
        volume!($config, 64 << 20)
    };
    ($config:expr, $cache_bytes:expr) => {
        match mounted_with($config, $cache_bytes) {
            Some(volume) => volume,
            None => return,
        }
    };
}

fn c(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn ok(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

/// Runs a shell line as nobody.
fn as_nobody(line: &str) -> bool {
    Command::new("sh").args(["-c", line]).uid(65534).gid(65534).stdin(Stdio::null()).status().unwrap().success()
}

/// Waits for something that another thread or the kernel brings about.
fn eventually(what: &str, so: impl Fn() -> bool) {
    let env = Env::real();
    let began = env.instant();
    while !so() {
        assert!(began.elapsed() < Duration::from_secs(10), "not so after ten seconds: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn what_is_written_is_read_also_after_an_unmount() {
    let v = volume!();
    let data: Vec<u8> = (0..5_000_000u32).map(|n| ((n * 7) >> 3) as u8).collect();
    let path = v.write("big", &data);
    assert_eq!(fs::read(&path).unwrap(), data);
    let mut file = OpenOptions::new().read(true).append(true).open(&path).unwrap();
    file.write_all(b"tail").unwrap();
    let mut tail = [0; 4];
    file.read_exact_at(&mut tail, data.len() as u64).unwrap();
    assert_eq!(&tail, b"tail");
    drop(file);
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    assert!(mounts.lines().any(|l| l.starts_with("CairnFS:test ") && l.contains(" fuse.cairn ")), "{mounts}");
    assert_eq!(v.mounted.state(), State::Serving);
    v.unmount();
    assert_eq!((v.mounted.state(), v.vfs.dirty().0), (State::Ended, 0));
    let _v = v.remounted();
    let back = fs::read(&path).unwrap();
    assert!(back.len() == data.len() + 4 && back[..data.len()] == data);
}

#[test]
fn a_busy_mount_says_so_and_goes_on() {
    let v = volume!();
    let file = File::create(v.path("open")).unwrap();
    assert!(matches!(v.mounted.unmount(false), Err(cairn_fuse::Error::Busy { .. })));
    drop(file);
    fs::metadata(v.path("open")).unwrap();
}

#[test]
fn names_do_what_posix_says() {
    let v = volume!();
    fs::create_dir(v.path("d")).unwrap();
    assert_eq!(errno(fs::create_dir(v.path("d"))), libc::EEXIST);
    v.write("d/a", b"a");
    v.write("b", b"b");
    assert_eq!(errno(fs::remove_dir(v.path("d"))), libc::ENOTEMPTY);
    let rename2 = |from: &str, to: &str, flags| {
        let (from, to) = (c(&v.path(from)), c(&v.path(to)));
        // SAFETY: both paths are NUL-terminated and outlive the call.
        ok(unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) })
    };
    assert_eq!(errno(rename2("b", "d/a", libc::RENAME_NOREPLACE)), libc::EEXIST);
    rename2("b", "d/a", libc::RENAME_EXCHANGE).unwrap();
    assert_eq!((fs::read(v.path("b")).unwrap(), fs::read(v.path("d/a")).unwrap()), (b"a".to_vec(), b"b".to_vec()));
    assert_eq!(errno(rename2("b", "w", libc::RENAME_WHITEOUT)), libc::EINVAL);
    fs::hard_link(v.path("b"), v.path("link")).unwrap();
    assert_eq!(fs::metadata(v.path("link")).unwrap().nlink(), 2);
    symlink("d/a", v.path("sym")).unwrap();
    assert_eq!(fs::read_link(v.path("sym")).unwrap(), Path::new("d/a"));
    assert_eq!(fs::read(v.path("sym")).unwrap(), b"b");
    fs::remove_file(v.path("link")).unwrap();
    assert_eq!(errno(File::open(v.path("link"))), libc::ENOENT);
    let long = "x".repeat(256);
    assert_eq!(errno(File::create(v.path(&long))), libc::ENAMETOOLONG);
}

#[test]
fn a_large_directory_is_listed_once_each() {
    let v = volume!();
    let dir = v.path("many");
    fs::create_dir(&dir).unwrap();
    for n in 0..3000 {
        File::create(dir.join(format!("file-with-a-rather-long-name-{n:05}"))).unwrap();
    }
    let list = || fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    let mut names = list();
    assert_eq!(names.len(), 3000);
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 3000);
    // With attributes, as `ls -l` does, and a second time with an adapted batch.
    let lengths = fs::read_dir(&dir).unwrap().filter(|e| e.as_ref().unwrap().metadata().unwrap().len() == 0).count();
    assert_eq!((lengths, list().len()), (3000, 3000));
}

#[test]
fn attributes_and_times_are_kept() {
    let v = volume!();
    let path = v.write("t", b"12345");
    for (secs, nanos) in [(-2, 500_000_000), (-1, 1), (0, 0), (1_700_000_000, 123_456_789)] {
        let t = libc::timespec { tv_sec: secs, tv_nsec: nanos };
        // SAFETY: the path is NUL-terminated, the times are two timespecs.
        ok(unsafe { libc::utimensat(libc::AT_FDCWD, c(&path).as_ptr(), [t, t].as_ptr(), 0) }).unwrap();
        let m = fs::metadata(&path).unwrap();
        assert_eq!((m.mtime(), m.mtime_nsec(), m.atime()), (secs, nanos, secs));
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(&path, Some(5), Some(6)).unwrap();
    let m = fs::metadata(&path).unwrap();
    assert_eq!((m.mode() & 0o7777, m.uid(), m.gid(), m.blksize()), (0o640, 5, 6, 65536));
}

#[test]
fn lengths_holes_and_ranges() {
    let v = volume!();
    let file = File::options().read(true).write(true).create(true).truncate(true).open(v.path("f")).unwrap();
    file.set_len(1 << 20).unwrap();
    file.write_at(b"data", 512 << 10).unwrap();
    file.sync_all().unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    // SAFETY: plain calls on an open descriptor.
    let (data, hole) = unsafe {
        (libc::lseek(file.as_raw_fd(), 0, libc::SEEK_DATA), libc::lseek(file.as_raw_fd(), 600 << 10, libc::SEEK_HOLE))
    };
    assert!((0..=512 << 10).contains(&data) && hole >= 600 << 10, "{data} {hole}");
    // SAFETY: as above.
    let punch = |mode, off, len| ok(unsafe { libc::fallocate(file.as_raw_fd(), mode, off, len) });
    punch(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 512 << 10, 2).unwrap();
    let mut four = [1; 4];
    file.read_exact_at(&mut four, 512 << 10).unwrap();
    assert_eq!(&four, b"\0\0ta");
    assert_eq!(errno(punch(libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096)), libc::EOPNOTSUPP);
    punch(0, 0, 2 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 2 << 20);
    let copy = File::options().read(true).write(true).create(true).truncate(true).open(v.path("copy")).unwrap();
    let (mut from, mut to) = (512i64 << 10, 0i64);
    // SAFETY: both offsets outlive the call.
    let copied = unsafe { libc::copy_file_range(file.as_raw_fd(), &mut from, copy.as_raw_fd(), &mut to, 4, 0) };
    assert_eq!(copied, 4, "{}", io::Error::last_os_error());
    copy.read_exact_at(&mut four, 0).unwrap();
    assert_eq!(&four, b"\0\0ta");
}

#[test]
fn synchronous_and_direct_writes_are_stored_when_they_return() {
    let v = volume!();
    let sync = OpenOptions::new().write(true).create(true).custom_flags(libc::O_SYNC).open(v.path("s")).unwrap();
    (&sync).write_all(b"now").unwrap();
    assert_eq!(v.vfs.dirty().1, 0);
    let flags = libc::O_DIRECT | libc::O_DSYNC;
    let direct = OpenOptions::new().write(true).create(true).custom_flags(flags).open(v.path("d")).unwrap();
    let page = vec![7u8; 12 << 10];
    let aligned = page.as_ptr().align_offset(4096);
    direct.write_all_at(&page[aligned..aligned + 4096], 0).unwrap();
    assert_eq!(v.vfs.dirty().1, 0);
    assert_eq!(fs::read(v.path("d")).unwrap(), vec![7; 4096]);
}

#[test]
fn truncating_opens_and_mappings_show_what_was_written() {
    let v = volume!();
    let path = v.write("m", &[1; 10_000]);
    v.write("m", b"short");
    let file = File::open(&path).unwrap();
    // SAFETY: a fresh private mapping of an open file, unmapped by nobody else.
    let map = unsafe { libc::mmap(std::ptr::null_mut(), 5, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    assert_ne!(map, libc::MAP_FAILED);
    // SAFETY: the mapping has five bytes, and the file as many.
    assert_eq!(unsafe { std::slice::from_raw_parts(map.cast::<u8>(), 5) }, b"short");
    // SAFETY: mapped above, not used again.
    ok(unsafe { libc::munmap(map, 5) }).unwrap();
}

#[test]
fn small_writes_may_be_gathered_by_the_kernel() {
    let v = volume!(Config { options: vec!["writeback_cache".into()], ..settings() });
    let path = v.path("w");
    let mut file = OpenOptions::new().append(true).create(true).open(&path).unwrap();
    for n in 0..2000 {
        writeln!(file, "line {n}").unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.lines().enumerate().all(|(n, line)| line == format!("line {n}")) && text.lines().count() == 2000);
}

#[test]
fn pages_survive_an_open_only_until_somebody_else_writes() {
    let v = volume!();
    let path = v.write("f", b"before");
    assert_eq!(fs::read(&path).unwrap(), b"before");
    assert_eq!(fs::read(&path).unwrap(), b"before");
    // Another door to the same volume: the kernel hears nothing of it.
    v.rt.block_on(async {
        let (cred, write) = (Cred::root(), cairn_vfs::OpenFlags { write: true, ..Default::default() });
        let (ino, _) = v.vfs.lookup(&cred, Ino::ROOT, b"f").await.unwrap();
        let fh = v.vfs.open(&cred, ino, write).await.unwrap().fh;
        v.vfs.write(&cred, fh, 0, b"AFTER!", true).await.unwrap();
        v.vfs.release(&cred, fh).await.unwrap();
    });
    assert_eq!(fs::read(&path).unwrap(), b"AFTER!");
}

#[test]
fn extended_attributes_come_back_and_can_be_off() {
    let xattr = |path: &Path, name: &std::ffi::CStr| {
        let mut value = [0u8; 64];
        // SAFETY: path and name are NUL-terminated; the buffer's size is given.
        let n = unsafe { libc::getxattr(c(path).as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(value[..n as usize].to_vec()) }
    };
    let set = |path: &Path, value: &[u8], flags| {
        // SAFETY: as above.
        ok(unsafe { libc::setxattr(c(path).as_ptr(), c"user.k".as_ptr(), value.as_ptr().cast(), value.len(), flags) })
    };
    {
        let v = volume!();
        let path = v.write("x", b"");
        set(&path, b"value", 0).unwrap();
        assert_eq!(xattr(&path, c"user.k").unwrap(), b"value");
        assert_eq!(errno(set(&path, b"v", libc::XATTR_CREATE)), libc::EEXIST);
        assert_eq!(errno(xattr(&path, c"user.none")), libc::ENODATA);
        assert_eq!(errno(xattr(&path, c"security.capability")), libc::ENODATA);
        let mut names = [0u8; 64];
        // SAFETY: as above.
        let n = unsafe { libc::listxattr(c(&path).as_ptr(), names.as_mut_ptr().cast(), names.len()) };
        assert_eq!(&names[..n as usize], b"user.k\0");
    }
    let v = volume!(Config { enable_xattr: false, ..settings() });
    let path = v.write("x", b"");
    assert_eq!(errno(xattr(&path, c"user.k")), libc::EOPNOTSUPP);
}

#[test]
fn flock_and_fcntl_locks_do_not_see_each_other() {
    let v = volume!();
    let open = || File::options().read(true).write(true).create(true).truncate(false).open(v.path("l")).unwrap();
    let (a, b) = (open(), open());
    // SAFETY: plain calls on open descriptors.
    let flock = |f: &File, op| ok(unsafe { libc::flock(f.as_raw_fd(), op) });
    flock(&a, libc::LOCK_EX).unwrap();
    assert_eq!(errno(flock(&b, libc::LOCK_EX | libc::LOCK_NB)), libc::EWOULDBLOCK);
    let fcntl = |f: &File, typ: libc::c_int| {
        let lock = libc::flock { l_type: typ as i16, l_whence: 0, l_start: 0, l_len: 0, l_pid: 0 };
        // SAFETY: `lock` is a valid struct flock that outlives the call.
        ok(unsafe { libc::fcntl(f.as_raw_fd(), libc::F_SETLK, &lock) })
    };
    fcntl(&b, libc::F_WRLCK).unwrap();
    assert_eq!(errno(flock(&b, libc::LOCK_SH | libc::LOCK_NB)), libc::EWOULDBLOCK);
    drop(a);
    // RELEASE, which drops the lock, is asynchronous: wait for it by asking for the lock.
    flock(&b, libc::LOCK_EX).unwrap();
}

#[test]
fn a_process_that_waits_for_a_lock_can_be_killed() {
    let v = volume!();
    let file = File::create(v.path("l")).unwrap();
    // SAFETY: a plain call on an open descriptor.
    ok(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX) }).unwrap();
    let mut waiter = Command::new("flock").arg(v.path("l")).arg("true").spawn().unwrap();
    let waits = || {
        let call = fs::read_to_string(format!("/proc/{}/syscall", waiter.id())).unwrap_or_default();
        call.split(' ').next() == Some(&libc::SYS_flock.to_string())
    };
    eventually("it waits for the lock", waits);
    waiter.kill().unwrap();
    assert!(!waiter.wait().unwrap().success());
}

#[test]
fn a_reader_of_a_store_that_hangs_can_be_interrupted() {
    let v = volume!(settings(), 0);
    let path = v.write("f", &[3; 100_000]);
    // Whatever the kernel has cached goes with the mount.
    let v = v.remounted();
    v.store.hold();
    let mut reader = Command::new("cat").arg(&path).stdout(Stdio::null()).spawn().unwrap();
    v.rt.block_on(v.store.held(1));
    // SAFETY: a plain call on a child of ours.
    ok(unsafe { libc::kill(reader.id() as i32, libc::SIGINT) }).unwrap();
    assert!(!reader.wait().unwrap().success());
    v.store.release();
    assert_eq!(fs::read(&path).unwrap(), [3; 100_000]);
}

#[test]
fn a_writer_that_finds_no_room_can_be_killed_and_the_rest_goes_on() {
    let v = volume!(settings(), 0);
    v.store.hold();
    let of = format!("of={}", v.path("big").display());
    let mut writer =
        Command::new("dd").args(["if=/dev/zero", &of, "bs=1M", "count=200"]).stderr(Stdio::null()).spawn().unwrap();
    v.rt.block_on(v.store.held(2));
    // Names are served meanwhile.
    fs::create_dir(v.path("d")).unwrap();
    eventually("the write buffer is full", || v.vfs.dirty().1 > 10 << 20);
    writer.kill().unwrap();
    assert!(!writer.wait().unwrap().success());
    v.store.release();
    let length = fs::metadata(v.path("big")).unwrap().len();
    assert!(length > 10 << 20 && length < 200 << 20, "{length}");
    File::open(v.path("big")).unwrap().sync_all().unwrap();
}

#[test]
fn acls_are_enforced_by_the_kernel_and_kept_by_us() {
    let v = volume!(Config { enable_acl: true, ..settings() });
    let path = v.write("f", b"x");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let nobody = AclEntry { id: 65534, perm: 4 };
    let rule = AclRule { owner: 6, group: 0, mask: 4, other: 0, users: vec![nobody], groups: vec![] };
    let (value, name) = (rule.to_xattr(), c"system.posix_acl_access");
    let line = format!("cat {} >/dev/null 2>&1", path.display());
    assert!(!as_nobody(&line));
    // SAFETY: path and name are NUL-terminated; the buffer's size is given.
    ok(unsafe { libc::setxattr(c(&path).as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) }).unwrap();
    assert!(as_nobody(&line));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640, "the mask shows as the group's bits");
}

#[test]
fn writes_and_truncates_by_others_take_setuid_away() {
    let v = volume!();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let armed = |name: &str| {
        let path = v.write(name, b"program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
        assert_eq!(mode(&path), 0o6777);
        path
    };
    let by_root = armed("root");
    File::options().append(true).open(&by_root).unwrap().write_all(b"x").unwrap();
    assert_eq!(mode(&by_root), 0o6777, "root may");
    for (name, line) in [("write", "echo x >> "), ("trunc", "truncate -s 3 "), ("open", ": > ")] {
        let path = armed(name);
        assert!(as_nobody(&format!("{line}{}", path.display())), "{name}");
        // The kernel is told by the notifier, or asks again after a second.
        eventually(name, || mode(&path) == 0o777);
    }
}

#[test]
fn permissions_are_checked_by_the_kernel_or_by_us() {
    for config in [settings(), Config { default_permissions: false, ..settings() }] {
        let v = volume!(config);
        let path = v.write("secret", b"s");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(!as_nobody(&format!("cat {} 2>/dev/null", path.display())));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        assert!(as_nobody(&format!("cat {} >/dev/null", path.display())));
    }
}

#[test]
fn squashed_root_is_somebody_else() {
    let root = Config { root_squash: Some((65534, 65534)), ..settings() };
    for config in [Config { all_squash: Some((65534, 65534)), ..settings() }, root] {
        squashed(config);
    }
}

fn squashed(config: Config) {
    let v = volume!(config);
    let path = v.write("mine", b"x");
    assert_eq!(fs::metadata(&path).unwrap().uid(), 65534);
    let theirs = v.path("theirs");
    let (cred, made) = (Cred::root(), cairn_vfs::NewNode::file(0o600));
    v.rt.block_on(v.vfs.mknod(&cred, Ino::ROOT, b"theirs", made)).unwrap();
    assert_eq!(errno(File::open(&theirs)), libc::EACCES);
}

#[test]
fn a_forced_umask_overrides_the_callers() {
    let v = volume!(Config { umask: Some(0o077), ..settings() });
    assert!(
        Command::new("sh")
            .args(["-c", &format!("umask 0; touch {}", v.path("f").display())])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(fs::metadata(v.path("f")).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn inode_flags_are_set_and_shown() {
    let v = volume!();
    let path = v.write("i", b"x");
    let chattr = |how: &str| Command::new("chattr").arg(how).arg(&path).status().unwrap().success();
    assert!(chattr("+i"));
    assert_eq!(errno(fs::write(&path, b"y")), libc::EPERM);
    let shown = Command::new("lsattr").arg(&path).output().unwrap();
    assert!(String::from_utf8_lossy(&shown.stdout).split(' ').next().unwrap().contains('i'), "{shown:?}");
    assert!(chattr("-i"));
    fs::write(&path, b"y").unwrap();
}

#[test]
fn virtual_files_are_read_without_a_cache() {
    let v = volume!();
    let config = fs::read_to_string(v.path(".config")).unwrap();
    assert_eq!(config.trim(), "{}");
    let mut log = File::open(v.path(".accesslog")).unwrap();
    fs::metadata(v.path("nobody-there")).unwrap_err();
    let mut line = vec![0; 4096];
    let n = log.read(&mut line).unwrap();
    let text = String::from_utf8_lossy(&line[..n]).into_owned();
    assert!(text.contains("lookup (1,nobody-there)"), "{text}");
}

#[test]
fn statfs_answers_in_pages() {
    let v = volume!();
    // SAFETY: all zeros is a valid statfs, which the call fills in.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is NUL-terminated, the buffer of the right type.
    ok(unsafe { libc::statfs(c(v.place.path()).as_ptr(), &mut stat) }).unwrap();
    assert_eq!((stat.f_bsize, stat.f_namelen), (4096, 255));
    assert!(stat.f_blocks > 0 && stat.f_bavail <= stat.f_blocks);
}

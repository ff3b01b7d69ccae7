//! The other side of most rows: this program once more, as the daemon of a file system that does
//! nothing. A process of its own, as the real one is, so that both pay for the same switches.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

/// First argument of such a process; then its mount point, then the sink if there is one.
pub(crate) const FLAG: &str = "--null";

/// Serves until standard input ends, which it also does when the benchmark dies.
pub(crate) fn serve(root: &Path, sink: Option<&Path>) -> anyhow::Result<()> {
    let mounted = cairn_fuse::nullfs::mount(root, config(), sink.map(Path::to_owned)).context("mount the floor")?;
    std::io::stdin().read_to_end(&mut Vec::new()).context("wait for the end")?;
    mounted.unmount(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(mounted.wait())?;
    Ok(())
}

/// What `cairn mount` asks of the kernel when it gets no flags.
fn config() -> cairn_fuse::Config {
    let second = Duration::from_secs(1);
    cairn_fuse::Config {
        fsname: "CairnFS:null".into(),
        subtype: "cairn-null".into(),
        allow_other: rustix::process::geteuid().is_root(),
        default_permissions: true,
        read_only: false,
        max_write: 1 << 20,
        threads: std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 16),
        attr_timeout: second,
        entry_timeout: second,
        dir_entry_timeout: second,
        negative_timeout: Duration::ZERO,
        readdir_cache: false,
        enable_xattr: false,
        enable_cap: false,
        enable_selinux: false,
        enable_ioctl: false,
        enable_acl: false,
        root_squash: None,
        all_squash: None,
        umask: None,
        options: vec![],
        max_background: 64,
    }
}

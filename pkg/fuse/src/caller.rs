//! Who asks, and whether that caller has been told to stop.
//!
//! fuser 0.18 answers FUSE_INTERRUPT with ENOSYS, after which the kernel sends no more of them and
//! lets the caller wait for our reply whatever signals come. So whoever waits long is watched from
//! here: its pending signals stand in `/proc`.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use cairn_env::Env;
use cairn_vfs::Cred;
use fuser::Request;
use moka::sync::Cache;

use crate::Config;

/// How long a request may wait before its caller is watched.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a watched caller is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Which signals end a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ends {
    /// Any that is delivered: POSIX says so of waiting for a lock.
    Any,
    /// Those by which a person or a supervisor says stop. A program with a timer or with children does not expect
    /// EINTR from a file.
    Stop,
}

const STOP_SIGNALS: u64 =
    bit(libc::SIGKILL) | bit(libc::SIGINT) | bit(libc::SIGTERM) | bit(libc::SIGQUIT) | bit(libc::SIGHUP);

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Has thread `tid` a signal waiting that ends its wait? A thread that is not there has none.
pub(crate) fn has_signal(tid: u32, ends: Ends) -> bool {
    tid != 0 && fs::read_to_string(format!("/proc/{tid}/status")).is_ok_and(|status| is_signalled(&status, ends))
}

fn is_signalled(status: &str, ends: Ends) -> bool {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
    };
    let pending = (mask("SigPnd:") | mask("ShdPnd:")) & !mask("SigBlk:") & !mask("SigIgn:");
    match ends {
        Ends::Any => pending != 0,
        Ends::Stop => pending & STOP_SIGNALS != 0,
    }
}

/// Resolves once thread `tid` has waited long enough to be watched and is told to stop.
pub(crate) async fn told_to_stop(env: Env, tid: u32) {
    if tid == 0 {
        // The kernel itself asks (read-ahead): nobody waits.
        return std::future::pending().await;
    }
    env.sleep(PATIENCE).await;
    while !has_signal(tid, Ends::Stop) {
        env.sleep(LOOK_EVERY).await;
    }
}

/// Supplementary groups of callers. A process may drop groups, so they are believed for a second.
pub(crate) struct Groups {
    known: Cache<(u32, u32, u32), Arc<[u32]>>,
}

/// How long a caller's groups are believed.
const GROUPS_TTL: Duration = Duration::from_secs(1);
/// Callers remembered.
const GROUPS_MAX: u64 = 10_000;

impl Groups {
    /// Nobody is known yet.
    pub(crate) fn new() -> Groups {
        Groups { known: Cache::builder().max_capacity(GROUPS_MAX).time_to_live(GROUPS_TTL).build() }
    }

    /// The groups of thread `tid`, which acts as `uid` and `gid`.
    fn of(&self, tid: u32, uid: u32, gid: u32) -> Arc<[u32]> {
        self.known.get_with((tid, uid, gid), || {
            let status = fs::read_to_string(format!("/proc/{tid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
            line.split_whitespace().filter_map(|g| g.parse().ok()).filter(|g| *g != gid).collect()
        })
    }
}

/// The caller of a request, squashed as configured.
pub(crate) fn cred(config: &Config, known: &Groups, req: &Request) -> Cred {
    let squash = config.all_squash.or(config.root_squash.filter(|_| req.uid() == 0));
    let (uid, gid) = squash.unwrap_or((req.uid(), req.gid()));
    let mut cred = Cred::user(uid, gid);
    cred.pid = req.pid();
    // The kernel has checked the caller, not the one it is squashed to.
    cred.check = !config.kernel_checks() || squash.is_some();
    if squash.is_none() && uid != 0 {
        // Also where the kernel checks: who may keep a setgid bit depends on them.
        cred.gids.extend_from_slice(&known.of(req.pid(), uid, gid));
    }
    cred
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pending: u64, shared: u64, blocked: u64, ignored: u64) -> String {
        format!(
            "Name:\tx\nSigPnd:\t{pending:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\n"
        )
    }

    #[test]
    fn a_pending_signal_counts_unless_blocked_or_ignored() {
        let int = bit(libc::SIGINT);
        assert!(is_signalled(&status(int, 0, 0, 0), Ends::Stop));
        assert!(is_signalled(&status(0, int, 0, 0), Ends::Stop));
        assert!(!is_signalled(&status(int, 0, int, 0), Ends::Stop));
        assert!(!is_signalled(&status(int, 0, 0, int), Ends::Stop));
        assert!(!is_signalled(&status(0, 0, 0, 0), Ends::Any));
    }

    #[test]
    fn a_timer_ends_the_wait_for_a_lock_and_no_other() {
        let alarm = status(bit(libc::SIGALRM), 0, 0, 0);
        assert!(is_signalled(&alarm, Ends::Any));
        assert!(!is_signalled(&alarm, Ends::Stop));
    }

    #[test]
    fn groups_are_those_of_the_process() {
        let groups = Groups::new();
        let own = groups.of(std::process::id(), 1, u32::MAX);
        let status = fs::read_to_string("/proc/self/status").expect("procfs");
        let line = status.lines().find(|l| l.starts_with("Groups:")).expect("a line of groups");
        assert_eq!(own.len(), line.split_whitespace().count() - 1);
        assert!(groups.of(u32::MAX, 1, 1).is_empty());
    }

    #[test]
    fn nobody_and_the_departed_have_no_signals() {
        assert!(!has_signal(0, Ends::Any));
        assert!(!has_signal(u32::MAX, Ends::Any));
    }
}

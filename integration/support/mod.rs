//! What tests through the kernel share: volumes in temporary folders, mounts that clean up after
//! themselves, database servers and the wires to them, and waiting for things to become true.

mod chance;
mod command;
mod eventually;
mod mounted;
mod proxy;
mod servers;
mod user;
mod volume;

pub(crate) use chance::Chance;
pub(crate) use command::{Ran, binary, cairn, finish, run};
pub(crate) use eventually::{PATIENCE, eventually};
pub(crate) use mounted::{Mounted, is_mounted};
pub(crate) use proxy::{Cuts, Proxy};
pub(crate) use servers::{Cluster, Engine, Kind, Mysql, Postgres, Redis, RedisConfig, Sentinels, free_port};
pub(crate) use user::{as_user, nobody};
pub(crate) use volume::Volume;

use std::io;
use std::path::Path;

/// The errno a call failed with; panics if it succeeded.
#[track_caller]
pub(crate) fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    match result {
        Ok(value) => panic!("should have failed, but returned {value:?}"),
        Err(e) => e.raw_os_error().unwrap_or_else(|| panic!("no errno in {e:?}")),
    }
}

/// What a libc call that returns -1 on failure means.
pub(crate) fn cvt(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A path as C wants it.
pub(crate) fn c_path(path: &Path) -> std::ffi::CString {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path")
}

/// Bytes that differ from place to place and from seed to seed.
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend(state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// The seconds a long form may take and its first seed, from `CAIRN_SECS` and `CAIRN_SEED`.
pub(crate) fn env_number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

/// SHA-256 in hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref())
}

/// Two digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

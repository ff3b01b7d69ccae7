//! Other people's test suites and programs on a mount.
//!
//! Short by default; whole with `CAIRN_WHOLE=1` (`make posix`). Tools are looked for in
//! `target/tools/bin`, then in PATH; a missing one fails the test with a sentence. Counts are
//! checked, because a suite that ran nothing passes too. What cannot pass on a FUSE mount is listed
//! with its reason in `posix/expected.txt`.

mod fio;
mod fsx;
mod pjdfstest;
mod programs;
mod stress;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::support::env_number;

/// Run everything, not only the short form.
fn whole() -> bool {
    env_number("CAIRN_WHOLE").is_some_and(|n| n > 0)
}

/// Where a tool is.
#[track_caller]
fn tool(name: &str) -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let postgres =
        std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|v| v.path().join("bin"));
    let mut places = std::iter::once(ours).chain(std::env::split_paths(&path)).chain(postgres);
    places
        .find_map(|dir| Some(dir.join(name)).filter(|p| p.is_file()))
        .unwrap_or_else(|| panic!("{name} is missing: `make test` installs it, or put it into target/tools/bin"))
}

/// Tests of a suite that are not expected to pass, and why.
fn expected(suite: &str) -> BTreeMap<String, String> {
    let lines = include_str!("posix/expected.txt").lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut parts = line.splitn(3, char::is_whitespace).map(str::trim);
            let (of, test, why) = (parts.next()?, parts.next()?, parts.next()?);
            (of == suite).then(|| (test.to_owned(), why.to_owned()))
        })
        .collect()
}

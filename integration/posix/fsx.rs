//! fsx: one file, random operations, contents compared after each.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{tool, whole};
use crate::support::{Volume, env_number, finish};

const HEAD: &str = "flen = 262144\n[opsize]\nmax = 65536\n[weights]\nclose_open = 1\nread = 10\nwrite = 10\ntruncate = 10\nfsync = 1\nfdatasync = 1\n";
const PLAIN: &str = "mapread = 0\nmapwrite = 0\ninvalidate = 0\n";
const MMAP: &str = "mapread = 10\nmapwrite = 10\ninvalidate = 1\n";
const HOLES: &str = "posix_fadvise = 1\nsendfile = 2\ncopy_file_range = 2\nposix_fallocate = 2\npunch_hole = 2\n";

/// Runs seeds with a configuration; operations are for the short and the whole form.
fn run(weights: &[&str], flen: Option<(u64, u64)>, short: u64, long: u64, flags: &[&str]) {
    let volume = Volume::new(&[]);
    let mounted = volume.mount(flags);
    let mut config = [&[HEAD], weights].concat().concat();
    if let Some((flen, max)) = flen {
        config = config.replace("262144", &flen.to_string()).replace("65536", &max.to_string());
    }
    let path = volume.path("fsx.toml");
    fs::write(&path, config).unwrap();
    let artifacts = volume.path("artifacts");
    fs::create_dir(&artifacts).unwrap();
    let operations = if whole() { long } else { short };
    let first = env_number("CAIRN_SEED").unwrap_or(1);
    for seed in first..first + if whole() { 3 } else { 1 } {
        one(&path, &artifacts, &mounted.path(&format!("fsx-{seed}")), seed, operations);
    }
    mounted.unmount();
    volume.fsck_is_clean();
}

fn one(config: &Path, artifacts: &Path, file: &Path, seed: u64, operations: u64) {
    let mut command = Command::new(tool("fsx"));
    command.arg("-f").arg(config).args(["-N", &operations.to_string(), "-S", &seed.to_string()]);
    let ran = finish(command.arg("-P").arg(artifacts).arg(file));
    let said = format!("{}\n{}", ran.out, ran.err);
    let last: Vec<&str> = said.lines().rev().take(60).collect();
    assert!(
        said.contains("All operations completed A-OK!"),
        "seed {seed}, {operations} operations:\n{}",
        last.join("\n")
    );
}

#[test]
fn reads_writes_and_truncates() {
    run(&[PLAIN], None, 5_000, 1_000_000, &[]);
}

#[test]
fn mappings() {
    run(&[MMAP], None, 4_000, 200_000, &[]);
}

#[test]
fn mappings_holes_and_copies() {
    run(&[MMAP, HOLES], None, 4_000, 200_000, &[]);
}

#[test]
fn chunk_and_block_borders() {
    run(&[PLAIN], Some((134_217_728, 9_437_184)), 60, 1_000, &[]);
}

#[test]
fn without_kernel_caches() {
    run(&[PLAIN, HOLES], None, 2_000, 100_000, &["--attr-cache", "0", "--entry-cache", "0", "--cache-size", "0"]);
}

//! fio with verification: random overwrites by several jobs, read back and compared.

use std::process::Command;

use serde_json::Value;

use super::{tool, whole};
use crate::support::{Volume, finish};

/// Name, and what fio is told; `{n}` is a size in MiB that the short form makes smaller.
const JOBS: [(&str, &[&str], u64); 5] = [
    ("seq-1M", &["--rw=write", "--bs=1M", "--end_fsync=1"], 256),
    ("rand-4k", &["--rw=randwrite", "--bs=4k", "--end_fsync=1"], 64),
    ("unaligned-mixed", &["--rw=randwrite", "--bsrange=512-256k", "--bs_unaligned=1", "--fsync=64"], 128),
    ("four-jobs-16k", &["--rw=randwrite", "--bs=16k", "--numjobs=4"], 32),
    ("overwrite-4k", &["--rw=randwrite", "--bs=4k", "--verify_backlog=256", "--end_fsync=1", "--overwrite=1"], 64),
];

#[test]
fn what_fio_writes_it_reads_back() {
    let volume = Volume::new(&[]);
    let mounted = volume.mount(&[]);
    for (name, flags, mib) in JOBS {
        let size = if whole() { mib } else { (mib / 8).max(4) };
        verified(&mounted.path(""), name, size, flags);
    }
    mounted.unmount();
    volume.fsck_is_clean();
}

#[test]
fn every_engine_buffered_and_direct() {
    let volume = Volume::new(&[]);
    let mounted = volume.mount(&[]);
    for engine in ["psync", "libaio", "io_uring", "mmap"] {
        for direct in ["0", "1"] {
            if (engine, direct) == ("mmap", "1") {
                continue;
            }
            let (engine, direct) = (format!("--ioengine={engine}"), format!("--direct={direct}"));
            verified(
                &mounted.path(""),
                "engine",
                4,
                &[&engine, &direct, "--iodepth=8", "--rw=randwrite", "--bs=4k", "--end_fsync=1"],
            );
        }
    }
    mounted.unmount();
}

fn verified(dir: &std::path::Path, name: &str, mib: u64, flags: &[&str]) {
    let mut command = Command::new(tool("fio"));
    command.arg(format!("--name={name}")).arg(format!("--directory={}", dir.display())).arg(format!("--size={mib}M"));
    command.args(["--ioengine=psync", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--randseed=42"]);
    command.args([
        "--refill_buffers=1",
        "--group_reporting=1",
        "--unlink=1",
        "--output-format=json",
        "--verify_state_save=0",
    ]);
    let ran = finish(command.args(flags));
    assert_eq!(ran.code, 0, "fio {name} {flags:?}\n{}\n{}", ran.out, ran.err);
    // Warnings may stand before the JSON.
    let json = ran.out.find('{').map_or("", |at| &ran.out[at..]);
    let report: Value = serde_json::from_str(json).unwrap_or_else(|e| panic!("fio {name}: {e}\n{}", ran.out));
    let jobs = report["jobs"].as_array().expect("a list of jobs");
    assert!(!jobs.is_empty(), "fio {name} ran nothing");
    for job in jobs {
        assert_eq!(job["error"], 0, "fio {name}: {job}");
        assert!(job["write"]["io_bytes"].as_u64() > Some(0), "fio {name} wrote nothing");
        assert!(job["read"]["io_bytes"].as_u64() > Some(0), "fio {name} verified nothing");
    }
}

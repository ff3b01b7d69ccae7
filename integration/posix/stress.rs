//! stress-ng's file system stressors, one at a time, with `--verify`.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{expected, tool, whole};
use crate::support::{Volume, finish};

const ALL: &str = "access chdir chmod chown copy-file dentry dir dirdeep dirmany dnotify dup fallocate fanotify fcntl \
    fiemap file-ioctl filename flock fpunch fsize fstat getdent handle hdd inode-flags inotify io iomix lease link locka \
    lockf lockofd mknod open rename seek sendfile symlink sync-file touch utime verity xattr aiol revio splice mmap \
    msync readahead";

/// The short form: one of each family, a minute in all.
const SHORT: &str =
    "chmod copy-file dentry dirmany fallocate flock fpunch hdd iomix link lockf mknod rename symlink utime msync";

/// Slow ones need longer than 2 s to do anything.
const SLOW: [&str; 6] = ["xattr", "mmap", "link", "symlink", "chdir", "fpunch"];

#[test]
fn stressors_pass_and_do_something() {
    let volume = Volume::new(&[]);
    let mounted = volume.mount(&["--enable-xattr", "--enable-ioctl"]);
    let work = mounted.path("st");
    fs::create_dir(&work).unwrap();
    let (mut done, mut wrong) = (0, Vec::new());
    for name in if whole() { ALL } else { SHORT }.split_whitespace() {
        match stress(&work, name) {
            Ok(()) => done += 1,
            Err(words) => wrong.push(format!("{name}: {words}")),
        }
    }
    println!("stress-ng: {done} passed, {} failed", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    mounted.unmount();
    volume.fsck_is_clean();
}

fn stress(work: &Path, name: &str) -> Result<(), String> {
    let seconds = match (whole(), SLOW.contains(&name)) {
        (true, true) => "20s",
        (false, true) => "5s",
        (_, false) => "2s",
    };
    let mut command = Command::new("timeout");
    command.arg("120").arg(tool("stress-ng")).arg("--temp-path").arg(work).args([&format!("--{name}"), "2"]);
    command.args(["--verify", "--timeout", seconds, "--metrics-brief"]);
    for (flag, value) in [
        ("--hdd-bytes", "64m"),
        ("--fallocate-bytes", "64m"),
        ("--copy-file-bytes", "128m"),
        ("--dir-dirs", "256"),
        ("--filename-opts", "posix"),
        ("--iomix-bytes", "64m"),
        ("--seek-size", "32m"),
        ("--sync-file-bytes", "32m"),
        ("--revio-bytes", "32m"),
        ("--mmap-bytes", "64m"),
        ("--splice-bytes", "1m"),
    ] {
        command.args([flag, value]);
    }
    let ran = finish(command.arg("--mmap-file"));
    let said = format!("{}\n{}", ran.out, ran.err);
    let excuse = expected("stress-ng").get(name).cloned().unwrap_or_default();
    let skipped = matches!(ran.code, 3 | 4) || said.contains("skipping stressor") || said.contains("skipped: 2");
    match (ran.code, skipped) {
        (_, true) if excuse.starts_with("skipped") => Ok(()),
        (0, false) if operations(&said, name) > 0 || excuse.starts_with("vacuous") => Ok(()),
        (0, false) => Err(format!("passed without doing anything\n{said}")),
        _ => Err(format!("exit {}\n{said}", ran.code)),
    }
}

/// Bogo operations in the brief metrics.
fn operations(said: &str, name: &str) -> u64 {
    let numbers = said.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip_while(|w| *w != name).skip(1);
        words.next()?.parse::<u64>().ok()
    });
    numbers.max().unwrap_or(0)
}

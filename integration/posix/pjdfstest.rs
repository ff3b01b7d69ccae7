//! pjdfstest: permissions, names, times and errno, nearly 400 cases.

use std::fs;

use super::{expected, tool};
use crate::support::{Volume, finish};

const CONFIG: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
stat_st_birthtime = {}
[settings]
naptime = 0.02
allow_remount = false
[dummy_auth]
entries = [ ["nobody","nogroup"], ["daemon","daemon"] ]
"#;

/// Cases that pass on ext4 and on JuiceFS 1.4.1: no fewer may pass here.
const PASS: usize = 384;

#[test]
fn pjdfstest_passes() {
    let volume = Volume::new(&[]);
    let mounted = volume.mount(&["--skip-dir-mtime", "0s"]);
    let (work, second, config) = (mounted.path("pjd"), volume.path("second"), volume.path("pjd.toml"));
    fs::create_dir(&work).unwrap();
    fs::create_dir(&second).unwrap();
    fs::write(&config, CONFIG).unwrap();
    let mut command = std::process::Command::new(tool("pjdfstest"));
    command.env("RUST_BACKTRACE", "0").arg("-c").arg(&config).arg("-s").arg(&second).arg("-p").arg(&work);
    let ran = finish(&mut command);
    let said = format!("{}\n{}", ran.out, ran.err);
    let failed: Vec<&str> = said.lines().filter(|l| l.contains("FAILED") && !l.starts_with("Summary")).collect();
    let known = expected("pjdfstest");
    let surprising: Vec<&&str> = failed.iter().filter(|l| !known.keys().any(|k| l.contains(k.as_str()))).collect();
    assert!(surprising.is_empty(), "{} failures:\n{}", surprising.len(), said);
    let passed = count(&said, "passed");
    println!("pjdfstest: {passed} passed, {} failed, {} skipped", count(&said, "failed"), count(&said, "skipped"));
    assert!(passed >= PASS, "only {passed} of {PASS} cases passed:\n{said}");
}

/// The number before (or after) a word in the summary line.
fn count(said: &str, word: &str) -> usize {
    let summary =
        said.lines().rev().find(|l| l.starts_with("Summary")).unwrap_or_else(|| panic!("no summary:\n{said}"));
    let words: Vec<&str> = summary.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).collect();
    let at = words.iter().position(|w| w.eq_ignore_ascii_case(word));
    let near = at.map(|at| [at.checked_sub(1).and_then(|i| words.get(i)), words.get(at + 1)]);
    near.into_iter().flatten().flatten().find_map(|w| w.parse().ok()).unwrap_or(0)
}

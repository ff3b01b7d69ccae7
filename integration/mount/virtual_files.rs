//! `.stats`, `.config`, `.accesslog`, `.control`, and how they hide.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;

use super::{Fs, VIRTUAL};
use crate::support::{PATIENCE, Volume, cairn, errno, eventually};

#[test]
fn stats_are_lines_of_name_and_number() {
    let m = Fs::new();
    m.write("f", b"x");
    let text = String::from_utf8(m.read(".stats")).unwrap();
    assert!(!text.is_empty());
    for line in text.lines() {
        let (name, value) = line.split_once(' ').unwrap_or_else(|| panic!("not a pair: {line:?}"));
        assert!(!name.is_empty() && value.trim().parse::<f64>().is_ok(), "{line:?}");
    }
}

#[test]
fn the_config_is_json_without_secrets() {
    let m = Fs::with(&["--access-key", "someone", "--secret-key", "hunter2-secret"], &[]);
    let text = String::from_utf8(m.read(".config")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(json.is_object());
    assert!(!text.contains("hunter2-secret"));
}

#[test]
fn the_access_log_shows_calls_while_somebody_reads_it() {
    let m = Fs::new();
    let mut log = File::open(m.path(".accesslog")).unwrap();
    let seen = eventually("a line about the call", PATIENCE, || {
        m.write("watched", b"x");
        let mut buffer = vec![0; 65_536];
        let n = log.read(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
        text.lines().find(|line| line.contains("watched")).map(str::to_owned)
    });
    // 2026.01.02 15:04:05.000000 [uid:0,gid:0,pid:1] create (1,watched,...): OK ... <0.000123>
    assert!(seen.contains("[uid:0,gid:0,pid:") && seen.trim_end().ends_with('>'), "{seen}");
}

#[test]
fn unknown_control_messages_are_answered_not_ignored() {
    let m = Fs::new();
    let mut control = OpenOptions::new().read(true).write(true).open(m.path(".control")).unwrap();
    // Type 9999, no payload: cmd u32, size u32.
    let message = [9999u32.to_be_bytes(), 0u32.to_be_bytes()].concat();
    if control.write_all(&message).is_ok() {
        let mut answer = [0; 1];
        assert_eq!(control.read(&mut answer).unwrap(), 1);
        assert!([libc::EINVAL as u8, libc::ENOTSUP as u8].contains(&answer[0]), "{answer:?}");
    }
}

#[test]
fn virtual_files_are_there_and_cannot_be_changed() {
    let m = Fs::with(&["--trash-days", "1"], &[]);
    for name in VIRTUAL {
        fs::metadata(m.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    assert!([libc::EPERM, libc::EACCES].contains(&errno(fs::remove_file(m.path(".stats")))));
    assert!([libc::EPERM, libc::EACCES].contains(&errno(fs::rename(m.path(".config"), m.path("x")))));
    assert!(errno(File::create(m.path(".accesslog/x"))) == libc::ENOTDIR);
    assert_eq!(fs::metadata(m.path(".stats")).unwrap().mode() & 0o777, 0o444);
}

#[test]
fn they_can_be_hidden_from_listings() {
    let m = Fs::with(&[], &["--hide-internal"]);
    let listed: Vec<String> =
        fs::read_dir(m.root()).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    assert!(VIRTUAL.iter().all(|v| !listed.iter().any(|l| l == v)), "{listed:?}");
}

#[test]
fn commands_never_take_a_path_outside_for_one_inside() {
    let volume = Volume::new(&[]);
    let mounted = volume.mount(&[]);
    let outside = tempfile::tempdir_in(mounted.path("").parent().unwrap()).unwrap();
    let name = outside.path().file_name().unwrap().to_owned();
    fs::create_dir(mounted.path(name.to_str().unwrap())).unwrap();
    for path in [mounted.path("..").join(&name), mounted.path("..")] {
        for command in ["rmr", "info", "summary"] {
            let done = cairn([command, path.to_str().unwrap()]);
            assert_ne!(done.code, 0, "{command} {}: {done:?}", path.display());
        }
    }
    assert!(outside.path().exists());
    assert!(mounted.path(name.to_str().unwrap()).exists());
}

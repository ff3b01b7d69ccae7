//! Every command, on every engine: a volume is made, used, looked at, checked, and emptied.

use std::fs;

use serde_json::Value;

use super::crowd::names;
use crate::support::{Engine, Kind, PATIENCE, Ran, Volume, binary, bytes, cairn, eventually, finish};

on_every_engine!(every_command_works, a_second_format_changes_what_it_may, a_mount_shows_what_an_earlier_one_left);

fn json(ran: Ran) -> Value {
    let text = ran.ok();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn every_command_works(kind: Kind) {
    let engine = Engine::shared(kind);
    let volume = Volume::on(&engine, &["--compress", "lz4", "--trash-days", "0"]);
    let url = volume.url();
    assert_eq!(json(cairn(["status", url]))["Setting"]["Name"], "test-volume");
    assert_eq!(json(cairn(["config", url]))["TrashDays"], 0);
    cairn(["config", url, "--capacity", "1", "--inodes", "5000"]).ok();
    let setting = json(cairn(["config", url]));
    assert_eq!((&setting["Capacity"], &setting["Inodes"]), (&(1u64 << 30).into(), &5000.into()));

    let mounted = volume.mount(&["--heartbeat", "1s"]);
    fs::create_dir_all(mounted.path("a/b")).unwrap();
    for n in 0..30u64 {
        fs::write(mounted.path(&format!("a/b/f{n}")), bytes(n, 5_000)).unwrap();
    }
    fs::write(mounted.path("a/large"), bytes(99, 9 << 20)).unwrap();
    assert_eq!(json(cairn(["status", url]))["Sessions"].as_array().map(Vec::len), Some(1));
    let info = cairn(["info".as_ref(), "-r".as_ref(), mounted.path("a").as_os_str()]).ok();
    assert!(info.contains("31"), "31 files below a: {info}");
    let chunks = cairn(["info".as_ref(), mounted.path("a/large").as_os_str()]).ok();
    assert!(chunks.contains("test-volume/chunks/"), "objects are listed: {chunks}");
    let summary = cairn(["summary".as_ref(), "--csv".as_ref(), mounted.path("a").as_os_str()]).ok();
    let first: Vec<&str> = summary.lines().nth(1).expect("a line").split(',').collect();
    assert_eq!((first[2], first[3]), ("2", "31"), "directories and files of {summary}");

    volume.fsck_is_clean();
    let report = json(cairn(["gc", url, "--json"]));
    // 33, and more where a slow machine let a second pass in the middle of a file.
    let stored = volume.blocks().len();
    assert!(stored >= 33, "{stored} blocks");
    assert_eq!((&report["leaked"]["count"], &report["valid"]["count"]), (&0.into(), &stored.into()), "{report}");
    cairn(["rmr".as_ref(), mounted.path("a/b").as_os_str()]).ok();
    eventually("the kernel forgets what is gone", PATIENCE, || (!mounted.path("a/b").exists()).then_some(()));
    assert!(mounted.path("a/large").exists());
    mounted.unmount();
    let mut gc = binary();
    gc.env("JFS_GC_SKIPPEDTIME", "0").args(["gc", url, "--delete", "--json"]);
    finish(&mut gc).ok();
    assert!((3..6).contains(&volume.blocks().len()), "what is left is what the large file shows");
    volume.fsck_is_clean();
    let status = json(cairn(["status", url]));
    assert_eq!(status["Sessions"].as_array().map(Vec::len), Some(0));
    assert_eq!(status["Statistic"]["UsedInodes"], 2);
}

fn a_second_format_changes_what_it_may(kind: Kind) {
    let engine = Engine::shared(kind);
    let volume = Volume::on(&engine, &[]);
    let before = json(cairn(["config", volume.url()]));
    volume.format(&["--trash-days", "3"]).ok();
    let after = json(cairn(["config", volume.url()]));
    assert_eq!((&after["TrashDays"], &after["UUID"]), (&3.into(), &before["UUID"]));
    let said = volume.format(&["--block-size", "1M"]).refused();
    assert!(said.contains("block"), "{said}");
}

fn a_mount_shows_what_an_earlier_one_left(kind: Kind) {
    let engine = Engine::shared(kind);
    let volume = Volume::on(&engine, &["--trash-days", "1"]);
    let mounted = volume.mount(&["--enable-xattr"]);
    fs::create_dir(mounted.path("d")).unwrap();
    fs::write(mounted.path("d/f"), bytes(1, 300_000)).unwrap();
    fs::hard_link(mounted.path("d/f"), mounted.path("d/g")).unwrap();
    std::os::unix::fs::symlink("d/f", mounted.path("s")).unwrap();
    rustix::fs::setxattr(mounted.path("d/f"), "user.k", b"v", rustix::fs::XattrFlags::empty()).unwrap();
    fs::write(mounted.path("gone"), b"trashed").unwrap();
    fs::remove_file(mounted.path("gone")).unwrap();
    mounted.unmount();

    let mounted = volume.mount(&["--enable-xattr", "--read-only"]);
    assert!(fs::read(mounted.path("d/g")).unwrap() == bytes(1, 300_000));
    assert_eq!(fs::read_link(mounted.path("s")).unwrap().to_str(), Some("d/f"));
    let mut value = [0; 8];
    let n = rustix::fs::getxattr(mounted.path("d/f"), "user.k", &mut value).unwrap();
    assert_eq!(&value[..n], b"v");
    let hours = names(&mounted.path(".trash"));
    let hour = mounted.path(".trash").join(&hours[0]);
    let trashed = names(&hour);
    assert_eq!((hours.len(), trashed.len()), (1, 1));
    assert_eq!(fs::read(hour.join(&trashed[0])).unwrap(), b"trashed");
    mounted.unmount();
    volume.fsck_is_clean();
}

//! Round trips of each operation as an application sees it, counted by a proxy, beside those of the
//! reference client.
//!
//! Each operation is done several times, and the least count is what it costs: what runs in the
//! background may add to a count but never takes from one, so an operation that always waits once more
//! always shows. The wire is a little long, so that requests sent together are counted as one.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use super::outages::rest;
use crate::support::{Engine, Kind, Proxy, Volume};

on_every_server!(each_operation_waits_as_often_as_it_may);

/// Times each operation is counted.
const TIMES: usize = 5;
/// One way of the wire: longer than a client takes to send all of a request.
const ONE_WAY: Duration = Duration::from_millis(2);
/// The kernel keeps attributes, which it drops itself where it changed something, and forgets names
/// soon enough for those lines that want them forgotten.
const FLAGS: [&str; 7] = ["--attr-cache", "30s", "--entry-cache", "0.3s", "--dir-entry-cache", "30s", "--enable-xattr"];
const FORGOTTEN: Duration = Duration::from_millis(330);

/// A line of the table.
struct Line {
    name: &'static str,
    /// What the reference needs on Redis, PostgreSQL and MySQL.
    reference: [u32; 3],
    /// Requests of the kernel in it that wait for the engine: one round trip each.
    requests: u64,
    /// Prepares in a directory, and does the counted part within the call it is given.
    act: fn(&Path, &mut Count<'_>),
}

type Count<'a> = dyn FnMut(&mut dyn FnMut()) + 'a;

const LINES: [Line; 19] = [
    Line { name: "lookup of a missing name", reference: [1, 1, 2], requests: 1, act: missing },
    Line { name: "create", reference: [7, 8, 14], requests: 2, act: create },
    Line { name: "close of a small written file", reference: [4, 7, 10], requests: 1, act: close },
    Line { name: "stat, name expired", reference: [1, 1, 2], requests: 1, act: stat },
    Line { name: "open + close", reference: [1, 1, 2], requests: 1, act: open },
    // Two more than it should: the open does not bring the slices of what is read yet.
    Line { name: "open + read 4 KiB + close", reference: [2, 2, 4], requests: 3, act: read },
    Line { name: "fsync of 8 scattered pages", reference: [34, 58, 100], requests: 1, act: scattered },
    Line { name: "chmod", reference: [4, 4, 6], requests: 1, act: chmod },
    Line { name: "truncate to 0", reference: [5, 6, 10], requests: 1, act: truncate },
    Line { name: "link", reference: [8, 11, 20], requests: 2, act: link },
    Line { name: "symlink", reference: [7, 9, 16], requests: 2, act: symlink },
    Line { name: "mkdir", reference: [7, 10, 18], requests: 2, act: mkdir },
    Line { name: "rename", reference: [9, 12, 22], requests: 2, act: rename },
    Line { name: "unlink, name known", reference: [7, 9, 18], requests: 1, act: unlink },
    Line { name: "unlink, name expired", reference: [8, 9, 18], requests: 2, act: unlink_expired },
    Line { name: "rmdir", reference: [8, 13, 26], requests: 1, act: rmdir },
    Line { name: "readdir of a small directory", reference: [5, 7, 13], requests: 1, act: readdir },
    Line { name: "statfs", reference: [2, 2, 4], requests: 1, act: statfs },
    Line { name: "flock", reference: [4, 4, 6], requests: 1, act: flock },
];

fn each_operation_waits_as_often_as_it_may(kind: Kind) {
    let engine = Engine::shared(kind);
    let proxy = Proxy::delaying(engine.port().expect("a server"), ONE_WAY);
    let volume = Volume::on(&engine, &["--trash-days", "1"]).through(engine.url_at(proxy.port()).expect("a server"));
    let mounted = volume.mount(&FLAGS);
    let mut table = format!("{kind:?}: round trips of the reference, ours\n");
    let mut too_many = Vec::new();
    for (n, line) in LINES.iter().enumerate() {
        let mut counts = Vec::new();
        for time in 0..TIMES {
            let dir = mounted.path(&format!("{n}-{time}"));
            fs::create_dir(&dir).unwrap();
            // The counted part follows other calls in its directory, as it does in life.
            fs::write(dir.join("before"), [1; 100]).unwrap();
            (line.act)(&dir, &mut |work| counts.push(proxy.round_trips(work)));
        }
        let least = *counts.iter().min().expect("it was done");
        let column = match kind {
            Kind::Redis => 0,
            Kind::Postgres => 1,
            _ => 2,
        };
        let most = line.requests;
        table += &format!("  {:32} {:4} {least:4}   {counts:?}\n", line.name, line.reference[column]);
        if least > most {
            too_many.push(format!("{}: {least}, at most {most} ({counts:?})", line.name));
        }
    }
    println!("{table}");
    mounted.unmount();
    assert!(too_many.is_empty(), "round trips:\n{}\n{table}", too_many.join("\n"));
}

fn new_file(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("f");
    fs::write(&path, [7; 4096]).unwrap();
    path
}

fn missing(dir: &Path, count: &mut Count<'_>) {
    count(&mut || assert!(fs::metadata(dir.join("missing")).is_err()));
}

fn create(dir: &Path, count: &mut Count<'_>) {
    count(&mut || drop(File::create_new(dir.join("new")).unwrap()));
}

fn close(dir: &Path, count: &mut Count<'_>) {
    let file = File::create_new(dir.join("new")).unwrap();
    file.write_all_at(&[1; 4096], 0).unwrap();
    let mut file = Some(file);
    count(&mut || drop(file.take()));
}

fn stat(dir: &Path, count: &mut Count<'_>) {
    let path = new_file(dir);
    rest(FORGOTTEN);
    count(&mut || assert!(fs::metadata(&path).unwrap().is_file()));
}

fn open(dir: &Path, count: &mut Count<'_>) {
    let path = new_file(dir);
    count(&mut || drop(File::open(&path).unwrap()));
}

fn read(dir: &Path, count: &mut Count<'_>) {
    let path = new_file(dir);
    count(&mut || {
        let mut page = [0; 4096];
        File::open(&path).unwrap().read_exact_at(&mut page, 0).unwrap();
    });
}

fn scattered(dir: &Path, count: &mut Count<'_>) {
    let file = File::create_new(dir.join("new")).unwrap();
    for n in 0..8 {
        file.write_all_at(&[n as u8; 4096], n * (1 << 20)).unwrap();
    }
    count(&mut || file.sync_all().unwrap());
}

fn chmod(dir: &Path, count: &mut Count<'_>) {
    let path = new_file(dir);
    count(&mut || fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap());
}

fn truncate(dir: &Path, count: &mut Count<'_>) {
    let file = OpenOptions::new().write(true).open(new_file(dir)).unwrap();
    count(&mut || file.set_len(0).unwrap());
}

fn link(dir: &Path, count: &mut Count<'_>) {
    let path = new_file(dir);
    count(&mut || fs::hard_link(&path, dir.join("new")).unwrap());
}

fn symlink(dir: &Path, count: &mut Count<'_>) {
    count(&mut || std::os::unix::fs::symlink("to", dir.join("new")).unwrap());
}

fn mkdir(dir: &Path, count: &mut Count<'_>) {
    count(&mut || fs::create_dir(dir.join("new")).unwrap());
}

fn rename(dir: &Path, count: &mut Count<'_>) {
    let path = new_file(dir);
    count(&mut || fs::rename(&path, dir.join("new")).unwrap());
}

fn unlink(dir: &Path, count: &mut Count<'_>) {
    let path = new_file(dir);
    count(&mut || fs::remove_file(&path).unwrap());
}

fn unlink_expired(dir: &Path, count: &mut Count<'_>) {
    let path = new_file(dir);
    rest(FORGOTTEN);
    count(&mut || fs::remove_file(&path).unwrap());
}

fn rmdir(dir: &Path, count: &mut Count<'_>) {
    let path = dir.join("new");
    fs::create_dir(&path).unwrap();
    count(&mut || fs::remove_dir(&path).unwrap());
}

fn readdir(dir: &Path, count: &mut Count<'_>) {
    (0..10).for_each(|n| drop(File::create_new(dir.join(n.to_string())).unwrap()));
    count(&mut || assert_eq!(super::crowd::names(dir).len(), 11));
}

fn statfs(dir: &Path, count: &mut Count<'_>) {
    count(&mut || assert!(rustix::fs::statfs(dir).unwrap().f_bsize > 0));
}

fn flock(dir: &Path, count: &mut Count<'_>) {
    let file = File::open(new_file(dir)).unwrap();
    count(&mut || file.lock().unwrap());
}

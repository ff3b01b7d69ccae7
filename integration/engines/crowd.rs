//! Many names in one directory, from two mounts at once: none fails, none is lost, none is there twice.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

use super::whole;
use crate::support::{Engine, Kind, Mounted, Volume};

on_every_engine!(two_mounts_fill_one_directory, two_mounts_race_for_the_same_names);

/// Threads of each mount.
const THREADS: u64 = 4;

fn two_mounts_fill_one_directory(kind: Kind) {
    let each = if whole() { 50_000 } else { 1_000 };
    let engine = Engine::shared(kind);
    let volume = Volume::on(&engine, &[]);
    let mounts = [volume.mount(&[]), volume.mount(&[])];
    let dir = |m: usize| mounts[m].path("shared");
    fs::create_dir(dir(0)).unwrap();
    std::thread::scope(|scope| {
        for (m, t) in (0..2).flat_map(|m| (0..THREADS).map(move |t| (m, t))) {
            let dir = dir(m);
            scope.spawn(move || {
                for n in 0..each / THREADS {
                    let name = format!("m{m}-t{t}-{n}");
                    File::create_new(dir.join(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
                }
            });
        }
    });
    mounts.into_iter().for_each(Mounted::unmount);
    let mounted = volume.mount(&["--read-only"]);
    let names = names(&mounted.path("shared"));
    assert_eq!(names.len() as u64, 2 * each);
    let distinct: BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len(), "no name twice");
    mounted.unmount();
    volume.fsck_is_clean();
}

/// Each name is created by exactly one of two mounts, and taken away by exactly one.
fn two_mounts_race_for_the_same_names(kind: Kind) {
    let rounds = if whole() { 2_000 } else { 150 };
    let engine = Engine::shared(kind);
    let volume = Volume::on(&engine, &[]);
    let mounts = [volume.mount(&super::NO_KERNEL_CACHE), volume.mount(&super::NO_KERNEL_CACHE)];
    let roots = [mounts[0].root(), mounts[1].root()];
    for round in 0..rounds {
        let name = format!("n{round}");
        assert_eq!(
            race(roots, |root| File::create_new(root.join(&name)).map(drop), libc::EEXIST),
            1,
            "creations of {name}"
        );
        assert_eq!(race(roots, |root| fs::remove_file(root.join(&name)), libc::ENOENT), 1, "removals of {name}");
    }
    mounts.into_iter().for_each(Mounted::unmount);
    volume.fsck_is_clean();
}

/// How many of both succeed at once; the loser must fail with this errno.
fn race(roots: [&Path; 2], act: impl Fn(&Path) -> std::io::Result<()> + Sync, loser: i32) -> usize {
    let start = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        let handles = roots.map(|root| {
            scope.spawn(|| {
                start.wait();
                act(root)
            })
        });
        let results = handles.map(|h| h.join().expect("the closure does not panic"));
        for e in results.iter().filter_map(|r| r.as_ref().err()) {
            assert_eq!(e.raw_os_error(), Some(loser), "{e}");
        }
        results.iter().filter(|r| r.is_ok()).count()
    })
}

/// Names of a directory, as often as it lists them.
pub(super) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("list {}: {e}", dir.display()));
    entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

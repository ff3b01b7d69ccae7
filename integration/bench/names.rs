//! Creating empty files, with one thread and with eight, and removing them with one.
//!
//! The floor does one after the other what nobody can do without: the requests of the kernel,
//! answered by a file system that does nothing, and a raw transaction that writes the same rows.
//! Threads share transactions on both sides: with eight of them the raw one holds eight creations.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::raw_sqlite::RawVolume;
use crate::report::{Row, Spread, Target};
use crate::turns::{Figures, Side, seconds, take_turns};
use crate::world::World;

/// Threads of the second form.
const MANY: u64 = 8;
/// Share of the floor that is enough where the floor itself is below the target.
const SHARE: f64 = 0.7;

/// Operations a second.
pub(crate) fn measure(world: &World) -> anyhow::Result<Vec<Row>> {
    let (turns, total) = (world.settings.turns, world.settings.names);
    world.format("raw", &[])?;
    let mut raw = RawVolume::open(&crate::world::database(&world.path(""), "raw"), MANY)?;
    let [ours, null, rows] = take_turns(
        turns,
        [
            Side::new(Some(&world.ours), |turn| create_and_remove(world, world.ours.root(), turn)),
            Side::new(Some(&world.null), |turn| create_and_remove(world, world.null.root(), turn)),
            Side::new(None, |_| {
                let created = seconds(&world.env, || raw.create(total, 1))?;
                let removed = seconds(&world.env, || raw.remove(total))?;
                Ok([total as f64 / created, total as f64 / removed])
            }),
        ],
    )?;
    let [ours_many, null_many, rows_many] = take_turns(
        turns,
        [
            Side::new(Some(&world.ours), |turn| create_with_many(world, world.ours.root(), turn)),
            Side::new(Some(&world.null), |turn| create_with_many(world, world.null.root(), turn)),
            Side::new(None, |_| {
                let secs = seconds(&world.env, || raw.create(total, MANY))?;
                Ok([total as f64 / secs])
            }),
        ],
    )?;
    let one_cpu = cpu_note(total, &ours, &null, "create and unlink");
    let many_cpu = cpu_note(total, &ours_many, &null_many, "create");
    let ([ours_create, ours_remove], [null_create, null_remove]) = (ours.of, null.of);
    let [rows_create, rows_remove] = rows.of;
    let ([ours_many], [null_many], [rows_many]) = (ours_many.of, null_many.of, rows_many.of);
    Ok(vec![
        row("SQLite create, 1 thread, files/s", 7000.0, ours_create, null_create, rows_create, one_cpu.clone()),
        row("SQLite create, 8 threads, files/s", 10_000.0, ours_many, null_many, rows_many, many_cpu),
        row("SQLite unlink, 1 thread, files/s", 7000.0, ours_remove, null_remove, rows_remove, one_cpu),
    ])
}

fn row(name: &'static str, most: f64, ours: Vec<f64>, null: Vec<f64>, rows: Vec<f64>, cpu: String) -> Row {
    let floor = null.iter().zip(&rows).map(|(null, rows)| 1.0 / (1.0 / null + 1.0 / rows)).collect();
    let parts = format!("floor = null FUSE {} and then raw SQLite {}", Spread(&null), Spread(&rows));
    Row { name, ours, floor, target: Target::AtLeast(most, SHARE), notes: vec![parts, cpu] }
}

fn cpu_note<const K: usize>(total: u64, ours: &Figures<K>, null: &Figures<K>, of: &str) -> String {
    let each = |cpu: f64| cpu * 1e6 / total as f64;
    format!("daemon CPU-us for {of}: {:.0}, null {:.0}", each(ours.cpu_secs), each(null.cpu_secs))
}

fn create_and_remove(world: &World, root: &Path, turn: usize) -> anyhow::Result<[f64; 2]> {
    let (dir, total) = (root.join(format!("one-{turn}")), world.settings.names);
    fs::create_dir(&dir)?;
    let created = seconds(&world.env, || create(&dir, total))?;
    let removed = seconds(&world.env, || (0..total).try_for_each(|n| Ok(fs::remove_file(file(&dir, n))?)))?;
    Ok([total as f64 / created, total as f64 / removed])
}

fn create_with_many(world: &World, root: &Path, turn: usize) -> anyhow::Result<[f64; 1]> {
    let dirs: Vec<PathBuf> = (0..MANY).map(|n| root.join(format!("many-{turn}-{n}"))).collect();
    dirs.iter().try_for_each(fs::create_dir)?;
    let total = world.settings.names;
    let secs = seconds(&world.env, || create_in_each(&dirs, total / MANY))?;
    Ok([total as f64 / secs])
}

/// Creates files in several directories at once, a thread for each.
fn create_in_each(dirs: &[PathBuf], files: u64) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = dirs.iter().map(|dir| scope.spawn(move || create(dir, files))).collect();
        threads.into_iter().try_for_each(|t| t.join().expect("creating does not panic"))
    })
}

fn create(dir: &Path, files: u64) -> anyhow::Result<()> {
    (0..files).try_for_each(|n| File::create_new(file(dir, n)).map(drop).map_err(Into::into))
}

fn file(dir: &Path, n: u64) -> PathBuf {
    dir.join(format!("file-{n:06}"))
}

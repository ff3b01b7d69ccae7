//! Files created with 4 KiB in them, looked at, renamed and removed, on engines that are servers: near
//! (loopback) and a millisecond away, with one thread and with many.
//!
//! The floor of a row is what its requests wait for and cannot be had cheaper: as many raw round trips
//! as the kernel has requests that need one, through the same proxy and with as many loops as the row
//! has threads. With one thread and a near server the other parts count as well, and are added: the
//! cycle of a file system that does nothing, and a file of 4 KiB in the store's folder.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::daemon::{Daemon, cairn};
use crate::raw_engines::Raw;
use crate::report::{Row, Spread, Target};
use crate::support::{Engine, Kind, Proxy};
use crate::turns::{Figures, Side, rest, seconds, take_turns};
use crate::world::World;

/// Threads of the second form, near and far.
const MANY: [u64; 2] = [8, 16];
/// One way of a wire of a millisecond there and back.
const FAR: Duration = Duration::from_micros(500);
/// The kernel keeps names for a second.
const FORGOTTEN: Duration = Duration::from_millis(1200);
/// Counted turns; more would take long and say little.
const TURNS_MAX: usize = 5;
/// Bytes of each file.
const FILE_BYTES: usize = 4096;

/// Operations, with the requests of the kernel in each that wait for the engine.
const OPS: [(&str, u64); 4] = [("create+4K+close", 3), ("stat, expired", 1), ("rename", 2), ("unlink, name known", 1)];

/// Operations a second.
pub(crate) fn measure(world: &World) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for kind in [Kind::Redis, Kind::Postgres, Kind::Mysql] {
        for far in [false, true] {
            for many in [false, true] {
                let threads = if many { MANY[usize::from(far)] } else { 1 };
                let case = Case { kind, far, threads };
                rows.extend(case.measure(world).with_context(|| case.name("all"))?);
            }
        }
    }
    Ok(rows)
}

/// A server, a wire, a number of threads.
#[derive(Clone, Copy)]
struct Case {
    kind: Kind,
    far: bool,
    threads: u64,
}

impl Case {
    fn name(&self, op: &str) -> String {
        let wire = if self.far { "1 ms" } else { "near" };
        format!("{:?} {wire}, {} thread(s): {op}, /s", self.kind, self.threads)
    }

    fn measure(&self, world: &World) -> anyhow::Result<Vec<Row>> {
        let engine = Engine::shared(self.kind);
        let wire = if self.far { FAR } else { Duration::ZERO };
        let proxy = Proxy::delaying(engine.port().context("a server has a port")?, wire);
        let url = engine.url_at(proxy.port()).context("a server has a URL")?;
        let label = format!("{:?}-{}-{}", self.kind, self.far, self.threads).to_lowercase();
        let folder = world.path(&label);
        fs::create_dir(&folder)?;
        let store = folder.join("store");
        let format = ["format", &url, "bench-volume", "--storage", "file", "--bucket"];
        let out = cairn().args(format).arg(&store).output()?;
        ensure!(out.status.success(), "cairn format: {}", String::from_utf8_lossy(&out.stderr));
        let daemon = Daemon::cairn(&world.env, &url, &folder.join("mnt"), &folder.join("cache"))?;
        let mut raw = Raw::connect(self.kind, &engine, &proxy, self.threads)?;
        let total = self.files();
        let turns = world.settings.turns.min(TURNS_MAX);
        let [ours, floor, null, plain] = take_turns(
            turns,
            [
                Side::new(Some(&daemon), |turn| self.turn(world, daemon.root(), turn, total)),
                Side::new(None, |_| {
                    let secs = seconds(&world.env, || raw.loops(total))?;
                    Ok([total as f64 / secs, 0.0, 0.0, 0.0])
                }),
                Side::new(Some(&world.null), |turn| {
                    let rate = self.create_rate(world, &world.null.root().join(format!("{label}-{turn}")), total)?;
                    Ok([rate, 0.0, 0.0, 0.0])
                }),
                Side::new(None, |turn| {
                    Ok([self.create_rate(world, &folder.join(format!("plain-{turn}")), total)?, 0.0, 0.0, 0.0])
                }),
            ],
        )?;
        daemon.stop()?;
        let raw_name = raw.what();
        Ok(self.rows(ours, &floor.of[0], &null, &plain.of[0], total, raw_name))
    }

    /// Files of a turn: a second's worth or so.
    fn files(&self) -> u64 {
        match (self.far, self.threads) {
            (true, 1) => 200,
            (false, 1) => 600,
            (_, many) => many * 100,
        }
    }

    /// Rates of all operations, on fresh files in a directory for each thread.
    fn turn(&self, world: &World, root: &Path, turn: usize, total: u64) -> anyhow::Result<[f64; 4]> {
        let top = root.join(format!("turn-{turn}"));
        let created = self.create_rate(world, &top, total)?;
        rest(FORGOTTEN);
        let stat = self.rate(world, &top, total, |dir, n| fs::metadata(file(dir, n)).map(drop))?;
        let renamed = self.rate(world, &top, total, |dir, n| fs::rename(file(dir, n), dir.join(format!("r{n}"))))?;
        let removed = self.rate(world, &top, total, |dir, n| fs::remove_file(dir.join(format!("r{n}"))))?;
        Ok([created, stat, renamed, removed])
    }

    fn create_rate(&self, world: &World, top: &Path, total: u64) -> anyhow::Result<f64> {
        fs::create_dir(top)?;
        (0..self.threads).try_for_each(|t| fs::create_dir(top.join(format!("t{t}"))))?;
        self.rate(world, top, total, |dir, n| File::create_new(file(dir, n))?.write_all(&[7; FILE_BYTES]))
    }

    fn rate(
        &self,
        world: &World,
        top: &Path,
        total: u64,
        act: impl Fn(&Path, u64) -> std::io::Result<()> + Sync,
    ) -> anyhow::Result<f64> {
        let each = total / self.threads;
        let secs = seconds(&world.env, || {
            std::thread::scope(|scope| {
                let act = &act;
                let threads: Vec<_> = (0..self.threads)
                    .map(|t| {
                        let dir = top.join(format!("t{t}"));
                        scope.spawn(move || (0..each).try_for_each(|n| act(&dir, n)))
                    })
                    .collect();
                threads.into_iter().try_for_each(|t| t.join().expect("no operation panics"))
            })?;
            Ok(())
        })?;
        Ok(each as f64 * self.threads as f64 / secs)
    }

    fn rows(
        &self,
        ours: Figures<4>,
        raw: &[f64],
        null: &Figures<4>,
        plain: &[f64],
        total: u64,
        raw_name: &str,
    ) -> Vec<Row> {
        let cpu = format!(
            "daemon CPU-us for all four operations on a file: {:.0}; null FUSE for its creation: {:.0}",
            ours.cpu_secs * 1e6 / total as f64,
            null.cpu_secs * 1e6 / total as f64
        );
        let parts = format!("raw: {raw_name}, {}; null FUSE {}", Spread(raw), Spread(&null.of[0]));
        let near_and_alone = !self.far && self.threads == 1;
        let floor = |op: usize| -> Vec<f64> {
            let trips = OPS[op].1 as f64;
            let waits = raw.iter().map(|rate| trips / rate);
            let others = null.of[0].iter().zip(plain).map(|(null, plain)| match (near_and_alone, op) {
                (true, 0) => 1.0 / null + 1.0 / plain,
                _ => 0.0,
            });
            waits.zip(others).map(|(waits, others)| 1.0 / (waits + others)).collect()
        };
        let columns = ours.of.into_iter().enumerate();
        let rows = columns.map(|(op, ours)| Row {
            name: self.name(OPS[op].0).leak(),
            floor: floor(op),
            ours,
            target: self.target(op),
            notes: vec![parts.clone(), cpu.clone(), self.reference(op)],
        });
        rows.collect()
    }

    /// What the issue of this engine asks for, as a share of the floor.
    fn target(&self, op: usize) -> Target {
        Target::Share(match (self.far, self.threads, op) {
            (false, 1, 0) => 1.0 / 2.2,
            (true, 1, 0) => 3.0 / 3.5,
            (_, 1, _) => 1.0 / 1.3,
            _ => 0.6,
        })
    }

    /// What JuiceFS 1.4.1 did on a machine of this kind, where it was measured.
    fn reference(&self, op: usize) -> String {
        let one = self.threads == 1;
        let rate = match (self.kind, self.far, op) {
            (Kind::Redis, false, 0) => [1640, 2870],
            (Kind::Redis, true, 0) => [55, 1056],
            (Kind::Redis, false, 1) => [21_600, 0],
            (Kind::Redis, true, 1) => [777, 0],
            (Kind::Redis, false, 2) => [5300, 7900],
            (Kind::Redis, true, 2) => [80, 1577],
            (Kind::Redis, false, 3) => [6200, 13_300],
            (Kind::Redis, true, 3) => [102, 2070],
            (Kind::Postgres, false, 0) => [448, 864],
            (Kind::Mysql, false, 0) => [556, 892],
            (Kind::Postgres, true, 0) => [46, 600],
            (Kind::Mysql, true, 0) => [30, 450],
            (Kind::Postgres, false, 2) => [1400, 0],
            (Kind::Mysql, false, 2) => [715, 0],
            (Kind::Postgres, false, 3) => [1740, 0],
            (Kind::Mysql, false, 3) => [1020, 0],
            _ => [0, 0],
        }[usize::from(!one)];
        if rate == 0 { "reference: not measured".into() } else { format!("reference: {rate}/s") }
    }
}

fn file(dir: &Path, n: u64) -> PathBuf {
    dir.join(format!("file-{n:06}"))
}

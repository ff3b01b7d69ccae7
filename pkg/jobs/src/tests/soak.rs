//! Random work with upkeep beside it, against files held in plain memory.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use cairn_env::Env;
use cairn_meta::{Cred, RenameMode};
use cairn_types::{ChunkIndex, Compression, Ino};

use super::world::{World, noise};
use crate::{Config, Upkeep, gc, unwatched};

/// What the files must read as.
struct Soak {
    w: World,
    files: BTreeMap<String, (Ino, Vec<u8>)>,
}

impl Soak {
    fn pick(&self) -> Option<String> {
        let n = self.files.len() as u64;
        (n > 0).then(|| self.files.keys().nth(self.w.env.random_below(n) as usize).expect("below len").clone())
    }

    async fn step(&mut self) {
        let w = &self.w;
        let name = format!("f{}", w.env.random_below(20));
        let Some(old) = self.pick().filter(|_| w.env.random_below(8) > 0) else {
            if let Entry::Vacant(free) = self.files.entry(name) {
                let bytes = noise(w.env.random_below(200_000) as usize, w.env.random());
                let ino = w.file(Ino::ROOT, free.key(), &bytes).await;
                free.insert((ino, bytes));
            }
            return;
        };
        let (ino, _) = self.files[&old];
        match w.env.random_below(10) {
            0..=4 => self.write(&old).await,
            5 => self.truncate(&old).await,
            6 => {
                w.meta.unlink(&Cred::root(), Ino::ROOT, old.as_bytes(), w.env.random_below(2) == 0).await.unwrap();
                self.files.remove(&old);
            }
            7 => {
                let to = (Ino::ROOT, name.as_bytes());
                w.meta.rename(&Cred::root(), (Ino::ROOT, old.as_bytes()), to, RenameMode::Replace).await.unwrap();
                let moved = self.files.remove(&old).expect("picked");
                self.files.insert(name, moved);
            }
            8 => drop(crate::compact(&w.meta, &w.chunks, ino, ChunkIndex(0)).await.unwrap()),
            _ if w.env.is_simulated() => w.pass(Duration::from_secs(w.env.random_below(10_000))).await,
            _ => {}
        }
    }

    async fn write(&mut self, name: &str) {
        let (ino, bytes) = self.files.get_mut(name).expect("picked");
        let at = self.w.env.random_below(bytes.len() as u64 + 70_000) as usize;
        let data = noise(1 + self.w.env.random_below(90_000) as usize, self.w.env.random());
        self.w.write(*ino, at as u64, &data).await;
        if bytes.len() < at + data.len() {
            bytes.resize(at + data.len(), 0);
        }
        bytes[at..at + data.len()].copy_from_slice(&data);
    }

    async fn truncate(&mut self, name: &str) {
        let (ino, bytes) = self.files.get_mut(name).expect("picked");
        let len = self.w.env.random_below(300_000) as usize;
        self.w.meta.truncate(&Cred::root(), *ino, len as u64, true).await.unwrap();
        bytes.resize(len, 0);
    }

    async fn assert_content(&self) {
        for (name, (ino, bytes)) in &self.files {
            assert!(self.w.read(*ino).await == *bytes, "{name}");
        }
        self.w.assert_lawful().await;
    }
}

async fn soak(trash_days: u32) {
    let w = World::new(trash_days).await;
    let upkeep = Upkeep::start(w.env.clone(), w.meta.clone(), w.chunks.clone(), Config::mount());
    let mut soak = Soak { w, files: BTreeMap::new() };
    for step in 0..600 {
        soak.step().await;
        if step % 50 == 49 {
            soak.assert_content().await;
        }
    }
    soak.w.pass(Duration::from_secs(2 * 86_400)).await;
    let done = upkeep.stats();
    assert!(done.deleted_slices > 100 && done.deleted_files > 20, "it was worth the while: {done:?}");
    assert_eq!(done.failures, 0);
    upkeep.stop().await;
    soak.assert_content().await;
    let w = &soak.w;
    let options = gc::Options { skip_younger: Duration::ZERO, ..gc::Options::default() };
    let report = gc::run(&w.meta, &w.store, &w.chunks, &options, &unwatched).await.unwrap();
    assert_eq!(report.scanned, report.valid, "nothing is left behind: {report:?}");
}

#[tokio::test(start_paused = true)]
async fn random_work_without_trash_leaves_no_object_behind() {
    soak(0).await;
}

#[tokio::test(start_paused = true)]
async fn random_work_with_trash_leaves_no_object_behind() {
    soak(1).await;
}

/// Real time does not pass by the hour, so `gc --delete` does what the jobs would have done.
#[tokio::test]
async fn random_work_on_sqlite_leaves_no_object_behind() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite3://{}", dir.path().join("meta.db").display());
    let env = Env::real();
    let options = cairn_meta::engine::Options { create: true, ..Default::default() };
    let engine = cairn_meta::engine::open(env.clone(), &url, options).await.unwrap();
    let w = World::on(env, engine, 0, Compression::Lz4).await;
    let upkeep = Upkeep::start(w.env.clone(), w.meta.clone(), w.chunks.clone(), Config::mount());
    let mut soak = Soak { w, files: BTreeMap::new() };
    for _ in 0..300 {
        soak.step().await;
    }
    soak.assert_content().await;
    upkeep.stop().await;
    let w = &soak.w;
    let options = gc::Options { delete: true, skip_younger: Duration::ZERO, ..gc::Options::default() };
    let report = gc::run(&w.meta, &w.store, &w.chunks, &options, &unwatched).await.unwrap();
    assert_eq!((report.scanned, report.leaked.count), (report.valid, 0));
    assert!(report.cleaned.slices.count > 10, "{report:?}");
    soak.assert_content().await;
}

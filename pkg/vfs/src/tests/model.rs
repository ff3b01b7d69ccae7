//! Random calls against a file that is a plain vector of bytes.

use cairn_meta::{FallocMode, SetAttr};

use super::*;
use crate::Whence;

/// Longest file of the model: a little more than a block boundary here and there.
const MOST: u64 = 600 * 1024;

struct Model<'a> {
    w: &'a World,
    ino: Ino,
    handles: [Fh; 3],
    bytes: Vec<u8>,
    step: usize,
}

impl Model<'_> {
    fn below(&self, n: u64) -> u64 {
        self.w.env.random_below(n.max(1))
    }

    fn handle(&self) -> Fh {
        self.handles[self.below(3) as usize]
    }

    async fn step(&mut self) {
        self.step += 1;
        let fh = self.handle();
        let offset = self.below(MOST);
        match self.below(100) {
            0..35 => self.write(fh, offset, 1 + self.below(3000) as usize).await,
            35..40 => self.write(fh, offset, 1 + self.below(200_000) as usize).await,
            40..50 => self.write(fh, self.bytes.len() as u64, 1 + self.below(5000) as usize).await,
            50..80 => self.read(fh, offset, 1 + self.below(100_000) as usize).await,
            80..84 => self.truncate(fh, self.below(MOST)).await,
            84..87 => self.punch(fh, offset, 1 + self.below(50_000)).await,
            87..91 => self.w.fsync(fh).await.expect("stored"),
            91..93 => self.w.env.sleep(Duration::from_millis(self.below(2000))).await,
            93..96 => self.reopen().await,
            _ => self.seek(fh, offset).await,
        }
        assert_eq!(self.w.length(self.ino).await, self.bytes.len() as u64, "step {}", self.step);
    }

    async fn write(&mut self, fh: Fh, offset: u64, len: usize) {
        let data = pattern(self.step, len);
        match self.w.vfs.write_now(&self.w.root, fh, offset, &data, false) {
            Some(taken) => assert_eq!(taken.expect("taken") as usize, len),
            None => self.w.write(fh, offset, &data).await,
        }
        let end = offset as usize + len;
        self.bytes.resize(self.bytes.len().max(end), 0);
        self.bytes[offset as usize..end].copy_from_slice(&data);
    }

    async fn read(&self, fh: Fh, offset: u64, len: usize) {
        let got = self.w.read(fh, offset, len).await;
        let start = self.bytes.len().min(offset as usize);
        let expected = &self.bytes[start..self.bytes.len().min(start + len)];
        assert!(got == expected, "step {}: read {offset}+{len} differs", self.step);
    }

    async fn truncate(&mut self, fh: Fh, length: u64) {
        let set = self.w.vfs.setattr(&self.w.root, self.ino, Some(fh), SetAttr::default(), Some(length));
        set.await.expect("truncates");
        self.bytes.resize(length as usize, 0);
    }

    async fn punch(&mut self, fh: Fh, offset: u64, len: u64) {
        let mode = FallocMode::from_bits(3).expect("a mode");
        self.w.vfs.fallocate(&self.w.root, fh, mode, offset, len).await.expect("punches");
        let end = self.bytes.len().min((offset + len) as usize);
        let start = end.min(offset as usize);
        self.bytes[start..end].fill(0);
    }

    /// Bytes that were written are never 0, so data and holes show in the model too.
    async fn seek(&self, fh: Fh, offset: u64) {
        let Some(tail) = self.bytes.get(offset as usize..).filter(|t| !t.is_empty()) else { return };
        let hole = self.w.vfs.lseek(&self.w.root, fh, offset, Whence::Hole).await.expect("the end is one");
        assert_eq!(hole - offset, tail.iter().position(|b| *b == 0).unwrap_or(tail.len()) as u64, "step {}", self.step);
        let data = self.w.vfs.lseek(&self.w.root, fh, offset, Whence::Data).await.ok();
        assert_eq!(data.map(|d| (d - offset) as usize), tail.iter().position(|b| *b != 0), "step {}", self.step);
    }

    async fn reopen(&mut self) {
        let at = self.below(3) as usize;
        self.w.close(self.handles[at]).await;
        let seen = self.w.peer().await.content(self.ino).await;
        assert!(seen == self.bytes, "step {}: another client sees something else after close", self.step);
        self.handles[at] = self.w.open(self.ino).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_behaves_like_a_vector_of_bytes() {
    let w = World::new().await;
    for round in 0..6 {
        let (ino, first) = w.create(&format!("f{round}")).await;
        let handles = [first, w.open(ino).await, w.open(ino).await];
        let mut model = Model { w: &w, ino, handles, bytes: vec![], step: 0 };
        for _ in 0..250 {
            model.step().await;
        }
        let bytes = model.bytes;
        w.settle().await;
        assert!(w.content(ino).await == bytes);
        assert!(w.peer().await.content(ino).await == bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_behind_a_store_that_fails_often() {
    let w = World::new().await;
    w.store.set_faults(cairn_object::testing::Faults { fail_per_mille: 300, ..Default::default() });
    let (ino, fh) = w.create("a").await;
    let mut bytes = vec![0; 400_000];
    for i in 0..300 {
        let offset = w.env.random_below(390_000) as usize;
        let data = pattern(i, 1 + w.env.random_below(9_000) as usize);
        w.write(fh, offset as u64, &data).await;
        bytes[offset..offset + data.len()].copy_from_slice(&data);
        if i % 20 == 19 {
            let _told = w.fsync(fh).await;
            w.env.sleep(Duration::from_millis(w.env.random_below(3000))).await;
        }
    }
    w.settle().await;
    w.store.set_faults(Default::default());
    bytes.truncate(w.length(ino).await as usize);
    assert!(w.peer().await.content(ino).await == bytes);
}

/// Real threads and real time: each task keeps a region of one file and a file of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_share_files_without_losing_a_byte() {
    let quick = Config { flush_idle: Duration::from_millis(20), flush_age: Duration::from_millis(50), ..config() };
    let w = Arc::new(World::within(Env::real(), format(), quick, Parts::none()).await);
    w.store.set_faults(cairn_object::testing::Faults { delay_max: Duration::from_millis(1), ..Default::default() });
    let (shared, _) = w.create("shared").await;
    let tasks: Vec<_> = (0..8u64)
        .map(|task| {
            let w = w.clone();
            w.env.clone().spawn(async move { keep_region(&w, shared, task).await })
        })
        .collect();
    for task in tasks {
        task.await.expect("no task panics");
    }
    w.vfs.flush_all().await.expect("stored");
    assert_eq!(w.vfs.dirty(), (0, 0));
    let peer = w.peer().await;
    assert!(w.content(shared).await == peer.content(shared).await);
    w.vfs.close().await.expect("closed");
}

const REGION: u64 = 300_000;

async fn keep_region(w: &World, shared: Ino, task: u64) {
    let fh = w.open(shared).await;
    let (_, own) = w.create(&format!("own{task}")).await;
    let base = task * REGION;
    let mut bytes = vec![0; REGION as usize];
    for step in 0..150 {
        let offset = w.env.random_below(REGION - 5000);
        let data = pattern(step, 1 + w.env.random_below(5000) as usize);
        for (fh, at) in [(fh, base + offset), (own, offset)] {
            match w.vfs.write_now(&w.root, fh, at, &data, false) {
                Some(taken) => assert_eq!(taken.expect("taken") as usize, data.len()),
                None => w.write(fh, at, &data).await,
            }
        }
        bytes[offset as usize..][..data.len()].copy_from_slice(&data);
        if step % 10 == 3 {
            w.fsync(fh).await.expect("stored");
        }
        if step % 16 == 5 {
            w.flush(own).await.expect("stored");
        }
        let from = w.env.random_below(REGION - 20_000) as usize;
        let got = w.read(fh, base + from as u64, 20_000).await;
        assert!(got[..] == bytes[from..from + got.len()], "task {task} step {step}: shared");
        let got = w.read(own, from as u64, 20_000).await;
        assert!(got[..] == bytes[from..from + got.len()], "task {task} step {step}: own");
    }
    w.close(fh).await;
    w.close(own).await;
}

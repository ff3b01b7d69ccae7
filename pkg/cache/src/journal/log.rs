//! Records appended to segments, and one sync for all who wait.
//!
//! One writer at a time takes whatever is queued, gives each record its place and writes the batch;
//! one syncer at a time covers what was written when it began, and everybody whose records are
//! among that is released together. Records are written strictly in order, so that what was answered
//! has nothing missing in front of it. Segments are removed oldest first, once nothing in them is
//! needed: a mark lies behind the record it is about and goes no earlier.
//!
//! Not here: what records mean.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cairn_env::{Env, TaskSet};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::door::{Door, DoorFile};
use super::format::{HEADER_COPY_AT, Header, Kind, RECORDS_AT, SegmentHeader, crc, total};
use super::segment;

/// Bytes and records written in one go.
const BATCH_BYTES: u64 = 16 << 20;
const BATCH_RECORDS: usize = 1024;

/// Why a record was not taken, or is not sure to survive. The caller does without the journal then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The disk has no room.
    Full,
    /// The disk failed; the journal takes nothing more until it is opened again.
    Broken,
}

/// How segments are made.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) volume: String,
    pub(crate) segment_bytes: u64,
    /// Share of the file system that stays free.
    pub(crate) keep_free: f64,
}

/// Where a record's payload lies.
#[derive(Clone)]
pub(crate) struct Place {
    /// Number of the segment.
    pub(crate) segment: u64,
    pub(crate) file: Arc<dyn DoorFile>,
    pub(crate) at: u64,
    /// The record's header as written.
    pub(crate) header: Header,
}

/// The append-only log.
pub(crate) struct Log {
    env: Env,
    door: Arc<dyn Door>,
    rules: Rules,
    state: Mutex<State>,
    progress: watch::Sender<Progress>,
    tasks: TaskSet,
}

#[derive(Clone, Copy, Default)]
struct Progress {
    /// Records numbered below this survive a power cut.
    synced: u64,
    broken: bool,
}

struct State {
    queue: VecDeque<Waiting>,
    writing: bool,
    syncing: bool,
    broken: bool,
    next_record: u64,
    next_segment: u64,
    /// Records below this are written.
    written: u64,
    /// Somebody waits for a sync of those below this.
    wanted: u64,
    /// Oldest first; the last takes records, unless it is sealed.
    segments: VecDeque<Live>,
}

struct Waiting {
    header: Header,
    pieces: Vec<Bytes>,
    done: oneshot::Sender<Result<Place, Refused>>,
}

struct Live {
    number: u64,
    file: Arc<dyn DoorFile>,
    nonce: [u8; 16],
    end: u64,
    sealed: bool,
    /// Written since its last sync.
    dirty: bool,
    /// Records that are still needed.
    needed: u64,
}

impl Log {
    /// Goes on behind `found`, in a new segment: bytes behind a torn record are never written over.
    pub(crate) fn new(env: Env, door: Arc<dyn Door>, rules: Rules, found: Vec<segment::Segment>) -> Arc<Log> {
        let last_record = found.iter().flat_map(|s| &s.records).map(|(header, _)| header.number).max().unwrap_or(0);
        let next_segment = found.iter().map(|s| s.header.number + 1).max().unwrap_or(1);
        let segments = found.into_iter().map(|s| Live {
            number: s.header.number,
            file: s.file,
            nonce: s.header.nonce,
            end: s.end,
            sealed: true,
            // Whoever wrote it may have died with its bytes in the kernel only.
            dirty: true,
            needed: 0,
        });
        Arc::new(Log {
            tasks: TaskSet::new(env.clone()),
            env,
            door,
            rules,
            state: Mutex::new(State {
                queue: VecDeque::new(),
                writing: false,
                syncing: false,
                broken: false,
                next_record: last_record + 1,
                next_segment,
                written: last_record + 1,
                wanted: 0,
                segments: segments.collect(),
            }),
            progress: watch::Sender::new(Progress::default()),
        })
    }

    /// Counts a record of a segment as needed: found at the start.
    pub(crate) fn keep(&self, segment: u64) {
        self.with_segment(segment, |live| live.needed += 1);
    }

    /// A record of a segment is needed no more. The segment goes at the next write, or by [`Log::reap`].
    pub(crate) fn release(&self, segment: u64) {
        self.with_segment(segment, |live| live.needed -= 1);
    }

    fn with_segment(&self, number: u64, change: impl FnOnce(&mut Live)) {
        let mut state = self.state.lock();
        if let Some(live) = state.segments.iter_mut().find(|live| live.number == number) {
            change(live);
        }
    }

    /// Appends a record; waits until the kernel has it. A block or an intent counts as needed.
    pub(crate) async fn append(self: &Arc<Self>, header: Header, pieces: Vec<Bytes>) -> Result<Place, Refused> {
        let (done, answer) = oneshot::channel();
        {
            let mut state = self.state.lock();
            if state.broken {
                return Err(Refused::Broken);
            }
            state.queue.push_back(Waiting { header, pieces, done });
        }
        self.start_writer();
        answer.await.unwrap_or(Err(Refused::Broken))
    }

    /// Removes segments that nobody needs, in the background.
    pub(crate) fn reap(self: &Arc<Self>) {
        let due = self.state.lock().segments.front().is_some_and(|front| front.needed == 0 && front.sealed);
        if due {
            self.start_writer();
        }
    }

    fn start_writer(self: &Arc<Self>) {
        if std::mem::replace(&mut self.state.lock().writing, true) {
            return;
        }
        let log = self.clone();
        self.tasks.spawn(async move {
            while let Some(batch) = log.next_batch() {
                let writer = log.clone();
                log.env.blocking(move || writer.write(batch)).await;
            }
        });
    }

    /// What to write next; `None` ends the writer.
    fn next_batch(&self) -> Option<VecDeque<Waiting>> {
        let mut state = self.state.lock();
        let mut bytes = 0;
        let fits = |w: &&Waiting| {
            bytes += total(len(&w.pieces));
            bytes <= BATCH_BYTES
        };
        let count = state.queue.iter().take(BATCH_RECORDS).take_while(fits).count().max(1).min(state.queue.len());
        let reapable = state.segments.front().is_some_and(Live::is_done);
        state.writing = count > 0 || reapable;
        state.writing.then(|| state.queue.drain(..count).collect())
    }

    fn write(&self, mut batch: VecDeque<Waiting>) {
        while let Some(first) = batch.front() {
            let need = total(len(&first.pieces));
            let outcome = self.tail(need).and_then(|(file, nonce, end)| self.write_run(&file, nonce, end, &mut batch));
            if let Err(error) = outcome {
                self.refuse(batch, &error);
                break;
            }
        }
        self.remove_done();
    }

    /// The segment that takes the next `need` bytes, and where. May make one.
    fn tail(&self, need: u64) -> io::Result<(Arc<dyn DoorFile>, [u8; 16], u64)> {
        let number = {
            let mut state = self.state.lock();
            let limit = self.rules.segment_bytes;
            match state.segments.back_mut() {
                Some(live) if !live.sealed && live.end + need <= limit => {
                    return Ok((live.file.clone(), live.nonce, live.end));
                }
                Some(live) => live.sealed = true,
                None => {}
            }
            let number = state.next_segment;
            state.next_segment += 1;
            number
        };
        let bytes = self.rules.segment_bytes.max(RECORDS_AT + need);
        let (file, nonce) = self.make_segment(number, bytes)?;
        let live = Live { number, file: file.clone(), nonce, end: RECORDS_AT, sealed: false, dirty: true, needed: 0 };
        self.state.lock().segments.push_back(live);
        Ok((file, nonce, RECORDS_AT))
    }

    /// A new file whose name is durable before the first record in it is promised.
    fn make_segment(&self, number: u64, bytes: u64) -> io::Result<(Arc<dyn DoorFile>, [u8; 16])> {
        if self.door.free_share(bytes)? < self.rules.keep_free {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let nonce = (u128::from(self.env.random()) << 64 | u128::from(self.env.random())).to_le_bytes();
        let name = segment::name(number);
        let file = self.door.create(&name, bytes)?;
        let header = SegmentHeader { volume: self.rules.volume.clone(), number, nonce }.encode();
        let header = Bytes::copy_from_slice(&header);
        let made = file
            .write_at(0, std::slice::from_ref(&header))
            .and_then(|()| file.write_at(HEADER_COPY_AT as u64, &[header]))
            .and_then(|()| self.door.sync_names());
        if let Err(e) = made {
            if let Err(e) = self.door.remove(&name) {
                tracing::warn!(name, error = %e, "a journal segment is left behind");
            }
            return Err(e);
        }
        Ok((file, nonce))
    }

    /// Writes as many records as fit behind each other.
    fn write_run(
        &self,
        file: &Arc<dyn DoorFile>,
        nonce: [u8; 16],
        start: u64,
        batch: &mut VecDeque<Waiting>,
    ) -> io::Result<()> {
        let first_number = self.state.lock().next_record;
        let limit = self.rules.segment_bytes;
        let mut end = start;
        let mut pieces = Vec::new();
        let mut places = Vec::new();
        let now = micros(self.env.now());
        while let Some(next) = batch.get(places.len()) {
            let need = total(len(&next.pieces));
            if end + need > limit && !places.is_empty() {
                break;
            }
            let header = Header {
                stored_len: len(&next.pieces) as u32,
                payload_crc: crc(&next.pieces),
                at_micros: now,
                number: first_number + places.len() as u64,
                ..next.header
            };
            let bytes = header.encode(&nonce);
            pieces.push(Bytes::copy_from_slice(&bytes));
            pieces.extend(next.pieces.iter().cloned());
            let padding = need - bytes.len() as u64 - u64::from(header.stored_len);
            pieces.push(Bytes::from_static(&[0; 8]).slice(..padding as usize));
            places.push((end + bytes.len() as u64, header));
            end += need;
        }
        file.write_at(start, &pieces)?;
        let count = places.len();
        let segment = {
            let mut state = self.state.lock();
            state.next_record = first_number + count as u64;
            state.written = state.next_record;
            let live = state.segments.back_mut().expect("it was just written to");
            (live.end, live.dirty) = (end, true);
            live.needed += places.iter().filter(|(_, header)| is_needed(header.kind)).count() as u64;
            live.number
        };
        for (waiting, (at, header)) in batch.drain(..count).zip(places) {
            let place = Place { segment, file: file.clone(), at, header };
            if let Err(Ok(place)) = waiting.done.send(Ok(place))
                && is_needed(place.header.kind)
            {
                // Nobody waits for it any more, so nobody will release it.
                self.release(segment);
            }
        }
        Ok(())
    }

    /// Answers what cannot be written. What a failed write has left in the segment is skipped.
    fn refuse(&self, batch: VecDeque<Waiting>, error: &io::Error) {
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let refused = if full { Refused::Full } else { Refused::Broken };
        if let Some(live) = self.state.lock().segments.back_mut() {
            live.sealed = true;
        }
        if full {
            tracing::debug!(%error, "no room for the journal");
        } else {
            self.breaks(error);
        }
        batch.into_iter().for_each(|waiting| drop(waiting.done.send(Err(refused))));
    }

    fn breaks(&self, error: &io::Error) {
        let queue = {
            let mut state = self.state.lock();
            state.broken = true;
            std::mem::take(&mut state.queue)
        };
        tracing::error!(%error, "the journal's disk failed: blocks go to the store at once from now on");
        self.progress.send_modify(|p| p.broken = true);
        queue.into_iter().for_each(|waiting| drop(waiting.done.send(Err(Refused::Broken))));
    }

    /// Removes segments from the old end. A name that is gone stays gone before the next one goes:
    /// the marks about its records may lie in the next segment.
    fn remove_done(&self) {
        loop {
            let done = {
                let mut state = self.state.lock();
                state.segments.pop_front_if(|front| front.is_done())
            };
            let Some(done) = done else { return };
            let name = segment::name(done.number);
            if let Err(e) = self.door.remove(&name).and_then(|()| self.door.sync_names()) {
                tracing::warn!(name, error = %e, "a journal segment that is done with is left behind");
            }
        }
    }

    /// Records numbered below this are written.
    pub(crate) fn written(&self) -> u64 {
        self.state.lock().written
    }

    /// Waits until all records numbered below `upto` survive a power cut. One sync of the disk serves
    /// all who wait.
    pub(crate) async fn sync(self: &Arc<Self>, upto: u64) -> Result<(), Refused> {
        let mut progress = self.progress.subscribe();
        if progress.borrow().synced >= upto {
            return Ok(());
        }
        let start = {
            let mut state = self.state.lock();
            if state.broken {
                return Err(Refused::Broken);
            }
            state.wanted = state.wanted.max(upto);
            !std::mem::replace(&mut state.syncing, true)
        };
        if start {
            self.start_syncer();
        }
        match progress.wait_for(|p| p.broken || p.synced >= upto).await {
            Ok(p) if p.synced >= upto => Ok(()),
            _ => Err(Refused::Broken),
        }
    }

    fn start_syncer(self: &Arc<Self>) {
        let log = self.clone();
        self.tasks.spawn(async move {
            while let Some((upto, files)) = log.next_sync() {
                let synced = log.env.blocking(move || files.iter().try_for_each(|file| file.sync())).await;
                match synced {
                    Ok(()) => log.progress.send_modify(|p| p.synced = upto),
                    // What the kernel could not write it may have dropped: a second sync proves nothing.
                    Err(e) => log.breaks(&e),
                }
            }
        });
    }

    /// What to sync, and what that covers; `None` ends the syncer.
    fn next_sync(&self) -> Option<(u64, Vec<Arc<dyn DoorFile>>)> {
        let mut state = self.state.lock();
        if state.broken || state.wanted <= self.progress.borrow().synced {
            state.syncing = false;
            return None;
        }
        let dirty = state.segments.iter_mut().filter(|live| live.dirty);
        let files = dirty.map(|live| {
            live.dirty = false;
            live.file.clone()
        });
        let files = files.collect();
        Some((state.written, files))
    }

    /// Waits for what is queued, ends the tasks, and takes away what nobody needs.
    pub(crate) async fn close(self: &Arc<Self>) {
        self.tasks.stop().await;
        let log = self.clone();
        self.env
            .blocking(move || {
                log.state.lock().segments.iter_mut().for_each(|live| live.sealed = true);
                log.remove_done();
            })
            .await;
    }
}

impl Live {
    fn is_done(&self) -> bool {
        self.needed == 0 && self.sealed
    }
}

fn is_needed(kind: Kind) -> bool {
    matches!(kind, Kind::Block | Kind::Intent)
}

fn len(pieces: &[Bytes]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

pub(crate) fn micros(at: std::time::SystemTime) -> u64 {
    at.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

//! `.control`: commands to the mount process, framed as in the volume format, section 8.
//!
//! A request is written to the open file, and its answer read behind it. The work is the root's:
//! [`Control`]. Closing or flushing the file ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use cairn_env::TaskSet;
use cairn_types::Ino;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::Cred;

/// An errno as the protocol sends it: one byte, 0 for success.
pub type ErrnoByte = u8;

/// EIO: more bytes than the request announced.
const IO: ErrnoByte = libc::EIO as ErrnoByte;
/// EINVAL: an unknown message, or one that is cut short.
const INVALID: ErrnoByte = libc::EINVAL as ErrnoByte;
/// ENOTSUP: a message this client does not serve yet.
const NOT_SUPPORTED: ErrnoByte = libc::ENOTSUP as ErrnoByte;

/// Longest request body, in bytes.
const BODY_MAX: usize = 1 << 20;

/// Rhythm of progress items.
const PROGRESS: Duration = Duration::from_millis(300);

const PROGRESS_MARK: u8 = 0xFE;
const DATA_MARK: u8 = 0xFF;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlRequest {
    /// 1002: removes a tree.
    Remove {
        /// Directory.
        parent: Ino,
        /// Name in it.
        name: Vec<u8>,
        /// Bypass the trash.
        skip_trash: bool,
        /// Names removed at a time.
        threads: u8,
    },
    /// 1005: what an inode consists of.
    Info {
        /// The inode.
        ino: Ino,
        /// Sum up everything below.
        recursive: bool,
        /// Slices instead of objects.
        raw: bool,
        /// Count instead of using directory statistics.
        strict: bool,
    },
    /// 1007: a tree and its largest parts.
    Summary {
        /// Its top.
        ino: Ino,
        /// Levels shown.
        depth: u8,
        /// Entries shown of a directory.
        top: u8,
        /// Count instead of using directory statistics.
        strict: bool,
    },
    /// 1004: the cache of files.
    Cache {
        /// Files and directories, from the mount's root.
        paths: Vec<Vec<u8>>,
        /// Blocks at a time.
        workers: u16,
        /// Answer at once.
        background: bool,
        /// 0 fills it, 1 empties it, 2 looks.
        action: u8,
    },
    /// 1008: compacts the files of a tree.
    Compact {
        /// Its top.
        ino: Ino,
        /// Files compacted at a time.
        workers: u16,
    },
    /// 1901, ours: uploads all that is staged on this machine, and waits. Progress: bytes uploaded, and
    /// bytes in all. From then on an unmount waits too.
    Drain,
}

impl ControlRequest {
    /// Reads a message of this kind. Optional members at its end may be missing.
    ///
    /// # Errors
    ///
    /// What the protocol answers: an unknown or unsupported kind, or a body cut short.
    pub fn parse(kind: u32, body: &[u8]) -> Result<ControlRequest, ErrnoByte> {
        parse(kind, body)
    }
}

/// How a message ends well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlReply {
    /// Done.
    Done,
    /// Done, with an answer in JSON.
    Json(Bytes),
}

/// Two numbers that a long operation counts up; what they mean depends on the message.
#[derive(Debug, Default)]
pub struct Progress {
    first: AtomicU64,
    second: AtomicU64,
}

impl Progress {
    /// Adds to both.
    pub fn add(&self, first: u64, second: u64) {
        self.first.fetch_add(first, Ordering::Relaxed);
        self.second.fetch_add(second, Ordering::Relaxed);
    }

    /// Both as they are.
    pub fn get(&self) -> (u64, u64) {
        (self.first.load(Ordering::Relaxed), self.second.load(Ordering::Relaxed))
    }
}

/// What the mount process can do when told so. Implemented by the root.
pub trait Control: Send + Sync + 'static {
    /// Does what a message asks for. Dropped when the caller goes away.
    fn run(
        &self,
        cred: Cred,
        request: ControlRequest,
        progress: Arc<Progress>,
    ) -> BoxFuture<'static, Result<ControlReply, ErrnoByte>>;
}

/// One open `.control`.
pub(crate) struct ControlHandle {
    state: Mutex<Exchange>,
    cancel: Notify,
}

#[derive(Default)]
struct Exchange {
    request: BytesMut,
    response: BytesMut,
    begun: bool,
    ended: bool,
}

impl ControlHandle {
    pub(crate) fn new() -> Arc<ControlHandle> {
        Arc::new(ControlHandle { state: Mutex::default(), cancel: Notify::new() })
    }

    /// Takes a part of a request; begins the work once it is complete.
    pub(crate) fn write(
        self: &Arc<Self>,
        cred: &Cred,
        data: &[u8],
        control: Option<&Arc<dyn Control>>,
        tasks: &TaskSet,
    ) {
        let mut state = self.state.lock();
        state.request.extend_from_slice(data);
        let Some((kind, body)) = state.complete() else { return };
        let control = control.cloned();
        let outcome = match ControlRequest::parse(kind, &body) {
            Ok(request) => control.map(|c| (c, request)).ok_or(INVALID),
            Err(errno) => Err(errno),
        };
        match outcome {
            Err(errno) => state.end(Err(errno)),
            Ok((control, request)) => {
                drop(state);
                let progress = Arc::new(Progress::default());
                let work = control.run(cred.clone(), request, progress.clone());
                tasks.spawn(run(self.clone(), tasks.clone(), work, progress));
            }
        }
    }

    /// What is there of the answer at `offset` of the file, where the request comes first.
    pub(crate) fn read(&self, offset: u64, len: u32) -> Bytes {
        let state = self.state.lock();
        let start = offset.saturating_sub(state.request.len() as u64).min(state.response.len() as u64) as usize;
        let end = (start + len as usize).min(state.response.len());
        Bytes::copy_from_slice(&state.response[start..end])
    }

    /// Ends what is running.
    pub(crate) fn cancel(&self) {
        let state = self.state.lock();
        if state.begun && !state.ended {
            self.cancel.notify_one();
        }
    }
}

impl Exchange {
    /// The type and body of the request, the first time it is complete.
    fn complete(&mut self) -> Option<(u32, Bytes)> {
        if self.begun {
            self.end(Err(IO));
            return None;
        }
        let mut head = self.request.get(..8)?;
        let (kind, len) = (head.get_u32(), head.get_u32() as usize);
        if len > BODY_MAX {
            self.begun = true;
            self.end(Err(INVALID));
            return None;
        }
        let whole = 8 + len;
        if self.request.len() < whole {
            return None;
        }
        self.begun = true;
        if self.request.len() > whole {
            self.end(Err(IO));
            return None;
        }
        Some((kind, Bytes::copy_from_slice(&self.request[8..])))
    }

    fn progress(&mut self, (first, second): (u64, u64)) {
        if !self.ended {
            self.response.put_u8(PROGRESS_MARK);
            self.response.put_u64(first);
            self.response.put_u64(second);
        }
    }

    fn end(&mut self, outcome: Result<ControlReply, ErrnoByte>) {
        if self.ended {
            return;
        }
        self.ended = true;
        match outcome {
            Ok(ControlReply::Json(json)) => {
                self.response.put_u8(DATA_MARK);
                self.response.put_u32(json.len() as u32);
                self.response.put_slice(&json);
            }
            Ok(ControlReply::Done) => self.response.put_u8(0),
            Err(errno) => self.response.put_u8(errno),
        }
    }
}

/// Runs a message to its end or its cancellation, telling how far it is.
async fn run(
    handle: Arc<ControlHandle>,
    tasks: TaskSet,
    mut work: BoxFuture<'static, Result<ControlReply, ErrnoByte>>,
    progress: Arc<Progress>,
) {
    loop {
        tokio::select! {
            outcome = &mut work => {
                let mut state = handle.state.lock();
                let last = progress.get();
                if last != (0, 0) {
                    state.progress(last);
                }
                return state.end(outcome);
            }
            () = handle.cancel.notified() => return,
            going_on = tasks.rest(PROGRESS) => {
                if !going_on {
                    return;
                }
                handle.state.lock().progress(progress.get());
            }
        }
    }
}

fn parse(kind: u32, body: &[u8]) -> Result<ControlRequest, ErrnoByte> {
    let mut b = body;
    let short = |_| INVALID;
    Ok(match kind {
        1002 => {
            let parent = Ino(b.try_get_u64().map_err(short)?);
            let len = b.try_get_u8().map_err(short)? as usize;
            let name = b.get(..len).ok_or(INVALID)?.to_vec();
            b.advance(len);
            let flags = b.try_get_u8().unwrap_or(0);
            let threads = b.try_get_u8().unwrap_or(50).max(1);
            ControlRequest::Remove { parent, name, skip_trash: flags & 1 != 0, threads }
        }
        1005 => ControlRequest::Info {
            ino: Ino(b.try_get_u64().map_err(short)?),
            recursive: b.try_get_u8().unwrap_or(0) != 0,
            raw: b.try_get_u8().unwrap_or(0) != 0,
            strict: b.try_get_u8().unwrap_or(0) != 0,
        },
        1007 => ControlRequest::Summary {
            ino: Ino(b.try_get_u64().map_err(short)?),
            depth: b.try_get_u8().unwrap_or(3),
            top: b.try_get_u8().unwrap_or(10),
            strict: b.try_get_u8().unwrap_or(0) != 0,
        },
        1008 => ControlRequest::Compact {
            ino: Ino(b.try_get_u64().map_err(short)?),
            workers: b.try_get_u16().unwrap_or(10).max(1),
        },
        1004 => {
            let len = b.try_get_u32().map_err(short)? as usize;
            let paths = b.get(..len).ok_or(INVALID)?;
            let paths =
                paths.split(|byte| *byte == b'\n').filter(|path| !path.is_empty()).map(<[u8]>::to_vec).collect();
            b.advance(len);
            let workers = b.try_get_u16().map_err(short)?.max(1);
            let background = b.try_get_u8().map_err(short)? != 0;
            ControlRequest::Cache { paths, workers, background, action: b.try_get_u8().unwrap_or(0) }
        }
        1901 => ControlRequest::Drain,
        1006 => return Err(NOT_SUPPORTED),
        _ => return Err(INVALID),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_as_documented() {
        let body = [0, 0, 0, 0, 0, 0, 0, 1, 4, b'c', b'o', b'p', b'y', 0, 4];
        let remove = ControlRequest::Remove { parent: Ino(1), name: b"copy".to_vec(), skip_trash: false, threads: 4 };
        assert_eq!(parse(1002, &body), Ok(remove));
        let compact = ControlRequest::Compact { ino: Ino(1), workers: 2 };
        assert_eq!(parse(1008, &[0, 0, 0, 0, 0, 0, 0, 1, 0, 2]), Ok(compact));
        let summary = ControlRequest::Summary { ino: Ino(1), depth: 3, top: 10, strict: false };
        assert_eq!(parse(1007, &[0, 0, 0, 0, 0, 0, 0, 1]), Ok(summary));
        let cache = ControlRequest::Cache {
            paths: vec![b"/a".to_vec(), b"/b c".to_vec()],
            workers: 50,
            background: true,
            action: 2,
        };
        assert_eq!(parse(1004, b"\0\0\0\x07/a\n/b c\0\x32\x01\x02"), Ok(cache));
        assert!(
            matches!(parse(1004, b"\0\0\0\x02/a\0\x32\0"), Ok(ControlRequest::Cache { action: 0, .. })),
            "before 1.2"
        );
        assert_eq!(parse(1004, b"\0\0\0\x09/a\0\x32\0"), Err(0x16));
        assert_eq!(parse(1901, &[]), Ok(ControlRequest::Drain));
        assert_eq!(parse(1999, &[]), Err(0x16));
        assert_eq!(parse(1006, &[]), Err(95));
        assert_eq!(parse(1002, &[0, 0, 0]), Err(0x16));
        assert_eq!(parse(1002, &[0, 0, 0, 0, 0, 0, 0, 1, 9, b'x']), Err(0x16));
    }
}

//! The access log: one line a call, for whoever reads `.accesslog`. Free while nobody does.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use cairn_env::Env;
use cairn_types::{Date, Timestamp};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::{Cred, Result};

/// Lines a reader may fall behind; more are dropped.
const LINES_MAX: usize = 10_240;

/// What a reader gets when nothing happened for this long: a line with `#`.
const IDLE: Duration = Duration::from_secs(1);

/// Where calls leave their lines.
pub struct AccessLog {
    env: Env,
    readers: RwLock<Vec<Arc<LogReader>>>,
    count: AtomicUsize,
}

/// One open `.accesslog`.
#[derive(Default)]
pub(crate) struct LogReader {
    lines: Mutex<VecDeque<Bytes>>,
    news: Notify,
}

/// When a call began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    at: Instant,
    time: Timestamp,
}

impl AccessLog {
    pub(crate) fn new(env: Env) -> AccessLog {
        AccessLog { env, readers: RwLock::default(), count: AtomicUsize::new(0) }
    }

    /// Does anybody read it?
    pub fn is_read(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }

    /// A call begins; `None` if nobody wants to know.
    pub(crate) fn begin(&self) -> Option<Begun> {
        self.is_read().then(|| Begun { at: self.env.instant(), time: self.env.now().into() })
    }

    /// A call ends: `what` is its name, arguments and result, as `op (args): result`.
    pub(crate) fn end<T>(&self, begun: Option<Begun>, cred: &Cred, done: &Result<T>, what: impl FnOnce() -> String) {
        let Some(begun) = begun else { return };
        let seconds = self.env.instant().saturating_duration_since(begun.at).as_secs_f64();
        let verdict = match done {
            Ok(_) => "OK".to_owned(),
            Err(error) => error.to_string(),
        };
        let (uid, gid, pid) = (cred.uid, cred.gid, cred.pid);
        let line =
            format!("{} [uid:{uid},gid:{gid},pid:{pid}] {} - {verdict} <{seconds:.6}>\n", stamp(begun.time), what());
        let line = Bytes::from(line);
        for reader in self.readers.read().iter() {
            reader.push(line.clone());
        }
    }

    pub(crate) fn open(&self) -> Arc<LogReader> {
        let reader = Arc::new(LogReader::default());
        self.readers.write().push(reader.clone());
        self.count.fetch_add(1, Ordering::Relaxed);
        reader
    }

    pub(crate) fn close(&self, reader: &Arc<LogReader>) {
        let mut readers = self.readers.write();
        readers.retain(|r| !Arc::ptr_eq(r, reader));
        self.count.store(readers.len(), Ordering::Relaxed);
    }
}

impl LogReader {
    fn push(&self, line: Bytes) {
        let mut lines = self.lines.lock();
        if lines.len() < LINES_MAX {
            lines.push_back(line);
            drop(lines);
            self.news.notify_one();
        }
    }

    /// Lines, as many as fit; waits up to a second for the first.
    pub(crate) async fn read(&self, env: &Env, len: u32) -> Bytes {
        if let Some(lines) = self.take(len as usize) {
            return lines;
        }
        let waited = env.timeout(IDLE, async {
            loop {
                self.news.notified().await;
                if let Some(lines) = self.take(len as usize) {
                    return lines;
                }
            }
        });
        waited.await.unwrap_or(Bytes::from_static(b"#\n"))
    }

    /// What is there, cut where a line does not fit any more; the rest stays.
    fn take(&self, len: usize) -> Option<Bytes> {
        let mut lines = self.lines.lock();
        let mut out = BytesMut::new();
        while let Some(mut line) = lines.pop_front() {
            let room = len - out.len();
            if line.len() > room {
                out.extend_from_slice(&line.split_to(room));
                lines.push_front(line);
                break;
            }
            out.extend_from_slice(&line);
        }
        (!out.is_empty()).then(|| out.freeze())
    }
}

/// `YYYY.MM.DD HH:MM:SS.ffffff`, UTC.
fn stamp(t: Timestamp) -> String {
    let Date { year, month, day, hour, minute, second } = Date::from(t);
    let us = t.nanos / 1000;
    format!("{year:04}.{month:02}.{day:02} {hour:02}:{minute:02}:{second:02}.{us:06}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_a_calendar_date() {
        assert_eq!(stamp(Timestamp { secs: 1_610_698_500, nanos: 0 }), "2021.01.15 08:15:00.000000");
        assert_eq!(stamp(Timestamp { secs: 951_782_399, nanos: 3_330_000 }), "2000.02.28 23:59:59.003330");
        assert_eq!(stamp(Timestamp { secs: 951_782_400, nanos: 0 }), "2000.02.29 00:00:00.000000");
    }

    #[test]
    fn nobody_reading_costs_no_line() {
        let log = AccessLog::new(Env::real());
        assert!(log.begin().is_none());
        let reader = log.open();
        let begun = log.begin();
        log.end(begun, &Cred::root(), &Ok(()), || "rmdir (1,x)".into());
        let line = reader.take(4096).expect("a line");
        let text = std::str::from_utf8(&line).expect("text");
        assert!(text.contains(" [uid:0,gid:0,pid:0] rmdir (1,x) - OK <0.") && text.ends_with(">\n"), "{text}");
        log.close(&reader);
        assert!(log.begin().is_none());
    }

    #[test]
    fn a_slow_reader_loses_lines_not_memory() {
        let log = AccessLog::new(Env::real());
        let reader = log.open();
        for _ in 0..LINES_MAX + 100 {
            log.end(log.begin(), &Cred::root(), &Ok(()), || "x ()".into());
        }
        assert_eq!(reader.lines.lock().len(), LINES_MAX);
    }
}

//! A TCP proxy before a server: it counts what passes, delays it, holds it back, cuts it.
//!
//! Each connection has two pumps, one a direction. A pump stamps what it reads and writes it when its
//! time has come, so that a delay is a longer wire and not a narrower one: messages that overlap stay
//! overlapped. Requests are counted when they come in and answers when they go out, as the client
//! lives it: **a round trip is a request that follows an answer** on the same connection.
//!
//! It knows no protocol. A message is what one read returns, which on the loopback is what one write
//! sent, and cuts fall between or within messages.
//!
//! Not here: packet loss, bandwidth.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::Chance;

/// Bytes a pump holds at most; then its sender waits, as on a real wire.
const HELD_BYTES_MAX: usize = 4 << 20;
/// Bytes read at a time.
const READ_BYTES: usize = 256 << 10;

/// What passed, over all connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Connections that were let through.
    pub(crate) connections: u64,
    /// Requests that followed an answer, or were the first.
    pub(crate) round_trips: u64,
    /// Bytes of requests, of answers.
    pub(crate) bytes: (u64, u64),
    /// Connections that were cut.
    pub(crate) cuts: u64,
}

/// When connections are cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cuts {
    /// Which of them, by chance of this seed.
    pub(crate) seed: u64,
    /// One message in so many ends its connection: it is lost, or half of it is, or it is the last
    /// that gets through.
    pub(crate) one_in: u64,
}

/// A proxy on a port of its own. Dropping it ends all its connections.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    bell: Arc<OwnedFd>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    upstream: u16,
    one_way: Duration,
    cuts: Mutex<Option<(Chance, u64)>>,
    counts: Mutex<Counts>,
    held: AtomicBool,
    refusing: AtomicBool,
    ended: AtomicBool,
    connections: Mutex<Vec<Weak<Connection>>>,
    number: AtomicU64,
}

impl Proxy {
    /// One that only counts.
    pub(crate) fn counting(upstream: u16) -> Proxy {
        Proxy::start(upstream, Duration::ZERO)
    }

    /// One that keeps each message for so long, in each direction.
    pub(crate) fn delaying(upstream: u16, one_way: Duration) -> Proxy {
        Proxy::start(upstream, one_way)
    }

    /// One that cuts.
    pub(crate) fn cutting(upstream: u16, cuts: Cuts) -> Proxy {
        let proxy = Proxy::start(upstream, Duration::ZERO);
        proxy.cut(Some(cuts));
        proxy
    }

    fn start(upstream: u16, one_way: Duration) -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback has a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared {
            upstream,
            one_way,
            cuts: Mutex::new(None),
            counts: Mutex::default(),
            held: AtomicBool::new(false),
            refusing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            connections: Mutex::default(),
            number: AtomicU64::new(0),
        });
        let bell = Arc::new(new_bell());
        let (for_listener, its_bell) = (shared.clone(), bell.clone());
        let listener = thread("proxy listener", move || accept(&listener, &for_listener, &its_bell));
        Proxy { port, shared, bell, listener: Some(listener) }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What has passed so far.
    pub(crate) fn counts(&self) -> Counts {
        *lock(&self.shared.counts)
    }

    /// Round trips during `work`.
    pub(crate) fn round_trips(&self, work: impl FnOnce()) -> u64 {
        let before = self.counts().round_trips;
        work();
        self.counts().round_trips - before
    }

    /// Cuts from now on, or no more.
    pub(crate) fn cut(&self, cuts: Option<Cuts>) {
        *lock(&self.shared.cuts) = cuts.map(|c| (Chance::new(c.seed), c.one_in));
    }

    /// Ends every connection there is now; new ones are let in.
    pub(crate) fn cut_all(&self) {
        let connections: Vec<_> = lock(&self.shared.connections).iter().filter_map(Weak::upgrade).collect();
        connections.iter().for_each(|c| c.cut(&self.shared));
    }

    /// Holds back everything from now on, as a network does that lost its way: connections stay.
    pub(crate) fn hold(&self) {
        self.shared.held.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Lets go what was held back.
    pub(crate) fn let_go(&self) {
        self.shared.held.store(false, Ordering::SeqCst);
        self.ring();
    }

    /// Ends all connections and lets no new ones in; or lets them in again.
    pub(crate) fn refuse(&self, refusing: bool) {
        self.shared.refusing.store(refusing, Ordering::SeqCst);
        if refusing {
            self.cut_all();
        }
    }

    fn ring(&self) {
        for connection in lock(&self.shared.connections).iter().filter_map(Weak::upgrade) {
            connection.bells.iter().for_each(ring);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        ring(&self.bell);
        self.cut_all();
        if let Some(listener) = self.listener.take() {
            listener.join().ok();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, bell: &OwnedFd) {
    let mut pumps: Vec<JoinHandle<()>> = Vec::new();
    while !shared.ended.load(Ordering::SeqCst) {
        let mut fds = [PollFd::new(listener, PollFlags::IN), PollFd::new(bell, PollFlags::IN)];
        poll(&mut fds, None).ok();
        if !fds[0].revents().contains(PollFlags::IN) {
            continue;
        }
        let Ok((client, _)) = listener.accept() else { continue };
        // A server that is away ends the client's connection, too.
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.upstream)) else { continue };
        if shared.refusing.load(Ordering::SeqCst) {
            continue;
        }
        pumps.retain(|p| !p.is_finished());
        pumps.extend(connect(client, server, shared));
    }
    lock(&shared.connections).iter().filter_map(Weak::upgrade).for_each(|c| c.close());
    pumps.into_iter().for_each(|p| drop(p.join()));
}

/// Two streams and who listens to them.
struct Connection {
    streams: [TcpStream; 2],
    bells: [OwnedFd; 2],
    /// Did the client hear an answer since its last request?
    answered: Mutex<bool>,
    open: AtomicBool,
}

impl Connection {
    fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
        self.streams.iter().for_each(|s| drop(s.shutdown(Shutdown::Both)));
        self.bells.iter().for_each(ring);
    }

    fn cut(&self, shared: &Shared) {
        if self.open.load(Ordering::SeqCst) {
            lock(&shared.counts).cuts += 1;
        }
        self.close();
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }
}

fn connect(client: TcpStream, server: TcpStream, shared: &Arc<Shared>) -> [JoinHandle<()>; 2] {
    for stream in [&client, &server] {
        stream.set_nodelay(true).ok();
    }
    let bells = [new_bell(), new_bell()];
    let connection =
        Connection { streams: [client, server], bells, answered: Mutex::new(true), open: AtomicBool::new(true) };
    let connection = Arc::new(connection);
    lock(&shared.counts).connections += 1;
    let mut known = lock(&shared.connections);
    known.retain(|c| c.strong_count() > 0);
    known.push(Arc::downgrade(&connection));
    let number = shared.number.fetch_add(1, Ordering::Relaxed);
    [0, 1].map(|from| {
        let pump =
            Pump { connection: connection.clone(), shared: shared.clone(), from, queue: VecDeque::new(), bytes: 0 };
        thread(&format!("proxy {number}/{from}"), move || pump.run())
    })
}

/// One direction of a connection: 0 carries requests, 1 answers.
struct Pump {
    connection: Arc<Connection>,
    shared: Arc<Shared>,
    from: usize,
    queue: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
}

impl Pump {
    fn run(mut self) {
        // Else the kernel rounds waits up to 50 microseconds.
        // SAFETY: plain numbers.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
        let mut buffer = vec![0; READ_BYTES];
        let mut ended = false;
        while self.connection.is_open() && !(ended && self.queue.is_empty()) {
            ended |= self.wait(ended) && self.take_in(&mut buffer);
            if self.pass_on().is_err() {
                break;
            }
        }
        if self.connection.is_open() && ended {
            self.connection.streams[1 - self.from].shutdown(Shutdown::Write).ok();
            return;
        }
        self.connection.close();
    }

    /// Waits for bytes, the bell, or the time of what is queued. True if there are bytes.
    fn wait(&self, ended: bool) -> bool {
        let held = self.shared.held.load(Ordering::SeqCst);
        let due = self.queue.front().filter(|_| !held).map(|(at, _)| at.saturating_duration_since(now()));
        let limit = due.map(|d| Timespec { tv_sec: d.as_secs() as i64, tv_nsec: i64::from(d.subsec_nanos()) });
        let wanted = if ended || self.bytes >= HELD_BYTES_MAX { PollFlags::empty() } else { PollFlags::IN };
        let bell = &self.connection.bells[self.from];
        if wanted.is_empty() {
            // A stream that has ended would be ready for ever.
            poll(&mut [PollFd::new(bell, PollFlags::IN)], limit.as_ref()).ok();
            hear(bell);
            return false;
        }
        let mut fds = [PollFd::new(&self.connection.streams[self.from], wanted), PollFd::new(bell, PollFlags::IN)];
        poll(&mut fds, limit.as_ref()).ok();
        let (ready, rung) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if rung {
            hear(bell);
        }
        ready
    }

    /// Reads what is there. True at the end of the stream.
    fn take_in(&mut self, buffer: &mut [u8]) -> bool {
        let n = match (&self.connection.streams[self.from]).read(buffer) {
            Ok(0) | Err(_) => return true,
            Ok(n) => n,
        };
        if self.from == 0 {
            let first = std::mem::replace(&mut *lock(&self.connection.answered), false);
            let mut counts = lock(&self.shared.counts);
            counts.round_trips += u64::from(first);
            counts.bytes.0 += n as u64;
        }
        self.bytes += n;
        self.queue.push_back((now() + self.shared.one_way, buffer[..n].to_vec()));
        false
    }

    /// Writes what is due, unless everything is held back.
    fn pass_on(&mut self) -> io::Result<()> {
        while !self.shared.held.load(Ordering::SeqCst) && self.queue.front().is_some_and(|(at, _)| *at <= now()) {
            let (_, message) = self.queue.pop_front().expect("it was just looked at");
            self.bytes -= message.len();
            let fate = self.fate();
            let passes = match fate {
                Fate::Passes | Fate::IsTheLast => message.len(),
                Fate::IsHalved => message.len() / 2,
                Fate::IsLost => 0,
            };
            if self.from == 1 && passes > 0 {
                // Said before it is sent: the client may be faster than we are.
                *lock(&self.connection.answered) = true;
                lock(&self.shared.counts).bytes.1 += passes as u64;
            }
            (&self.connection.streams[1 - self.from]).write_all(&message[..passes])?;
            if !matches!(fate, Fate::Passes) {
                self.connection.cut(&self.shared);
                return Err(io::ErrorKind::ConnectionReset.into());
            }
        }
        Ok(())
    }

    fn fate(&self) -> Fate {
        let mut cuts = lock(&self.shared.cuts);
        let Some((chance, one_in)) = &mut *cuts else { return Fate::Passes };
        if chance.below(*one_in) > 0 {
            return Fate::Passes;
        }
        match chance.below(3) {
            0 => Fate::IsLost,
            1 => Fate::IsHalved,
            _ => Fate::IsTheLast,
        }
    }
}

/// What becomes of a message.
enum Fate {
    Passes,
    IsLost,
    IsHalved,
    IsTheLast,
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.into()).spawn(work).expect("a thread")
}

#[expect(clippy::disallowed_methods, reason = "a wire's delay is real time")]
fn now() -> Instant {
    Instant::now()
}

fn new_bell() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).expect("a descriptor")
}

fn ring(bell: impl std::os::fd::AsFd) {
    rustix::io::write(bell, &1u64.to_ne_bytes()).ok();
}

fn hear(bell: &OwnedFd) {
    rustix::io::read(bell, &mut [0; 8]).ok();
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().expect("no pump panics")
}

#[cfg(test)]
mod tests;

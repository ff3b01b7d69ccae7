//! Another kind of client in the same directory: one that watches, reads and then commits, as JuiceFS
//! does on Redis (volume format 5.5.3). It must get through within its fifty tries and keep at least a
//! quarter of its rate, and we must not fail because of it.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ::redis::{Connection, Pipeline, cmd, pipe};
use cairn_types::{Attr, FileType, Ino, Timestamp};

use super::whole;
use crate::support::{Chance, Engine, Kind, Proxy, Redis, Volume, cairn};

/// Tries of one operation, as JuiceFS counts them.
const TRIES: u64 = 50;
/// A directory's times are left alone while its modification time is younger.
const SKIP_DIR_MTIME: Duration = Duration::from_millis(100);
/// Inodes taken at a time.
const BATCH: u64 = 1024;
/// Threads of ours that create beside it.
const THREADS: u64 = 4;
/// The share of its rate it must keep.
const SHARE: f64 = 0.25;

#[test]
fn a_watching_client_beside_us_keeps_a_quarter_of_its_rate() {
    let engine = Engine::shared(Kind::Redis);
    // Both are as far from the server: half a millisecond each way is a rack away.
    let far = Proxy::delaying(engine.port().expect("a server"), Duration::from_micros(250));
    let volume = Volume::on(&engine, &[]).through(engine.url_at(far.port()).expect("a server"));
    let mounted = volume.mount(&["--heartbeat", "1s"]);
    for dir in ["shared", "apart"] {
        std::fs::create_dir(mounted.path(dir)).unwrap();
    }
    let mut rival = Rival::connect(engine.redis(), far.port());
    let shared = rival.lookup(Ino::ROOT, "shared");
    let turn = Duration::from_secs(if whole() { 10 } else { 2 });
    // The machine is as busy while we create elsewhere: what differs is only the directory.
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..if whole() { 5 } else { 2 } {
        rates[0].push(rival.create_for(turn, shared, &format!("solo-{round}")));
        let mut beside = |dir: &str, what: &str| {
            let (stop, path) = (AtomicBool::new(false), mounted.path(dir));
            std::thread::scope(|scope| {
                for t in 0..THREADS {
                    let (path, stop) = (&path, &stop);
                    scope.spawn(move || create_until_told(path, &format!("{what}-{round}-{t}"), stop));
                }
                let rate = rival.create_for(turn, shared, &format!("{what}-{round}"));
                stop.store(true, Ordering::SeqCst);
                rate
            })
        };
        rates[1].push(beside("apart", "apart"));
        rates[2].push(beside("shared", "beside"));
    }
    let [solo, apart, beside] = rates.map(|r| r.iter().sum::<f64>() / r.len() as f64);
    let made = rival.made;
    println!(
        "creations a second of a watching client: alone {solo:.0}, while we create elsewhere {apart:.0}, in the same \
         directory {beside:.0}; most tries for one: {}",
        rival.most_tries
    );
    let floor = if whole() { solo } else { solo.min(apart) };
    assert!(beside >= SHARE * floor, "{beside:.0} creations a second beside us, of {floor:.0}");
    rival.leave();
    mounted.unmount();
    let volume = volume.through(engine.url());
    let again = volume.mount(&["--read-only"]);
    let theirs = super::crowd::names(&again.path("shared")).into_iter().filter(|n| n.starts_with("rival-")).count();
    assert_eq!(theirs as u64, made, "all that was committed is there");
    again.unmount();
    cairn(["fsck", volume.url()]).ok();
}

fn create_until_told(dir: &Path, name: &str, stop: &AtomicBool) {
    for n in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        File::create_new(dir.join(format!("{name}-{n}"))).unwrap_or_else(|e| panic!("{name}-{n}: {e}"));
    }
}

/// A client after the specification, with a session of its own.
struct Rival {
    connection: Connection,
    chance: Chance,
    ids: std::ops::Range<u64>,
    sid: u64,
    made: u64,
    most_tries: u64,
}

impl Rival {
    fn connect(redis: &Redis, port: u16) -> Rival {
        let client = ::redis::Client::open(redis.url_at(port, 1)).expect("a URL");
        let mut connection = client.get_connection().expect("a connection");
        let sid: u64 = cmd("INCR").arg("nextsession").query(&mut connection).expect("a session");
        let expiry = since_1970().as_secs() + 3600;
        let info = r#"{"Version":"1.4.1+2026-01-01.0000000","HostName":"rival","MountPoint":"/rival","ProcessID":1}"#;
        let mut session = pipe();
        session.atomic().cmd("ZADD").arg("allSessions").arg(expiry).arg(sid).ignore();
        session.cmd("HSET").arg("sessionInfos").arg(sid).arg(info).ignore();
        session.query::<()>(&mut connection).expect("registered");
        Rival { connection, chance: Chance::new(3), ids: 0..0, sid, made: 0, most_tries: 0 }
    }

    fn leave(mut self) {
        let mut session = pipe();
        session.atomic().cmd("ZREM").arg("allSessions").arg(self.sid).ignore();
        session.cmd("HDEL").arg("sessionInfos").arg(self.sid).ignore();
        session.query::<()>(&mut self.connection).expect("gone");
    }

    fn lookup(&mut self, dir: Ino, name: &str) -> Ino {
        let entry: Vec<u8> =
            cmd("HGET").arg(format!("d{}", dir.0)).arg(name).query(&mut self.connection).expect("there");
        Ino(u64::from_be_bytes(entry[1..9].try_into().expect("nine bytes")))
    }

    /// Creates for so long; how many a second.
    fn create_for(&mut self, turn: Duration, dir: Ino, name: &str) -> f64 {
        let (start, before) = (now(), self.made);
        while now() - start < turn {
            let n = self.made;
            self.create(dir, &format!("rival-{name}-{n}"));
        }
        (self.made - before) as f64 / (now() - start).as_secs_f64()
    }

    fn create(&mut self, dir: Ino, name: &str) {
        let ino = self.next_ino();
        for attempt in 0..TRIES {
            self.most_tries = self.most_tries.max(attempt + 1);
            if self.try_create(dir, name, ino) {
                self.made += 1;
                return;
            }
            let limit = (attempt + 1) * (attempt + 1);
            super::outages::rest(Duration::from_micros(self.chance.below(limit * 1000)));
        }
        panic!("{TRIES} tries for {name}: the other client would have answered EIO");
    }

    fn try_create(&mut self, dir: Ino, name: &str, ino: u64) -> bool {
        let (dir_key, entries) = (format!("i{}", dir.0), format!("d{}", dir.0));
        cmd("WATCH").arg(&[&dir_key, &entries]).query::<()>(&mut self.connection).expect("watched");
        let parent: Vec<u8> = cmd("GET").arg(&dir_key).query(&mut self.connection).expect("the directory");
        let taken: Option<Vec<u8>> = cmd("HGET").arg(&entries).arg(name).query(&mut self.connection).expect("asked");
        assert!(taken.is_none(), "{name} is there already: a commit was taken for an abort");
        let now = since_1970();
        let time = Timestamp { secs: now.as_secs() as i64, nanos: now.subsec_nanos() };
        let mut commit = pipe();
        commit.atomic().cmd("SET").arg(format!("i{ino}")).arg(new_file(dir, time)).ignore();
        if let Some(touched) = touched(&parent, now) {
            commit.cmd("SET").arg(&dir_key).arg(touched).ignore();
        }
        let entry = [&[1][..], &ino.to_be_bytes()].concat();
        commit.cmd("HSET").arg(&entries).arg(name).arg(entry).ignore();
        commit.cmd("INCRBY").arg("usedSpace").arg(4096).ignore();
        commit.cmd("INCR").arg("totalInodes").ignore();
        if commit.query::<Option<()>>(&mut self.connection).expect("EXEC is answered").is_none() {
            return false;
        }
        count(dir).query::<()>(&mut self.connection).expect("counted");
        true
    }

    fn next_ino(&mut self) -> u64 {
        if self.ids.is_empty() {
            let last: u64 = cmd("INCRBY").arg("nextinode").arg(BATCH).query(&mut self.connection).expect("ids");
            self.ids = last + 1 - BATCH..last + 1;
        }
        self.ids.next().expect("a batch is not empty")
    }
}

fn new_file(dir: Ino, time: Timestamp) -> Vec<u8> {
    let attr = Attr {
        flags: Default::default(),
        kind: FileType::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        atime: time,
        mtime: time,
        ctime: time,
        nlink: 1,
        length: 0,
        rdev: 0,
        parent: dir,
        access_acl: 0,
        default_acl: 0,
        tier: 0,
    };
    attr.encode()
}

/// The directory with new times, unless its own are young.
fn touched(record: &[u8], now: Duration) -> Option<Vec<u8>> {
    let mut attr = Attr::decode(record).expect("an attribute record");
    let old = Duration::new(attr.mtime.secs as u64, attr.mtime.nanos);
    (now.saturating_sub(old) >= SKIP_DIR_MTIME).then(|| {
        attr.mtime = Timestamp { secs: now.as_secs() as i64, nanos: now.subsec_nanos() };
        attr.ctime = attr.mtime;
        attr.encode()
    })
}

/// Statistics of the directory, which it adds up after its commits.
fn count(dir: Ino) -> Pipeline {
    let mut stats = pipe();
    stats.cmd("HINCRBY").arg("dirUsedSpace").arg(dir.0).arg(4096).ignore();
    stats.cmd("HINCRBY").arg("dirUsedInodes").arg(dir.0).arg(1).ignore();
    stats
}

#[expect(clippy::disallowed_methods, reason = "the other client has its own clock")]
fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970")
}

#[expect(clippy::disallowed_methods, reason = "rates are of real time")]
fn now() -> Instant {
    Instant::now()
}

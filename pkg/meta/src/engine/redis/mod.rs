//! JuiceFS's keys in Redis (volume format 5.5), one script for every fetch, one for every commit.
//!
//! [`program`] turns keys, guards and verbs into instructions, the scripts run them atomically,
//! [`decode`] reads the replies. A commit carries a stamp that the script stores with it, so that
//! sending it again after a broken connection finds out whether it happened, and never does it
//! twice (R14). Attribute records are spliced on the server, so that fields of newer clients
//! survive; all keys of a writing script are declared.
//!
//! Not here: what an operation relies on (`remote`).

mod decode;
mod link;
mod pages;
mod place;
mod polite;
mod program;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use cairn_env::Env;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{Script, Value as Reply};

use super::Options;
use super::remote::Remote;
use super::remote::record::{Commit, Key, Outcome, Server, Value, Verb};
use crate::txn::{Durability, Engine};
use crate::{Error, Result};
use decode::Replies;
use link::{Link, NOSCRIPT, Shared};
use pages::Listings;
use place::Place;
use polite::Politeness;
use program::{Names, Program};

/// A volume's records in Redis. See the module.
pub struct RedisServer {
    env: Env,
    place: Arc<Place>,
    names: Names,
    shared: Arc<Shared>,
    main: Link,
    /// For long replies.
    bulk: Link,
    fetch: Script,
    commit: Script,
    listings: Listings,
    polite: Politeness,
    /// Lanes whose stamps are stored, to be removed at the end.
    lanes: Mutex<HashSet<u64>>,
}

/// Opens `redis://`, `rediss://` or `unix://`.
///
/// # Errors
///
/// [`Error::Refused`] with a sentence for people: no such server, wrong password or database, a
/// read-only replica, no volume in it.
pub async fn open(env: Env, url: &str, options: Options) -> Result<Arc<dyn Engine>> {
    Ok(open_remote(env, url, options).await?)
}

async fn open_remote(env: Env, url: &str, options: Options) -> Result<Arc<Remote<RedisServer>>> {
    let mut place = Place::parse(url, |name| std::env::var(name).ok())?;
    let connection = first_connection(&mut place).await?;
    let place = Arc::new(place);
    let shared = Arc::<Shared>::default();
    let link = || Link::new(env.clone(), place.clone(), shared.clone());
    let server = RedisServer {
        names: Names { prefix: place.prefix() },
        main: link(),
        bulk: link(),
        fetch: Script::new(concat!(include_str!("common.lua"), include_str!("fetch.lua"))),
        commit: Script::new(concat!(include_str!("common.lua"), include_str!("commit.lua"))),
        listings: Listings::default(),
        polite: Politeness::default(),
        lanes: Mutex::default(),
        env: env.clone(),
        place,
        shared,
    };
    server.main.adopt(connection);
    server.greet(options).await?;
    Ok(Remote::new(env, server, options.read_only))
}

/// The first connection: what is wrong is told, not waited for. A node of a cluster may say so
/// only now.
async fn first_connection(place: &mut Place) -> Result<MultiplexedConnection> {
    let outcome = match place.connect().await {
        Ok(mut connection) if !place.is_cluster() => {
            let info: std::result::Result<String, _> =
                redis::cmd("INFO").arg("cluster").query_async(&mut connection).await;
            // Some proxies do not know the command; they are no cluster.
            if info.is_ok_and(|info| info.contains("cluster_enabled:1")) {
                place.become_cluster();
                place.connect().await
            } else {
                Ok(connection)
            }
        }
        Err(error) if !place.is_cluster() && error.to_string().contains("cluster mode") => {
            place.become_cluster();
            place.connect().await
        }
        outcome => outcome,
    };
    outcome.map_err(|e| Error::Refused(why_not_connected(place, &e)))
}

fn why_not_connected(place: &Place, e: &redis::RedisError) -> String {
    let (words, place) = (place.words(e), place.describe());
    // The crate wraps what the server says during the handshake in words of its own.
    let says = |what: &[&str]| what.iter().any(|w| words.contains(w));
    match () {
        () if says(&["WRONGPASS", "NOAUTH", "Authentication required", "invalid username-password", "AUTH"])
            || e.kind() == redis::ErrorKind::AuthenticationFailed =>
        {
            format!("{place} wants another user or password ({words})")
        }
        () if says(&["NOPERM"]) => format!("{place}: the user may not do what a metadata engine needs ({words})"),
        () if says(&["DB index", "database number", "SELECT"]) => {
            format!("{place}: the server has no such database ({words})")
        }
        () => format!("{place} cannot be reached: {words}"),
    }
}

impl RedisServer {
    /// A look at the server: what is wrong is told, not waited for.
    async fn greet(&self, options: Options) -> Result<()> {
        let place = self.place.describe();
        let info = match self.main.send("ask the server about itself", &redis::cmd("INFO")).await {
            Ok(reply) => String::from_utf8_lossy(&decode::bytes(reply)?.unwrap_or_default()).into_owned(),
            // Some proxies do not know the command.
            Err(_) => String::new(),
        };
        let about =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map_or("", str::trim);
        if about("role") == "slave" && !options.read_only {
            return Err(Error::Refused(format!("{place} is a read-only replica: name the master, or mount read-only")));
        }
        if !options.read_only {
            self.warn_about(about("maxmemory_policy"), about("aof_enabled")).await;
            self.forget_old_stamps().await?;
        }
        if self.place.wait_disk && version(about("redis_version")) < (7, 2) {
            let sentence = format!("{place}: wait-disk needs WAITAOF, which Redis has since 7.2");
            return Err(Error::Refused(sentence));
        }
        let setting = self.fetch(&[Key::Setting]).await.map_err(|e| match e {
            Error::Engine(e) if ["NOPERM", "unknown command"].iter().any(|w| e.reason.contains(w)) => {
                let reason = &e.reason;
                Error::Refused(format!("{place}: the server must allow scripts (EVALSHA and EVAL): {reason}"))
            }
            e => e,
        })?;
        if !options.create && setting.iter().any(|(_, value)| *value == Value::Setting(None)) {
            return Err(Error::Refused(format!("{place} holds no volume: 'cairn format' makes one")));
        }
        Ok(())
    }

    async fn warn_about(&self, policy: &str, aof: &str) {
        let server = self.place.describe();
        if !policy.is_empty() && policy != "noeviction" {
            tracing::warn!(
                server,
                policy,
                "maxmemory-policy is not noeviction: Redis may throw metadata away when memory is short"
            );
        }
        let mut ask = redis::cmd("CONFIG");
        ask.arg("GET").arg("save");
        // Where CONFIG is forbidden nobody knows, and there is nothing to say.
        let Ok(reply) = self.main.send("ask about persistence", &ask).await else { return };
        let saves = decode::pairs(reply).is_ok_and(|pairs| pairs.iter().any(|(_, value)| !value.is_empty()));
        if aof == "0" && !saves {
            tracing::warn!(
                server,
                "the server keeps nothing on disk (neither AOF nor snapshots): the volume is lost when it stops"
            );
        }
    }

    fn stamps(&self) -> Vec<u8> {
        self.names.fixed("CAIRN")
    }

    /// Removes the stamps of clients that went without a word, more than a day ago.
    async fn forget_old_stamps(&self) -> Result<()> {
        let mut ask = redis::cmd("HGETALL");
        ask.arg(self.stamps());
        let yesterday = cairn_types::Timestamp::from(self.env.now()).secs - STAMP_SECS;
        let all = decode::pairs(self.bulk.send("look for old stamps", &ask).await?)?;
        let is_old = |stamp: &[u8]| {
            let text = String::from_utf8_lossy(stamp);
            text.split(':').nth(1).and_then(|secs| secs.parse::<i64>().ok()).is_none_or(|secs| secs < yesterday)
        };
        let old: Vec<_> = all.into_iter().filter(|(_, stamp)| is_old(stamp)).map(|(lane, _)| lane).collect();
        for part in old.chunks(1000) {
            let mut remove = redis::cmd("HDEL");
            remove.arg(self.stamps());
            remove.arg(part);
            self.bulk.send("forget old stamps", &remove).await?;
        }
        Ok(())
    }

    /// Calls a script by its digest; the server learns it where it does not know it.
    async fn call(
        &self,
        link: &Link,
        action: &'static str,
        script: &Script,
        source: &str,
        program: &Program,
    ) -> Result<Reply> {
        let command = |name: &str, script: &str| {
            let mut command = redis::cmd(name);
            command.arg(script).arg(program.keys.len());
            command.arg(&program.keys).arg(&program.args);
            command
        };
        match link.send(action, &command("EVALSHA", script.get_hash())).await {
            Err(Error::Engine(e)) if e.action == NOSCRIPT => link.send(action, &command("EVAL", source)).await,
            outcome => outcome,
        }
    }

    /// Runs a reading program.
    async fn ask(&self, program: Program) -> Result<Reply> {
        self.call(&self.bulk, "read metadata", &self.fetch, FETCH, &program).await
    }

    /// Waits until what was committed is where the options of the URL want it. It is not taken back
    /// if that takes long: whoever asked waits on.
    async fn wait_for_copies(&self) -> Result<()> {
        let mut wait = redis::cmd(if self.place.wait_disk { "WAITAOF" } else { "WAIT" });
        if self.place.wait_disk {
            wait.arg(1);
        }
        wait.arg(self.place.wait_replicas).arg(COPIES_PAUSE_MS);
        loop {
            let reply = self.main.send("wait for copies", &wait).await?;
            let (disk, replicas) = match reply {
                Reply::Array(both) => {
                    let mut both = both.into_iter().map(decode::number);
                    let mut next = || both.next().unwrap_or(Ok(0));
                    (next()?, next()?)
                }
                replicas => (1, decode::number(replicas)?),
            };
            if disk >= 1 && replicas >= i64::from(self.place.wait_replicas) {
                return Ok(());
            }
            tracing::warn!(server = self.place.describe(), disk, replicas, "a sync waits for the server's copies");
        }
    }

    /// The lock hashes that a session is noted for.
    async fn locks_of(&self, verbs: &[Verb]) -> Result<Vec<Vec<u8>>> {
        let Some(sid) = verbs.iter().find_map(|v| if let Verb::RemoveLocks(sid) = v { Some(*sid) } else { None })
        else {
            return Ok(vec![]);
        };
        let mut ask = redis::cmd("SMEMBERS");
        ask.arg(self.names.locked(sid));
        decode::strings(self.main.send("list a session's locks", &ask).await?)
    }
}

const FETCH: &str = concat!(include_str!("common.lua"), include_str!("fetch.lua"));
const COMMIT: &str = concat!(include_str!("common.lua"), include_str!("commit.lua"));

/// Stamps older than this belong to nobody any more.
const STAMP_SECS: i64 = 24 * 3600;

#[async_trait]
impl Server for RedisServer {
    fn describe(&self) -> String {
        self.place.describe()
    }

    async fn fetch(&self, keys: &[Key]) -> Result<Vec<(Key, Value)>> {
        let mut out = Vec::with_capacity(keys.len() + 2);
        let (pages, records): (Vec<&Key>, Vec<&Key>) = keys.iter().partition(|key| is_stepwise(key));
        for key in pages {
            out.push((key.clone(), self.page(key).await?));
        }
        if records.is_empty() {
            return Ok(out);
        }
        // What is asked next of an extended attribute that is not there.
        let beside: HashSet<Key> = records
            .iter()
            .filter_map(|key| match key {
                Key::Xattr(ino, _) | Key::XattrNames(ino) => Some(Key::Attr(*ino)),
                _ => None,
            })
            .filter(|key| !records.contains(&key))
            .collect();
        let mut program = Program::default();
        program.arg("");
        let mut count = 0;
        for key in records.iter().copied().chain(&beside) {
            if let Key::Entry(dir, name) = key {
                let (prefix, number) = (self.names.prefix.as_bytes(), dir.to_string().into_bytes());
                program.instruction("!entry", self.names.entries(*dir), &[name, prefix, &number]);
                count += 1;
            } else {
                count += program.read(&self.names, key);
            }
        }
        program.args[0] = count.to_string().into_bytes();
        let mut replies = Replies::new(self.call(&self.main, "read metadata", &self.fetch, FETCH, &program).await?)?;
        for key in records.into_iter().chain(&beside) {
            let Key::Entry(dir, name) = key else {
                out.push((key.clone(), replies.value(key)?));
                continue;
            };
            let mut parts = Replies::new(replies.next()?)?;
            let entry = decode::entry(*dir, name, parts.next()?)?;
            let (record, directory) = (parts.next()?, parts.next()?);
            match entry {
                Some(entry) => out.push((Key::Attr(entry.ino), Value::Attr(decode::attr(entry.ino, record)?))),
                None => out.push((Key::Attr(*dir), Value::Attr(decode::attr(*dir, directory)?))),
            }
            out.push((key.clone(), Value::Entry(entry)));
        }
        Ok(out)
    }

    async fn commit(&self, commit: &Commit) -> Result<Outcome> {
        self.polite.wait(&self.env, &commit.verbs).await;
        let locks = self.locks_of(&commit.verbs).await?;
        let mut program = Program::default();
        program.key(self.stamps());
        // What changes nothing may be done twice.
        if commit.verbs.is_empty() {
            program.arg("");
        } else {
            self.lanes.lock().insert(commit.stamp.lane);
            program.arg(commit.stamp.lane.to_string());
        }
        program.arg(commit.stamp.sequence.to_string());
        program.arg(cairn_types::Timestamp::from(self.env.now()).secs.to_string());
        program.arg(commit.guards.len().to_string());
        for guard in &commit.guards {
            program.guard(&self.names, guard);
        }
        let place = program.args.len();
        program.arg("");
        let verbs: usize = commit.verbs.iter().map(|verb| program.verb(&self.names, verb, &locks)).sum();
        program.args[place] = verbs.to_string().into_bytes();
        let place = program.args.len();
        program.arg("");
        let mut learn: usize = commit.learn.iter().map(|key| program.read(&self.names, key)).sum();
        // A session that starts or goes on learns who else is there.
        let looks_around = commit.verbs.iter().any(|verb| matches!(verb, Verb::PutSession(_)));
        if looks_around {
            learn += program.read(&self.names, &Key::Sessions);
        }
        program.args[place] = learn.to_string().into_bytes();

        let sent = self.env.instant();
        let reply = self.call(&self.main, "commit metadata", &self.commit, COMMIT, &program).await?;
        self.polite.see_trip(self.env.instant().saturating_duration_since(sent));
        let mut reply = Replies::new(reply)?;
        if decode::number(reply.next()?)? == 0 {
            let mut found = Replies::new(reply.next()?)?;
            let now = commit.guards.iter().map(|guard| Ok((guard.key.clone(), found.value(&guard.key)?)));
            return Ok(Outcome::Moved(now.collect::<Result<_>>()?));
        }
        if commit.durability == Durability::Power && (self.place.wait_disk || self.place.wait_replicas > 0) {
            self.wait_for_copies().await?;
        }
        let mut told = Replies::new(reply.next()?)?;
        let mut answers = Vec::with_capacity(commit.verbs.len());
        for verb in &commit.verbs {
            let is_told = program::is_asked(verb);
            answers.push(if is_told { program::answer(verb, decode::number(told.next()?)?) } else { 0 });
        }
        let mut known = Replies::new(reply.next()?)?;
        let learned = commit.learn.iter().map(|key| Ok((key.clone(), known.value(key)?)));
        let learned = learned.collect::<Result<_>>()?;
        if looks_around && let Value::Sessions(sessions) = known.value(&Key::Sessions)? {
            self.polite.see_sessions(&sessions, cairn_types::Timestamp::from(self.env.now()).secs);
        }
        Ok(Outcome::Applied { answers, learned })
    }

    fn generation(&self) -> u64 {
        self.main.made.load(Ordering::SeqCst)
    }

    async fn create_tables(&self) -> Result<()> {
        Ok(())
    }

    async fn close(&self) {
        let lanes: Vec<u64> = self.lanes.lock().drain().collect();
        if !lanes.is_empty() {
            let mut remove = redis::cmd("HDEL");
            remove.arg(self.stamps());
            remove.arg(&lanes);
            let goodbye = self.main.send("forget our stamps", &remove);
            if self.env.timeout(GOODBYE, goodbye).await.is_err() {
                tracing::debug!("the server did not take our goodbye; the stamps go in a day");
            }
        }
        self.shared.close();
        self.main.close();
        self.bulk.close();
    }
}

/// How long one WAIT lasts: others wait behind it on the same connection.
const COPIES_PAUSE_MS: u32 = 200;

/// Major and minor number.
fn version(text: &str) -> (u32, u32) {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// How long closing waits for the server.
const GOODBYE: std::time::Duration = std::time::Duration::from_secs(2);

/// Lists that are not read by one instruction.
fn is_stepwise(key: &Key) -> bool {
    matches!(
        key,
        Key::Entries { .. }
            | Key::Chunks { .. }
            | Key::DeletedChunks { .. }
            | Key::UnownedSlices { .. }
            | Key::SliceRecords { .. }
            | Key::ScanChunks { .. }
            | Key::ScanAttrs { .. }
            | Key::Delayed { .. }
    )
}

#[cfg(test)]
mod tests;

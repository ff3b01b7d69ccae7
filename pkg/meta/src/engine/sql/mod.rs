//! A volume in an SQL database across a network, in the very tables a JuiceFS client keeps there.
//!
//! Each commit is one message of the simple protocol: it holds the rows the operation relied on,
//! checks them, changes what is to be changed, and brings back what is to be known; the server stops
//! by itself where a check fails (ADR 0009). Each fetch is one message over one view. Where
//! PostgreSQL and MySQL differ in words, `dialect` knows both; how to connect and to read answers
//! is theirs ([`link::Wire`]).
//!
//! A commit whose connection broke is sent again under the same number: a row per lane in our own
//! table `cairn_op`, written with the commit, tells the server that it was applied (R14).

pub(in crate::engine) mod columns;
mod commit;
pub(in crate::engine) mod dialect;
mod guard;
pub mod link;
mod read;
pub mod rows;
pub(in crate::engine) mod schema;
mod settle;
pub(in crate::engine) mod url;
mod write;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use cairn_env::Env;

use super::Options;
use super::remote::record::{Commit, Guard, Key, Outcome, Server, Value};
use crate::{Error, Result};
use commit::Message;
use dialect::Dialect;
use link::{Link, Trouble, Wire};
use rows::Answer;
use schema::Holding;

/// Times one commit gives way to others before it gives up.
const CONFLICTS_MAX: u32 = 200;
/// Rows of `cairn_op` nobody touched for so long belong to clients that are gone.
const OP_AGE_SECS: u64 = 7 * 86_400;

/// The tables of a volume, quoted, and the words of its server.
pub(in crate::engine) struct Tables {
    dialect: Dialect,
    prefix: String,
    setting: String,
    counter: String,
    node: String,
    edge: String,
    symlink: String,
    xattr: String,
    chunk: String,
    chunk_ref: String,
    delslices: String,
    session2: String,
    sustained: String,
    delfile: String,
    flock: String,
    plock: String,
    dir_quota: String,
    user_group_quota: String,
    dir_stats: String,
    detached_node: String,
    acl: String,
    change_log: String,
    /// Ours.
    op: String,
    /// The column `group`, whose name is a word of SQL.
    group: String,
    /// Columns of `node`, plain and as `n.`
    attr: String,
    node_attr: String,
}

impl Tables {
    pub(in crate::engine) fn new(dialect: Dialect, prefix: &str) -> Tables {
        let t = |name: &str| dialect.quoted(&format!("{prefix}{name}"));
        let op_prefix = prefix.strip_prefix(schema::DEFAULT_PREFIX).unwrap_or(prefix);
        let attr = columns::ATTR_COLUMNS.to_string();
        let node_attr: Vec<String> = attr.split(", ").map(|column| format!("n.{column}")).collect();
        Tables {
            setting: t("setting"),
            counter: t("counter"),
            node: t("node"),
            edge: t("edge"),
            symlink: t("symlink"),
            xattr: t("xattr"),
            chunk: t("chunk"),
            chunk_ref: t("chunk_ref"),
            delslices: t("delslices"),
            session2: t("session2"),
            sustained: t("sustained"),
            delfile: t("delfile"),
            flock: t("flock"),
            plock: t("plock"),
            dir_quota: t("dir_quota"),
            user_group_quota: t("user_group_quota"),
            dir_stats: t("dir_stats"),
            detached_node: t("detached_node"),
            acl: t("acl"),
            change_log: t("change_log"),
            op: dialect.quoted(&format!("cairn_{op_prefix}op")),
            group: dialect.quoted("group"),
            node_attr: node_attr.join(", "),
            attr,
            prefix: prefix.to_string(),
            dialect,
        }
    }

    fn blob(&self, bytes: &[u8]) -> String {
        self.dialect.blob(bytes)
    }

    /// The message of a fetch, and at which statement its keys begin.
    fn fetch(&self, keys: &[Key]) -> (String, usize) {
        let selects: Vec<String> = keys.iter().map(|key| self.select(key)).collect();
        if selects.len() < 2 {
            return (selects.concat(), 0);
        }
        let (begin, end) = self.dialect.one_view();
        let all = begin.iter().map(|s| s.to_string()).chain(selects).chain([end.to_string()]);
        (all.collect::<Vec<_>>().join(";\n"), begin.len())
    }
}

/// How often servers and neighbours were in the way, for metrics and tests.
#[derive(Debug, Default)]
pub struct SqlCounts {
    /// Transactions taken back by the server in favour of another one, and sent again.
    pub conflicts: AtomicU64,
    /// Commits sent again because their connection broke.
    pub resent: AtomicU64,
    /// Of these, how many turned out to have been applied.
    pub found_applied: AtomicU64,
}

/// An SQL database as a [`Server`]. See the module.
pub struct SqlServer<W: Wire> {
    link: Link<W>,
    tables: Tables,
    /// Is there a table that remembers applied commits?
    stamps: AtomicBool,
    counts: SqlCounts,
}

impl<W: Wire> SqlServer<W> {
    /// Connects, and looks at what the database holds.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with a sentence: no connection, wrong password, no such database, no volume
    /// in it, one of an old format.
    pub(in crate::engine) async fn open(
        env: Env,
        wire: W,
        tables: Tables,
        connections: usize,
        options: Options,
    ) -> Result<SqlServer<W>> {
        let link = Link::new(env, wire, connections);
        let server = SqlServer { link, tables, stamps: AtomicBool::new(false), counts: SqlCounts::default() };
        let place = server.link.wire.describe();
        server.link.open().await.map_err(|t| Error::Refused(format!("cannot open {place}: {}", t.words())))?;
        match server.holding().await? {
            Holding::Old(what) => Err(Error::Refused(format!(
                "{what}: the volume in {place} was made by a JuiceFS older than 1.4; \
                 mount it once with JuiceFS 1.4 to bring it up to date"
            ))),
            Holding::Nothing { others } if !options.create => {
                let but = if others { ", but other tables (is the table prefix right?)" } else { "" };
                Err(Error::Refused(format!("there is no volume in {place}{but}; 'cairn format' makes one")))
            }
            Holding::Nothing { .. } => Ok(()),
            Holding::Tables => {
                if !options.read_only {
                    server.remember_commits().await?;
                }
                Ok(())
            }
        }?;
        Ok(server)
    }

    /// How often servers and neighbours were in the way.
    pub fn sql_counts(&self) -> &SqlCounts {
        &self.counts
    }

    async fn holding(&self) -> Result<Holding> {
        let (answers, trouble) = self.link.send(self.tables.inspection()).await?;
        if let Some(trouble) = trouble {
            return Err(fail("read the list of tables", &trouble));
        }
        let rows = answers.iter().flat_map(|answer| &answer.rows);
        let columns: Vec<_> = rows.map(|row| (row.text(0), row.text(1), row.text(2).to_lowercase())).collect();
        Ok(self.tables.holding(&columns))
    }

    /// Makes our own table, unless we may not: then a broken connection is judged by what a commit
    /// would have left behind.
    async fn remember_commits(&self) -> Result<()> {
        let forget = format!(
            "DELETE FROM {} WHERE touched < {}",
            self.tables.op,
            cairn_types::Timestamp::from(self.link.env.now()).secs.saturating_sub(OP_AGE_SECS as i64)
        );
        for statement in [self.tables.op_creation(), forget] {
            let (_, trouble) = self.link.send(statement).await?;
            match trouble {
                None => {}
                Some(Trouble::Lost(_)) => {}
                Some(trouble) => {
                    tracing::warn!(
                        reason = trouble.words(),
                        table = self.tables.op,
                        "this user may not make our table: what became of a commit whose connection broke is guessed \
                         from what it would have changed"
                    );
                    return Ok(());
                }
            }
        }
        self.stamps.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The records of one moment that a commit relied on.
    async fn now(&self, guards: &[Guard]) -> Result<Vec<(Key, Value)>> {
        let keys: Vec<Key> = guards.iter().map(|guard| guard.key.clone()).collect();
        self.fetch(&keys).await
    }

    fn applied(&self, message: &Message, said: &[Answer]) -> Result<Outcome> {
        Ok(Outcome::Applied { answers: message.answers(said)?, learned: message.learned(said)? })
    }
}

#[async_trait]
impl<W: Wire> Server for SqlServer<W> {
    fn describe(&self) -> String {
        self.link.wire.describe()
    }

    async fn fetch(&self, keys: &[Key]) -> Result<Vec<(Key, Value)>> {
        if keys.is_empty() {
            return Ok(vec![]);
        }
        loop {
            let (message, first) = self.tables.fetch(keys);
            let (said, trouble) = self.link.send(message).await?;
            match trouble {
                None => {
                    let mut found = Vec::with_capacity(keys.len());
                    for (key, answer) in keys.iter().zip(&said[first.min(said.len())..]) {
                        read::values(key, &answer.rows, &mut found)?;
                    }
                    return Ok(found);
                }
                Some(Trouble::Lost(_) | Trouble::Away(_)) => {}
                Some(Trouble::Conflict(_)) => {
                    self.counts.conflicts.fetch_add(1, Ordering::Relaxed);
                }
                // Before `format`.
                Some(Trouble::NoTable(_)) if keys == [Key::Setting] => {
                    return Ok(vec![(Key::Setting, Value::Setting(None))]);
                }
                Some(trouble) => return Err(fail("read from the metadata server", &trouble)),
            }
        }
    }

    fn generation(&self) -> u64 {
        self.link.generation()
    }

    async fn commit(&self, commit: &Commit) -> Result<Outcome> {
        let message = self.tables.message(commit, self.stamps.load(Ordering::Relaxed))?;
        let (mut conflicts, mut stops) = (0, 0);
        // A connection broke while this was under way, and nothing but its marks can tell what became of it.
        let mut may_have_happened = false;
        loop {
            let (said, trouble) = self.link.send(message.text()).await?;
            let Some(trouble) = trouble else { return self.applied(&message, &said) };
            match trouble {
                Trouble::Stopped if message.is_known_after(said.len()) => {
                    self.counts.found_applied.fetch_add(1, Ordering::Relaxed);
                    return self.settled(commit).await;
                }
                Trouble::Stopped | Trouble::Duplicate(_) => {
                    let now = self.now(&commit.guards).await?;
                    let moved = commit
                        .guards
                        .iter()
                        .any(|guard| now.iter().any(|(key, value)| *key == guard.key && !guard.holds(value)));
                    // The server may have been at the first one still when its mark was looked for.
                    if moved && may_have_happened && self.left_its_mark(commit).await? {
                        self.counts.found_applied.fetch_add(1, Ordering::Relaxed);
                        return self.settled(commit).await;
                    }
                    if moved {
                        return Ok(Outcome::Moved(now));
                    }
                    self.check_lists(commit).await?;
                    stops += 1;
                    if stops > 10 {
                        return Err(fail("commit", &trouble));
                    }
                }
                Trouble::Conflict(_) => {
                    self.counts.conflicts.fetch_add(1, Ordering::Relaxed);
                    conflicts += 1;
                    if conflicts > CONFLICTS_MAX {
                        return Err(fail("commit", &trouble));
                    }
                    let most = u64::from(conflicts.min(10)) * 2000;
                    self.link.env.sleep(Duration::from_micros(self.link.env.random_below(most))).await;
                }
                Trouble::Lost(_) => {
                    self.counts.resent.fetch_add(1, Ordering::Relaxed);
                    may_have_happened |= !self.stamps.load(Ordering::Relaxed);
                    if may_have_happened && self.left_its_mark(commit).await? {
                        self.counts.found_applied.fetch_add(1, Ordering::Relaxed);
                        return self.settled(commit).await;
                    }
                }
                Trouble::Away(_) => {}
                trouble => return Err(fail("commit", &trouble)),
            }
        }
    }

    async fn create_tables(&self) -> Result<()> {
        // One by one: MySQL ends a transaction at each, and several clients may be at it.
        for statement in self.tables.creation() {
            loop {
                let (_, trouble) = self.link.send(statement.clone()).await?;
                match trouble {
                    None => break,
                    Some(Trouble::Lost(_) | Trouble::Away(_) | Trouble::Conflict(_) | Trouble::Duplicate(_)) => {}
                    Some(trouble) => return Err(fail("create the tables", &trouble)),
                }
            }
        }
        self.remember_commits().await
    }

    async fn close(&self) {
        self.link.close().await;
    }
}

/// What a server's trouble means to whoever asked.
fn fail(action: &'static str, trouble: &Trouble) -> Error {
    match trouble {
        Trouble::ReadOnly(words) => {
            tracing::warn!(words, "the metadata server cannot be written");
            Error::ReadOnly
        }
        Trouble::TooBig(_) => Error::TooBig,
        Trouble::OutOfRange(_) => Error::Invalid("this metadata engine keeps numbers below 2147483648 only"),
        Trouble::NotText(_) => {
            Error::Invalid("the character set of the metadata database lacks characters of this name")
        }
        Trouble::Conflict(words) => Error::busy(action, words),
        trouble => Error::engine(action, trouble.words()),
    }
}

#[cfg(test)]
mod tests;

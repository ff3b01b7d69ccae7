//! `sqlite3://path?params` as JuiceFS reads it.

use std::path::PathBuf;
use std::time::Duration;

use super::schema::DEFAULT_PREFIX;
use crate::{Error, Result};

/// How the database keeps what a crash would tear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Journal {
    Wal,
    Delete,
    Truncate,
    Persist,
}

impl Journal {
    /// The pragma's word.
    pub(super) fn word(self) -> &'static str {
        match self {
            Journal::Wal => "WAL",
            Journal::Delete => "DELETE",
            Journal::Truncate => "TRUNCATE",
            Journal::Persist => "PERSIST",
        }
    }
}

/// What a URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    /// Begins every table's name.
    pub(super) prefix: String,
    pub(super) journal: Journal,
    /// How long to wait for another process's lock.
    pub(super) busy_timeout: Duration,
}

/// JuiceFS's default.
const BUSY_TIMEOUT: Duration = Duration::from_millis(5000);

impl Place {
    /// Reads a URL, or a bare path.
    pub(super) fn parse(url: &str) -> Result<Place> {
        let rest = url.strip_prefix("sqlite3://").unwrap_or(url);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if path.is_empty() {
            return Err(Error::Refused("sqlite3:// needs the path of a database file".into()));
        }
        let mut place = Place {
            path: path.into(),
            prefix: DEFAULT_PREFIX.into(),
            journal: Journal::Wal,
            busy_timeout: BUSY_TIMEOUT,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            place.set(name, value)?;
        }
        Ok(place)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let refused = |expected: &str| Err(Error::Refused(format!("sqlite3 parameter {name}={value}: {expected}")));
        match name {
            // Connections of one process never share a cache here: it would only add locks. The
            // pool's sizes are JuiceFS's.
            "cache" | "max_open_conns" | "max_idle_conns" | "max_idle_time" | "max_life_time" => {}
            "_journal" | "_journal_mode" => match value.to_ascii_uppercase().as_str() {
                "WAL" => self.journal = Journal::Wal,
                "DELETE" => self.journal = Journal::Delete,
                "TRUNCATE" => self.journal = Journal::Truncate,
                "PERSIST" => self.journal = Journal::Persist,
                _ => return refused("expected WAL, DELETE, TRUNCATE or PERSIST, which survive a crash"),
            },
            "_timeout" | "_busy_timeout" => match value.parse() {
                Ok(millis) => self.busy_timeout = Duration::from_millis(millis),
                Err(_) => return refused("expected milliseconds"),
            },
            "table_prefix" => {
                let plain = value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
                if value.is_empty() || !plain {
                    return refused("expected letters, digits and underscores");
                }
                self.prefix = format!("{DEFAULT_PREFIX}{value}_");
            }
            _ => {
                return Err(Error::Refused(format!(
                    "unknown sqlite3 parameter {name:?}: known are cache, _journal, _timeout and table_prefix"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_read_as_juicefs_reads_them() {
        let place = Place::parse("sqlite3:///a/b.db?cache=shared&_journal=WAL&_timeout=70&table_prefix=team1").unwrap();
        assert_eq!((place.path.to_str().unwrap(), place.prefix.as_str()), ("/a/b.db", "jfs_team1_"));
        assert_eq!(place.busy_timeout, Duration::from_millis(70));
        assert_eq!(Place::parse("sqlite3://rel.db").unwrap().path.to_str(), Some("rel.db"));
        assert_eq!(Place::parse("rel.db").unwrap().busy_timeout, Duration::from_secs(5));
    }

    #[test]
    fn unknown_parameters_are_refused_by_name() {
        for (url, word) in [
            ("sqlite3://x?nope=1", "nope"),
            ("sqlite3://x?_journal=OFF", "OFF"),
            ("sqlite3://x?table_prefix=a;b", "table_prefix"),
            ("sqlite3://", "path"),
        ] {
            let sentence = Place::parse(url).unwrap_err().to_string();
            assert!(sentence.contains(word), "{sentence}");
        }
    }
}

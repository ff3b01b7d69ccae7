//! Where PostgreSQL and MySQL say the same thing in different words.
//!
//! Every value that goes into a statement is written here or as a number: bytes and texts as hex,
//! so no byte of a name or a setting is ever read as SQL.

use std::fmt::Write;

/// Which of the two is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Dialect {
    Postgres,
    /// MySQL 8 and MariaDB; nothing that only one of them knows.
    MySql,
}

/// How firmly a row is held until the end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// It will be changed or removed, or decides alone.
    Exclusive,
    /// Nobody may change it; others may hold it likewise.
    Shared,
}

/// How a row is written that may be there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    /// Its other columns take the new values.
    Replaced,
    /// It stays.
    Kept,
    /// The commit relied on its absence: the server stops.
    Refused,
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string");
    }
    text
}

impl Dialect {
    /// Bytes.
    pub(super) fn blob(self, bytes: &[u8]) -> String {
        match self {
            Dialect::Postgres => format!("'\\x{}'::bytea", hex(bytes)),
            Dialect::MySql => format!("x'{}'", hex(bytes)),
        }
    }

    /// Text. On MySQL the column's collation decides what equals it.
    pub(super) fn text(self, text: &str) -> String {
        match self {
            Dialect::Postgres => format!("convert_from('\\x{}'::bytea, 'UTF8')", hex(text.as_bytes())),
            Dialect::MySql => format!("_utf8mb4 x'{}'", hex(text.as_bytes())),
        }
    }

    /// A table or column.
    pub(super) fn quoted(self, name: &str) -> String {
        match self {
            Dialect::Postgres => format!("\"{name}\""),
            Dialect::MySql => format!("`{name}`"),
        }
    }

    /// Ends a `SELECT` that holds its rows.
    pub(super) fn hold(self, hold: Hold) -> &'static str {
        match (self, hold) {
            (_, Hold::Exclusive) => "FOR UPDATE",
            (Dialect::Postgres, Hold::Shared) => "FOR SHARE",
            (Dialect::MySql, Hold::Shared) => "LOCK IN SHARE MODE",
        }
    }

    /// An expression that is 1 if `condition` holds and stops the whole message if it does not.
    /// It depends on the condition's value, so that no optimizer can run into it beforehand.
    pub(super) fn stop_unless(self, condition: &str) -> String {
        match self {
            Dialect::Postgres => format!("1 / (CASE WHEN {condition} THEN 1 ELSE 0 END)"),
            Dialect::MySql => format!("18446744073709551615 + IF({condition}, 0, 1)"),
        }
    }

    /// The number of bytes of a column.
    pub(super) fn bytes_of(self, column: &str) -> String {
        match self {
            Dialect::Postgres => format!("octet_length({column})"),
            Dialect::MySql => format!("LENGTH({column})"),
        }
    }

    /// `INSERT` of one row or several, `key` being what must be unique.
    pub(super) fn insert(self, table: &str, columns: &str, rows: &str, key: &str, existing: Existing) -> String {
        let insert = format!("INSERT INTO {table} ({columns}) VALUES {rows}");
        let others = || columns.split(", ").filter(|column| !key.split(", ").any(|k| k == *column));
        match (self, existing) {
            (_, Existing::Refused) => insert,
            (Dialect::Postgres, Existing::Kept) => format!("{insert} ON CONFLICT ({key}) DO NOTHING"),
            (Dialect::MySql, Existing::Kept) => {
                let first = key.split(", ").next().unwrap_or(key);
                format!("{insert} ON DUPLICATE KEY UPDATE {first} = {first}")
            }
            (Dialect::Postgres, Existing::Replaced) => {
                let sets: Vec<String> = others().map(|c| format!("{c} = excluded.{c}")).collect();
                format!("{insert} ON CONFLICT ({key}) DO UPDATE SET {}", sets.join(", "))
            }
            (Dialect::MySql, Existing::Replaced) => {
                let sets: Vec<String> = others().map(|c| format!("{c} = VALUES({c})")).collect();
                format!("{insert} ON DUPLICATE KEY UPDATE {}", sets.join(", "))
            }
        }
    }

    /// Ends a fetch's message: what comes between is read over one view.
    pub(super) fn one_view(self) -> (&'static [&'static str], &'static str) {
        match self {
            Dialect::Postgres => (&["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"], "COMMIT"),
            Dialect::MySql => (
                &[
                    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                    "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
                ],
                "COMMIT",
            ),
        }
    }

    /// What stands around a commit's statements. PostgreSQL takes a message of several statements as
    /// one transaction, which rolls back by itself.
    pub(super) fn transaction(self) -> (Option<&'static str>, Option<&'static str>) {
        match self {
            Dialect::Postgres => (None, None),
            Dialect::MySql => (Some("START TRANSACTION"), Some("COMMIT")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_of_a_value_is_read_as_sql() {
        let nasty = "'; DROP TABLE x; -- \\";
        for dialect in [Dialect::Postgres, Dialect::MySql] {
            for literal in [dialect.blob(nasty.as_bytes()), dialect.text(nasty)] {
                assert!(!literal.contains("DROP") && !literal.contains(';'), "{literal}");
                assert!(literal.contains("273b2044524f50"), "{literal}");
            }
        }
    }
}

//! The tables of a volume in SQL, as JuiceFS 1.4 makes them, and whether a database has them.
//!
//! A JuiceFS client parses the stored text of these statements and alters what differs, so they
//! are written exactly as it writes them. Nothing is ever added to them (volume format 5.3.5).

use rusqlite::Connection;

use super::convert::fail;
use crate::{Error, Result};

/// Prefix of every table: `jfs_`, or `jfs_X_` with `table_prefix=X`.
pub(super) const DEFAULT_PREFIX: &str = "jfs_";

const TABLES: [(&str, &str); 21] = [
    ("setting", "`name` TEXT PRIMARY KEY NOT NULL, `value` TEXT NOT NULL"),
    ("counter", "`name` TEXT PRIMARY KEY NOT NULL, `value` INTEGER NOT NULL"),
    (
        "edge",
        "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `parent` INTEGER NOT NULL, `name` BLOB NOT NULL, \
         `inode` INTEGER NOT NULL, `type` INTEGER NOT NULL",
    ),
    (
        "node",
        "`inode` INTEGER PRIMARY KEY NOT NULL, `type` INTEGER NOT NULL, `flags` INTEGER NOT NULL, \
         `mode` INTEGER NOT NULL, `uid` INTEGER NOT NULL, `gid` INTEGER NOT NULL, `atime` INTEGER NOT NULL, \
         `mtime` INTEGER NOT NULL, `ctime` INTEGER NOT NULL, `atimensec` INTEGER DEFAULT 0 NOT NULL, \
         `mtimensec` INTEGER DEFAULT 0 NOT NULL, `ctimensec` INTEGER DEFAULT 0 NOT NULL, `nlink` INTEGER NOT NULL, \
         `length` INTEGER NOT NULL, `rdev` INTEGER NULL, `parent` INTEGER NULL, `access_acl_id` INTEGER NULL, \
         `default_acl_id` INTEGER NULL, `tier_id` INTEGER NULL",
    ),
    ("symlink", "`inode` INTEGER PRIMARY KEY NOT NULL, `target` BLOB NOT NULL"),
    (
        "xattr",
        "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `inode` INTEGER NOT NULL, `name` TEXT NOT NULL, \
         `value` BLOB NOT NULL",
    ),
    (
        "chunk",
        "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `inode` INTEGER NOT NULL, `indx` INTEGER NOT NULL, \
         `slices` BLOB NOT NULL",
    ),
    ("chunk_ref", "`chunkid` INTEGER PRIMARY KEY NOT NULL, `size` INTEGER NOT NULL, `refs` INTEGER NOT NULL"),
    ("delslices", "`chunkid` INTEGER PRIMARY KEY NOT NULL, `deleted` INTEGER NOT NULL, `slices` BLOB NOT NULL"),
    ("session2", "`sid` INTEGER PRIMARY KEY NOT NULL, `expire` INTEGER NOT NULL, `info` BLOB NULL"),
    ("sustained", "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `sid` INTEGER NOT NULL, `inode` INTEGER NOT NULL"),
    ("delfile", "`inode` INTEGER PRIMARY KEY NOT NULL, `length` INTEGER NOT NULL, `expire` INTEGER NOT NULL"),
    (
        "flock",
        "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `inode` INTEGER NOT NULL, `sid` INTEGER NOT NULL, \
         `owner` INTEGER NOT NULL, `ltype` INTEGER NOT NULL",
    ),
    (
        "plock",
        "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `inode` INTEGER NOT NULL, `sid` INTEGER NOT NULL, \
         `owner` INTEGER NOT NULL, `records` BLOB NOT NULL",
    ),
    (
        "dir_quota",
        "`inode` INTEGER PRIMARY KEY NOT NULL, `max_space` INTEGER NOT NULL, `max_inodes` INTEGER NOT NULL, \
         `used_space` INTEGER NOT NULL, `used_inodes` INTEGER NOT NULL",
    ),
    (
        "user_group_quota",
        "`qtype` INTEGER NOT NULL, `qkey` INTEGER NOT NULL, `max_space` INTEGER NOT NULL, \
         `max_inodes` INTEGER NOT NULL, `used_space` INTEGER NOT NULL, `used_inodes` INTEGER NOT NULL, \
         PRIMARY KEY ( `qtype`,`qkey` )",
    ),
    (
        "dir_stats",
        "`inode` INTEGER PRIMARY KEY NOT NULL, `data_length` INTEGER NOT NULL, `used_space` INTEGER NOT NULL, \
         `used_inodes` INTEGER NOT NULL",
    ),
    ("detached_node", "`inode` INTEGER PRIMARY KEY NOT NULL, `added` INTEGER NOT NULL"),
    (
        "acl",
        "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `owner` INTEGER NULL, `group` INTEGER NULL, \
         `mask` INTEGER NULL, `other` INTEGER NULL, `named_users` BLOB NULL, `named_groups` BLOB NULL",
    ),
    ("delegation_token", "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `token` BLOB NULL"),
    ("change_log", "`id` INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, `entry` TEXT NOT NULL"),
];

/// Table, kind, tag, columns: `UQE_<table>_<tag>` or `IDX_<table>_<tag>`.
const INDEXES: [(&str, &str, &str, &str); 8] = [
    ("edge", "UQE", "edge", "`parent`,`name`"),
    ("edge", "IDX", "inode", "`inode`"),
    ("xattr", "UQE", "name", "`inode`,`name`"),
    ("chunk", "UQE", "chunk", "`inode`,`indx`"),
    ("chunk_ref", "IDX", "refs", "`refs`"),
    ("sustained", "UQE", "sustained", "`sid`,`inode`"),
    ("flock", "UQE", "flock", "`inode`,`sid`,`owner`"),
    ("plock", "UQE", "plock", "`inode`,`sid`,`owner`"),
];

/// The script that makes what is missing and leaves alone what is there.
pub(super) fn creation(prefix: &str) -> String {
    let mut script = String::new();
    for (table, columns) in TABLES {
        script += &format!("CREATE TABLE IF NOT EXISTS `{prefix}{table}` ({columns});\n");
        for (_, kind, tag, columns) in INDEXES.iter().filter(|(of, ..)| *of == table) {
            let unique = if *kind == "UQE" { "UNIQUE " } else { "" };
            script += &format!(
                "CREATE {unique}INDEX IF NOT EXISTS `{kind}_{prefix}{table}_{tag}` ON `{prefix}{table}` ({columns});\n"
            );
        }
    }
    script
}

/// What a database turned out to hold under a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holding {
    /// None of the tables.
    Nothing,
    /// Tables, but no setting: a `format` that did not end.
    HalfFormatted,
    /// A volume.
    Volume {
        /// Names may be stored as text: made before 1.0.
        text_names: bool,
    },
}

/// Looks at a database's tables.
///
/// # Errors
///
/// [`Error::Refused`] if a volume lacks a table or column that this client needs.
pub(super) fn inspect(conn: &Connection, prefix: &str) -> Result<Holding> {
    let names = table_names(conn).map_err(|e| fail("read the list of tables", e))?;
    let has = |table: &str| names.iter().any(|name| name.eq_ignore_ascii_case(&format!("{prefix}{table}")));
    if !TABLES.iter().any(|(table, _)| has(table)) {
        return Ok(Holding::Nothing);
    }
    if !has("setting") || !has_setting(conn, prefix)? {
        return Ok(Holding::HalfFormatted);
    }
    for (table, columns) in TABLES {
        if table != "delegation_token" {
            check_columns(conn, &format!("{prefix}{table}"), columns)?;
        }
    }
    let text_names = column_types(conn, &format!("{prefix}edge"))?.iter().any(|(c, t)| c == "name" && t != "BLOB");
    Ok(Holding::Volume { text_names })
}

/// Other tables of the database, for a message that says what it is.
pub(super) fn table_names(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut list = conn.prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")?;
    list.query_map([], |row| row.get(0))?.collect()
}

fn has_setting(conn: &Connection, prefix: &str) -> Result<bool> {
    let query = format!("SELECT EXISTS(SELECT 1 FROM `{prefix}setting` WHERE name = 'format')");
    conn.query_row(&query, [], |row| row.get(0)).map_err(|e| fail("look for the volume's setting", e))
}

fn column_types(conn: &Connection, table: &str) -> Result<Vec<(String, String)>> {
    let read = || -> rusqlite::Result<Vec<(String, String)>> {
        let mut list = conn.prepare("SELECT name, upper(type) FROM pragma_table_info(?1)")?;
        list.query_map([table], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    read().map_err(|e| fail("read the columns of a table", e))
}

fn check_columns(conn: &Connection, table: &str, wanted: &str) -> Result<()> {
    let there = column_types(conn, table)?;
    if there.is_empty() {
        return Err(Error::Refused(format!(
            "table {table} is missing: the volume was made by a JuiceFS older than 1.4; \
             mount it once with JuiceFS 1.4 to bring it up to date"
        )));
    }
    // Column names are the words in backquotes before the type.
    let names = wanted.split(", ").filter_map(|column| column.strip_prefix('`')?.split('`').next());
    for name in names {
        if !there.iter().any(|(column, _)| column == name) {
            return Err(Error::Refused(format!(
                "table {table} has no column {name}: the volume was made by a JuiceFS older than 1.4; \
                 mount it once with JuiceFS 1.4 to bring it up to date"
            )));
        }
    }
    Ok(())
}

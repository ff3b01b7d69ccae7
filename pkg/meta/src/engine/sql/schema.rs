//! The tables of a volume in PostgreSQL and MySQL, as JuiceFS 1.4 makes them (volume format 5.3.3,
//! 5.3.4), our own one beside them, and whether a database has them.
//!
//! A JuiceFS client compares these tables with its own idea of them and alters what differs, so
//! nothing is ever added to them (volume format 5.3.5).

use super::Tables;
use super::dialect::Dialect;

/// Prefix of every table: `jfs_`, or `jfs_X_` with `table_prefix=X`.
pub(in crate::engine) const DEFAULT_PREFIX: &str = "jfs_";

/// A column's type, in the letters of the volume format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// 32 bits.
    I,
    /// 64 bits.
    B,
    /// Up to 255 characters.
    S,
    /// Text.
    T,
    /// Up to so many bytes.
    V(u16),
    /// Bytes.
    L,
    /// A counting primary key of 64 bits.
    Id,
    /// A counting primary key of 32 bits.
    Id32,
}

use Kind::{B, I, Id, Id32, L, S, T, V};

/// Columns that may be NULL end with `?`, those with default 0 with `=0`, primary keys with `!`.
const TABLES: [(&str, &[(&str, Kind)]); 21] = [
    ("setting", &[("name!", S), ("value", T)]),
    ("counter", &[("name!", S), ("value", B)]),
    ("edge", &[("id", Id), ("parent", B), ("name", V(255)), ("inode", B), ("type", I)]),
    (
        "node",
        &[
            ("inode!", B),
            ("type", I),
            ("flags", I),
            ("mode", I),
            ("uid", I),
            ("gid", I),
            ("atime", B),
            ("mtime", B),
            ("ctime", B),
            ("atimensec=0", I),
            ("mtimensec=0", I),
            ("ctimensec=0", I),
            ("nlink", I),
            ("length", B),
            ("rdev?", I),
            ("parent?", B),
            ("access_acl_id?", I),
            ("default_acl_id?", I),
            ("tier_id?", I),
        ],
    ),
    ("symlink", &[("inode!", B), ("target", V(4096))]),
    ("xattr", &[("id", Id), ("inode", B), ("name", S), ("value", L)]),
    ("chunk", &[("id", Id), ("inode", B), ("indx", I), ("slices", L)]),
    ("chunk_ref", &[("chunkid!", B), ("size", I), ("refs", I)]),
    ("delslices", &[("chunkid!", B), ("deleted", B), ("slices", L)]),
    ("session2", &[("sid!", B), ("expire", B), ("info?", L)]),
    ("sustained", &[("id", Id), ("sid", B), ("inode", B)]),
    ("delfile", &[("inode!", B), ("length", B), ("expire", B)]),
    ("flock", &[("id", Id), ("inode", B), ("sid", B), ("owner", B), ("ltype", I)]),
    ("plock", &[("id", Id), ("inode", B), ("sid", B), ("owner", B), ("records", L)]),
    ("dir_quota", &[("inode!", B), ("max_space", B), ("max_inodes", B), ("used_space", B), ("used_inodes", B)]),
    (
        "user_group_quota",
        &[("qtype!", I), ("qkey!", B), ("max_space", B), ("max_inodes", B), ("used_space", B), ("used_inodes", B)],
    ),
    ("dir_stats", &[("inode!", B), ("data_length", B), ("used_space", B), ("used_inodes", B)]),
    ("detached_node", &[("inode!", B), ("added", B)]),
    (
        "acl",
        &[
            ("id", Id32),
            ("owner?", I),
            ("group?", I),
            ("mask?", I),
            ("other?", I),
            ("named_users?", L),
            ("named_groups?", L),
        ],
    ),
    ("delegation_token", &[("id", Id32), ("token?", L)]),
    ("change_log", &[("id", Id), ("entry", T)]),
];

/// Table, kind, tag, columns: `UQE_<table>_<tag>` or `IDX_<table>_<tag>`.
const INDEXES: [(&str, &str, &str, &[&str]); 8] = [
    ("edge", "UQE", "edge", &["parent", "name"]),
    ("edge", "IDX", "inode", &["inode"]),
    ("xattr", "UQE", "name", &["inode", "name"]),
    ("chunk", "UQE", "chunk", &["inode", "indx"]),
    ("chunk_ref", "IDX", "refs", &["refs"]),
    ("sustained", "UQE", "sustained", &["sid", "inode"]),
    ("flock", "UQE", "flock", &["inode", "sid", "owner"]),
    ("plock", "UQE", "plock", &["inode", "sid", "owner"]),
];

fn bare(column: &str) -> &str {
    column.trim_end_matches("=0").trim_end_matches(['?', '!'])
}

fn type_of(dialect: Dialect, kind: Kind) -> String {
    match (dialect, kind) {
        (Dialect::Postgres, I) => "INTEGER".into(),
        (Dialect::MySql, I) => "INT".into(),
        (_, B) => "BIGINT".into(),
        (_, S) => "VARCHAR(255)".into(),
        (_, T) => "TEXT".into(),
        (Dialect::Postgres, V(_) | L) => "BYTEA".into(),
        (Dialect::MySql, V(bytes)) => format!("VARBINARY({bytes})"),
        (Dialect::MySql, L) => "BLOB".into(),
        (Dialect::Postgres, Id) => "BIGSERIAL PRIMARY KEY".into(),
        (Dialect::Postgres, Id32) => "SERIAL PRIMARY KEY".into(),
        (Dialect::MySql, Id) => "BIGINT AUTO_INCREMENT PRIMARY KEY".into(),
        (Dialect::MySql, Id32) => "INT AUTO_INCREMENT PRIMARY KEY".into(),
    }
}

fn column(dialect: Dialect, (name, kind): &(&str, Kind)) -> String {
    let rule = match kind {
        _ if name.ends_with('?') => " NULL",
        _ if name.ends_with("=0") => " DEFAULT 0 NOT NULL",
        _ => " NOT NULL",
    };
    format!("{} {}{rule}", dialect.quoted(bare(name)), type_of(dialect, *kind))
}

impl Tables {
    /// The statements that make what is missing and leave alone what is there.
    pub(super) fn creation(&self) -> Vec<String> {
        let d = self.dialect;
        let list = |names: &[&str]| names.iter().map(|name| d.quoted(name)).collect::<Vec<_>>().join(", ");
        let mut script = Vec::new();
        for (table, columns) in TABLES {
            let name = format!("{}{table}", self.prefix);
            let mut parts: Vec<String> = columns.iter().map(|c| column(d, c)).collect();
            let keys: Vec<&str> = columns.iter().filter(|(c, _)| c.ends_with('!')).map(|(c, _)| bare(c)).collect();
            if !keys.is_empty() {
                parts.push(format!("PRIMARY KEY ({})", list(&keys)));
            }
            let indexes = INDEXES.iter().filter(|(of, ..)| *of == table);
            let index_name = |kind: &str, tag: &str| d.quoted(&format!("{kind}_{name}_{tag}"));
            if d == Dialect::MySql {
                // MySQL makes no index "if not exists", so they come with their table.
                for (_, kind, tag, columns) in indexes.clone() {
                    let unique = if *kind == "UQE" { "UNIQUE " } else { "" };
                    parts.push(format!("{unique}INDEX {} ({})", index_name(kind, tag), list(columns)));
                }
            }
            let engine = if d == Dialect::MySql { " ENGINE=InnoDB" } else { "" };
            script.push(format!("CREATE TABLE IF NOT EXISTS {} ({}){engine}", d.quoted(&name), parts.join(", ")));
            if d == Dialect::Postgres {
                for (_, kind, tag, columns) in indexes {
                    let unique = if *kind == "UQE" { "UNIQUE " } else { "" };
                    let on = format!("{} ({})", d.quoted(&name), list(columns));
                    script.push(format!("CREATE {unique}INDEX IF NOT EXISTS {} ON {on}", index_name(kind, tag)));
                }
            }
        }
        script
    }

    /// The statement that makes the table of applied commits.
    pub(super) fn op_creation(&self) -> String {
        let engine = if self.dialect == Dialect::MySql { " ENGINE=InnoDB" } else { "" };
        format!(
            "CREATE TABLE IF NOT EXISTS {} (lane BIGINT NOT NULL, sequence BIGINT NOT NULL, touched BIGINT NOT NULL, \
             PRIMARY KEY (lane)){engine}",
            self.op
        )
    }

    /// Asks for table and column names and column types of the whole database, in lower case.
    pub(super) fn inspection(&self) -> String {
        let schema = match self.dialect {
            Dialect::Postgres => "current_schema()",
            Dialect::MySql => "DATABASE()",
        };
        format!(
            "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = {schema}"
        )
    }

    /// What a database turned out to hold, from the rows that [`Tables::inspection`] asked for.
    pub(super) fn holding(&self, columns: &[(String, String, String)]) -> Holding {
        let has = |table: &str| {
            let name = format!("{}{table}", self.prefix);
            columns.iter().any(|(t, ..)| *t == name)
        };
        if !TABLES.iter().any(|(table, _)| has(table)) {
            let others = columns.iter().filter(|(t, ..)| format!("{t}").as_str() != self.op_name());
            return Holding::Nothing { others: others.count() > 0 };
        }
        for (table, wanted) in TABLES.iter().filter(|(table, _)| *table != "delegation_token") {
            let name = format!("{}{table}", self.prefix);
            if !has(table) {
                return Holding::Old(format!("table {name} is missing"));
            }
            let missing = wanted
                .iter()
                .map(|(c, _)| bare(c))
                .find(|wanted| !columns.iter().any(|(t, c, _)| *t == name && c == wanted));
            if let Some(column) = missing {
                return Holding::Old(format!("table {name} has no column {column}"));
            }
        }
        let edge = format!("{}edge", self.prefix);
        let text_names = columns
            .iter()
            .any(|(t, c, kind)| *t == edge && c == "name" && !["bytea", "varbinary"].contains(&kind.as_str()));
        if text_names { Holding::Old(format!("table {edge} keeps names as text")) } else { Holding::Tables }
    }

    fn op_name(&self) -> &str {
        self.op.trim_matches(['"', '`'])
    }
}

/// What a database turned out to hold under a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holding {
    /// None of the tables; perhaps other ones.
    Nothing { others: bool },
    /// All of them.
    Tables,
    /// Some of them lack what is needed.
    Old(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_written_as_the_format_says() {
        let pg = Tables::new(Dialect::Postgres, "jfs_team1_").creation().join(";");
        for part in [
            r#"CREATE TABLE IF NOT EXISTS "jfs_team1_edge" ("id" BIGSERIAL PRIMARY KEY NOT NULL, "parent" BIGINT NOT NULL, "name" BYTEA NOT NULL"#,
            r#"CREATE UNIQUE INDEX IF NOT EXISTS "UQE_jfs_team1_edge_edge" ON "jfs_team1_edge" ("parent", "name")"#,
            r#""atimensec" INTEGER DEFAULT 0 NOT NULL"#,
            r#"PRIMARY KEY ("qtype", "qkey")"#,
        ] {
            assert!(pg.contains(part), "{part}\n{pg}");
        }
        let my = Tables::new(Dialect::MySql, "jfs_").creation().join(";");
        for part in ["`name` VARBINARY(255) NOT NULL", "INDEX `IDX_jfs_edge_inode` (`inode`)", "`slices` BLOB NOT NULL"]
        {
            assert!(my.contains(part), "{part}\n{my}");
        }
        assert_eq!(Tables::new(Dialect::MySql, "jfs_team1_").op, "`cairn_team1_op`");
    }
}

//! The rows of creations and removals, written to a volume's tables by nothing but SQLite.
//!
//! Same file format, same journal and safety as the engine's (WAL, synced at checkpoints), same
//! statements compiled once. No checks, no reads, no answers.

use std::path::Path;

use rusqlite::{Connection, params};

/// First inode used; that of a young volume.
const FIRST_INO: u64 = 1000;
/// First directory that files are put in.
const FIRST_DIR: u64 = 2;
/// Where removed files go: a directory below the trash.
const TRASH_HOUR: u64 = 0x7FFF_FFFF_1000_0001;
/// Any time, in microseconds and the nanoseconds that remain.
const TIME: (i64, i64) = (1_795_228_314_000_000, 500);

/// A formatted database that only this has open.
pub(crate) struct RawVolume {
    conn: Connection,
    dirs: u64,
    next_ino: u64,
    removed_to: u64,
}

impl RawVolume {
    /// Opens what `cairn format` has made; files will be spread over `dirs` directories.
    pub(crate) fn open(database: &Path, dirs: u64) -> anyhow::Result<RawVolume> {
        let conn = Connection::open(database)?;
        conn.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -65536")?;
        for dir in (FIRST_DIR..FIRST_DIR + dirs).chain([TRASH_HOUR]) {
            conn.execute("INSERT INTO jfs_dir_stats VALUES (?1, 0, 0, 0)", [dir as i64])?;
        }
        Ok(RawVolume { conn, dirs, next_ino: FIRST_INO, removed_to: FIRST_INO })
    }

    /// Creates files, `batch` of them in a transaction.
    pub(crate) fn create(&mut self, files: u64, batch: u64) -> anyhow::Result<()> {
        self.removed_to = self.next_ino;
        let mut left = files;
        while left > 0 {
            let now = left.min(batch);
            self.begin()?;
            for _ in 0..now {
                self.insert(self.next_ino, FIRST_DIR + self.next_ino % batch.min(self.dirs))?;
                self.next_ino += 1;
            }
            for (name, add) in [("usedSpace", 4096), ("totalInodes", 1)] {
                self.run(
                    "INSERT INTO jfs_counter (name, value) VALUES (?1, ?2) \
                     ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                    params![name, add * now as i64],
                )?;
            }
            self.commit()?;
            left -= now;
        }
        Ok(())
    }

    /// Moves the files that the last [`RawVolume::create`] made to the trash, each in a transaction of its own.
    pub(crate) fn remove(&mut self, files: u64) -> anyhow::Result<()> {
        for _ in 0..files {
            let (ino, dir) = (self.removed_to, FIRST_DIR);
            self.begin()?;
            self.run(
                "DELETE FROM jfs_edge WHERE parent = ?1 AND name = ?2",
                params![dir as i64, name(ino).as_bytes()],
            )?;
            self.edge(TRASH_HOUR, &format!("{dir}-{ino}-{}", name(ino)), ino)?;
            self.run(
                "UPDATE jfs_node SET ctime = ?2, ctimensec = ?3, parent = ?4 WHERE inode = ?1",
                params![ino as i64, TIME.0, TIME.1, TRASH_HOUR as i64],
            )?;
            self.count(dir, -1)?;
            self.count(TRASH_HOUR, 1)?;
            self.commit()?;
            self.removed_to += 1;
        }
        Ok(())
    }

    fn insert(&self, ino: u64, dir: u64) -> anyhow::Result<()> {
        self.edge(dir, &name(ino), ino)?;
        let (time, nanos) = TIME;
        self.run(
            "INSERT INTO jfs_node (inode, type, flags, mode, uid, gid, atime, mtime, ctime, atimensec, mtimensec, \
             ctimensec, nlink, length, rdev, parent, access_acl_id, default_acl_id, tier_id) \
             VALUES (?1, 1, 0, 420, 0, 0, ?2, ?2, ?2, ?3, ?3, ?3, 1, 0, 0, ?4, 0, 0, 0)",
            params![ino as i64, time, nanos, dir as i64],
        )?;
        self.count(dir, 1)
    }

    fn edge(&self, dir: u64, name: &str, ino: u64) -> anyhow::Result<()> {
        let statement = "INSERT INTO jfs_edge (parent, name, inode, type) VALUES (?1, ?2, ?3, 1)";
        self.run(statement, params![dir as i64, name.as_bytes(), ino as i64])
    }

    fn count(&self, dir: u64, files: i64) -> anyhow::Result<()> {
        self.run(
            "UPDATE jfs_dir_stats SET used_space = used_space + ?2, used_inodes = used_inodes + ?3 WHERE inode = ?1",
            params![dir as i64, files * 4096, files],
        )
    }

    fn begin(&self) -> anyhow::Result<()> {
        self.run("BEGIN IMMEDIATE", [])
    }

    fn commit(&self) -> anyhow::Result<()> {
        self.run("COMMIT", [])
    }

    fn run(&self, statement: &str, params: impl rusqlite::Params) -> anyhow::Result<()> {
        self.conn.prepare_cached(statement)?.execute(params)?;
        Ok(())
    }
}

fn name(ino: u64) -> String {
    format!("file-{ino:06}")
}

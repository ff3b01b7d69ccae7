//! The statements, written once for a table prefix.

use super::super::sql::columns::ATTR_COLUMNS;

macro_rules! statements {
    ($($name:ident = $text:expr;)*) => {
        /// Text of every statement.
        pub(super) struct Sql {
            $(pub(super) $name: String,)*
            /// `UPDATE node SET`: the columns follow.
            pub(super) change_attr: String,
        }

        impl Sql {
            /// For tables that begin with `prefix`. `text_names`: names may be stored as text, as
            /// volumes from before 1.0 have them; a blob never equals a text.
            pub(super) fn new(prefix: &str, text_names: bool) -> Sql {
                let write = |text: &str| {
                    let (is, key) = match text_names {
                        false => ("name = ?2", "name"),
                        true => ("name IN (?2, CAST(?2 AS TEXT))", "CAST(name AS BLOB)"),
                    };
                    // The prefix last: it may contain any of the words.
                    text.replace("NAME_IS", is)
                        .replace("NAME_KEY", key)
                        .replace("ATTR", ATTR_COLUMNS)
                        .replace("jfs_", prefix)
                };
                Sql {
                    $($name: write($text),)*
                    change_attr: write("UPDATE jfs_node SET "),
                }
            }
        }
    };
}

statements! {
    attr = "SELECT ATTR FROM jfs_node WHERE inode = ?1";
    insert_attr = "INSERT INTO jfs_node (inode, ATTR) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, \
                   ?13, ?14, ?15, ?16, ?17, ?18, ?19)";
    remove_attr = "DELETE FROM jfs_node WHERE inode = ?1";
    scan_attrs = "SELECT inode, ATTR FROM jfs_node WHERE inode > ?1 ORDER BY inode LIMIT ?2";

    entry = "SELECT inode, type FROM jfs_edge WHERE parent = ?1 AND NAME_IS";
    dir_has_entry = "SELECT 1 FROM jfs_edge WHERE parent = ?1 LIMIT 1";
    entries = "SELECT name, inode, type FROM jfs_edge WHERE parent = ?1 AND NAME_KEY > ?2 ORDER BY NAME_KEY LIMIT ?3";
    entries_plus = "SELECT e.name, e.inode, e.kind, n.inode, ATTR FROM \
                    (SELECT name, NAME_KEY AS sorted, inode, type AS kind FROM jfs_edge \
                     WHERE parent = ?1 AND NAME_KEY > ?2 ORDER BY NAME_KEY LIMIT ?3) e \
                    LEFT JOIN jfs_node n ON n.inode = e.inode ORDER BY e.sorted";
    insert_entry = "INSERT INTO jfs_edge (parent, name, inode, type) VALUES (?1, ?2, ?3, ?4)";
    replace_entry = "UPDATE jfs_edge SET inode = ?3, type = ?4 WHERE parent = ?1 AND NAME_IS";
    remove_entry = "DELETE FROM jfs_edge WHERE parent = ?1 AND NAME_IS";
    parents = "SELECT parent, count(*) FROM jfs_edge WHERE inode = ?1 GROUP BY parent ORDER BY parent";

    symlink = "SELECT target FROM jfs_symlink WHERE inode = ?1";
    insert_symlink = "INSERT INTO jfs_symlink (inode, target) VALUES (?1, ?2) \
                      ON CONFLICT (inode) DO UPDATE SET target = excluded.target";
    remove_symlink = "DELETE FROM jfs_symlink WHERE inode = ?1";
    xattr = "SELECT value FROM jfs_xattr WHERE inode = ?1 AND name = ?2";
    xattr_names = "SELECT name FROM jfs_xattr WHERE inode = ?1";
    put_xattr = "INSERT INTO jfs_xattr (inode, name, value) VALUES (?1, ?2, ?3) \
                 ON CONFLICT (inode, name) DO UPDATE SET value = excluded.value";
    remove_xattr = "DELETE FROM jfs_xattr WHERE inode = ?1 AND name = ?2";
    remove_xattrs = "DELETE FROM jfs_xattr WHERE inode = ?1";

    slices = "SELECT slices FROM jfs_chunk WHERE inode = ?1 AND indx = ?2";
    chunks = "SELECT indx FROM jfs_chunk WHERE inode = ?1 AND indx >= ?2 ORDER BY indx LIMIT ?3";
    // `||` yields text whatever it joins; the cast keeps the column a blob.
    append_slices = "INSERT INTO jfs_chunk (inode, indx, slices) VALUES (?1, ?2, ?3) ON CONFLICT (inode, indx) \
                     DO UPDATE SET slices = CAST(slices || excluded.slices AS BLOB) \
                     RETURNING length(CAST(slices AS BLOB))";
    replace_slices = "INSERT INTO jfs_chunk (inode, indx, slices) VALUES (?1, ?2, ?3) \
                      ON CONFLICT (inode, indx) DO UPDATE SET slices = excluded.slices";
    remove_chunk = "DELETE FROM jfs_chunk WHERE inode = ?1 AND indx = ?2";
    scan_chunks = "SELECT inode, indx, slices FROM jfs_chunk WHERE (inode, indx) > (?1, ?2) \
                   ORDER BY inode, indx LIMIT ?3";
    insert_slice = "INSERT INTO jfs_chunk_ref (chunkid, size, refs) VALUES (?1, ?2, ?3)";
    add_slice_refs = "UPDATE jfs_chunk_ref SET refs = refs + ?3 WHERE chunkid = ?1 AND size = ?2 RETURNING refs";
    slice_refs = "SELECT refs FROM jfs_chunk_ref WHERE chunkid = ?1 AND size = ?2";
    remove_slice = "DELETE FROM jfs_chunk_ref WHERE chunkid = ?1";
    unowned_slices = "SELECT chunkid, size FROM jfs_chunk_ref WHERE refs <= 0 AND chunkid > ?1 \
                      ORDER BY chunkid LIMIT ?2";
    slice_records = "SELECT chunkid, size, refs FROM jfs_chunk_ref WHERE chunkid > ?1 ORDER BY chunkid LIMIT ?2";

    insert_deleted_file = "INSERT INTO jfs_delfile (inode, length, expire) VALUES (?1, ?2, ?3) \
                           ON CONFLICT (inode) DO UPDATE SET length = excluded.length, expire = excluded.expire";
    remove_deleted_file = "DELETE FROM jfs_delfile WHERE inode = ?1";
    deleted_files = "SELECT inode, length, expire FROM jfs_delfile WHERE expire <= ?1 ORDER BY expire, inode LIMIT ?2";
    insert_delayed = "INSERT INTO jfs_delslices (chunkid, deleted, slices) VALUES (?1, ?2, ?3) \
                      ON CONFLICT (chunkid) DO UPDATE SET deleted = excluded.deleted, slices = excluded.slices";
    remove_delayed = "DELETE FROM jfs_delslices WHERE chunkid = ?1";
    delayed = "SELECT chunkid, deleted, slices FROM jfs_delslices WHERE deleted <= ?1 \
               ORDER BY deleted, chunkid LIMIT ?2";

    counter = "SELECT value FROM jfs_counter WHERE name = ?1";
    add_counter = "INSERT INTO jfs_counter (name, value) VALUES (?1, ?2) \
                   ON CONFLICT (name) DO UPDATE SET value = value + excluded.value";
    set_counter = "INSERT INTO jfs_counter (name, value) VALUES (?1, ?2) \
                   ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    dir_stat = "SELECT data_length, used_space, used_inodes FROM jfs_dir_stats WHERE inode = ?1";
    put_dir_stat = "INSERT INTO jfs_dir_stats (inode, data_length, used_space, used_inodes) VALUES (?1, ?2, ?3, ?4) \
                    ON CONFLICT (inode) DO UPDATE SET data_length = excluded.data_length, \
                    used_space = excluded.used_space, used_inodes = excluded.used_inodes";
    add_dir_stat = "UPDATE jfs_dir_stats SET data_length = data_length + ?2, used_space = used_space + ?3, \
                    used_inodes = used_inodes + ?4 WHERE inode = ?1";
    remove_dir_stat = "DELETE FROM jfs_dir_stats WHERE inode = ?1";

    dir_quota = "SELECT max_space, max_inodes, used_space, used_inodes FROM jfs_dir_quota WHERE inode = ?1";
    put_dir_quota = "INSERT INTO jfs_dir_quota (inode, max_space, max_inodes, used_space, used_inodes) \
                     VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (inode) DO UPDATE SET max_space = excluded.max_space, \
                     max_inodes = excluded.max_inodes, used_space = excluded.used_space, \
                     used_inodes = excluded.used_inodes";
    add_dir_quota = "UPDATE jfs_dir_quota SET used_space = used_space + ?2, used_inodes = used_inodes + ?3 \
                     WHERE inode = ?1";
    remove_dir_quota = "DELETE FROM jfs_dir_quota WHERE inode = ?1";
    dir_quotas = "SELECT max_space, max_inodes, used_space, used_inodes, inode FROM jfs_dir_quota ORDER BY inode";
    any_dir_quota = "SELECT 1 FROM jfs_dir_quota LIMIT 1";
    owner_quota = "SELECT max_space, max_inodes, used_space, used_inodes FROM jfs_user_group_quota \
                   WHERE qtype = ?1 AND qkey = ?2";
    put_owner_quota = "INSERT INTO jfs_user_group_quota (qtype, qkey, max_space, max_inodes, used_space, used_inodes) \
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (qtype, qkey) DO UPDATE SET \
                       max_space = excluded.max_space, max_inodes = excluded.max_inodes, \
                       used_space = excluded.used_space, used_inodes = excluded.used_inodes";
    add_owner_quota = "UPDATE jfs_user_group_quota SET used_space = used_space + ?3, used_inodes = used_inodes + ?4 \
                       WHERE qtype = ?1 AND qkey = ?2";
    remove_owner_quota = "DELETE FROM jfs_user_group_quota WHERE qtype = ?1 AND qkey = ?2";
    owner_quotas = "SELECT max_space, max_inodes, used_space, used_inodes, qkey FROM jfs_user_group_quota \
                    WHERE qtype = ?1 ORDER BY qkey";

    acl = "SELECT owner, `group`, mask, other, named_users, named_groups FROM jfs_acl WHERE id = ?1";
    find_acl = "SELECT id FROM jfs_acl WHERE ifnull(owner, 0) = ?1 AND ifnull(`group`, 0) = ?2 \
                AND ifnull(mask, 0) = ?3 AND ifnull(other, 0) = ?4 AND ifnull(named_users, x'') = ?5 \
                AND ifnull(named_groups, x'') = ?6 ORDER BY id LIMIT 1";
    insert_acl = "INSERT INTO jfs_acl (owner, `group`, mask, other, named_users, named_groups) \
                  VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

    session = "SELECT expire, info FROM jfs_session2 WHERE sid = ?1";
    put_session = "INSERT INTO jfs_session2 (sid, expire, info) VALUES (?1, ?2, ?3) \
                   ON CONFLICT (sid) DO UPDATE SET expire = excluded.expire";
    remove_session = "DELETE FROM jfs_session2 WHERE sid = ?1";
    sessions = "SELECT sid, expire, info FROM jfs_session2 ORDER BY sid";
    live_sessions = "SELECT sid FROM jfs_session2 WHERE expire > ?1";
    insert_sustained = "INSERT OR IGNORE INTO jfs_sustained (sid, inode) VALUES (?1, ?2)";
    remove_sustained = "DELETE FROM jfs_sustained WHERE sid = ?1 AND inode = ?2";
    sustained = "SELECT inode FROM jfs_sustained WHERE sid = ?1 ORDER BY inode";
    flocks = "SELECT sid, owner, ltype FROM jfs_flock WHERE inode = ?1";
    put_flock = "INSERT INTO jfs_flock (inode, sid, owner, ltype) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (inode, sid, owner) DO UPDATE SET ltype = excluded.ltype";
    remove_flock = "DELETE FROM jfs_flock WHERE inode = ?1 AND sid = ?2 AND owner = ?3";
    plocks = "SELECT sid, owner, records FROM jfs_plock WHERE inode = ?1";
    put_plock = "INSERT INTO jfs_plock (inode, sid, owner, records) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (inode, sid, owner) DO UPDATE SET records = excluded.records";
    remove_plock = "DELETE FROM jfs_plock WHERE inode = ?1 AND sid = ?2 AND owner = ?3";
    remove_flocks_of = "DELETE FROM jfs_flock WHERE sid = ?1";
    remove_plocks_of = "DELETE FROM jfs_plock WHERE sid = ?1";

    detached = "SELECT inode, added FROM jfs_detached_node ORDER BY inode";
    remove_detached = "DELETE FROM jfs_detached_node WHERE inode = ?1";
    setting = "SELECT value FROM jfs_setting WHERE name = 'format'";
    put_setting = "INSERT INTO jfs_setting (name, value) VALUES ('format', ?1) \
                   ON CONFLICT (name) DO UPDATE SET value = excluded.value";
    log_change = "INSERT INTO jfs_change_log (entry) VALUES (?1)";
    // An entry begins with its second. Entries stand in the order of time, so the first young one
    // ends the search.
    first_young_change = "SELECT id FROM jfs_change_log WHERE CAST(entry AS INTEGER) >= ?1 ORDER BY id LIMIT 1";
    last_change = "SELECT max(id) FROM jfs_change_log";
    surplus_change = "SELECT id FROM jfs_change_log ORDER BY id DESC LIMIT 1 OFFSET ?1";
    trim_changes = "DELETE FROM jfs_change_log WHERE id <= ?1";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::sqlite::schema;

    #[test]
    fn every_statement_compiles_under_a_prefix() {
        let conn = rusqlite::Connection::open_in_memory().unwrap();
        conn.execute_batch(&schema::creation("jfs_team1_")).unwrap();
        for text_names in [false, true] {
            let sql = Sql::new("jfs_team1_", text_names);
            for text in [&sql.entries_plus, &sql.append_slices, &sql.trim_changes, &sql.entries, &sql.remove_entry] {
                conn.prepare(text).unwrap();
            }
        }
    }
}

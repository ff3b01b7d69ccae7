//! Real programs on the mount: git, sqlite3, tar, rsync, cargo, make, PostgreSQL.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use super::{tool, whole};
use crate::support::{Mounted, Ran, Volume, c_path, cvt, finish};

fn on_a_mount(work: impl FnOnce(&Mounted, &Volume)) {
    let volume = Volume::new(&[]);
    let mounted = volume.mount(&["--enable-xattr"]);
    work(&mounted, &volume);
    mounted.unmount();
    volume.fsck_is_clean();
}

fn sh(dir: &Path, script: &str) -> Ran {
    finish(Command::new("sh").args(["-euc", script]).current_dir(dir).env("HOME", dir).env("LC_ALL", "C"))
}

/// A source tree with awkward members.
fn awkward_tree(at: &Path) {
    fs::create_dir_all(at).unwrap();
    let from = if whole() { "/usr/include" } else { "/usr/include/linux" };
    sh(at, &format!("cp -a {from} include")).ok();
    let some = fs::read_dir(at.join("include")).unwrap().flatten().map(|e| e.path()).find(|p| p.is_file()).unwrap();
    fs::hard_link(&some, at.join("hard")).unwrap();
    symlink(&some, at.join("sym")).unwrap();
    symlink("missing", at.join("dangling")).unwrap();
    let fifo = c_path(&at.join("fifo"));
    // SAFETY: the path is NUL-terminated and lives through the call.
    cvt(unsafe { libc::mkfifo(fifo.as_ptr(), 0o644) }).unwrap();
    let sparse = fs::File::create(at.join("sparse")).unwrap();
    sparse.set_len(30 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"x", 20_000_000).unwrap();
    fs::create_dir(at.join("n".repeat(200))).unwrap();
    fs::write(at.join("ümläut $x"), b"").unwrap();
    fs::set_permissions(at.join("hard"), PermissionsExt::from_mode(0o4755)).unwrap();
}

#[test]
fn tar_unpacks_what_it_packed() {
    on_a_mount(|m, v| {
        let tree = v.path("tree");
        awkward_tree(&tree);
        let script = format!("mkdir out; tar -C {} -cf - . | tar -C out -xpf -", tree.display());
        sh(m.root(), &script).ok();
        let script = format!("diff -r --no-dereference --exclude=fifo {} out", tree.display());
        assert_eq!(sh(m.root(), &script).ok(), "");
        assert_eq!(fs::metadata(m.path("out/hard")).unwrap().nlink(), 2);
        sh(m.root(), "rm -rf out").ok();
        assert!(!m.path("out").exists());
    });
}

#[test]
fn rsync_finds_nothing_left_to_do() {
    let rsync = tool("rsync");
    on_a_mount(|m, v| {
        let tree = v.path("tree");
        awkward_tree(&tree);
        let (from, rsync) = (tree.display(), rsync.display());
        sh(m.root(), &format!("{rsync} -aHXS {from}/ copy/")).ok();
        let left = sh(m.root(), &format!("{rsync} -aHXcni --delete {from}/ copy/")).ok();
        assert_eq!(left, "");
    });
}

#[test]
fn git_clones_rebases_collects_and_checks() {
    tool("git");
    on_a_mount(|m, _| {
        let script = r#"
            git config --global user.email a@b; git config --global user.name a; git config --global init.defaultBranch main
            git init -q one; cp -r /usr/include/linux one/; cd one; git add .; git commit -qm first; cd ..
            git clone -q one two; cd two
            for n in 1 2 3 4 5; do echo $n >> file; git add file; git commit -qm "c$n"; done
            git checkout -q -b side HEAD~2; echo side > side; git add side; git commit -qm side; git rebase -q main
            git gc -q --prune=now; git fsck --full --strict --no-progress; git status --porcelain"#;
        assert_eq!(sh(m.root(), script).ok(), "");
    });
}

#[test]
fn sqlite_keeps_its_databases_whole() {
    tool("sqlite3");
    on_a_mount(|m, _| {
        for mode in ["delete", "truncate", "persist", "wal"] {
            let script = format!(
                r#"
                {{ echo "pragma journal_mode={mode}; pragma synchronous=full; create table t (a, b);"
                   for n in $(seq 300); do echo "begin; insert into t values ($n, 'x'); insert into t values ($n, 'y'); commit;"; done
                   echo "vacuum;"; }} | sqlite3 {mode}.db > /dev/null
                sqlite3 {mode}.db 'pragma integrity_check; select count(*) from t'"#
            );
            assert_eq!(sh(m.root(), &script).ok(), "ok\n600\n", "journal mode {mode}");
        }
        let script = r#"
            sqlite3 two.db 'pragma journal_mode=wal; create table t (a)' > /dev/null
            insert() { for n in $(seq 100); do echo ".timeout 20000"; echo "insert into t values ($n);"; done | sqlite3 two.db; }
            insert & one=$!; insert & two=$!; wait $one; wait $two
            sqlite3 two.db 'pragma integrity_check; select count(*) from t'"#;
        assert_eq!(sh(m.root(), script).ok(), "ok\n200\n");
    });
}

#[test]
fn cargo_builds_and_builds_again() {
    on_a_mount(|m, _| {
        fs::create_dir_all(m.path("c/src")).unwrap();
        fs::write(
            m.path("c/Cargo.toml"),
            "[package]\nname = \"c\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n",
        )
        .unwrap();
        fs::write(m.path("c/src/main.rs"), "mod a; fn main() { println!(\"{}\", a::answer()) }").unwrap();
        fs::write(m.path("c/src/a.rs"), "pub fn answer() -> u32 { 41 }").unwrap();
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let build = || {
            let mut command = Command::new(&cargo);
            command.args(["run", "-q", "--offline"]).current_dir(m.path("c")).env_remove("CARGO_TARGET_DIR");
            finish(&mut command).ok()
        };
        assert_eq!(build(), "41\n");
        fs::write(m.path("c/src/a.rs"), "pub fn answer() -> u32 { 42 }").unwrap();
        assert_eq!(build(), "42\n", "the second build is incremental, by mtimes");
    });
}

#[test]
fn make_trusts_the_times() {
    on_a_mount(|m, _| {
        let script = r#"
            for n in $(seq 30); do echo "int f$n(void) { return $n; }" > f$n.c; done
            printf 'OBJ := $(patsubst %%.c,%%.o,$(wildcard *.c))\nall.a: $(OBJ)\n\tar rcs $@ $^\n' > Makefile
            make -s -j2; make -q"#;
        sh(m.root(), script).ok();
    });
}

#[test]
fn postgres_runs_and_recovers() {
    // Behind a link in PATH, perhaps: what it needs stands beside the real one.
    let initdb = tool("initdb").canonicalize().unwrap();
    let seconds = if whole() { 8 } else { 3 };
    on_a_mount(|m, v| {
        let bin = initdb.parent().unwrap().display();
        let (root, sockets) = (m.root().display(), v.path("sockets"));
        fs::create_dir(&sockets).unwrap();
        let script = format!(
            r#"
            chown postgres {sockets}; install -d -o postgres -m 700 {root}/pg; cd /
            as() {{ runuser -u postgres -- "$@"; }}
            as {bin}/initdb -D {root}/pg -U postgres -A trust > /dev/null
            printf "listen_addresses=''\nunix_socket_directories='{sockets}'\n" >> {root}/pg/postgresql.conf
            start() {{ n=0; until as {bin}/pg_ctl -D {root}/pg -w -l {root}/pg/log start > /dev/null 2>&1; do n=$((n+1)); test $n -lt 30; done; }}
            export PGHOST={sockets} PGUSER=postgres
            start
            as {bin}/createdb bench; as {bin}/pgbench -q -i -s 2 bench > /dev/null 2>&1
            as {bin}/pgbench -n -c 4 -T {seconds} bench > /dev/null 2>&1
            kill -9 $(head -1 {root}/pg/postmaster.pid)
            start
            as {bin}/psql -At bench -c 'select (select sum(abalance) from pgbench_accounts) = (select coalesce(sum(delta), 0) from pgbench_history), (select count(*) > 0 from pgbench_history)'
            as {bin}/pg_ctl -D {root}/pg -m fast -w stop > /dev/null"#,
            sockets = sockets.display(),
        );
        assert_eq!(sh(Path::new("/"), &script).ok().trim(), "t|t");
    });
}

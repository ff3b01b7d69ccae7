//! Both databases through their real servers. Each volume has a table prefix of its own.

use std::sync::Arc;
use std::time::Duration;

use cairn_env::Env;
use cairn_types::{Format, Ino};

use crate::engine::network_tests::{self, Proxy};
use crate::engine::servers_sql::{Brand, SqlTestServer};
use crate::engine::testing::{Limits, txn_suite_within};
use crate::engine::{Options, open};
use crate::testing::{open_fresh, suite_format};
use crate::txn::Engine;
use crate::{Config, Cred, Error, Meta, NewNode};

const NEW: Options = Options { create: true, read_only: false };

async fn fresh(url: &str) -> Arc<dyn Engine> {
    let engine = open(Env::real(), url, NEW).await.expect("it opens");
    engine.create_tables().await.expect("tables are made");
    engine
}

async fn mounted(url: &str, format: &Format) -> Arc<Meta> {
    let config = Config { skip_dir_mtime: Duration::ZERO, ..Config::mount() };
    open_fresh(&Env::real(), fresh(url).await, format, config).await.expect("a volume is made")
}

async fn suite_of_engines(brand: Brand) {
    let server = SqlTestServer::shared(brand);
    let limits = if brand == Brand::Postgres { Limits::SQL } else { Limits::MYSQL };
    txn_suite_within(fresh(&server.url(&server.fresh_volume())).await, limits).await;
}

async fn semantics(brand: Brand) {
    let server = SqlTestServer::shared(brand);
    crate::testing::suite(&Env::real(), || async { fresh(&server.url(&server.fresh_volume())).await }).await;
}

async fn round_trips(brand: Brand) {
    let server = SqlTestServer::shared(brand);
    for format in network_tests::counted_formats() {
        let proxy = Proxy::start(server.port).await;
        let meta = mounted(&server.url_at(proxy.port, &server.fresh_volume()), &format).await;
        network_tests::every_request_takes_one_round_trip(&meta, &proxy).await;
        meta.close_session().await.expect("it ends");
        meta.close().await;
    }
}

async fn cuts(brand: Brand) {
    let server = SqlTestServer::shared(brand);
    let proxy = Proxy::start(server.port).await;
    let meta = mounted(&server.url_at(proxy.port, &server.fresh_volume()), &network_tests::quiet()).await;
    network_tests::cut_everywhere(&meta, &proxy).await;
    meta.close().await;
}

async fn a_server_away(brand: Brand) {
    let server = SqlTestServer::start(brand, &[]);
    let env = Env::real();
    let meta = mounted(&server.url(""), &network_tests::quiet()).await;
    network_tests::work(&meta, 0).await;
    server.crash();
    let waiting = {
        let meta = meta.clone();
        env.spawn(async move { network_tests::work(&meta, 1).await })
    };
    // However long it is away, the work must not end before it is back.
    env.sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "it waits for the server");
    let server = env
        .blocking(move || {
            server.launch();
            server
        })
        .await;
    waiting.await.expect("the work went on");
    network_tests::check(&meta, 2).await;
    meta.close().await;
    drop(server);
}

/// Clients that rename, create and remove in the same two directories, in opposite directions.
async fn crossing(brand: Brand) {
    let server = SqlTestServer::shared(brand);
    let url = server.url(&server.fresh_volume());
    let a = mounted(&url, &suite_format()).await;
    let engine = open(Env::real(), &url, Options::default()).await.expect("it opens");
    let b = Meta::open(Env::real(), engine, Config::mount()).await.expect("it opens");
    b.start_session(r#"{"Version":"1.4.1+b"}"#.into()).await.expect("a session");
    let root = Cred::root();
    let (x, _) = a.mknod(&root, Ino::ROOT, b"x", NewNode::dir(0o755)).await.expect("mkdir");
    let (y, _) = a.mknod(&root, Ino::ROOT, b"y", NewNode::dir(0o755)).await.expect("mkdir");
    let there_and_back = |meta: Arc<Meta>, who: &'static str, from: Ino, to: Ino| async move {
        let root = Cred::root();
        for n in 0..20 {
            let name = format!("{who}{n}").into_bytes();
            meta.mknod(&root, from, &name, NewNode::dir(0o755)).await.expect("mkdir");
            meta.rename(&root, (from, &name), (to, &name), crate::RenameMode::NoReplace).await.expect("rename");
            if n % 2 == 0 {
                meta.rmdir(&root, to, &name, true).await.expect("rmdir");
            }
        }
    };
    futures::join!(
        there_and_back(a.clone(), "a", x, y),
        there_and_back(b.clone(), "b", y, x),
        there_and_back(a.clone(), "c", y, x),
        there_and_back(b.clone(), "d", x, y),
    );
    assert_eq!(a.readdir(x, b"", 1000, false).await.expect("names").len(), 20);
    assert_eq!(b.readdir(y, b"", 1000, false).await.expect("names").len(), 20);
    assert_eq!(b.lookup(&root, Ino::ROOT, b"y").await.expect("it is there").1.nlink, 22);
    assert_eq!(a.view(crate::testing::CheckInvariants).await.expect("a check"), Vec::<String>::new());
    a.close().await;
    b.close().await;
}

/// Creates of several clients in one directory: nothing is run again, nothing deadlocks.
async fn together(brand: Brand) {
    let server = SqlTestServer::shared(brand);
    let url = server.url(&server.fresh_volume());
    let format = Format { capacity: 1 << 40, inodes: 1 << 30, ..suite_format() };
    let first = mounted(&url, &format).await;
    let root = Cred::root();
    let (dir, _) = first.mknod(&root, Ino::ROOT, b"dir", NewNode::dir(0o755)).await.expect("mkdir");
    let mut clients: Vec<(Arc<Meta>, Lost)> = Vec::new();
    for n in 0..3 {
        let (engine, lost): (Arc<dyn Engine>, Lost) = match brand {
            Brand::Postgres => {
                let e = crate::engine::postgres::open(Env::real(), &url, Options::default()).await.expect("it opens");
                let counted = e.clone();
                (e, Box::new(move || lost(counted.counts(), counted.server().sql_counts())))
            }
            Brand::MariaDb => {
                let e = crate::engine::mysql::open(Env::real(), &url, Options::default()).await.expect("it opens");
                let counted = e.clone();
                (e, Box::new(move || lost(counted.counts(), counted.server().sql_counts())))
            }
        };
        let meta = Meta::open(Env::real(), engine, Config::mount()).await.expect("it opens");
        meta.start_session(r#"{"Version":"1.4.1+cairn"}"#.into()).await.expect("a session");
        // Warm: it knows the directory and has ids.
        meta.mknod(&root, dir, format!("warm{n}").as_bytes(), NewNode::file(0o644)).await.expect("create");
        clients.push((meta, lost));
    }
    let before: u64 = clients.iter().map(|(_, lost)| lost()).sum();
    let creates = clients.iter().enumerate().flat_map(|(n, (meta, _))| {
        (0..40).map(move |i| {
            let meta = meta.clone();
            async move { meta.mknod(&Cred::root(), dir, format!("{n}-{i}").as_bytes(), NewNode::file(0o644)).await }
        })
    });
    let outcomes = futures::future::join_all(creates).await;
    assert!(outcomes.iter().all(Result::is_ok), "{:?}", outcomes.iter().find(|o| o.is_err()));
    assert_eq!(clients.iter().map(|(_, lost)| lost()).sum::<u64>(), before, "no create had to be run again");
    assert_eq!(first.readdir(dir, b"", 1000, false).await.expect("names").len(), 123);
    assert_eq!(first.view(crate::testing::CheckInvariants).await.expect("a check"), Vec::<String>::new());
}

/// How often a client lost so far.
type Lost = Box<dyn Fn() -> u64 + Send>;

/// Operations run again and transactions sent again.
fn lost(counts: &crate::engine::remote::Counts, sql: &super::SqlCounts) -> u64 {
    use std::sync::atomic::Ordering::Relaxed;
    counts.moved.load(Relaxed) + sql.conflicts.load(Relaxed)
}

/// A client that changes as the format says JuiceFS does, beside ours in one directory: statement
/// by statement, edge first, the parent last.
async fn beside_another(brand: Brand) {
    let server = SqlTestServer::shared(brand);
    let volume = server.fresh_volume();
    let meta = mounted(&server.url(&volume), &Format { dir_stats: false, ..suite_format() }).await;
    let root = Cred::root();
    let (dir, _) = meta.mknod(&root, Ino::ROOT, b"dir", NewNode::dir(0o755)).await.expect("mkdir");
    let prefix = format!("jfs_{}_", volume.trim_start_matches("table_prefix="));
    let (dir_id, other) = (dir.0, server.clone());
    let blob = move |name: &str| {
        let hex: String = name.bytes().map(|b| format!("{b:02x}")).collect();
        if brand == Brand::Postgres { format!("'\\x{hex}'::bytea") } else { format!("x'{hex}'") }
    };
    let env = Env::real();
    let foreign = env.blocking(move || {
        let begin = if brand == Brand::Postgres { "BEGIN" } else { "START TRANSACTION" };
        for n in 0..20u64 {
            let (ino, name) = (1_000_000 + n, blob(&format!("foreign{n}")));
            let out = other.sql(&format!(
                "{begin}; INSERT INTO {prefix}edge (parent, name, inode, type) VALUES ({dir_id}, {name}, {ino}, 2); \
                 INSERT INTO {prefix}node (inode, type, flags, mode, uid, gid, atime, mtime, ctime, nlink, length, \
                 rdev, parent, access_acl_id, default_acl_id, tier_id) VALUES ({ino}, 2, 0, 493, 0, 0, 1, 1, 1, 2, \
                 4096, 0, {dir_id}, 0, 0, 0); \
                 UPDATE {prefix}node SET nlink = nlink + 1, mtime = 1800000000000000 WHERE inode = {dir_id}; COMMIT"
            ));
            assert_eq!(out, "");
        }
    });
    let ours = async {
        for n in 0..60 {
            meta.mknod(&root, dir, format!("ours{n}").as_bytes(), NewNode::dir(0o755)).await.expect("mkdir");
        }
    };
    futures::join!(foreign, ours);
    assert_eq!(meta.readdir(dir, b"", 1000, false).await.expect("names").len(), 80);
    // Asked by name: what our own last change left is told for a while otherwise.
    let (_, attr) = meta.lookup(&root, Ino::ROOT, b"dir").await.expect("it is there");
    assert_eq!(attr.nlink, 82, "no link was lost between the two");
    meta.close().await;
}

async fn refusals(brand: Brand) {
    let server = SqlTestServer::shared(brand);
    let refusal = |url: String, options: Options| async move {
        let Err(Error::Refused(sentence)) = open(Env::real(), &url, options).await else { panic!("{url} opened") };
        assert!(!sentence.contains("geheim") && !sentence.contains("falsch"), "{sentence}");
        sentence.to_lowercase()
    };
    let good = server.url("table_prefix=nobody");
    let sentence = refusal(good.replace("geheim", "falsch"), NEW).await;
    assert!(sentence.contains("password"), "{sentence}");
    let sentence = refusal(good.replace("/vol", "/elsewhere"), NEW).await;
    assert!(sentence.contains("elsewhere"), "{sentence}");
    let sentence = refusal(good.clone(), Options::default()).await;
    assert!(sentence.contains("there is no volume"), "{sentence}");
    let sentence = refusal(format!("{good}&colour=red"), NEW).await;
    assert!(sentence.contains("colour"), "{sentence}");
    let engine = open(Env::real(), &good, NEW).await.expect("the right password");
    assert!(!engine.describe().contains("geheim") && engine.describe().contains("cairn@"), "{}", engine.describe());
}

/// Without the right to make tables a broken connection is judged by what a commit leaves behind.
async fn without_our_table(brand: Brand) {
    let server = SqlTestServer::start(brand, &[]);
    let meta = mounted(&server.url(""), &network_tests::quiet()).await;
    meta.close().await;
    match brand {
        Brand::Postgres => server.sql(
            "DROP TABLE cairn_op; CREATE ROLE guest LOGIN PASSWORD 'geheim'; \
             GRANT ALL ON ALL TABLES IN SCHEMA public TO guest; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO guest",
        ),
        Brand::MariaDb => server.sql(
            "DROP TABLE cairn_op; CREATE USER guest@'%' IDENTIFIED BY 'geheim'; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON vol.* TO guest@'%'",
        ),
    };
    let proxy = Proxy::start(server.port).await;
    let url = server.url_at(proxy.port, "").replace("cairn:", "guest:");
    let engine = open(Env::real(), &url, Options::default()).await.expect("it opens");
    let meta = Meta::open(Env::real(), engine, Config::mount()).await.expect("it opens");
    meta.start_session(r#"{"Version":"1.4.1+guest"}"#.into()).await.expect("a session");
    network_tests::cut_everywhere(&meta, &proxy).await;
    meta.close().await;
}

async fn a_server_that_is_only_read(brand: Brand) {
    let server = SqlTestServer::start(brand, &[]);
    let meta = mounted(&server.url(""), &network_tests::quiet()).await;
    network_tests::work(&meta, 0).await;
    server.sql(match brand {
        Brand::Postgres => {
            "ALTER DATABASE vol SET default_transaction_read_only = on; \
             SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'cairn'"
        }
        // For a user without special rights, whom the server looks at when he connects.
        Brand::MariaDb => {
            "GRANT SELECT, INSERT, UPDATE, DELETE, CREATE ON vol.* TO cairn@'%'; \
             REVOKE ALL PRIVILEGES ON *.* FROM cairn@'%'; SET GLOBAL read_only = 1; KILL USER cairn@'%'"
        }
    });
    let denied = meta.mknod(&Cred::root(), Ino::ROOT, b"x", NewNode::file(0o644)).await;
    assert!(matches!(denied, Err(Error::ReadOnly)), "{denied:?}");
    meta.lookup(&Cred::root(), Ino::ROOT, b"d0").await.expect("it can be read");
    meta.close().await;
}

/// A certificate authority, and a certificate of it for 127.0.0.1, readable by the server's user.
fn certificates(dir: &std::path::Path, user: &str) {
    let run = |program: &str, args: &[&str]| {
        let done = std::process::Command::new(program).args(args).current_dir(dir).output().expect("it is installed");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout"];
    let authority = ["req", "-x509", "-days", "2", "-subj", "/CN=test ca", "-out", "ca.pem"];
    run("openssl", &[&authority[..], &key[..], &["ca.key"]].concat());
    run("openssl", &[&["req", "-subj", "/CN=127.0.0.1", "-out", "own.csr"], &key[..], &["own.key"]].concat());
    std::fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\n").expect("it is written");
    let sign = ["x509", "-req", "-in", "own.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"];
    run("openssl", &[&sign[..], &["-extfile", "ext", "-out", "own.pem"]].concat());
    if std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").expect("it is there")) == 0 {
        run("chown", &["-R", user, "."]);
    }
}

async fn encrypted(brand: Brand) {
    let dir = tempfile::tempdir().expect("a directory");
    certificates(dir.path(), if brand == Brand::Postgres { "postgres" } else { "mysql" });
    let path = |name: &str| dir.path().join(name).display().to_string();
    let options = match brand {
        Brand::Postgres => vec![
            "-cssl=on".to_string(),
            format!("-cssl_cert_file={}", path("own.pem")),
            format!("-cssl_key_file={}", path("own.key")),
        ],
        Brand::MariaDb => ["cert=own.pem", "key=own.key", "ca=ca.pem"]
            .map(|o| o.split_once('=').expect("two parts"))
            .map(|(option, file)| format!("--ssl-{option}={}", path(file)))
            .to_vec(),
    };
    let server = SqlTestServer::start(brand, &options.iter().map(String::as_str).collect::<Vec<_>>());
    let url = |mode: &str, ca: &str| match brand {
        Brand::Postgres => server.url("").replace("sslmode=disable", &format!("sslmode={mode}&sslrootcert={ca}")),
        Brand::MariaDb => server.url("").replace("tls=false", &format!("tls={mode}&ssl-ca={ca}")),
    };
    let (full, some) = if brand == Brand::Postgres { ("verify-full", "require") } else { ("true", "skip-verify") };
    // From here on nobody comes in without TLS.
    if brand == Brand::MariaDb {
        server.sql("ALTER USER cairn@'%' REQUIRE SSL");
        let Err(Error::Refused(_)) = open(Env::real(), &server.url(""), NEW).await else { panic!("without TLS") };
    }
    let engine = open(Env::real(), &url(full, &path("ca.pem")), NEW).await.expect("an authority we trust");
    engine.close().await;
    let unknown = dir.path().join("other");
    std::fs::create_dir(&unknown).expect("a directory");
    certificates(&unknown, "root");
    let stranger = unknown.join("ca.pem").display().to_string();
    let Err(Error::Refused(_)) = open(Env::real(), &url(full, &stranger), NEW).await else {
        panic!("an authority that did not sign")
    };
    if brand == Brand::MariaDb {
        open(Env::real(), &url(some, &stranger), NEW).await.expect("whoever it is").close().await;
    }
}

/// More callers than the server takes connections: the rest wait for their turn.
async fn few_connections(brand: Brand) {
    let server = match brand {
        Brand::Postgres => SqlTestServer::start(brand, &["-cmax_connections=8", "-csuperuser_reserved_connections=3"]),
        Brand::MariaDb => SqlTestServer::start(brand, &["--max-connections=10"]),
    };
    let meta = mounted(&server.url(""), &network_tests::quiet()).await;
    let names = (0..64).map(|n| {
        let meta = meta.clone();
        async move { meta.mknod(&Cred::root(), Ino::ROOT, format!("n{n}").as_bytes(), NewNode::file(0o644)).await }
    });
    let outcomes = futures::future::join_all(names).await;
    assert!(outcomes.iter().all(Result::is_ok), "{:?}", outcomes.iter().find(|o| o.is_err()));
    assert_eq!(meta.statfs().await.expect("totals").used_inodes, 64);
    meta.close().await;
}

macro_rules! on_both {
    ($($postgres:ident, $mariadb:ident: $test:ident;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $postgres() {
                $test(Brand::Postgres).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $mariadb() {
                $test(Brand::MariaDb).await;
            }
        )*
    };
}

on_both! {
    postgres_passes_the_suite_of_engines, mariadb_passes_the_suite_of_engines: suite_of_engines;
    postgres_passes_the_semantics_suite, mariadb_passes_the_semantics_suite: semantics;
    postgres_takes_one_round_trip_a_request, mariadb_takes_one_round_trip_a_request: round_trips;
    postgres_may_lose_its_connection_anywhere, mariadb_may_lose_its_connection_anywhere: cuts;
    operations_wait_for_a_postgres_that_is_away, operations_wait_for_a_mariadb_that_is_away: a_server_away;
    crossing_changes_on_postgres_do_not_fail, crossing_changes_on_mariadb_do_not_fail: crossing;
    creates_in_one_directory_on_postgres_do_not_fight, creates_in_one_directory_on_mariadb_do_not_fight: together;
    another_client_on_postgres_is_no_trouble, another_client_on_mariadb_is_no_trouble: beside_another;
    what_postgres_refuses_is_told_in_a_sentence, what_mariadb_refuses_is_told_in_a_sentence: refusals;
    a_postgres_that_is_only_read_says_so, a_mariadb_that_is_only_read_says_so: a_server_that_is_only_read;
    postgres_over_tls_trusts_the_given_authority_only, mariadb_over_tls_trusts_the_given_authority_only: encrypted;
    callers_take_turns_on_a_postgres_with_few_connections, callers_take_turns_on_a_mariadb_with_few_connections:
        few_connections;
    postgres_without_our_table_settles_too, mariadb_without_our_table_settles_too: without_our_table;
}

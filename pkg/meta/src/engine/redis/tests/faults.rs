//! What goes wrong between us and a real server.

use super::*;

/// Changes of every kind, each of which shows if it is done twice or not at all. `n` keeps runs apart.
async fn work(meta: &Meta, n: u64) {
    let root = Cred::root();
    let (dir, _) = meta.mknod(&root, Ino::ROOT, format!("d{n}").as_bytes(), NewNode::dir(0o755)).await.expect("mkdir");
    let made = meta.create(&root, dir, b"f", NewNode::file(0o644), true).await.expect("create");
    let slice = meta.next_slice_id().await.expect("id");
    let done = meta.commit(made.ino, vec![new_slice(0, slice)], None, Durability::Process).await.expect("commit");
    assert_eq!(done.counts, [(ChunkIndex(0), 1)], "the slice is there once");
    let slice = meta.next_slice_id().await.expect("id");
    let done = meta.commit(made.ino, vec![new_slice(0, slice)], None, Durability::Process).await.expect("commit");
    assert_eq!(done.counts, [(ChunkIndex(0), 2)]);
    assert_eq!(meta.link(&root, made.ino, dir, b"g").await.expect("link").nlink, 2);
    meta.mknod(&root, dir, b"sub", NewNode::dir(0o755)).await.expect("mkdir");
    assert_eq!(meta.getattr(dir).await.expect("getattr").nlink, 3);
    meta.rename(&root, (dir, b"g"), (dir, b"h"), RenameMode::NoReplace).await.expect("rename");
    meta.unlink(&root, dir, b"h", true).await.expect("unlink");
    meta.rmdir(&root, dir, b"sub", true).await.expect("rmdir");
    assert_eq!(meta.lookup(&root, dir, b"f").await.expect("lookup").1.nlink, 1);
    meta.close_file(made.ino).await.expect("close");
}

async fn check(meta: &Arc<Meta>, works: u64) {
    let broken = meta.view(crate::testing::CheckInvariants).await.expect("a check");
    assert_eq!(broken, Vec::<String>::new());
    let stat = meta.statfs().await.expect("totals");
    // The first file and directory of each work, 4 KiB each.
    assert_eq!(stat.used_inodes, 2 * works);
    assert_eq!(meta.readdir(Ino::ROOT, b"", 10_000, false).await.expect("names").len() as u64, works);
}

fn quiet() -> Format {
    Format { trash_days: 0, ..suite_format() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_at_any_command_is_settled() {
    let m = mounted(&quiet()).await;
    let mut works = 0;
    work(&m.meta, works).await;
    works += 1;
    let (_, commands) = m.timed(work(&m.meta, works)).await;
    works += 1;
    for after in [false, true] {
        for nth in 0..commands as i64 {
            m.proxy.cut(nth, after);
            work(&m.meta, works).await;
            works += 1;
        }
    }
    assert!(m.proxy.cuts() >= 2 * commands, "each work was cut once: {} cuts of {commands} commands", m.proxy.cuts());
    check(&m.meta, works).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgets_its_scripts_is_told_them_again() {
    let m = mounted(&quiet()).await;
    work(&m.meta, 0).await;
    let mut own = m.server.connection().await;
    redis::cmd("SCRIPT").arg("FLUSH").query_async::<()>(&mut own).await.unwrap();
    m.costs(2, "a lookup after a flush", m.meta.lookup(&Cred::root(), Ino::ROOT, b"d0")).await;
    m.costs(2, "a change after a flush", m.meta.mknod(&Cred::root(), Ino::ROOT, b"x", NewNode::file(0o644))).await;
    m.costs(1, "the next one", m.meta.unlink(&Cred::root(), Ino::ROOT, b"x", true)).await;
    assert_eq!(*m.wrong.lock(), Vec::<String>::new());
    check(&m.meta, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_wait_while_the_server_is_away() {
    let mut server = TestServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let env = Env::real();
    let engine = fresh(&env, &server.url(1)).await;
    let meta = open_fresh(&env, engine, &quiet(), Config::mount()).await.unwrap();
    work(&meta, 0).await;
    server.kill();
    let waiting = {
        let meta = meta.clone();
        env.spawn(async move { work(&meta, 1).await })
    };
    env.sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "it waits for the server");
    server.restart();
    waiting.await.expect("the work went on");
    check(&meta, 2).await;
    meta.close_session().await.unwrap();
    meta.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_not_given_out_twice_by_a_server_that_went_back() {
    let mut server = TestServer::start(&[]);
    let env = Env::real();
    let meta = open_fresh(&env, fresh(&env, &server.url(1)).await, &quiet(), Config::mount()).await.unwrap();
    let mut own = server.connection().await;
    redis::cmd("SAVE").query_async::<()>(&mut own).await.unwrap();
    let before: Vec<_> = [meta.next_slice_id().await.unwrap(), meta.next_slice_id().await.unwrap()].into();
    let made = meta.mknod(&Cred::root(), Ino::ROOT, b"a", NewNode::file(0o644)).await.unwrap();
    // Back to what was saved: no counter knows of the ids above.
    server.restart();
    meta.lookup(&Cred::root(), Ino::ROOT, b"a").await.expect_err("the name is gone with the server's memory");
    let after = meta.next_slice_id().await.unwrap();
    let (again, _) = meta.mknod(&Cred::root(), Ino::ROOT, b"a", NewNode::file(0o644)).await.unwrap();
    assert!(!before.contains(&after) && again != made.0);
    let counters: std::collections::HashMap<_, _> = meta.counters().await.unwrap().into_iter().collect();
    assert!(counters["nextChunk"] > after.0 as i64 && counters["nextInode"] > again.0 as i64, "{counters:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_out_of_memory_takes_nothing_and_keeps_what_it_has() {
    let server = TestServer::start(&[]);
    let env = Env::real();
    let meta = open_fresh(&env, fresh(&env, &server.url(1)).await, &quiet(), Config::mount()).await.unwrap();
    work(&meta, 0).await;
    let mut own = server.connection().await;
    let limit = |bytes: &'static str| {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("maxmemory").arg(bytes);
        set
    };
    limit("1").query_async::<()>(&mut own).await.unwrap();
    let full = meta.mknod(&Cred::root(), Ino::ROOT, b"x", NewNode::file(0o644)).await;
    assert!(matches!(full, Err(Error::NoSpace)), "{full:?}");
    let kept = meta.unlink(&Cred::root(), Ino::ROOT, b"d0", true).await;
    assert!(kept.is_err(), "{kept:?}");
    limit("0").query_async::<()>(&mut own).await.unwrap();
    check(&meta, 1).await;
    work(&meta, 1).await;
    check(&meta, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_opened_is_refused_in_a_sentence_without_the_password() {
    let server = TestServer::start(&["--requirepass", "s3cret%pw", "--databases", "4"]);
    let (env, port) = (Env::real(), server.port);
    let refusal = |url: String, options: Options| {
        let env = env.clone();
        async move {
            let Err(Error::Refused(sentence)) = open(env, &url, options).await else { panic!("{url} opened") };
            assert!(!sentence.contains("s3cret") && !sentence.contains("wr0ng"), "{sentence}");
            sentence
        }
    };
    for login in ["", ":wr0ng@", "nobody:wr0ng@"] {
        let sentence = refusal(format!("redis://{login}127.0.0.1:{port}/1"), NEW).await;
        assert!(sentence.contains("another user or password"), "{sentence}");
    }
    let good = format!("redis://:s3cret%25pw@127.0.0.1:{port}");
    let sentence = refusal(format!("{good}/9"), NEW).await;
    assert!(sentence.contains("no such database"), "{sentence}");
    assert!(refusal(format!("{good}/x"), NEW).await.contains("database number"));
    assert!(refusal(format!("{good}/1"), Options::default()).await.contains("holds no volume"));
    assert!(refusal(format!("{good}/1?colour=red"), NEW).await.contains("colour"));
    let engine = open(env.clone(), &format!("{good}/1"), NEW).await.expect("the right password");
    assert_eq!(engine.describe(), format!("redis://127.0.0.1:{port}/1"));
    let replica = TestServer::start(&["--replicaof", "127.0.0.1", "1"]);
    assert!(refusal(replica.url(0), NEW).await.contains("read-only replica"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_engine_writes_nothing() {
    let server = TestServer::start(&[]);
    let env = Env::real();
    let meta = open_fresh(&env, fresh(&env, &server.url(1)).await, &quiet(), Config::mount()).await.unwrap();
    work(&meta, 0).await;
    let mut own = server.connection().await;
    let dirty = || async {
        let mut own = server.connection().await;
        let info: String = redis::cmd("INFO").arg("persistence").query_async(&mut own).await.unwrap();
        info.lines().find_map(|l| l.strip_prefix("rdb_changes_since_last_save:")).unwrap().trim().to_string()
    };
    redis::cmd("SAVE").query_async::<()>(&mut own).await.unwrap();
    let read_only = Options { create: false, read_only: true };
    let engine = open(env.clone(), &server.url(1), read_only).await.unwrap();
    let config = Config { read_only: true, ..Config::mount() };
    let viewer = Meta::open(env.clone(), engine.clone(), config).await.unwrap();
    viewer.lookup(&Cred::root(), Ino::ROOT, b"d0").await.unwrap();
    viewer.readdir(Ino::ROOT, b"", 10, true).await.unwrap();
    let refused = engine.write(Box::new(|tx| tx.put_setting("{}")), Durability::Process).await;
    assert!(matches!(refused, Err(Error::ReadOnly)));
    viewer.close().await;
    assert_eq!(dirty().await, "0");
}

//! Several clients at once.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_of_many_clients_in_one_directory_do_not_fight() {
    let server = TestServer::start(&[]);
    let env = Env::real();
    let format = Format { capacity: 1 << 40, inodes: 1 << 30, ..suite_format() };
    let mut clients = Vec::new();
    for n in 0..4 {
        let engine = open_remote(env.clone(), &server.url(1), NEW).await.unwrap();
        if n == 0 {
            crate::format_volume(&env, &*engine, &format).await.unwrap();
        }
        let meta = Meta::open(env.clone(), engine.clone(), Config::mount()).await.unwrap();
        meta.start_session(r#"{"Version":"1.4.1+cairn"}"#.into()).await.unwrap();
        clients.push((meta, engine));
    }
    let root = Cred::root();
    let dir = clients[0].0.mknod(&root, Ino::ROOT, b"dir", NewNode::dir(0o755)).await.unwrap().0;
    for (n, (meta, _)) in clients.iter().enumerate() {
        // Warm: each client knows the directory and has ids.
        meta.mknod(&root, dir, format!("warm{n}").as_bytes(), NewNode::file(0o644)).await.unwrap();
    }
    let moved = || -> u64 { clients.iter().map(|(_, e)| e.counts().moved.load(Ordering::Relaxed)).sum() };
    let fetches = || -> u64 { clients.iter().map(|(_, e)| e.counts().fetches.load(Ordering::Relaxed)).sum() };
    let before = (moved(), fetches());
    let creates = clients.iter().enumerate().flat_map(|(n, (meta, _))| {
        (0..100).map(move |i| {
            let (meta, root) = (meta.clone(), Cred::root());
            async move { meta.mknod(&root, dir, format!("{n}-{i}").as_bytes(), NewNode::file(0o644)).await }
        })
    });
    let outcomes = futures::future::join_all(creates).await;
    assert!(outcomes.iter().all(std::result::Result::is_ok));
    assert_eq!((moved(), fetches()), before, "no create had to be run again, none had to ask");
    // Real clashes: one of four gets each name.
    let clashes = clients.iter().flat_map(|(meta, _)| {
        (0..25).map(move |i| {
            let (meta, root) = (meta.clone(), Cred::root());
            async move { meta.mknod(&root, dir, format!("same-{i}").as_bytes(), NewNode::file(0o644)).await }
        })
    });
    let outcomes = futures::future::join_all(clashes).await;
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 25);
    assert!(outcomes.iter().all(|o| matches!(o, Ok(_) | Err(Error::Exists))));
    let meta = &clients[3].0;
    assert_eq!(meta.readdir(dir, b"", 10_000, false).await.unwrap().len(), 4 + 400 + 25);
    assert_eq!(meta.view(crate::testing::CheckInvariants).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_client_changed_is_seen_before_it_is_told() {
    let server = TestServer::start(&[]);
    let env = Env::real();
    let (a, b) = (fresh(&env, &server.url(1)).await, fresh(&env, &server.url(1)).await);
    let a = open_fresh(&env, a, &suite_format(), Config::mount()).await.unwrap();
    let b = Meta::open(env.clone(), b, Config::mount()).await.unwrap();
    let root = Cred::root();
    let (dir, _) = a.mknod(&root, Ino::ROOT, b"dir", NewNode::dir(0o755)).await.unwrap();
    let (file, _) = a.mknod(&root, dir, b"f", NewNode::file(0o644)).await.unwrap();
    b.lookup(&root, dir, b"f").await.unwrap();
    a.unlink(&root, dir, b"f", true).await.unwrap();
    // B's hints say that the name is taken: its error must not be believed.
    let (second, _) = b.mknod(&root, dir, b"f", NewNode::file(0o600)).await.expect("the name is free");
    assert_ne!(second, file);
    assert!(matches!(a.mknod(&root, dir, b"f", NewNode::file(0o600)).await, Err(Error::Exists)), "A thinks it is free");
    // Permissions that B took away bind A at once; times that B set are in A's answer.
    b.setattr(&root, second, SetAttr { mode: Some(0o640), ..SetAttr::default() }).await.unwrap();
    let set = a.setattr(&root, second, SetAttr { uid: Some(7), ..SetAttr::default() }).await.unwrap();
    assert_eq!((set.mode, set.uid), (0o640, 7));
    let at = cairn_types::Timestamp { secs: 77, nanos: 5 };
    b.setattr(&root, second, SetAttr { mtime: Some(SetTime::At(at)), ..SetAttr::default() }).await.unwrap();
    let set = a.setattr(&root, second, SetAttr { mode: Some(0o604), ..SetAttr::default() }).await.unwrap();
    assert_eq!((set.mode, set.mtime), (0o604, at), "what A did not rely on is told as it is");
    a.rmdir(&root, Ino::ROOT, b"dir", true).await.expect_err("B made a file there");
    b.unlink(&root, dir, b"f", true).await.unwrap();
    a.rmdir(&root, Ino::ROOT, b"dir", true).await.expect("it is empty now");
    let late = b.mknod(&root, dir, b"late", NewNode::file(0o644)).await;
    assert!(matches!(late, Err(Error::NoEntry)), "{late:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_change_answers_for_a_directory_until_somebody_else_is_seen() {
    let m = mounted(&suite_format()).await;
    let env = Env::real();
    let other = Meta::open(env.clone(), fresh(&env, &m.server.url(1)).await, Config::mount()).await.unwrap();
    let root = Cred::root();
    let (dir, _) = m.meta.mknod(&root, Ino::ROOT, b"dir", NewNode::dir(0o755)).await.unwrap();
    m.costs(0, "our own directory", m.meta.getattr(dir)).await;
    other.setattr(&root, dir, SetAttr { mode: Some(0o700), ..SetAttr::default() }).await.unwrap();
    assert_eq!(m.meta.lookup(&root, Ino::ROOT, b"dir").await.unwrap().1.mode, 0o700);
    assert_eq!(m.costs(1, "after somebody else was seen", m.meta.getattr(dir)).await.mode, 0o700);
    m.meta.mknod(&root, dir, b"x", NewNode::file(0o644)).await.unwrap();
    other.setattr(&root, dir, SetAttr { mode: Some(0o711), ..SetAttr::default() }).await.unwrap();
    env.sleep(m.meta.config().own_attr_age).await;
    assert_eq!(m.costs(1, "after its time", m.meta.getattr(dir)).await.mode, 0o711);
    assert_eq!(*m.wrong.lock(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_of_newer_clients_survive_our_changes() {
    let m = mounted(&suite_format()).await;
    let root = Cred::root();
    let (ino, _) = m.meta.mknod(&root, Ino::ROOT, b"f", NewNode::file(0o644)).await.unwrap();
    let mut own = m.server.connection().await;
    let key = format!("i{ino}");
    let record: Vec<u8> = redis::cmd("GET").arg(&key).query_async(&mut own).await.unwrap();
    assert_eq!(record.len(), 71);
    // Both access rules, a tier, and something that nobody knows yet.
    let longer = [&record[..], &[0, 0, 0, 9, 0, 0, 0, 8, 3], b"later"].concat();
    redis::cmd("SET").arg(&key).arg(&longer).query_async::<()>(&mut own).await.unwrap();
    m.meta.setattr(&root, ino, SetAttr { uid: Some(5), ..SetAttr::default() }).await.unwrap();
    m.meta.link(&root, ino, Ino::ROOT, b"g").await.unwrap();
    let record: Vec<u8> = redis::cmd("GET").arg(&key).query_async(&mut own).await.unwrap();
    assert_eq!(&record[71..], &longer[71..]);
    let attr = cairn_types::Attr::decode(&record).unwrap();
    assert_eq!((attr.uid, attr.nlink, attr.access_acl, attr.tier), (5, 2, 9, 3));
}

/// What JuiceFS does to create a file (volume format 5.5.3): watch, read, write if nothing moved;
/// up to fifty times, with a random pause below (i+1)^2 ms. True if it came through.
async fn juicefs_creates(env: &Env, own: &mut MultiplexedConnection, dir: Ino, ino: u64) -> bool {
    let (i, d) = (format!("i{dir}"), format!("d{dir}"));
    let name = format!("juice{ino}");
    for attempt in 0..50_u64 {
        redis::cmd("WATCH").arg(&[&i, &d]).query_async::<()>(own).await.unwrap();
        let _parent: Vec<u8> = redis::cmd("GET").arg(&i).query_async(own).await.unwrap();
        let taken: Option<Vec<u8>> = redis::cmd("HGET").arg(&d).arg(&name).query_async(own).await.unwrap();
        assert!(taken.is_none());
        let attr = cairn_types::Attr { mode: 0o644, nlink: 1, parent: dir, ..cairn_types::Attr::default() };
        let entry = crate::record::Entry { ino: Ino(ino), kind: cairn_types::FileType::File };
        let mut transaction = redis::pipe();
        transaction.atomic();
        transaction.cmd("SET").arg(format!("i{ino}")).arg(attr.encode()).ignore();
        transaction.cmd("HSET").arg(&d).arg(&name).arg(program::entry_bytes(entry)).ignore();
        transaction.cmd("INCRBY").arg("usedSpace").arg(4096).ignore();
        transaction.cmd("INCR").arg("totalInodes");
        let done: Option<Vec<i64>> = transaction.query_async(own).await.expect("the server answers");
        redis::cmd("UNWATCH").query_async::<()>(own).await.unwrap();
        if done.is_some() {
            return true;
        }
        env.sleep(Duration::from_micros(env.random_below((attempt + 1) * (attempt + 1) * 1000))).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_watches_keeps_its_share_of_a_directory() {
    const SPAN: Duration = Duration::from_millis(500);
    const ROUNDS: usize = 8;
    let server = TestServer::start(&[]);
    let env = Env::real();
    let meta = open_fresh(&env, fresh(&env, &server.url(1)).await, &suite_format(), Config::mount()).await.unwrap();
    let root = Cred::root();
    let (dir, _) = meta.mknod(&root, Ino::ROOT, b"dir", NewNode::dir(0o755)).await.unwrap();
    let mut own = server.connection().await;
    let (far, json) = (4_000_000_000_i64, r#"{"Version":"1.4.1+2026-08-21.a6a0299"}"#);
    redis::cmd("ZADD").arg("allSessions").arg(far).arg(99).query_async::<()>(&mut own).await.unwrap();
    redis::cmd("HSET").arg("sessionInfos").arg(99).arg(json).query_async::<()>(&mut own).await.unwrap();
    meta.heartbeat().await.unwrap();
    let mut next = 1_000_000;
    let mut run = async |own: &mut MultiplexedConnection| {
        let (begin, mut made) = (env.instant(), 0_u64);
        while env.instant().saturating_duration_since(begin) < SPAN {
            next += 1;
            assert!(juicefs_creates(&env, own, dir, next).await, "fifty times in vain: JuiceFS says EIO");
            made += 1;
        }
        made
    };
    // Turn by turn, so that both are measured under the same load.
    let is_our_turn = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ours: Vec<_> = (0..4)
        .map(|n| {
            let (env, meta, stop, turn) = (env.clone(), meta.clone(), stop.clone(), is_our_turn.clone());
            env.clone().spawn(async move {
                let mut made = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    if !turn.load(Ordering::Relaxed) {
                        env.sleep(Duration::from_millis(1)).await;
                        continue;
                    }
                    let name = format!("ours{n}-{made}");
                    meta.mknod(&Cred::root(), dir, name.as_bytes(), NewNode::file(0o644)).await.unwrap();
                    made += 1;
                }
                made
            })
        })
        .collect();
    let (mut alone, mut beside) = (0, 0);
    for _ in 0..ROUNDS {
        is_our_turn.store(false, Ordering::Relaxed);
        alone += run(&mut own).await;
        is_our_turn.store(true, Ordering::Relaxed);
        beside += run(&mut own).await;
    }
    stop.store(true, Ordering::Relaxed);
    let ours: u64 = futures::future::join_all(ours).await.into_iter().map(|made| made.unwrap()).sum();
    println!("JuiceFS alone {alone}, beside us {beside}; we {ours}");
    assert!(4 * beside >= alone, "alone it made {alone}, beside us {beside}");
    assert!(ours > 0);
}

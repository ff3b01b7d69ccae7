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

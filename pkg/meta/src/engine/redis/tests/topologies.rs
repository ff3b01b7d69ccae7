//! Servers that are more than one process on a TCP port.

use super::*;

/// Some work that fails where keys, scripts or databases do not fit the server.
async fn use_volume(env: &Env, url: &str) -> Arc<Meta> {
    let meta = open_fresh(env, fresh(env, url).await, &suite_format(), Config::mount()).await.expect("it opens");
    let root = Cred::root();
    let (dir, _) = meta.mknod(&root, Ino::ROOT, b"dir", NewNode::dir(0o755)).await.unwrap();
    let (file, _) = meta.mknod(&root, dir, b"f", NewNode::file(0o644)).await.unwrap();
    let slice = meta.next_slice_id().await.unwrap();
    meta.commit(file, vec![new_slice(0, slice)], None, Durability::Power).await.unwrap();
    meta.rename(&root, (dir, b"f"), (Ino::ROOT, b"g"), RenameMode::Replace).await.unwrap();
    meta.unlink(&root, Ino::ROOT, b"g", false).await.unwrap();
    assert_eq!(meta.view(crate::testing::CheckInvariants).await.unwrap(), Vec::<String>::new());
    meta
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_serves_as_well() {
    let server = TestServer::start(&[]);
    let url = format!("unix://{}?db=2", server.socket().display());
    use_volume(&Env::real(), &url).await.close_session().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_keeps_a_volume_under_one_hash_tag() {
    let server = TestServer::start(&["--cluster-enabled", "yes"]);
    let env = Env::real();
    let mut own = server.connection_to(0).await;
    redis::cmd("CLUSTER").arg("ADDSLOTSRANGE").arg(0).arg(16383).query_async::<()>(&mut own).await.unwrap();
    loop {
        let info: String = redis::cmd("CLUSTER").arg("INFO").query_async(&mut own).await.unwrap();
        if info.contains("cluster_state:ok") {
            break;
        }
        env.sleep(Duration::from_millis(20)).await;
    }
    use_volume(&env, &server.url(3)).await.close().await;
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut own).await.unwrap();
    assert!(keys.iter().any(|k| k == "{3}setting") && keys.iter().all(|k| k.starts_with("{3}")), "{keys:?}");
    // Several addresses say by themselves that it is a cluster.
    let both = format!("redis://127.0.0.1:1,127.0.0.1:{}/3", server.port);
    let engine = open(env, &both, Options::default()).await.expect("the volume is there");
    assert_eq!(engine.describe(), both);
    assert!(!keys.iter().any(|k| k == "{3}CAIRN"), "a client that leaves takes its stamps along");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_lead_to_the_master_and_to_the_next_one() {
    let mut master = TestServer::start(&[]);
    let replica = TestServer::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("sentinel.conf");
    let text = format!(
        "sentinel monitor vol 127.0.0.1 {} 1\nsentinel down-after-milliseconds vol 500\nsentinel failover-timeout vol 3000\n",
        master.port
    );
    std::fs::write(&config, text).unwrap();
    let sentinel = TestServer::start_sentinel(&config);
    let env = Env::real();
    let url = format!("redis://vol,127.0.0.1:{}/1", sentinel.port);
    let meta = use_volume(&env, &url).await;
    // The replica has all, and the sentinel knows it.
    let mut own = master.connection().await;
    redis::cmd("WAIT").arg(1).arg(30_000).query_async::<i64>(&mut own).await.unwrap();
    let mut asked = sentinel.connection_to(0).await;
    loop {
        let known: Vec<redis::Value> =
            redis::cmd("SENTINEL").arg("replicas").arg("vol").query_async(&mut asked).await.unwrap();
        if !known.is_empty() {
            break;
        }
        env.sleep(Duration::from_millis(50)).await;
    }
    master.kill();
    let (late, _) = meta.mknod(&Cred::root(), Ino::ROOT, b"late", NewNode::file(0o644)).await.expect("the next master");
    assert_eq!(meta.lookup(&Cred::root(), Ino::ROOT, b"late").await.unwrap().0, late);
    let mut own = replica.connection().await;
    let stored: bool = redis::cmd("HEXISTS").arg("d1").arg("late").query_async(&mut own).await.unwrap();
    assert!(stored, "it went to the replica that was made master");
    assert_eq!(meta.view(crate::testing::CheckInvariants).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_waits_for_as_many_replicas_as_were_asked_for() {
    let master = TestServer::start(&[]);
    let env = Env::real();
    let url = format!("{}?wait-replicas=1", master.url(1));
    let engine = fresh(&env, &url).await;
    let formatting = {
        let (env, engine) = (env.clone(), engine.clone());
        let formatted = async move { crate::format_volume(&env, &*engine, &suite_format()).await };
        Env::real().spawn(formatted)
    };
    env.sleep(Duration::from_millis(500)).await;
    assert!(!formatting.is_finished(), "nobody has a copy");
    let _replica = TestServer::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]);
    formatting.await.unwrap().expect("the replica has it");
    let mut own = master.connection().await;
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut own).await.unwrap();
    let number = info.lines().find_map(|l| l.strip_prefix("redis_version:")).expect("a version");
    match open(env, &format!("{}?wait-disk=1", master.url(1)), NEW).await {
        Err(Error::Refused(sentence)) => assert!(version(number) < (7, 2) && sentence.contains("7.2"), "{sentence}"),
        Err(e) => panic!("{e}"),
        Ok(_) => assert!(version(number) >= (7, 2), "Redis {number} has no WAITAOF"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_scripts_is_refused() {
    let server = TestServer::start(&["--rename-command", "EVAL", "", "--rename-command", "EVALSHA", ""]);
    let Err(Error::Refused(sentence)) = open(Env::real(), &server.url(1), NEW).await else { panic!("it opened") };
    assert!(sentence.contains("scripts"), "{sentence}");
}

#[test]
fn urls_read_as_juicefs_reads_them() {
    let none = |_: &str| None;
    let told = |url: &str| Place::parse(url, none).map(|p| p.describe());
    assert_eq!(told("localhost").unwrap(), "redis://localhost:6379/0");
    assert_eq!(told("redis://u:p%40x@h:1/7").unwrap(), "redis://h:1/7");
    assert_eq!(told("rediss://h/1?insecure-skip-verify=1").unwrap(), "rediss://h:6379/1");
    assert_eq!(told("redis://vol,a,b:5/2").unwrap(), "redis://vol,a:5,b:5/2");
    assert_eq!(told("redis://vol,a,b/2").unwrap(), "redis://vol,a:26379,b:26379/2");
    assert_eq!(told("redis://[::1]:7/2").unwrap(), "redis://::1:7/2");
    let cluster = Place::parse("redis://a:1,b:2/5", none).unwrap();
    assert_eq!((cluster.prefix(), cluster.is_cluster()), ("{5}".into(), true));
    for odd in ["redis://h/x", "redis://h:port/1", "redis://h/1?read-timeout=soon", "redis://h/1?tls-cert-file=/a"] {
        assert!(matches!(told(odd), Err(Error::Refused(_))), "{odd}");
    }
    let from_env = |name: &str| (name == "META_PASSWORD").then(|| "hush".to_string());
    let debug = format!("{:?}", Place::parse("redis://h/1", from_env).unwrap());
    assert!(!debug.contains("hush"), "{debug}");
}

/// A certificate authority, and a certificate of it for 127.0.0.1 and for clients.
fn certificates(dir: &std::path::Path) {
    let openssl = |args: &[&str]| {
        let done =
            std::process::Command::new("openssl").args(args).current_dir(dir).output().expect("openssl is installed");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout"];
    openssl(
        &[&["req", "-x509", "-days", "2", "-subj", "/CN=test ca", "-out", "ca.pem"], &key[..], &["ca.key"]].concat(),
    );
    openssl(&[&["req", "-subj", "/CN=127.0.0.1", "-out", "own.csr"], &key[..], &["own.key"]].concat());
    std::fs::write(dir.join("ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(&[
        "x509",
        "-req",
        "-in",
        "own.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        "ext",
        "-out",
        "own.pem",
    ]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_trusts_the_given_authority_only_and_shows_its_certificate() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let server = TestServer::start_tls(&[
        "--tls-cert-file",
        &path("own.pem"),
        "--tls-key-file",
        &path("own.key"),
        "--tls-ca-cert-file",
        &path("ca.pem"),
    ]);
    let env = Env::real();
    let url = |options: &str| format!("rediss://127.0.0.1:{}/1?{options}", server.port);
    let ours = format!("tls-cert-file={}&tls-key-file={}", path("own.pem"), path("own.key"));
    use_volume(&env, &url(&format!("tls-ca-cert-file={}&{ours}", path("ca.pem")))).await.close().await;
    let unknown = open(env.clone(), &url(&ours), NEW).await;
    assert!(matches!(unknown, Err(Error::Refused(_))), "an authority that nobody trusts");
    let nameless = open(env.clone(), &url(&format!("tls-ca-cert-file={}", path("ca.pem"))), NEW).await;
    assert!(matches!(nameless, Err(Error::Refused(_))), "the server wants a certificate");
}

//! Every server starts, keeps what it should, and goes.

use super::*;
use crate::support::{PATIENCE, eventually};

#[test]
fn redis_keeps_what_its_settings_say() {
    for (persistence, kept) in [(Persistence::None, ""), (Persistence::Always, "v"), (Persistence::EverySecond, "v")] {
        let mut redis = Redis::with(RedisConfig { persistence, ..RedisConfig::default() });
        redis.ask_in(3, &["SET", "k", "v"]);
        redis.stop();
        redis.start_again();
        assert_eq!(redis.ask_in(3, &["GET", "k"]), kept, "{persistence:?}");
    }
    let mut redis = Redis::with(RedisConfig { persistence: Persistence::Always, ..RedisConfig::default() });
    redis.ask(&["SET", "k", "v"]);
    redis.kill();
    redis.start_again();
    assert_eq!(redis.ask(&["GET", "k"]), "v");
}

#[test]
fn redis_goes_back_to_older_data() {
    let mut redis = Redis::start();
    redis.ask(&["SET", "k", "old"]);
    let (old, digest) = (redis.snapshot(), redis.digest());
    redis.ask(&["SET", "k", "new"]);
    assert_ne!(redis.digest(), digest);
    redis.go_back_to(&old);
    assert_eq!((redis.ask(&["GET", "k"]), redis.digest()), ("old".into(), digest));
}

#[test]
fn redis_asks_for_passwords_and_knows_users() {
    let config = RedisConfig {
        password: Some("s3cret".into()),
        users: vec![("cairn".into(), "on >pw ~* &* +@all -flushall".into())],
        ..RedisConfig::default()
    };
    let redis = Redis::with(config);
    assert!(redis.url(1).starts_with("redis://:s3cret@127.0.0.1:"), "{}", redis.url(1));
    assert!(redis.ask(&["ACL", "LIST"]).contains("user cairn on"));
    let stranger = ::redis::Client::open(format!("redis://127.0.0.1:{}/", redis.port())).unwrap();
    let refused = stranger.get_connection().and_then(|mut c| ::redis::cmd("PING").query::<()>(&mut c));
    assert!(refused.unwrap_err().to_string().contains("NOAUTH"));
}

#[test]
fn redis_speaks_tls_and_looks_at_clients() {
    use std::process::Command;
    let redis = Redis::with(RedisConfig { tls: Some(true), ..RedisConfig::default() });
    let url = redis.tls_url(2, true);
    let member =
        |name: &str| url.split(['?', '&']).find_map(|m| m.strip_prefix(name)?.strip_prefix('=')).unwrap().to_owned();
    let port = url.split(['@', '/', ':']).find(|p| p.parse::<u16>().is_ok()).unwrap().to_owned();
    let ask = |own: bool| {
        let mut cli = Command::new("redis-cli");
        cli.args(["-h", "localhost", "-p", &port, "--tls", "--cacert", &member("tls-ca-cert-file")]);
        if own {
            cli.args(["--cert", &member("tls-cert-file"), "--key", &member("tls-key-file")]);
        }
        crate::support::finish(cli.arg("PING"))
    };
    assert_eq!(ask(true).ok().trim(), "PONG", "{}", redis.said());
    assert_ne!(ask(false).out.trim(), "PONG");
}

#[test]
fn a_cluster_of_three_answers_for_all_slots() {
    let cluster = Cluster::start();
    assert_eq!(cluster.nodes().len(), 3);
    let said = cluster.nodes().iter().map(|n| {
        let set = n.connection(0).and_then(|mut c| ::redis::cmd("SET").arg("{1}k").arg("v").query::<()>(&mut c));
        set.map_or_else(|e| e.to_string(), |()| "stored".into())
    });
    let said: Vec<String> = said.collect();
    assert_eq!(said.iter().filter(|s| *s == "stored").count(), 1, "{said:?}");
    assert!(cluster.url_of_all(1).matches("127.0.0.1:").count() == 3 && cluster.url(1).starts_with("redis://"));
}

#[test]
fn sentinels_make_the_replica_the_master() {
    let mut group = Sentinels::start();
    assert!(group.url(1).starts_with("redis://m,127.0.0.1:"));
    group.servers()[0].ask(&["SET", "k", "v"]);
    eventually("the replica has it", PATIENCE, || (group.replica().ask(&["GET", "k"]) == "v").then_some(()));
    group.servers()[0].kill();
    group.wait_for_failover();
    assert_eq!(group.replica().ask(&["SET", "k", "w"]), "OK");
}

#[test]
fn postgres_keeps_databases_apart_and_recovers() {
    let mut server = Postgres::with(&[]);
    let (a, b) = (server.database(), server.database());
    server.sql(&a, "create table t (n int); insert into t values (7)").ok();
    assert!(server.sql(&b, "select * from t").code != 0);
    server.kill();
    server.start_again();
    assert_eq!(server.sql(&a, "select n from t").ok().trim(), "7");
    let certificates = server.with_tls();
    let strict = format!(
        "postgres://cairn:{}@localhost:{}/{a}?sslmode=verify-full&sslrootcert={}",
        postgres::PASSWORD,
        server.port(),
        certificates.ca.display()
    );
    let asked = || {
        let ran = crate::support::run(std::path::Path::new("/"), "psql", ["-X", "-t", "-A", "-c", "select 1", &strict]);
        assert!(ran.code == 0 || ran.err.contains("not support SSL"), "{}\n{}", ran.err, server.said());
        (ran.out.trim() == "1").then_some(())
    };
    eventually("TLS is on once the settings are read", PATIENCE, asked);
    let wrong = server.url(&a).replace(postgres::PASSWORD, "nonsense");
    assert!(crate::support::run(std::path::Path::new("/"), "psql", ["-X", "-c", "select 1", &wrong]).code != 0);
}

#[test]
fn mariadb_keeps_databases_apart_and_recovers() {
    let mut server = Mysql::with(&[]);
    let (a, b) = (server.database(), server.database());
    server.sql(&a, "create table t (n int); insert into t values (7)").ok();
    assert!(server.sql(&b, "select * from t").code != 0);
    server.kill();
    server.start_again();
    assert_eq!(server.sql(&a, "select n from t").ok().trim(), "7");
    server.with_tls();
    assert_eq!(server.sql(&a, "show variables like 'have_ssl'").ok().split_whitespace().last(), Some("YES"));
}

#[test]
fn engines_of_every_kind_are_empty_places_of_their_own() {
    for kind in [Kind::Redis, Kind::Postgres, Kind::Mysql] {
        let (one, two) = (Engine::shared(kind), Engine::shared(kind));
        assert_ne!(one.url(), two.url());
        assert_eq!(one.kind(), kind);
        let port = one.port().expect("a server has a port");
        assert!(one.url().contains(&port.to_string()) && one.url_at(1).is_some_and(|u| u.contains(":1")));
        assert_eq!(one.digest(), one.digest());
    }
}

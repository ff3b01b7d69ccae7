//! What cannot work is refused with a sentence that says what to do, soon, and without a password in
//! any word that can be read: terminal, log, `.config`, process list, mount table.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{
    Engine, Kind, Mysql, Postgres, Ran, Redis, RedisConfig, Volume, binary, cairn, finish, free_port,
};

on_every_server!(
    an_empty_place_is_no_volume,
    a_wrong_password_is_refused_and_not_shown,
    a_server_that_is_not_there_is_refused_soon,
    a_database_that_is_not_there_is_refused,
    too_many_connections_are_refused,
    no_word_of_a_running_mount_holds_the_password,
    the_password_may_come_from_the_environment,
);

/// The longest a refusal may take: servers that are starting are waited for, but not for ever.
const SOON: Duration = Duration::from_secs(60);

/// What a command said that must fail.
#[track_caller]
fn said(url: &str) -> String {
    let start = now();
    let words = cairn(["status", url]).refused();
    assert!(now() - start < SOON, "it took {:?} to say {words}", now() - start);
    assert!(!words.contains("panicked"), "{words}");
    words
}

fn an_empty_place_is_no_volume(kind: Kind) {
    let engine = Engine::shared(kind);
    let words = said(&engine.url());
    assert!(words.contains("format"), "it says what to do: {words}");
}

/// A place that asks for a password, and the password.
fn guarded(kind: Kind) -> (Guarded, String, &'static str) {
    match kind {
        Kind::Redis => {
            let config = RedisConfig { password: Some("re-s3cret-word".into()), ..RedisConfig::default() };
            let redis = Redis::with(config);
            let url = redis.url(1);
            (Guarded::Redis(Box::new(redis)), url, "re-s3cret-word")
        }
        Kind::Postgres => {
            let url = Postgres::shared().url(&Postgres::shared().database());
            (Guarded::Shared, url, "pg-s3cret-word")
        }
        Kind::Mysql => {
            let url = Mysql::shared().url(&Mysql::shared().database());
            (Guarded::Shared, url, "my-s3cret-word")
        }
        Kind::Sqlite => panic!("a file has no password"),
    }
}

/// What keeps it running.
enum Guarded {
    #[expect(dead_code, reason = "it is kept, not used")]
    Redis(Box<Redis>),
    Shared,
}

fn a_wrong_password_is_refused_and_not_shown(kind: Kind) {
    let (_server, url, word) = guarded(kind);
    let words = said(&url.replace(word, "n0nsense-word"));
    assert!(!words.contains("n0nsense-word"), "{words}");
    let lower = words.to_lowercase();
    assert!(["password", "authentication", "access denied", "wrongpass"].iter().any(|w| lower.contains(w)), "{words}");
    let words = said(&url.replace(&format!(":{word}"), ""));
    assert!(
        words.to_lowercase().contains("auth") || words.to_lowercase().contains("password") || words.contains("denied"),
        "{words}"
    );
}

fn a_server_that_is_not_there_is_refused_soon(kind: Kind) {
    let engine = Engine::shared(kind);
    let nobody = free_port();
    let words = said(&engine.url_at(nobody).expect("a server"));
    assert!(words.contains(&nobody.to_string()) || words.to_lowercase().contains("refused"), "{words}");
    assert!(!words.contains("s3cret"), "{words}");
}

fn a_database_that_is_not_there_is_refused(kind: Kind) {
    let engine = Engine::shared(kind);
    let url = match kind {
        Kind::Redis => engine.redis().url(99),
        Kind::Postgres => Postgres::shared().url("nowhere"),
        _ => Mysql::shared().url("nowhere"),
    };
    let words = said(&url).to_lowercase();
    let known = ["nowhere", "out of range", "database", "db index"];
    assert!(known.iter().any(|w| words.contains(w)), "{words}");
}

fn too_many_connections_are_refused(kind: Kind) {
    let (few, url): (Box<dyn std::any::Any>, String) = match kind {
        Kind::Redis => {
            let config = RedisConfig { extra: vec!["--maxclients".into(), "1".into()], ..RedisConfig::default() };
            let redis = Redis::with(config);
            let url = redis.url(1);
            let only = redis.connection(0).expect("the one connection");
            (Box::new((redis, only)), url)
        }
        Kind::Postgres => {
            let server = Postgres::with(&[]);
            let database = server.database();
            server.sql("postgres", "alter role cairn connection limit 0").ok();
            let url = server.url(&database);
            (Box::new(server), url)
        }
        _ => {
            let server = Mysql::with(&["--max-connections=10"]);
            let database = server.database();
            // Who says nothing after the greeting holds a place, too.
            let greeted = |n: u32| {
                let mut stream = TcpStream::connect(("127.0.0.1", server.port())).expect("the server listens");
                stream.read_exact(&mut [0; 5]).unwrap_or_else(|e| panic!("greeting {n}: {e}"));
                stream
            };
            let held: Vec<TcpStream> = (0..11).map(greeted).collect();
            let url = server.url(&database);
            (Box::new((held, server)), url)
        }
    };
    // A server that closes at once may do so before its words were read.
    let words = cairn(["status", &url]).refused().to_lowercase();
    assert!(
        ["too many", "max number of clients", "max_user_connections", "cannot be reached"]
            .iter()
            .any(|w| words.contains(w)),
        "{words}"
    );
    assert!(!words.contains("panicked") && !words.contains("s3cret"), "{words}");
    drop(few);
}

fn no_word_of_a_running_mount_holds_the_password(kind: Kind) {
    let (_server, url, word) = guarded(kind);
    let volume = Volume::unformatted().through(url);
    let formatted = volume.format(&[]);
    assert_eq!(formatted.code, 0, "{}", formatted.err);
    assert!(!has(&formatted, word));
    let mounted = volume.mount(&["--verbose"]);
    fs::write(mounted.path("f"), b"x").unwrap();
    let config = fs::read_to_string(mounted.path(".config")).unwrap();
    let stats = fs::read_to_string(mounted.path(".stats")).unwrap();
    let pid = mounted.pid().as_raw_nonzero();
    let proc = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for (place, text) in [
        (".config", config.into_bytes()),
        (".stats", stats.into_bytes()),
        ("the command line", proc("cmdline")),
        ("the environment", proc("environ")),
        ("the mount table", mounts.into_bytes()),
        ("the log", mounted.said().into_bytes()),
    ] {
        let text = String::from_utf8_lossy(&text);
        assert!(!text.contains(word), "{place} shows the password: {text}");
    }
    for args in [vec!["status", volume.url()], vec!["config", volume.url()], vec!["gc", volume.url(), "--verbose"]] {
        let ran = cairn(&args);
        assert!(!has(&ran, word), "{args:?} shows the password");
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
    }
    mounted.unmount();
}

fn has(ran: &Ran, word: &str) -> bool {
    ran.out.contains(word) || ran.err.contains(word)
}

fn the_password_may_come_from_the_environment(kind: Kind) {
    let (_server, url, word) = guarded(kind);
    let volume = Volume::unformatted().through(url.clone());
    volume.format(&[]).ok();
    let bare = url.replace(&format!(":{word}"), "");
    let mut status = binary();
    finish(status.env("META_PASSWORD", word).args(["status", &bare])).ok();
    let file = volume.path("word");
    fs::write(&file, format!("{word}\n")).unwrap();
    let mut status = binary();
    finish(status.env("META_PASSWORD_FILE", &file).args(["status", &bare])).ok();
}

/// A mount that cannot reach its engine ends with the reason; nothing is mounted.
#[test]
fn a_mount_without_its_engine_ends_with_the_reason() {
    let engine = Engine::shared(Kind::Redis);
    let volume = Volume::on(&engine, &[]).through(engine.url_at(free_port()).expect("a server"));
    let words = volume.mount_refused(&[]);
    assert!(words.to_lowercase().contains("refused") || words.contains("127.0.0.1"), "{words}");
    assert!(!crate::support::is_mounted(Path::new(&volume.path("mnt"))));
}

#[expect(clippy::disallowed_methods, reason = "how long a refusal takes is real time")]
fn now() -> Instant {
    Instant::now()
}

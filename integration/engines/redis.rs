//! What only Redis can do to a client: run out of memory, be a copy that may not be written, come
//! back with older data, fail over, forget its scripts, stand in a cluster, ask for certificates.

use std::fs::{self, File};
use std::path::Path;

use serde_json::Value;

use super::NO_KERNEL_CACHE;
use crate::support::{
    Cluster, Engine, Kind, PATIENCE, Redis, RedisConfig, Sentinels, Volume, bytes, cairn, errno, eventually,
};

/// A volume at this URL, used by two mounts and left clean.
fn works(url: String) {
    let volume = Volume::unformatted().through(url);
    volume.format(&["--trash-days", "0"]).ok();
    let mounts = [volume.mount(&NO_KERNEL_CACHE), volume.mount(&NO_KERNEL_CACHE)];
    for n in 0..20u64 {
        let (here, there) = (&mounts[n as usize % 2], &mounts[(n as usize + 1) % 2]);
        fs::write(here.path(&format!("f{n}")), bytes(n, 5_000)).unwrap();
        assert!(fs::read(there.path(&format!("f{n}"))).unwrap() == bytes(n, 5_000));
        fs::rename(there.path(&format!("f{n}")), there.path(&format!("g{n}"))).unwrap();
    }
    fs::create_dir(mounts[0].path("d")).unwrap();
    fs::remove_dir(mounts[1].path("d")).unwrap();
    mounts.into_iter().for_each(crate::support::Mounted::unmount);
    volume.fsck_is_clean();
}

#[test]
fn a_cluster_is_one_place() {
    let cluster = Cluster::start();
    works(cluster.url(3));
    works(cluster.url_of_all(4));
    // All keys of a volume are in the slot of its number.
    let keys: Vec<Vec<String>> =
        cluster.nodes().iter().map(|n| n.ask(&["KEYS", "*"]).lines().map(str::to_owned).collect()).collect();
    assert!(keys.iter().flatten().all(|k| k.starts_with("{3}") || k.starts_with("{4}")), "{keys:?}");
    assert!(keys.iter().flatten().any(|k| k == "{3}setting"), "{keys:?}");
}

#[test]
fn sentinels_lead_to_the_master_also_after_a_failover() {
    let mut group = Sentinels::start();
    let volume = Volume::unformatted().through(group.url(1));
    volume.format(&["--trash-days", "0"]).ok();
    let mounted = volume.mount(&[]);
    fs::write(mounted.path("before"), b"b").unwrap();
    let copied = || group.replica().ask_in(1, &["HEXISTS", "d1", "before"]) == "1";
    eventually("the replica knows of it", PATIENCE, || copied().then_some(()));
    group.servers()[0].kill();
    // It waits for the new master, and goes on there.
    fs::write(mounted.path("after"), b"a").unwrap();
    group.wait_for_failover();
    assert_eq!(fs::read(mounted.path("before")).unwrap(), b"b");
    assert_eq!(group.replica().ask_in(1, &["HEXISTS", "d1", "after"]), "1");
    mounted.unmount();
}

#[test]
fn tls_with_our_own_authority_and_a_certificate() {
    let redis =
        Redis::with(RedisConfig { tls: Some(true), password: Some("re-s3cret-word".into()), ..RedisConfig::default() });
    works(redis.tls_url(1, true));
    let without = cairn(["status", &redis.tls_url(1, false)]).refused();
    assert!(!without.contains("panicked") && !without.contains("re-s3cret-word"), "{without}");
    let strangers = redis.tls_url(1, true).replace("tls-ca-cert-file=", "x=");
    let refused = cairn(["status", &strangers]).refused();
    assert!(!refused.contains("panicked"), "{refused}");
}

#[test]
fn a_unix_socket_is_a_place_too() {
    let redis = Redis::start();
    works(format!("unix://{}?db=2", redis.socket().display()));
    assert!(redis.ask_in(2, &["EXISTS", "setting"]) == "1", "database 2 was meant");
}

#[test]
fn a_user_with_few_rights_is_enough() {
    let rules = "on >us3r-word ~* &* +@all -@dangerous +info +keys +sort -flushall";
    let redis = Redis::with(RedisConfig { users: vec![("cairn".into(), rules.into())], ..RedisConfig::default() });
    works(format!("redis://cairn:us3r-word@127.0.0.1:{}/1", redis.port()));
}

/// Nothing works without scripts yet; that is said at once, by the command that is missing.
#[test]
fn where_scripts_are_forbidden_it_says_so() {
    let rules = "on >us3r-word ~* &* +@all -@scripting";
    let redis = Redis::with(RedisConfig { users: vec![("cairn".into(), rules.into())], ..RedisConfig::default() });
    let said = cairn(["status", &format!("redis://cairn:us3r-word@127.0.0.1:{}/1", redis.port())]).refused();
    assert!(said.contains("evalsha") && !said.contains("us3r-word"), "{said}");
}

#[test]
fn forgotten_scripts_are_loaded_again() {
    let redis = Redis::start();
    let volume = Volume::unformatted().through(redis.url(1));
    volume.format(&["--trash-days", "0"]).ok();
    let mounted = volume.mount(&NO_KERNEL_CACHE);
    for n in 0..30u64 {
        redis.ask(&["SCRIPT", "FLUSH"]);
        fs::write(mounted.path(&format!("f{n}")), bytes(n, 5_000)).unwrap();
        fs::rename(mounted.path(&format!("f{n}")), mounted.path("same")).unwrap();
    }
    mounted.unmount();
    volume.fsck_is_clean();
}

#[test]
fn out_of_memory_is_no_space_and_passes() {
    let redis = Redis::start();
    let volume = Volume::unformatted().through(redis.url(1));
    volume.format(&["--trash-days", "0"]).ok();
    let mounted = volume.mount(&NO_KERNEL_CACHE);
    fs::write(mounted.path("before"), b"b").unwrap();
    redis.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    assert_eq!(errno(File::create_new(mounted.path("refused"))), libc::ENOSPC);
    assert_eq!(errno(fs::create_dir(mounted.path("refused"))), libc::ENOSPC);
    assert_eq!(fs::read(mounted.path("before")).unwrap(), b"b", "reading needs no memory");
    redis.ask(&["CONFIG", "SET", "maxmemory", "0"]);
    fs::write(mounted.path("after"), b"a").unwrap();
    assert!(!mounted.path("refused").exists(), "what was refused did not happen");
    mounted.unmount();
    volume.fsck_is_clean();
}

#[test]
fn a_policy_that_throws_keys_away_is_warned_about() {
    let extra = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"].map(str::to_owned).to_vec();
    let users = vec![("cairn".to_owned(), "on >us3r-word ~* &* +@all -config".to_owned())];
    let redis = Redis::with(RedisConfig { extra, users, ..RedisConfig::default() });
    let volume = Volume::unformatted().through(format!("redis://cairn:us3r-word@127.0.0.1:{}/1", redis.port()));
    volume.format(&["--trash-days", "0"]).ok();
    let mounted = volume.mount(&[]);
    let said = mounted.said();
    assert!(said.contains("noeviction") && said.contains("WARN"), "{said}");
    mounted.unmount();
}

#[test]
fn a_copy_can_be_read_and_is_not_written() {
    let master = Redis::start();
    let volume = Volume::unformatted().through(master.url(1));
    volume.format(&["--trash-days", "0"]).ok();
    let mounted = volume.mount(&[]);
    fs::write(mounted.path("f"), bytes(1, 5_000)).unwrap();
    mounted.unmount();
    let replica = Redis::with(RedisConfig { replica_of: Some(master.port()), ..RedisConfig::default() });
    eventually("the copy is whole", PATIENCE, || (replica.ask_in(1, &["HEXISTS", "d1", "f"]) == "1").then_some(()));
    let volume = volume.through(replica.url(1));
    let mounted = volume.mount(&["--read-only"]);
    assert!(fs::read(mounted.path("f")).unwrap() == bytes(1, 5_000));
    assert_eq!(errno(fs::remove_file(mounted.path("f"))), libc::EROFS);
    mounted.unmount();
    let said = volume.mount_refused(&[]).to_lowercase();
    assert!(
        said.contains("replica")
            || said.contains("read only")
            || said.contains("readonly")
            || said.contains("read-only"),
        "{said}"
    );
}

/// A server that lost its last minutes must not hand out the ids of those minutes again.
#[test]
fn ids_are_not_given_twice_by_a_server_with_older_data() {
    let mut redis = Redis::start();
    let volume = Volume::unformatted().through(redis.url(1));
    volume.format(&["--trash-days", "0"]).ok();
    let mounted = volume.mount(&["--heartbeat", "1s"]);
    fs::write(mounted.path("old"), bytes(1, 5_000)).unwrap();
    let old = redis.snapshot();
    for n in 0..50u64 {
        fs::write(mounted.path(&format!("lost{n}")), bytes(n, 5_000)).unwrap();
    }
    let blocks = volume.blocks();
    redis.go_back_to(&old);
    // Whatever the daemon thinks it knows, what it writes from here on is whole and new.
    for n in 0..50u64 {
        eventually("the mount goes on", PATIENCE, || {
            fs::write(mounted.path(&format!("new{n}")), bytes(100 + n, 5_000)).ok()
        });
    }
    for n in 0..50u64 {
        assert!(fs::read(mounted.path(&format!("new{n}"))).unwrap() == bytes(100 + n, 5_000), "new{n}");
    }
    mounted.unmount();
    let again = volume.mount(&["--read-only", "--cache-size", "0"]);
    assert!(fs::read(again.path("old")).unwrap() == bytes(1, 5_000));
    for n in 0..50u64 {
        assert!(fs::read(again.path(&format!("new{n}"))).unwrap() == bytes(100 + n, 5_000), "new{n}");
    }
    again.unmount();
    let kept = volume.blocks();
    assert!(blocks.iter().all(|b| kept.contains(b)), "no object was overwritten or lost");
    volume.fsck_is_clean();
}

/// The server is frozen, not gone: connections stay and nobody answers.
#[test]
fn a_frozen_server_is_waited_for() {
    let engine = Engine::shared(Kind::Redis);
    let volume = Volume::on(&engine, &[]);
    let mounted = volume.mount(&NO_KERNEL_CACHE);
    let write = |root: &Path, n: u64| fs::write(root.join(format!("f{n}")), bytes(n, 5_000));
    write(mounted.root(), 0).unwrap();
    engine.redis().freeze();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| write(mounted.root(), 1));
        super::outages::rest(std::time::Duration::from_secs(2));
        assert!(!waiting.is_finished());
        engine.redis().thaw();
        waiting.join().unwrap().unwrap();
    });
    mounted.unmount();
    let status: Value = serde_json::from_str(&cairn(["status", volume.url()]).ok()).unwrap();
    assert_eq!(status["Statistic"]["UsedInodes"], 2, "done once");
    volume.fsck_is_clean();
}

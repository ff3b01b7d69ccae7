//! The suite against a real S3 server, started here on a free port.

mod tls;

use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;
use crate::testing::suite;
use crate::{is_empty_prefix, mark, probe};

const MISSING: &str = "the S3 server s3s-fs is not installed: `make test` installs it into target/tools, \
     or set CAIRN_S3S_FS to its path";

/// A server with a bucket `bkt`; ends with its test.
struct Server {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Server {
    async fn start() -> Server {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("bkt")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(program())
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .args(["--access-key", "testkey", "--secret-key", "testsecret", "--domain", &format!("localhost:{port}")])
            .arg(folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect(MISSING);
        let server = Server { child, port, folder };
        server.ready().await;
        server
    }

    async fn ready(&self) {
        let env = Env::real();
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            env.sleep(Duration::from_millis(20)).await;
        }
        panic!("s3s-fs did not answer on port {} within ten seconds", self.port);
    }

    fn location(&self, bucket: &str) -> Location {
        Location {
            access_key: "testkey".into(),
            secret_key: "testsecret".into(),
            prefix: "vol/".into(),
            ..Location::new("s3", &format!("http://127.0.0.1:{}/{bucket}", self.port))
        }
    }

    fn open(&self, bucket: &str) -> Arc<dyn ObjectStore> {
        crate::open(&Env::real(), &self.location(bucket)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed.expect("a child of ours can be stopped");
    }
}

fn program() -> PathBuf {
    let installed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/bin/s3s-fs");
    let program = std::env::var_os("CAIRN_S3S_FS").map_or(installed, PathBuf::from);
    assert!(program.is_file(), "{MISSING}");
    program
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_s3_server_passes_the_suite() {
    let server = Server::start().await;
    suite(server.open("bkt")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes_with_the_bucket_in_the_hosts_name() {
    let server = Server::start().await;
    let url = format!("http://bkt.localhost:{}", server.port);
    let place = place::parse("s3", &url, false).unwrap().unwrap();
    assert_eq!(place.service, Service::S3 { virtual_host: true });
    let store = RemoteStore::new(&Env::real(), "s3", Recipe::new(place, &server.location("bkt")));
    store.put("where", "here".to_owned().into()).await.unwrap();
    assert!(server.folder.path().join("bkt/where").is_file(), "the server took the bucket from the host's name");
    store.delete("where").await.unwrap();
    suite(Arc::new(store)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sharded_buckets_on_s3_pass_the_suite() {
    let server = Server::start().await;
    for shard in 0..3 {
        std::fs::create_dir(server.folder.path().join(format!("bkt-{shard}"))).unwrap();
    }
    suite(crate::open(&Env::real(), &Location { shards: 3, ..server.location("bkt-%d") }).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_longer_than_a_page_are_complete_and_can_be_entered_anywhere() {
    let server = Server::start().await;
    let store = server.open("bkt");
    let expected: Vec<String> = (0..1100).map(|i| format!("chunks/0/0/{i:04}")).collect();
    let puts = expected.iter().map(|key| store.put(key, "x".to_owned().into()));
    stream::iter(puts).buffer_unordered(32).try_collect::<()>().await.unwrap();
    let list = async |after: &str| {
        let keys = store.list("chunks/", after).map_ok(|info| info.key).try_collect::<Vec<_>>();
        keys.await.unwrap()
    };
    assert!(list("").await == expected);
    assert!(list("chunks/0/0/0049").await == expected[50..]);
    assert!(list("chunks/0/0/1050").await == expected[1051..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_object_on_s3_is_an_error_when_read_whole() {
    let server = Server::start().await;
    let store = server.open("bkt");
    store.put("k", "hello".to_owned().into()).await.unwrap();
    assert_eq!(store.get("k", None).await.unwrap(), "hello");
    std::fs::write(server.folder.path().join("bkt/vol/k"), "hellO").unwrap();
    let error = store.get("k", None).await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt { key, reason } if key == "k" && reason.contains("2591144780")), "{error}");
    let lenient =
        Location { bucket: server.location("bkt").bucket + "?disable-checksum=true", ..server.location("bkt") };
    let store = crate::open(&Env::real(), &lenient).unwrap();
    assert_eq!(store.get("k", None).await.unwrap(), "hellO");
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_mark_and_emptiness_work_on_s3() {
    let server = Server::start().await;
    let store = server.open("bkt");
    probe(&Env::real(), &*store).await.unwrap();
    assert!(is_empty_prefix(&*store).await.unwrap());
    mark(&*store, b"55f8bf95-7e0b-4e3c-93df-0cfcca3bac87".to_vec()).await.unwrap();
    assert!(!is_empty_prefix(&*store).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_and_wrong_keys_are_told_apart_from_a_missing_object() {
    let server = Server::start().await;
    let nowhere = server.open("nowhere");
    // This server says "no such key" to a get, and makes the bucket on a put.
    let error = nowhere.list("", "").try_next().await.unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error:?}");
    let intruder = Location { secret_key: "wrong".into(), ..server.location("bkt") };
    let error = crate::open(&Env::real(), &intruder).unwrap().get("k", None).await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert!(server.open("bkt").get("k", None).await.unwrap_err().is_not_found());
}

#[tokio::test(flavor = "multi_thread")]
async fn create_makes_a_missing_bucket_and_leaves_one_that_is_there() {
    let server = Server::start().await;
    let store = server.open("fresh");
    store.create().await.unwrap();
    assert!(server.folder.path().join("fresh").is_dir());
    store.create().await.unwrap();
    suite(store).await;
    let intruder = Location { secret_key: "wrong".into(), ..server.location("other") };
    let error = crate::open(&Env::real(), &intruder).unwrap().create().await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_is_worth_another_try() {
    let server = Server::start().await;
    let store = server.open("bkt");
    drop(server);
    for error in [store.get("k", None).await.unwrap_err(), store.put("k", "v".to_owned().into()).await.unwrap_err()] {
        assert!(error.is_retryable(), "{error:?}");
        assert!(error.to_string().contains("refused"), "the cause is told: {error}");
    }
}

#[test]
fn no_store_shows_a_secret() {
    let location = Location {
        access_key: "akey".into(),
        secret_key: "skey".into(),
        ..Location::new("minio", "http://user:pass@host:9000/bkt?ca-certs=/x")
    };
    let store = crate::open(&Env::real(), &location).unwrap();
    assert_eq!(format!("{store:?} {}", store.describe()), "minio://host:9000/bkt/ minio://host:9000/bkt/");
}

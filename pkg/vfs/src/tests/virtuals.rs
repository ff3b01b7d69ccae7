//! The files that only the root shows.

use bytes::BufMut;
use cairn_meta::Error as MetaError;
use cairn_types::FileType;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::*;
use crate::{
    Control, ControlReply, ControlRequest, ErrnoByte, Error, Progress, VIRTUAL_CONFIG, VIRTUAL_CONTROL, VIRTUAL_LOG,
    VIRTUAL_STATS,
};

/// Sums up quickly, removes slowly, and never finishes compacting.
struct Hands {
    env: Env,
}

impl Control for Hands {
    fn run(
        &self,
        _cred: Cred,
        request: ControlRequest,
        progress: Arc<Progress>,
    ) -> BoxFuture<'static, std::result::Result<ControlReply, ErrnoByte>> {
        let env = self.env.clone();
        async move {
            match request {
                ControlRequest::Info { ino, .. } => Ok(ControlReply::Json(Bytes::from(format!("{{\"Ino\":{ino}}}")))),
                ControlRequest::Remove { name, .. } if name == b"gone" => Err(2),
                ControlRequest::Remove { .. } => {
                    progress.add(6, 0);
                    env.sleep(Duration::from_millis(700)).await;
                    Ok(ControlReply::Done)
                }
                _ => std::future::pending().await,
            }
        }
        .boxed()
    }
}

async fn world() -> World {
    let parts = Parts {
        stats: Arc::new(|| "cairn_uptime 5\n".into()),
        config: Arc::new(|| "{\n \"Format\": {}\n}".into()),
        control: Some(Arc::new(Hands { env: Env::real() })),
    };
    World::with(format(), config(), parts).await
}

fn message(kind: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32(kind);
    out.put_u32(body.len() as u32);
    out.extend(body);
    out
}

async fn open(w: &World, name: &str) -> Fh {
    let (ino, _) = w.vfs.lookup(&w.root, Ino::ROOT, name.as_bytes()).await.expect("found");
    let flags = OpenFlags { read: true, write: name == ".control", ..OpenFlags::default() };
    let opened = w.vfs.open(&w.root, ino, flags).await.expect("opens");
    assert!(opened.direct);
    opened.fh
}

/// The whole answer to a message.
async fn ask(w: &World, message: &[u8]) -> Vec<u8> {
    let fh = open(w, ".control").await;
    for part in message.chunks(5) {
        assert_eq!(w.vfs.write_now(&w.root, fh, 0, part, false).expect("now").expect("taken") as usize, part.len());
    }
    let mut out = Vec::new();
    while out.is_empty() || (out[0] == 0xFE && out.len() % 17 == 0) {
        w.env.sleep(Duration::from_millis(10)).await;
        let at = message.len() + out.len();
        out.extend(w.vfs.read(&w.root, fh, at as u64, 4096).await.expect("reads"));
    }
    w.vfs.release(&w.root, fh).await.expect("closes");
    out
}

#[tokio::test(start_paused = true)]
async fn the_root_shows_its_virtual_files() {
    let w = world().await;
    let expected = [
        (".stats", VIRTUAL_STATS, 0o444, 0),
        (".config", VIRTUAL_CONFIG, 0o400, 17),
        (".accesslog", VIRTUAL_LOG, 0o400, 0),
        (".control", VIRTUAL_CONTROL, 0o666, 0),
    ];
    for (name, ino, mode, length) in expected {
        let (found, attr) = w.vfs.lookup(&w.root, Ino::ROOT, name.as_bytes()).await.expect("found");
        assert_eq!((found, attr.mode, attr.length), (ino, mode, length), "{name}");
    }
    let (trash, attr) = w.vfs.lookup(&w.root, Ino::ROOT, b".trash").await.expect("found");
    assert_eq!((trash, attr.kind, attr.mode), (Ino::TRASH, FileType::Directory, 0o555));
    let fh = w.vfs.opendir(&w.root, Ino::ROOT).await.expect("opens");
    let listed = w.vfs.readdir(&w.root, fh, 0, 100, true).await.expect("lists");
    let names: Vec<_> = listed.iter().map(|e| String::from_utf8_lossy(&e.name).into_owned()).collect();
    assert_eq!(names, [".", "..", ".accesslog", ".stats", ".config", ".trash"]);
    let (dir, _) = w.vfs.mknod(&w.root, Ino::ROOT, b"d", NewNode::dir(0o755)).await.expect("made");
    assert_eq!(w.vfs.lookup(&w.root, dir, b".control").await.expect("everywhere").0, VIRTUAL_CONTROL);
    assert!(w.vfs.lookup(&w.root, dir, b".stats").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn virtual_names_are_reserved() {
    let w = world().await;
    let made = w.vfs.mknod(&w.root, Ino::ROOT, b".stats", NewNode::file(0o644)).await;
    assert!(matches!(made, Err(Error::Meta(MetaError::Exists))), "{made:?}");
    let removed = w.vfs.unlink(&w.root, Ino::ROOT, b".control").await;
    assert!(matches!(removed, Err(Error::Meta(MetaError::NotPermitted))), "{removed:?}");
    assert!(w.vfs.rmdir(&w.root, Ino::ROOT, b".trash").await.is_err());
    assert!(w.vfs.link(&w.root, VIRTUAL_STATS, Ino::ROOT, b"x").await.is_err());
}

#[tokio::test(start_paused = true)]
async fn names_can_be_prefixed_and_hidden() {
    let hidden = Config { prefix_internal: true, hide_internal: true, ..config() };
    let w = World::with(format(), hidden, Parts::none()).await;
    assert!(w.vfs.lookup(&w.root, Ino::ROOT, b".stats").await.is_err());
    assert_eq!(w.vfs.lookup(&w.root, Ino::ROOT, b".jfs.stats").await.expect("found").0, VIRTUAL_STATS);
    let fh = w.vfs.opendir(&w.root, Ino::ROOT).await.expect("opens");
    assert_eq!(w.vfs.readdir(&w.root, fh, 0, 100, false).await.expect("lists").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn texts_are_as_they_were_at_open() {
    let w = world().await;
    let fh = open(&w, ".stats").await;
    assert_eq!(&w.read(fh, 0, 4096).await[..], b"cairn_uptime 5\n");
    assert_eq!(&w.read(fh, 6, 6).await[..], b"uptime");
    assert!(w.read(fh, 15, 10).await.is_empty());
    let refused = w.vfs.open(&w.root, VIRTUAL_CONFIG, OpenFlags::writing()).await;
    assert!(refused.is_err());
}

#[tokio::test(start_paused = true)]
async fn control_answers_as_documented() {
    let w = world().await;
    let info = message(1005, &[0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0]);
    let mut json = vec![0xFF, 0, 0, 0, 9];
    json.extend(b"{\"Ino\":1}");
    assert_eq!(ask(&w, &info).await, json);
    let gone = message(1002, &[&[0, 0, 0, 0, 0, 0, 0, 1, 4], &b"gone"[..], &[0, 4]].concat());
    assert_eq!(ask(&w, &gone).await, [2]);
    assert_eq!(ask(&w, &message(1999, &[])).await, [22]);
    assert_eq!(ask(&w, &message(1006, &[0; 8])).await, [95]);
    let remove = message(1002, &[&[0, 0, 0, 0, 0, 0, 0, 1, 4], &b"copy"[..], &[0, 4]].concat());
    let answer = ask(&w, &remove).await;
    let item = [&[0xFE, 0, 0, 0, 0, 0, 0, 0, 6][..], &[0; 8]].concat();
    assert_eq!(answer, [&item[..], &item, &item, &[0]].concat(), "every 300 ms and once at the end");
}

#[tokio::test(start_paused = true)]
async fn closing_control_ends_its_work() {
    let w = world().await;
    let fh = open(&w, ".control").await;
    w.write(fh, 0, &message(1008, &[0, 0, 0, 0, 0, 0, 0, 1, 0, 2])).await;
    w.env.sleep(Duration::from_millis(10)).await;
    w.vfs.release(&w.root, fh).await.expect("closes");
    w.vfs.close().await.expect("no task hangs");
}

#[tokio::test(start_paused = true)]
async fn the_access_log_tells_what_happens_while_it_is_read() {
    let w = world().await;
    let log = open(&w, ".accesslog").await;
    let (ino, fh) = w.create("a").await;
    w.write(fh, 0, b"abc").await;
    assert!(w.vfs.lookup(&w.root, Ino::ROOT, b"none").await.is_err());
    let text = String::from_utf8(w.read(log, 0, 4096).await.to_vec()).expect("text");
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.iter().any(|l| l.contains(&format!("write ({ino},3,0,{fh}) - OK <"))), "{text}");
    assert!(lines.iter().any(|l| l.contains("lookup (1,none) - no such file or directory <")), "{text}");
    assert_eq!(&w.read(log, 0, 4096).await[..], b"#\n", "nothing happened for a second");
}

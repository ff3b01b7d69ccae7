//! Volumes that JuiceFS 1.4.1 wrote, and damaged: what it found, we find.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cairn_chunk::ChunkStore;
use cairn_env::Env;
use cairn_meta::engine::{Options as EngineOptions, open as open_engine};
use cairn_meta::{Config, Meta};
use cairn_object::{Location, ObjectStore};
use serde_json::Value;

use super::world::{chunk_store, read};
use crate::{Tally, fsck, gc, tree, unwatched};

struct Fixture {
    _dir: tempfile::TempDir,
    root: PathBuf,
    env: Env,
    meta: Arc<Meta>,
    store: Arc<dyn ObjectStore>,
    chunks: Arc<ChunkStore>,
    manifest: Value,
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../integration/fixtures").join(name)
}

async fn fixture(name: &str) -> Fixture {
    let env = Env::real();
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    let from = source(name);
    let db = root.join("meta.db");
    std::fs::write(&db, std::fs::read(from.join("meta.db")).unwrap()).unwrap();
    let archive = from.join("store.tar.zst");
    if archive.exists() {
        unpack(&std::fs::read(archive).unwrap(), &root);
    }
    let prefix = if name == "sqlite-table-prefix" { "?table_prefix=team1" } else { "" };
    let url = format!("sqlite3://{}{prefix}", db.display());
    let engine = open_engine(env.clone(), &url, EngineOptions::default()).await.unwrap();
    let meta = Meta::open(env.clone(), engine, Config::mount()).await.unwrap();
    let format = meta.format();
    let location = Location {
        prefix: format!("{}/", format.name),
        fsync: false,
        ..Location::new("file", &format!("{}/", root.display()))
    };
    let store = cairn_object::open(&env, &location).unwrap();
    let chunks = chunk_store(&env, &store, format.block_bytes(), format.compression().unwrap());
    let manifest = serde_json::from_slice(&std::fs::read(from.join("manifest.json")).unwrap()).unwrap();
    Fixture { _dir: dir, root, env, meta, store, chunks, manifest }
}

fn unpack(archive: &[u8], to: &Path) {
    let tar = zstd::decode_all(archive).unwrap();
    let mut child = Command::new("tar").arg("-x").arg("-C").arg(to).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&tar).unwrap();
    assert!(child.wait().unwrap().success());
}

impl Fixture {
    fn volume(&self) -> PathBuf {
        self.root.join(self.meta.format().name.clone())
    }

    /// Sets when an object was put.
    fn age(&self, key: &str, age: Duration) {
        let time: SystemTime = self.env.now() - age;
        let file = std::fs::File::options().write(true).open(self.volume().join(key)).unwrap();
        file.set_modified(time).unwrap();
    }

    fn keys(&self) -> BTreeSet<String> {
        let mut keys = BTreeSet::new();
        let mut dirs = vec![self.volume()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
                let path = entry.path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    keys.insert(path.strip_prefix(self.volume()).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        keys
    }

    async fn gc(&self, delete: bool) -> gc::Report {
        let options = gc::Options { delete, ..gc::Options::default() };
        gc::run(&self.meta, &self.store, &self.chunks, &options, &unwatched).await.unwrap()
    }

    async fn fsck(&self, options: fsck::Options) -> fsck::Report {
        fsck::run(&self.meta, &self.store, &self.chunks, &options, &unwatched).await.unwrap()
    }
}

fn tally(count: u64, bytes: u64) -> Tally {
    Tally { count, bytes }
}

/// Everything is two hours old but one object, as the manifest asks.
async fn leaked() -> Fixture {
    let f = fixture("sqlite-leaked").await;
    for key in f.keys() {
        f.age(&key, Duration::from_secs(7200));
    }
    f.age("chunks/0/6/6001_0_100", Duration::ZERO);
    f
}

#[tokio::test]
async fn gc_counts_the_leaked_volume_as_juicefs_does() {
    let f = leaked().await;
    let report = f.gc(false).await;
    assert_eq!(report.used.count, 20);
    assert_eq!(report.used.bytes + report.unowned.bytes, 186_500, "JuiceFS adds those without owner to its bytes");
    assert_eq!(report.scanned.count, 26);
    assert_eq!(report.valid.count, 12);
    assert_eq!(report.pending_delete, tally(1, 3000));
    assert_eq!(report.compacted, tally(8, 36_000));
    assert_eq!(report.leaked, tally(4, 8_402_703));
    assert_eq!(report.skipped, tally(1, 100));
    assert_eq!(report.ignored.count, 3);
    assert_eq!(report.waiting_files, tally(1, 15_000));
    let leaks = f.manifest["leaks"].as_object().unwrap();
    let expected: BTreeSet<&str> = leaks
        .iter()
        .filter(|(_, why)| why.as_str().unwrap().starts_with("leaked:"))
        .map(|(key, _)| key.as_str())
        .collect();
    let found: BTreeSet<&str> = report.leaked_keys.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(found, expected);
    assert_eq!(f.keys().len(), 30, "a dry run deletes nothing");
}

#[tokio::test]
async fn gc_delete_leaves_of_the_leaked_volume_what_juicefs_leaves() {
    let f = leaked().await;
    let report = f.gc(true).await;
    assert_eq!(report.deleted, tally(4, 8_402_703));
    assert_eq!(report.cleaned.delayed, tally(8, 36_000));
    assert_eq!(report.cleaned.files, tally(1, 15_000));
    assert_eq!(report.cleaned.slices.count, 10);
    assert_eq!((report.scanned.count, report.valid.count, report.skipped.count), (16, 11, 1));
    let left: BTreeSet<String> = f.manifest["objects_after_gc_delete"]
        .as_array()
        .unwrap()
        .iter()
        .map(|k| k.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(f.keys(), left);
    let report = f.fsck(fsck::Options { verify: true, ..fsck::Options::default() }).await;
    assert!(report.findings.iter().all(|finding| finding.problem.is_drift()), "{:?}", report.findings);
}

#[tokio::test]
async fn fsck_finds_nothing_on_the_leaked_volume() {
    let f = leaked().await;
    let report = f.fsck(fsck::Options { verify: true, ..fsck::Options::default() }).await;
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(report.slices.count, 11);
}

/// Rule, path and object of every finding.
fn shown(report: &fsck::Report) -> BTreeSet<(String, String, Option<String>)> {
    let of = |f: &fsck::Finding| {
        let path = f.files[0].path.clone().unwrap_or_default();
        (f.problem.rule().to_owned(), path, f.problem.object().map(str::to_owned))
    };
    report.findings.iter().map(of).collect()
}

fn expected_damage(verify: bool) -> BTreeSet<(String, String, Option<String>)> {
    let mut all = vec![
        ("missing-object", "/d/missing", Some("chunks/0/0/2_0_60000")),
        ("missing-object", "/d/two-blocks-second-missing", Some("chunks/0/0/6_1_1048576")),
        ("wrong-object-length", "/d/emptied", Some("chunks/0/0/5_0_60000")),
        ("dangling-entry", "/d/dangling-entry", None),
        ("nlink", "/bad-nlink", None),
        ("directory-statistics", "/bad-stats", None),
        ("corrupt-slice-list", "/d/linked", None),
    ];
    if verify {
        all.push(("damaged-object", "/d/truncated", Some("chunks/0/0/3_0_60000")));
        all.push(("damaged-object", "/d/flipped", Some("chunks/0/0/4_0_60000")));
    }
    all.into_iter().map(|(rule, path, object)| (rule.into(), path.into(), object.map(str::to_owned))).collect()
}

#[tokio::test]
async fn fsck_finds_all_damage_and_nothing_else() {
    let f = fixture("sqlite-damaged").await;
    let quick = f.fsck(fsck::Options::default()).await;
    assert_eq!(shown(&quick), expected_damage(false));
    assert_eq!(quick.lost, tally(2, 1_108_576));
    let report = f.fsck(fsck::Options { verify: true, ..fsck::Options::default() }).await;
    assert_eq!(shown(&report), expected_damage(true));
    let listed: BTreeSet<&str> =
        f.manifest["damage"].as_array().unwrap().iter().map(|d| d["path"].as_str().unwrap()).collect();
    let found: BTreeSet<String> = shown(&report).into_iter().map(|(_, path, _)| path[1..].to_owned()).collect();
    let unseen: Vec<_> = listed.iter().filter(|path| !found.contains(**path)).collect();
    assert_eq!(unseen, [&"d/flipped-random"], "which decodes to wrong bytes, and lz4 has no checksum");
}

#[tokio::test]
async fn fsck_of_the_damaged_tree_finds_the_same_below_its_root() {
    let f = fixture("sqlite-damaged").await;
    let below = fsck::Options { path: Some(b"/".to_vec()), recursive: true, verify: true, ..fsck::Options::default() };
    let found = shown(&f.fsck(below).await);
    let mut expected = expected_damage(true);
    // Without a listing the length comes with what the codec says.
    expected.remove(&("wrong-object-length".into(), "/d/emptied".into(), Some("chunks/0/0/5_0_60000".into())));
    expected.insert(("damaged-object".into(), "/d/emptied".into(), Some("chunks/0/0/5_0_60000".into())));
    assert_eq!(found, expected);
}

#[tokio::test]
async fn fsck_repair_mends_what_juicefs_mends() {
    let f = fixture("sqlite-damaged").await;
    let repair = fsck::Options { repair: true, ..fsck::Options::default() };
    let report = f.fsck(repair).await;
    let mended: Vec<_> = report.findings.iter().filter(|f| f.repaired).map(|f| f.problem.rule()).collect();
    assert_eq!(mended, ["nlink", "directory-statistics"]);
    let again: BTreeSet<_> =
        shown(&f.fsck(fsck::Options::default()).await).into_iter().map(|(rule, ..)| rule).collect();
    assert!(!again.contains("nlink") && !again.contains("directory-statistics"), "{again:?}");
}

/// Volumes without damage: JuiceFS's own statistics may have drifted, nothing else may be wrong.
#[tokio::test]
async fn fsck_finds_no_damage_in_sound_volumes() {
    for name in [
        "sqlite-lz4",
        "sqlite-zstd",
        "sqlite-block-1m",
        "sqlite-packed",
        "sqlite-trash-full",
        "sqlite-acl-quota",
        "sqlite-changelog",
        "sqlite-table-prefix",
        "sqlite-tiers",
        "sqlite-stale-session",
    ] {
        let f = fixture(name).await;
        let report = f.fsck(fsck::Options::default()).await;
        assert!(!report.has_damage(), "{name}: {:#?}", report.findings);
        assert!(report.inodes > 0, "{name}");
    }
}

#[tokio::test]
async fn totals_of_every_volume_are_those_juicefs_tells() {
    for name in
        ["sqlite-lz4", "sqlite-packed", "sqlite-trash-full", "sqlite-leaked", "sqlite-acl-quota", "sqlite-table-prefix"]
    {
        let f = fixture(name).await;
        let told = &f.manifest["info_root_strict"];
        let sum = tree::summarize(&f.meta, cairn_types::Ino::ROOT, true, true, &unwatched).await.unwrap();
        let expected = ["files", "dirs", "length", "size"].map(|k| told[k].as_u64().unwrap());
        assert_eq!([sum.files, sum.dirs, sum.length, sum.size], expected, "{name}");
    }
}

/// Rows as `summary --csv` prints them; the order of equal sizes is nobody's promise.
fn rows(node: &tree::TreeSummary, out: &mut Vec<String>) {
    let slash = if node.r#type == 2 { "/" } else { "" };
    out.push(format!("{}{slash},{},{},{}", node.path, node.size, node.dirs, node.files));
    node.children.iter().for_each(|child| rows(child, out));
}

/// Names that CSV quotes, and bytes that are not UTF-8, look different from printer to printer.
fn plain(rows: Vec<String>) -> BTreeSet<String> {
    rows.into_iter().filter(|row| !row.contains(['"', '\n', '\u{fffd}'])).collect()
}

#[tokio::test]
async fn summaries_of_every_volume_are_those_juicefs_prints() {
    for name in
        ["sqlite-lz4", "sqlite-packed", "sqlite-trash-full", "sqlite-leaked", "sqlite-acl-quota", "sqlite-table-prefix"]
    {
        let f = fixture(name).await;
        let told = f.manifest["summary_csv"].as_array().unwrap();
        let expected = plain(told[1..].iter().map(|row| row.as_str().unwrap().to_owned()).collect());
        let options = tree::SummaryOptions { depth: 2, top_n: 100, strict: true };
        let top = tree::summary(&f.meta, cairn_types::Ino::ROOT, "", &options, &unwatched).await.unwrap();
        let mut found = Vec::new();
        rows(&top, &mut found);
        assert_eq!(plain(found), expected, "{name}");
    }
}

#[tokio::test]
async fn a_stale_session_is_reaped_as_the_manifest_says() {
    let f = fixture("sqlite-stale-session").await;
    let upkeep = crate::Upkeep::start(f.env.clone(), f.meta.clone(), f.chunks.clone(), crate::Config::mount());
    upkeep.run_jobs_now().await.unwrap();
    upkeep.stop().await;
    assert!(f.meta.sessions().await.unwrap().is_empty());
    let (broken, seen) = f.meta.view(cairn_meta::invariants::CheckVolume { strict: false }).await.unwrap();
    assert!(broken.iter().all(cairn_meta::invariants::Violation::is_drift), "{broken:?}");
    assert_eq!(seen.inodes, 4, "root and the three that have names");
}

/// Hash of every file of at most `bytes_max` that the manifest names, by path.
async fn assert_content(f: &Fixture, bytes_max: u64) -> usize {
    let mut checked = 0;
    for (path, told) in f.manifest["tree"].as_object().unwrap() {
        let Some(hash) = told["sha256"].as_str() else { continue };
        if told["size"].as_u64().unwrap() > bytes_max {
            continue;
        }
        let resolve = crate::ops::Resolve { path: unescaped(path) };
        let (_, entry) = f.meta.view(resolve).await.unwrap().unwrap_or_else(|| panic!("{path} is gone"));
        let bytes = read(&f.meta, &f.chunks, entry.ino).await;
        let found: String =
            ring::digest::digest(&ring::digest::SHA256, &bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(found, hash, "{path}");
        checked += 1;
    }
    checked
}

fn unescaped(path: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), path.as_bytes());
    while let Some((&b, tail)) = rest.split_first() {
        if b == b'%' {
            out.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
            rest = &tail[2..];
        } else {
            out.push(b);
            rest = tail;
        }
    }
    out
}

#[tokio::test]
async fn compaction_and_deletion_leave_every_byte_of_every_file() {
    for name in ["sqlite-packed", "sqlite-trash-full", "sqlite-lz4"] {
        let f = fixture(name).await;
        let options = gc::Options { delete: true, compact: true, skip_younger: Duration::ZERO, threads: 4 };
        // The 130 MiB files make a test in debug mode slow, and have nothing to compact.
        let big = 8 << 20;
        let before = assert_content(&f, big).await;
        let report = gc::run(&f.meta, &f.store, &f.chunks, &options, &unwatched).await.unwrap();
        assert_eq!(report.leaked, tally(0, 0), "{name}");
        assert_eq!(assert_content(&f, big).await, before, "{name}");
        assert!(before > 2, "{name}");
        let report = f.fsck(fsck::Options::default()).await;
        assert!(!report.has_damage(), "{name}: {:#?}", report.findings);
        assert_eq!(report.lost, tally(0, 0), "{name}");
    }
}

use cairn_meta::record::FlockKind;
use cairn_meta::{Cred, NewNode};
use cairn_types::Ino;

use super::world::{BLOCK, World, noise};
use crate::tree::{self, InfoOptions, RemoveOptions, Summary, SummaryOptions};
use crate::unwatched;

/// `/a` with three files, `/a/b` with one, a symlink.
async fn small_tree(w: &World) -> Ino {
    let a = w.dir(Ino::ROOT, "a").await;
    let b = w.dir(a, "b").await;
    for (dir, name, len) in [(a, "one", 1), (a, "two", 5000), (a, "three", 100_000), (b, "four", 10)] {
        w.file(dir, name, &noise(len, 1)).await;
    }
    w.meta.mknod(&Cred::root(), a, b"link", NewNode::symlink(b"target")).await.unwrap();
    a
}

#[tokio::test(start_paused = true)]
async fn a_whole_tree_is_removed_bottom_up() {
    let w = World::new(0).await;
    small_tree(&w).await;
    w.file(Ino::ROOT, "beside", b"x").await;
    let options = RemoveOptions::default();
    let removed = tree::remove(&w.meta, &Cred::root(), Ino::ROOT, b"a", &options, &unwatched).await.unwrap();
    assert_eq!(removed, 7);
    let left = w.meta.readdir(Ino::ROOT, b"", 10, false).await.unwrap();
    assert_eq!(left.len(), 1);
    let gone = tree::remove(&w.meta, &Cred::root(), Ino::ROOT, b"a", &options, &unwatched).await;
    assert!(matches!(gone, Err(crate::Error::Meta(cairn_meta::Error::NoEntry))));
    assert_eq!(tree::remove(&w.meta, &Cred::root(), Ino::ROOT, b"beside", &options, &unwatched).await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_directory_of_thousands_is_removed_page_by_page() {
    let w = World::new(1).await;
    let dir = w.dir(Ino::ROOT, "many").await;
    for i in 0..2500 {
        w.file(dir, &format!("f{i}"), b"").await;
    }
    let seen = std::sync::atomic::AtomicU64::new(0);
    let watch = |p: crate::Progress| seen.store(p.done, std::sync::atomic::Ordering::Relaxed);
    let options = RemoveOptions { skip_trash: true, threads: 8 };
    let removed = tree::remove(&w.meta, &Cred::root(), Ino::ROOT, b"many", &options, &watch).await.unwrap();
    assert_eq!((removed, seen.into_inner()), (2501, 2500));
    assert!(w.meta.readdir(Ino::TRASH, b"", 10, false).await.unwrap().is_empty(), "nothing went to the trash");
}

#[tokio::test(start_paused = true)]
async fn totals_are_the_same_fast_and_strict() {
    let w = World::new(1).await;
    let a = small_tree(&w).await;
    let expected = Summary { length: 105_011, size: 4096 * 2 + 4096 * 2 + 8192 + 102_400 + 4096, files: 5, dirs: 2 };
    for strict in [true, false] {
        assert_eq!(tree::summarize(&w.meta, a, true, strict, &unwatched).await.unwrap(), expected, "strict {strict}");
        let direct = tree::summarize(&w.meta, a, false, strict, &unwatched).await.unwrap();
        assert_eq!((direct.files, direct.dirs), (4, 2), "direct entries only");
    }
}

#[tokio::test(start_paused = true)]
async fn a_summary_shows_the_largest_first_and_the_rest_as_one_line() {
    let w = World::new(1).await;
    small_tree(&w).await;
    let options = SummaryOptions { depth: 2, top_n: 2, strict: true };
    let tree = tree::summary(&w.meta, Ino::ROOT, "", &options, &unwatched).await.unwrap();
    let a = &tree.children[0];
    let shown: Vec<_> = a.children.iter().map(|c| (c.path.as_str(), c.size, c.files, c.dirs)).collect();
    assert_eq!(shown, [("a/three", 102_400, 1, 0), ("a/b", 8192, 1, 1), ("...", 16_384, 3, 0)]);
    assert_eq!((tree.dirs, tree.files, tree.size), (3, 5, a.size + 4096));
    let flat = SummaryOptions { depth: 0, ..options };
    let top = tree::summary(&w.meta, Ino::ROOT, "", &flat, &unwatched).await.unwrap();
    assert_eq!((top.children.len(), top.size, top.files), (0, tree.size, tree.files));
}

#[tokio::test(start_paused = true)]
async fn info_names_paths_objects_and_locks_as_the_protocol_does() {
    let w = World::new(1).await;
    let dir = w.dir(Ino::ROOT, "d").await;
    let ino = w.file(dir, "f", &noise(BLOCK as usize + 10, 1)).await;
    w.meta.link(&Cred::root(), ino, Ino::ROOT, b"again").await.unwrap();
    w.write(ino, u64::from(2 * BLOCK), b"tail").await;
    w.meta.flock(ino, 9, Some(FlockKind::Read)).await.unwrap();
    let info = tree::info(&w.meta, ino, &InfoOptions::default(), &unwatched).await.unwrap();
    assert_eq!(info.paths, ["/again", "/d/f"]);
    let parts: Vec<_> = info.objects.iter().map(|o| (o.key.as_str(), o.size, o.off, o.len)).collect();
    assert_eq!(
        parts,
        [
            ("vol/chunks/0/0/1_0_65536", BLOCK, 0, BLOCK),
            ("vol/chunks/0/0/1_1_10", 10, 0, 10),
            ("", 0, 0, BLOCK - 10),
            ("vol/chunks/0/0/2_0_4", 4, 0, 4),
        ]
    );
    let json = serde_json::to_value(&info).unwrap();
    let members: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        members,
        [
            "Ino",
            "Failed",
            "Reason",
            "Summary",
            "Paths",
            "Chunks",
            "Objects",
            "PLocks",
            "FLocks",
            "Tier",
            "RestoreStatus"
        ]
    );
    assert_eq!(json["FLocks"][0]["Type"], "R");
    let raw = tree::info(&w.meta, ino, &InfoOptions { raw: true, ..InfoOptions::default() }, &unwatched).await.unwrap();
    assert_eq!((raw.chunks.len(), raw.objects.len()), (3, 0));
}

//! Listing.

use cairn_meta::Error as MetaError;
use std::collections::BTreeSet;

use super::*;
use crate::{DirEntry, Error};

async fn all(w: &World, fh: Fh, at_a_time: usize, plus: bool) -> Vec<DirEntry> {
    let mut out: Vec<DirEntry> = Vec::new();
    loop {
        let offset = out.last().map_or(0, |e| e.next);
        let page = w.vfs.readdir(&w.root, fh, offset, at_a_time, plus).await.expect("lists");
        if page.is_empty() {
            return out;
        }
        assert!(page.len() <= at_a_time);
        out.extend(page);
    }
}

fn names(entries: &[DirEntry]) -> Vec<String> {
    entries.iter().map(|e| String::from_utf8_lossy(&e.name).into_owned()).collect()
}

async fn filled(count: usize) -> (World, Ino) {
    let w = World::new().await;
    let (dir, _) = w.vfs.mknod(&w.root, Ino::ROOT, b"dir", NewNode::dir(0o755)).await.expect("made");
    for i in 0..count {
        let made = w.vfs.mknod(&w.root, dir, format!("f{i:04}").as_bytes(), NewNode::file(0o644)).await;
        made.expect("made");
    }
    (w, dir)
}

#[tokio::test(start_paused = true)]
async fn every_name_is_listed_once_at_any_page_size() {
    let (w, dir) = filled(100).await;
    for at_a_time in [1, 2, 7, 16, 1000] {
        let fh = w.vfs.opendir(&w.root, dir).await.expect("opens");
        let listed = names(&all(&w, fh, at_a_time, false).await);
        let expected: Vec<_> =
            [".".into(), "..".into()].into_iter().chain((0..100).map(|i| format!("f{i:04}"))).collect();
        assert_eq!(listed, expected);
        w.vfs.releasedir(&w.root, fh).await.expect("closes");
    }
}

#[tokio::test(start_paused = true)]
async fn any_offset_can_be_resumed() {
    let (w, dir) = filled(300).await;
    let fh = w.vfs.opendir(&w.root, dir).await.expect("opens");
    let whole = all(&w, fh, 50, false).await;
    for at in [250, 3, 299, 17, 100, 0] {
        let after = &whole[at];
        let page = w.vfs.readdir(&w.root, fh, after.next, 5, true).await.expect("lists");
        let expected = &whole[at + 1..whole.len().min(at + 6)];
        assert_eq!(names(&page), names(expected));
    }
}

#[tokio::test(start_paused = true)]
async fn removing_while_listing_skips_nothing() {
    let (w, dir) = filled(200).await;
    let fh = w.vfs.opendir(&w.root, dir).await.expect("opens");
    let (mut offset, mut seen) = (0, BTreeSet::new());
    loop {
        let page = w.vfs.readdir(&w.root, fh, offset, 9, false).await.expect("lists");
        let Some(last) = page.last() else { break };
        offset = last.next;
        for e in page.iter().filter(|e| e.name[0] == b'f') {
            assert!(seen.insert(e.name.clone()), "twice");
            w.vfs.unlink(&w.root, dir, &e.name).await.expect("removed");
        }
    }
    assert_eq!(seen.len(), 200);
    w.vfs.rmdir(&w.root, Ino::ROOT, b"dir").await.expect("empty");
}

#[tokio::test(start_paused = true)]
async fn rewinding_shows_what_is_new() {
    let (w, dir) = filled(1).await;
    let fh = w.vfs.opendir(&w.root, dir).await.expect("opens");
    assert_eq!(all(&w, fh, 10, false).await.len(), 3);
    w.vfs.mknod(&w.root, dir, b"g", NewNode::file(0o644)).await.expect("made");
    assert_eq!(all(&w, fh, 10, false).await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn attributes_in_a_listing_are_this_clients_own() {
    let (w, dir) = filled(3).await;
    let (ino, _) = w.vfs.lookup(&w.root, dir, b"f0001").await.expect("found");
    let fh = w.open(ino).await;
    w.write(fh, 0, &pattern(0, 777)).await;
    let list = w.vfs.opendir(&w.root, dir).await.expect("opens");
    let listed = all(&w, list, 10, true).await;
    let entry = listed.iter().find(|e| &e.name[..] == b"f0001").expect("listed");
    assert_eq!(entry.attr.expect("plus").length, 777);
    assert_eq!(w.vfs.lookup(&w.root, dir, b"f0001").await.expect("found").1.length, 777);
    let parent = &listed[1];
    assert_eq!((&parent.name[..], parent.ino), (&b".."[..], Ino::ROOT));
}

#[tokio::test(start_paused = true)]
async fn a_file_is_not_listed() {
    let w = World::new().await;
    let (ino, fh) = w.create("a").await;
    let refused = w.vfs.opendir(&w.root, ino).await;
    assert!(matches!(refused, Err(Error::Meta(MetaError::NotDirectory))), "{refused:?}");
    assert!(w.vfs.readdir(&w.root, fh, 0, 10, false).await.is_err());
}

use super::*;

fn file() -> NewModelNode {
    NewModelNode { kind: FileType::File, mode: 0o644, umask: 0, rdev: 0, target: vec![] }
}

fn dir() -> NewModelNode {
    NewModelNode { kind: FileType::Directory, ..file() }
}

#[test]
fn an_open_file_outlives_its_name() {
    let mut fs = ModelFs::new();
    let id = fs.make((0, 0), ROOT, b"a", file()).unwrap();
    fs.open(id).unwrap();
    fs.write(id, 0, b"still here").unwrap();
    fs.unlink(ROOT, b"a").unwrap();
    assert_eq!(fs.content(id).read(0, 100), b"still here");
    fs.close(id);
    assert_eq!(fs.node(id).err(), Some(No::NoEntry));
}

#[test]
fn a_directory_cannot_move_below_itself() {
    let mut fs = ModelFs::new();
    let a = fs.make((0, 0), ROOT, b"a", dir()).unwrap();
    let b = fs.make((0, 0), a, b"b", dir()).unwrap();
    assert_eq!(fs.rename((ROOT, b"a"), (b, b"c"), RenameMode::Replace), Err(No::Invalid));
    assert_eq!(fs.rename((a, b"b"), (ROOT, b"a"), RenameMode::Exchange), Err(No::Invalid));
}

#[test]
fn a_crash_may_lose_what_was_not_synced_and_nothing_else() {
    let mut fs = ModelFs::new();
    let a = fs.make((0, 0), ROOT, b"a", file()).unwrap();
    fs.write(a, 0, b"kept").unwrap();
    fs.synced(a);
    let kept = fs.seen();
    fs.write(a, 0, b"LOST").unwrap();
    fs.make((0, 0), ROOT, b"b", file()).unwrap();
    assert!(fs.after_crash(&kept, true).is_ok(), "the state of the last fsync");
    assert!(fs.after_crash(&fs.seen(), true).is_ok(), "the present state");
    assert!(fs.after_crash(&ModelFs::new().seen(), true).is_err(), "an older state");
}

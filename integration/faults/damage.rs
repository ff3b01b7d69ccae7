//! Blocks that are damaged in the store: EIO with the key in the log, never other bytes.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::support::{Mounted, Volume, bytes, cairn, errno};

const LEN: usize = 6_000_000;
const PIECE: usize = 1000;

/// A volume with two files, `good` and `f`; what `harm` does to each block of `f` happens unmounted.
fn damaged(compress: &str, harm: impl Fn(&Path)) -> (Mounted, Volume, Vec<String>) {
    let volume = Volume::new(&["--compress", compress]);
    // Compresses well, so that a flipped bit breaks the code and not a literal.
    let content: Vec<u8> = bytes(1, PIECE).into_iter().cycle().take(LEN).collect();
    let write = |name: &str| {
        let mounted = volume.mount(&[]);
        fs::write(mounted.path(name), &content).unwrap();
        mounted.unmount();
        volume.blocks()
    };
    let good = write("good");
    let blocks: Vec<PathBuf> = write("f").into_iter().filter(|b| !good.contains(b)).collect();
    blocks.iter().for_each(|b| harm(b));
    let names = blocks.iter().map(|b| b.file_name().unwrap().to_string_lossy().into_owned()).collect();
    (volume.mount(&["--cache-size", "0", "--io-retries", "1"]), volume, names)
}

/// The last bytes of a file: the last of whichever block holds them.
fn tail(mounted: &Mounted, name: &str) -> std::io::Result<Vec<u8>> {
    let mut found = vec![0; PIECE];
    fs::File::open(mounted.path(name))?.read_exact_at(&mut found, (LEN - PIECE) as u64)?;
    Ok(found)
}

/// The undamaged file can be read, the other gives EIO and is named in the log and by fsck.
#[track_caller]
fn is_noticed((mounted, volume, blocks): (Mounted, Volume, Vec<String>)) {
    assert!(tail(&mounted, "good").unwrap() == bytes(1, PIECE));
    assert_eq!(errno(tail(&mounted, "f")), libc::EIO);
    let said = mounted.said();
    assert!(blocks.iter().any(|b| said.contains(b)), "none of {blocks:?} is in the log:\n{said}");
    let fsck = cairn(["fsck", volume.url(), "--verify"]);
    assert_ne!(fsck.code, 0);
    let found = format!("{}{}", fsck.out, fsck.err);
    assert!(blocks.iter().all(|b| found.contains(b)), "fsck does not name all of {blocks:?}:\n{found}");
}

#[test]
fn a_missing_block_is_an_error() {
    for compress in ["none", "lz4", "zstd"] {
        is_noticed(damaged(compress, |b| fs::remove_file(b).unwrap()));
    }
}

#[test]
fn a_truncated_block_is_an_error() {
    for compress in ["none", "lz4", "zstd"] {
        is_noticed(damaged(compress, |b| {
            let file = fs::File::options().write(true).open(b).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }));
    }
}

#[test]
fn an_emptied_block_is_an_error() {
    for compress in ["none", "lz4", "zstd"] {
        is_noticed(damaged(compress, |b| fs::write(b, b"").unwrap()));
    }
}

#[test]
fn a_flipped_bit_in_a_compressed_block_is_an_error_or_is_harmless() {
    for compress in ["lz4", "zstd"] {
        for at in [1, 5, 700, 1010, 2000] {
            let (mounted, _volume, _) = damaged(compress, |b| {
                let mut content = fs::read(b).unwrap();
                let last = content.len() - 1;
                content[at.min(last)] ^= 0x10;
                fs::write(b, content).unwrap();
            });
            match tail(&mounted, "f") {
                Err(e) => assert_eq!(e.raw_os_error(), Some(libc::EIO), "{compress} at {at}"),
                // Literals carry no checksum in lz4 (PROMISES says so); then only bytes change, never lengths.
                Ok(_) => assert_eq!(fs::metadata(mounted.path("f")).unwrap().len(), LEN as u64, "{compress} at {at}"),
            }
        }
    }
}

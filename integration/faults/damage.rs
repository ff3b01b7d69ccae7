//! Blocks that are damaged in the store: EIO with the key in the log, never other bytes.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Mounted, Volume, bytes, cairn, errno};

const LEN: usize = 6_000_000;

/// A volume with one file of two blocks; what `harm` does to the last block happens unmounted.
fn damaged(compress: &str, harm: impl FnOnce(&PathBuf)) -> (Mounted, Volume, PathBuf) {
    let volume = Volume::new(&["--compress", compress]);
    let mounted = volume.mount(&[]);
    // Compresses well, so that a flipped bit breaks the code and not a literal.
    let content: Vec<u8> = bytes(1, 1000).into_iter().cycle().take(LEN).collect();
    fs::write(mounted.path("f"), &content).unwrap();
    mounted.unmount();
    let last = volume.blocks().into_iter().max_by_key(|b| place(b)).expect("there are blocks");
    harm(&last);
    (volume.mount(&["--cache-size", "0", "--io-retries", "1"]), volume, last)
}

/// Slice and index of a block: a file that is written once shows them in this order.
fn place(block: &Path) -> (u64, u64) {
    let name = block.file_name().unwrap().to_string_lossy().into_owned();
    let mut fields = name.split('_').map(|f| f.parse().unwrap());
    (fields.next().unwrap(), fields.next().unwrap())
}

/// The undamaged block can be read, the other gives EIO and is named in the log and by fsck.
#[track_caller]
fn is_noticed(mounted: &Mounted, volume: &Volume, block: &Path) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::open(mounted.path("f")).unwrap();
    let mut first = vec![0; 1000];
    file.read_exact_at(&mut first, 0).unwrap();
    assert!(first == bytes(1, 1000));
    assert_eq!(errno(file.read_exact_at(&mut first, 5_900_000)), libc::EIO);
    let name = block.file_name().unwrap().to_string_lossy().into_owned();
    assert!(mounted.said().contains(&name), "the key {name} is not in the log:\n{}", mounted.said());
    let fsck = cairn(["fsck", volume.url(), "--verify"]);
    assert_ne!(fsck.code, 0);
    assert!(format!("{}{}", fsck.out, fsck.err).contains(&name), "{fsck:?}");
}

#[test]
fn a_missing_block_is_an_error() {
    for compress in ["none", "lz4", "zstd"] {
        let (mounted, volume, block) = damaged(compress, |b| fs::remove_file(b).unwrap());
        is_noticed(&mounted, &volume, &block);
    }
}

#[test]
fn a_truncated_block_is_an_error() {
    for compress in ["none", "lz4", "zstd"] {
        let (mounted, volume, block) = damaged(compress, |b| {
            let file = fs::File::options().write(true).open(b).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        });
        is_noticed(&mounted, &volume, &block);
    }
}

#[test]
fn an_emptied_block_is_an_error() {
    for compress in ["none", "lz4", "zstd"] {
        let (mounted, volume, block) = damaged(compress, |b| fs::write(b, b"").unwrap());
        is_noticed(&mounted, &volume, &block);
    }
}

#[test]
fn a_flipped_bit_in_a_compressed_block_is_an_error_or_is_harmless() {
    use std::os::unix::fs::FileExt;
    for compress in ["lz4", "zstd"] {
        for at in [1, 5, 700, 1010, 2000] {
            let (mounted, _volume, _) = damaged(compress, |b| {
                let mut content = fs::read(b).unwrap();
                let last = content.len() - 1;
                content[at.min(last)] ^= 0x10;
                fs::write(b, content).unwrap();
            });
            let file = fs::File::open(mounted.path("f")).unwrap();
            let mut found = vec![0; 1000];
            match file.read_exact_at(&mut found, 5_000_000) {
                Err(e) => assert_eq!(e.raw_os_error(), Some(libc::EIO), "{compress} at {at}"),
                // Literals carry no checksum in lz4 (PROMISES says so); then only bytes change, never lengths.
                Ok(()) => assert_eq!(file.metadata().unwrap().len(), LEN as u64, "{compress} at {at}"),
            }
        }
    }
}

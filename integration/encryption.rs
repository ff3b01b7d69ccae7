//! Encrypted volumes from outside: what is written comes back, nothing stored shows it, and who has not
//! the key is told so before anything is mounted.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Ran, Volume, binary, bytes, cairn, errno, finish, run};

/// Stands in every file written here and must be found in no stored byte.
const MARKER: &[u8] = b"cairn-plaintext-marker-0123456789";

/// The private key of one of the volumes that JuiceFS wrote.
fn key(volume: &str) -> String {
    format!("{}/integration/fixtures/sqlite-enc-{volume}/key.pem", env!("CARGO_MANIFEST_DIR"))
}

fn encrypted(flags: &[&str]) -> Volume {
    Volume::new(&[&["--encrypt-rsa-key", &key("aes")], flags].concat())
}

/// What a file of this length holds: markers, and bytes that do not compress.
fn content(len: usize) -> Vec<u8> {
    let mut content = bytes(len as u64, len);
    for at in (0..len.saturating_sub(MARKER.len())).step_by(10_000) {
        content[at..at + MARKER.len()].copy_from_slice(MARKER);
    }
    content
}

const LENGTHS: [usize; 5] = [1, 50, 40_000, 300_000, 6_000_000];

fn write_all(root: &Path) {
    for len in LENGTHS {
        fs::write(root.join(len.to_string()), content(len)).unwrap();
    }
}

#[track_caller]
fn are_right(root: &Path) {
    for len in LENGTHS {
        assert!(fs::read(root.join(len.to_string())).unwrap() == content(len), "{len}");
    }
}

/// Every file below a folder.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}

/// Not even a third of the marker is found in any file of the folder.
#[track_caller]
fn shows_no_marker(dir: &Path) {
    assert!(!files(dir).is_empty(), "there is something to look at");
    let parts = MARKER.chunks(11).flat_map(|part| ["-e", std::str::from_utf8(part).expect("ASCII")]);
    let found = run(dir, "grep", ["-rlaF"].into_iter().chain(parts).chain(["."]));
    assert_eq!(found.code, 1, "these hold what was written: {}{}", found.out, found.err);
}

#[test]
fn what_is_written_comes_back_and_no_stored_byte_shows_it() {
    for (algorithm, compress) in [("aes256gcm-rsa", "none"), ("chacha20-rsa", "lz4"), ("aes256gcm-rsa", "zstd")] {
        let volume = encrypted(&["--encrypt-algo", algorithm, "--compress", compress, "--block-size", "1M"]);
        let mounted = volume.mount(&["--cache-large-write"]);
        write_all(mounted.root());
        are_right(mounted.root());
        mounted.unmount();
        volume.fsck_is_clean();
        let cached = || files(&volume.path("cache")).into_iter().filter(|f| f.to_string_lossy().contains("chunks"));
        let blocks = volume.blocks();
        assert!(blocks.len() > LENGTHS.len() && cached().count() > 0);
        for dir in ["store", "cache"] {
            shows_no_marker(&volume.path(dir));
        }
        // From the cache alone, and from the store alone.
        blocks.iter().for_each(|b| fs::rename(b, b.with_extension("away")).unwrap());
        let small = volume.mount(&["--read-only"]);
        assert!(fs::read(small.path("300000")).unwrap() == content(300_000), "a block that was cached");
        small.unmount();
        blocks.iter().for_each(|b| fs::rename(b.with_extension("away"), b).unwrap());
        fs::remove_dir_all(volume.path("cache")).unwrap();
        let cold = volume.mount(&["--read-only"]);
        are_right(cold.root());
        cold.unmount();
        shows_no_marker(&volume.path("cache"));
    }
}

/// What JuiceFS keeps under the same `--cache-dir` is in clear, and neither takes the other's files.
#[test]
fn the_cache_has_a_folder_of_its_own() {
    let volume = encrypted(&[]);
    let mounted = volume.mount(&[]);
    fs::write(mounted.path("f"), content(40_000)).unwrap();
    mounted.unmount();
    let setting: Value = serde_json::from_str(&cairn(["config", volume.url()]).ok()).unwrap();
    let uuid = setting["UUID"].as_str().unwrap();
    assert!(!volume.path("cache").join(uuid).exists());
    assert!(volume.path("cache").join(format!("{uuid}.sealed/raw")).is_dir());
}

/// A command with another passphrase than the right one.
fn with(name: &str, passphrase: Option<&str>, args: &[&str]) -> Ran {
    let mut command = binary();
    command.env_remove("JFS_RSA_PASSPHRASE");
    if let Some(passphrase) = passphrase {
        command.env(name, passphrase);
    }
    finish(command.args(args))
}

#[test]
fn a_key_that_cannot_be_used_is_told_before_anything_is_done() {
    let volume = encrypted(&[]);
    let (url, mnt, cache) = (volume.url(), volume.path("mnt"), volume.path("cache"));
    let mount = ["mount", url, mnt.to_str().unwrap(), "--cache-dir", cache.to_str().unwrap()];
    let commands: [&[&str]; 4] = [&mount, &["gc", url], &["fsck", url], &["fsck", url, "--verify"]];
    for args in commands {
        let said = with("JFS_RSA_PASSPHRASE", None, args).refused();
        assert!(said.contains("JFS_RSA_PASSPHRASE"), "{args:?}: {said}");
        let said = with("JFS_RSA_PASSPHRASE", Some("not-the-passphrase"), args).refused();
        assert!(said.contains("passphrase is wrong") && !said.contains("not-the-passphrase"), "{args:?}: {said}");
    }
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 0, "nothing was begun");
    let file = volume.path("passphrase");
    fs::write(&file, "cairn-fixture\n").unwrap();
    with("JFS_RSA_PASSPHRASE_FILE", file.to_str(), &["fsck", url]).ok();
}

#[test]
fn a_volume_whose_setting_names_another_key_or_cipher_is_refused() {
    let (volume, other) = (encrypted(&[]), Volume::new(&["--encrypt-rsa-key", &key("chacha")]));
    let bucket = |v: &Volume| format!("{}/", v.store().display());
    // The other volume's bucket, encrypted with the other key: what its database knows does not help.
    let said = volume.mount_refused(&["--bucket", &bucket(&other)]);
    assert!(said.contains("another private key"), "{said}");
    let plain = Volume::new(&[]);
    let said = volume.mount_refused(&["--bucket", &bucket(&plain)]);
    assert!(said.contains("belongs to another volume"), "{said}");
    let said = plain.mount_refused(&["--bucket", &bucket(&volume)]);
    assert!(said.contains("belongs to another volume"), "{said}");
    // The cipher in the setting is changed by hand.
    for (algorithm, word) in [("chacha20-rsa", "another algorithm"), ("rot13", "rot13"), ("sm4gcm", "sm4gcm")] {
        set_algorithm(&volume, algorithm);
        let said = volume.mount_refused(&[]);
        assert!(said.contains(word), "{algorithm}: {said}");
        for command in ["gc", "fsck"] {
            let said = cairn([command, volume.url()]).refused();
            assert!(said.contains(word), "{command} {algorithm}: {said}");
        }
    }
    set_algorithm(&volume, "aes256gcm-rsa");
    volume.mount(&[]).unmount();
}

fn set_algorithm(volume: &Volume, algorithm: &str) {
    let db = rusqlite::Connection::open(volume.database()).unwrap();
    let stored = "select value from jfs_setting where name = 'format'";
    let text: String = db.query_row(stored, [], |row| row.get(0)).unwrap();
    let mut setting: Value = serde_json::from_str(&text).unwrap();
    setting["EncryptAlgo"] = algorithm.into();
    db.execute("update jfs_setting set value = ?1 where name = 'format'", [setting.to_string()]).unwrap();
}

#[test]
fn a_key_that_cannot_be_used_is_not_formatted_with() {
    let fresh = Volume::unformatted();
    let not_a_key = fresh.path("note.txt");
    fs::write(&not_a_key, "no key at all").unwrap();
    for (flags, word) in [
        (["--encrypt-rsa-key", "/nowhere.pem"], "/nowhere.pem"),
        (["--encrypt-rsa-key", not_a_key.to_str().unwrap()], "PEM"),
        (["--encrypt-algo", "rot13"], "rot13"),
        (["--encrypt-algo", "sm4gcm"], "sm4gcm"),
    ] {
        let said = fresh.format(&flags).refused();
        assert!(said.contains(word), "{flags:?}: {said}");
    }
    let bucket = format!("{}/", fresh.store().display());
    let format = ["format", fresh.url(), "test-volume", "--storage", "file", "--bucket", &bucket];
    let said = with("", None, &[&format[..], &["--encrypt-rsa-key", &key("aes")]].concat()).refused();
    assert!(said.contains("JFS_RSA_PASSPHRASE"), "{said}");
    assert!(!fresh.database().exists() && fs::read_dir(fresh.store()).unwrap().count() == 0, "nothing was made");
}

#[test]
fn encryption_never_changes_not_even_by_force() {
    let volume = encrypted(&[]);
    let again = |flags: &[&str]| cairn([&["format", volume.url(), "test-volume"], flags].concat());
    again(&["--encrypt-rsa-key", &key("aes"), "--trash-days", "3"]).ok();
    for flags in [["--encrypt-rsa-key", &key("chacha")], ["--encrypt-algo", "chacha20-rsa"]] {
        for force in [&[][..], &["--force"]] {
            let said = again(&[&flags[..], force].concat()).refused();
            assert!(said.contains("can never change"), "{flags:?}: {said}");
        }
    }
    let plain = Volume::new(&[]);
    let said = cairn(["format", plain.url(), "test-volume", "--encrypt-rsa-key", &key("aes"), "--force"]).refused();
    assert!(said.contains("can never change"), "{said}");
    volume.mount(&[]).unmount();
}

#[test]
fn neither_key_nor_passphrase_is_shown() {
    let volume = encrypted(&[]);
    let pem = fs::read_to_string(key("aes")).unwrap();
    let line = pem.lines().nth(4).unwrap();
    let mounted = volume.mount(&["--verbose"]);
    let environ = fs::read(format!("/proc/{}/environ", mounted.pid().as_raw_nonzero())).unwrap();
    let shown = [
        String::from_utf8_lossy(&environ).into_owned(),
        cairn(["status", volume.url()]).ok(),
        cairn(["config", volume.url()]).ok(),
        fs::read_to_string(mounted.path(".config")).unwrap(),
        mounted.said(),
    ];
    for text in shown {
        assert!(!text.contains(line) && !text.contains("BEGIN") && !text.contains("cairn-fixture"), "{text}");
    }
    mounted.unmount();
    let database = fs::read(volume.database()).unwrap();
    assert!(!database.windows(line.len()).any(|w| w == line.as_bytes()), "the key is stored in the clear");
}

#[test]
fn a_flipped_bit_is_an_error_that_names_the_object() {
    for compress in ["none", "zstd"] {
        let volume = encrypted(&["--compress", compress]);
        let mounted = volume.mount(&[]);
        fs::write(mounted.path("f"), content(40_000)).unwrap();
        mounted.unmount();
        let block = volume.blocks().pop().unwrap();
        let name = block.file_name().unwrap().to_str().unwrap();
        let sound = fs::read(&block).unwrap();
        // The length of the key, the wrapped key, the nonce, the content, the tag.
        for at in [1, 100, 262, 5_000, sound.len() - 1] {
            let mut flipped = sound.clone();
            flipped[at] ^= 4;
            // A new file: the folder's store keeps a checksum with the old one, which would notice first.
            fs::remove_file(&block).unwrap();
            fs::write(&block, flipped).unwrap();
            let mounted = volume.mount(&["--cache-size", "0", "--io-retries", "1"]);
            assert_eq!(errno(fs::read(mounted.path("f"))), libc::EIO, "byte {at}");
            assert!(mounted.said().contains(name), "byte {at}: {}", mounted.said());
            mounted.unmount();
            let fsck = cairn(["fsck", volume.url(), "--verify"]);
            assert_eq!(fsck.code, 1, "byte {at}: {}\n{}", fsck.out, fsck.err);
            assert!(fsck.out.contains(name), "byte {at}: {}", fsck.out);
        }
    }
}

#[test]
fn compaction_and_gc_leave_an_encrypted_volume_whole() {
    use std::os::unix::fs::FileExt;
    let volume = encrypted(&["--compress", "lz4"]);
    let mounted = volume.mount(&[]);
    let file = fs::File::create(mounted.path("f")).unwrap();
    let mut right = vec![0; 200_000];
    for n in 0..20u64 {
        let (at, piece) = (n * 9_000, bytes(n, 12_000));
        file.write_all_at(&piece, at).unwrap();
        file.sync_all().unwrap();
        right[at as usize..at as usize + piece.len()].copy_from_slice(&piece);
    }
    file.set_len(right.len() as u64).unwrap();
    drop(file);
    mounted.unmount();
    let before = volume.blocks().len();
    cairn(["gc", volume.url(), "--compact", "--delete"]).ok();
    assert!(volume.blocks().len() < before, "{before} blocks were to become fewer");
    volume.fsck_is_clean();
    let mounted = volume.mount(&["--read-only"]);
    assert!(fs::read(mounted.path("f")).unwrap() == right);
    mounted.unmount();
}

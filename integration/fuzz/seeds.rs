//! What to begin with: what our encoders write, and what JuiceFS left.

use cairn_chunk::Codec;
use cairn_meta::record::{DelayedSlices, FlockKind, PlockRange};
use cairn_types::{AclEntry, AclRule, Attr, Compression, Format, Ino, SliceId, SliceRecord, SliceRef};

use crate::targets::cached::KEY;
use crate::targets::journal;
use crate::targets::sealed::cipher;

/// Bytes a target reads, of each form it knows.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "attr" => {
            let plain = Attr { length: 5000, nlink: 1, mode: 0o644, parent: Ino(1), ..Attr::default() };
            let full = Attr { access_acl: 3, default_acl: 4, tier: 2, ..plain };
            vec![plain.encode(), full.encode()]
        }
        "slices" => {
            let record = |pos, id, size, off, len| SliceRecord { pos, id: SliceId(id), size, off, len };
            let list = [record(0, 11, 1 << 20, 0, 1 << 20), record(4096, 12, 8192, 0, 4096), SliceRecord::hole(9, 99)];
            vec![SliceRecord::encode_list(&list), SliceRecord::encode_list(&list[..1])]
        }
        "acl" => {
            let named = vec![AclEntry { id: 1000, perm: 6 }, AclEntry { id: 1001, perm: 4 }];
            let rule = AclRule { owner: 7, group: 5, mask: 5, other: 1, users: named.clone(), groups: named };
            vec![rule.encode(), rule.to_xattr(), AclRule::empty().encode()]
        }
        "records" => {
            let slices = vec![SliceRef { id: SliceId(7), size: 4096 }, SliceRef { id: SliceId(8), size: 1 }];
            let lock = PlockRange { kind: FlockKind::Write, pid: 77, start: 10, end: i64::MAX as u64 };
            vec![
                DelayedSlices { id: SliceId(9), deleted_secs: 1, slices }.encode_slices(),
                PlockRange::encode_list(&[lock, PlockRange { kind: FlockKind::Read, ..lock }]),
            ]
        }
        "names" => texts(&["chunks/1/1234/1234567_1_4194304", "2026-11-21-02", "1.4.1-beta2+4f", "my-volume"]),
        "setting" => settings(),
        "place" => texts(&[
            "file\n/var/jfs/\n0",
            "file\n/d%d/\n3",
            "s3\nhttps://bucket.s3.eu-west-1.amazonaws.com/p\n0",
            "minio\nhttp://127.0.0.1:9000/bucket?tls-insecure-skip-verify=true\n2",
            "sqlite3://x.db?_journal=WAL&_timeout=70&table_prefix=team1",
        ]),
        "control" => {
            let message = |kind: u32, body: &[u8]| [&kind.to_be_bytes(), body].concat();
            vec![
                message(1002, &[0, 0, 0, 0, 0, 0, 0, 1, 4, b'c', b'o', b'p', b'y', 1, 4]),
                message(1005, &[0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 1]),
                message(1007, &[0, 0, 0, 0, 0, 0, 0, 1, 3, 10, 0]),
                message(1008, &[0, 0, 0, 0, 0, 0, 0, 1, 0, 2]),
            ]
        }
        "block" => {
            let plain = b"some words, some words, and some words again".repeat(20);
            let all = [Compression::None, Compression::Lz4, Compression::Zstd];
            let encoded = (0..).zip(all).map(|(how, compression)| {
                let len = (plain.len() as u16).to_be_bytes();
                let object = Codec::new(compression, None).encode(&[plain.clone().into()]);
                [&[how, len[0], len[1]], &object[..]].concat()
            });
            encoded.collect()
        }
        "object" => sealed_objects().to_vec(),
        "pem" => texts(&[
            include_str!("../../pkg/crypt/tests/keys/pkcs1.pem"),
            include_str!("../../pkg/crypt/tests/keys/pkcs1-aes256.pem"),
            include_str!("../../pkg/crypt/tests/keys/pkcs1-des3.pem"),
            include_str!("../../pkg/crypt/tests/keys/pkcs8.pem"),
            include_str!("../../pkg/crypt/tests/keys/pkcs8-pbes2.pem"),
            include_str!("../../pkg/crypt/tests/keys/ec-pkcs8.pem"),
        ]),
        "cached" => {
            let block = vec![5; KEY.len as usize];
            let (header, file) = cipher().new_file(&KEY.object_key(cairn_types::KeyLayout::Plain));
            let sealed = [header, file.seal(&block)].concat();
            let clear = |how: u8| [&[how], &block[..]].concat();
            vec![[&[1], &sealed[..]].concat(), [&[25], &sealed[..]].concat(), clear(0), clear(6)]
        }
        "journal" => vec![journal::seed().1.clone()],
        _ => Vec::new(),
    }
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn settings() -> Vec<Vec<u8>> {
    let hidden = r#"{"Name":"myjfs","UUID":"55f8bf95-7e0b-4e3c-93df-0cfcca3bac87","Storage":"minio","Tiers":{"0":{"ID":0,"StorageClass":"","Tag":""}},"Bucket":"http://127.0.0.1:9000/b","AccessKey":"a","SecretKey":"AAECAwQFBgcICQoLkLiyvk0Ljsj+ZzVyFI+p+2X09ayHDqVvgVg=","BlockSize":4096,"EncryptAlgo":"aes256gcm-rsa","KeyEncrypted":true,"TrashDays":1,"MetaVersion":1,"MinClientVersion":"1.1.0-A","DirStats":true,"EnableACL":false,"KerbConf":"x"}"#;
    vec![hidden.into(), Format::default().to_json().into_bytes()]
}

/// Made once: whoever asks whether an object is a seed asks often.
fn sealed_objects() -> &'static [Vec<u8>] {
    static OBJECTS: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();
    OBJECTS.get_or_init(|| vec![cipher().seal(&[b"some content"]), cipher().seal(&[b""]), vec![1, 0, 12]])
}

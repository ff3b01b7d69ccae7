//! Compares what a mount shows with what a manifest says must be seen.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use cairn_types::AclRule;
use rustix::fs::{lgetxattr, llistxattr};
use serde_json::Value;

use crate::support::{hex, sha256};

/// Everything below `root` that is not as `tree` says, one line each.
pub(super) fn differences(tree: &Value, root: &Path, shown: &str) -> Vec<String> {
    let tree = tree.as_object().expect("a tree is an object");
    let mut wrong = Vec::new();
    for (path, right) in tree {
        let place = if path == "." { root.to_owned() } else { root.join(OsStr::from_bytes(&unescape(path))) };
        if let Err(e) = compare(&place, right, &mut |what| wrong.push(format!("{shown}{path}: {what}"))) {
            wrong.push(format!("{shown}{path}: {e}"));
        }
    }
    let listed = list(root, root);
    let known: BTreeSet<Vec<u8>> = tree.keys().filter(|p| *p != ".").map(|p| unescape(p)).collect();
    // Hour directories are not in the manifest of the trash, only what lies in them.
    let is_hour = |path: &[u8]| !shown.is_empty() && !path.contains(&b'/');
    let extra = listed.iter().filter(|p| !known.contains(*p) && !is_hour(p));
    wrong.extend(extra.map(|p| format!("{shown}{}: should not be there", escape(p))));
    wrong
}

fn compare(place: &Path, right: &Value, wrong: &mut dyn FnMut(String)) -> io::Result<()> {
    let meta = fs::symlink_metadata(place)?;
    let mut check = |what: &str, found: Value| {
        if !right[what].is_null() && found != right[what] {
            wrong(format!("{what} {found}, not {}", right[what]));
        }
    };
    check("type", kind(&meta).into());
    check("mode", format!("{:04o}", meta.mode() & 0o7777).into());
    check("uid", meta.uid().into());
    check("gid", meta.gid().into());
    check("nlink", meta.nlink().into());
    check("ino", meta.ino().into());
    check("mtime_ns", (meta.mtime() * 1_000_000_000 + meta.mtime_nsec()).into());
    check("size", meta.len().into());
    check("rdev", vec![libc::major(meta.rdev()), libc::minor(meta.rdev())].into());
    if meta.is_symlink() {
        check("target", escape(fs::read_link(place)?.as_os_str().as_bytes()).into());
    }
    if meta.is_file() && right["sha256"].is_string() {
        check("sha256", hash(place)?.into());
    }
    let attrs = xattrs(place)?;
    let expected = right["xattrs"].as_object().cloned().unwrap_or_default();
    let expected: BTreeMap<String, String> =
        expected.into_iter().map(|(n, v)| (n, v.as_str().expect("hex").to_owned())).collect();
    if attrs != expected {
        wrong(format!("xattrs {attrs:?}, not {expected:?}"));
    }
    for (kind, name) in [("access", "system.posix_acl_access"), ("default", "system.posix_acl_default")] {
        let expected = right["acl"][kind].as_array().map(|lines| lines.iter().map(text).collect::<BTreeSet<_>>());
        let found = acl(place, name)?;
        if found != expected {
            wrong(format!("{kind} acl {found:?}, not {expected:?}"));
        }
    }
    Ok(())
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn kind(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    match () {
        () if kind.is_dir() => "dir",
        () if kind.is_symlink() => "symlink",
        () if kind.is_fifo() => "fifo",
        () if kind.is_socket() => "socket",
        () if kind.is_char_device() => "chardev",
        () if kind.is_block_device() => "blockdev",
        () => "file",
    }
}

fn hash(place: &Path) -> io::Result<String> {
    let mut file = File::open(place)?;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(context.finish().as_ref())),
            n => context.update(&buffer[..n]),
        }
    }
}

/// Names and values, ACLs apart; large values by their hash, as in the manifest.
fn xattrs(place: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut names = vec![0u8; 65_536];
    let len = llistxattr(place, &mut names[..])?;
    let names = names[..len].split(|b| *b == 0).filter(|n| !n.is_empty() && !n.starts_with(b"system."));
    names
        .map(|name| {
            let value = xattr(place, OsStr::from_bytes(name))?;
            let value =
                if value.len() > 256 { format!("sha256:{}:{}", sha256(&value), value.len()) } else { hex(&value) };
            Ok((String::from_utf8_lossy(name).into_owned(), value))
        })
        .collect()
}

fn xattr(place: &Path, name: &OsStr) -> io::Result<Vec<u8>> {
    let mut value = vec![0u8; 65_536];
    let len = lgetxattr(place, name, &mut value[..])?;
    value.truncate(len);
    Ok(value)
}

/// A rule in the words of getfacl(1).
fn acl(place: &Path, name: &str) -> io::Result<Option<BTreeSet<String>>> {
    let value = match xattr(place, OsStr::new(name)) {
        Ok(value) => value,
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) => return Ok(None),
        Err(e) => return Err(e),
    };
    let rule = AclRule::from_xattr(&value).map_err(io::Error::other)?;
    let bits = |perm: u16| {
        let bit = |mask, letter| if perm & mask != 0 { letter } else { '-' };
        [bit(4, 'r'), bit(2, 'w'), bit(1, 'x')].iter().collect::<String>()
    };
    let mut lines = BTreeSet::from([
        format!("user::{}", bits(rule.owner)),
        format!("group::{}", bits(rule.group)),
        format!("other::{}", bits(rule.other)),
    ]);
    if rule.mask != AclRule::UNSET {
        lines.insert(format!("mask::{}", bits(rule.mask)));
    }
    lines.extend(rule.users.iter().map(|e| format!("user:{}:{}", e.id, bits(e.perm))));
    lines.extend(rule.groups.iter().map(|e| format!("group:{}:{}", e.id, bits(e.perm))));
    Ok(Some(lines))
}

/// Every path below `top`, relative to `root`; virtual files are left out.
fn list(root: &Path, top: &Path) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let at_root = root == top && crate::mount::VIRTUAL.iter().any(|v| name == *v);
        if at_root {
            continue;
        }
        let path = entry.path();
        all.push(path.strip_prefix(root).expect("below the root").as_os_str().as_bytes().to_vec());
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            all.extend(list(root, &path));
        }
    }
    all
}

/// What statfs shows that the manifest does not say.
pub(super) fn statfs_differences(right: &Value, root: &Path) -> Vec<String> {
    let found = rustix::fs::statvfs(root).expect("statfs works");
    let unit = found.f_frsize;
    let facts = [
        ("total_bytes", found.f_blocks * unit),
        ("used_bytes", (found.f_blocks - found.f_bfree) * unit),
        ("used_inodes", found.f_files - found.f_ffree),
    ];
    let differ = facts.iter().filter(|(name, value)| !right[name].is_null() && right[name] != *value);
    differ.map(|(name, value)| format!("statfs {name}: {value}, not {}", right[name])).collect()
}

/// `%41` back to `A`.
fn unescape(text: &str) -> Vec<u8> {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let digits = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match digits.and_then(|d| u8::from_str_radix(d, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

fn escape(bytes: &[u8]) -> String {
    let printable = |b: &u8| (0x20..0x7f).contains(b) && *b != b'%';
    bytes.iter().map(|b| if printable(b) { char::from(*b).to_string() } else { format!("%{b:02X}") }).collect()
}

//! Walks a mounted volume from its root and writes down what it sees.

use std::collections::BTreeMap;

use cairn_types::{Attr, FileType, Ino};
use cairn_vfs::{Cred, Error, Fh, OpenFlags, Result, Vfs, Whence};

use crate::model::{Content, Seen, SeenNode};

/// Entries asked for at a time: few, so that every listing has several pages.
const PAGE: usize = 3;
/// Bytes read at a time.
const READ_BYTES: u32 = 1 << 20;

/// Everything that can be seen, read through `vfs` as root. Virtual files are left out.
pub async fn observe(vfs: &Vfs) -> Result<Seen> {
    let cred = Cred::root();
    let mut seen = Seen::default();
    let mut todo = vec![(Vec::new(), Ino::ROOT)];
    while let Some((path, ino)) = todo.pop() {
        let attr = vfs.getattr(&cred, ino).await?;
        if attr.kind == FileType::Directory {
            for (name, child) in list(vfs, ino).await? {
                let mut path: Vec<Vec<u8>> = path.clone();
                path.push(name);
                todo.push((path, child));
            }
        }
        seen.nodes.insert(path, look(vfs, &cred, ino, &attr).await?);
    }
    Ok(seen)
}

async fn look(vfs: &Vfs, cred: &Cred, ino: Ino, attr: &Attr) -> Result<SeenNode> {
    let target = if attr.kind == FileType::Symlink { vfs.readlink(cred, ino).await?.to_vec() } else { Vec::new() };
    let mut xattrs = BTreeMap::new();
    for name in vfs.listxattr(cred, ino).await? {
        xattrs.insert(name.clone(), vfs.getxattr(cred, ino, &name).await?);
    }
    Ok(SeenNode {
        identity: ino.0,
        kind: attr.kind,
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        nlink: attr.nlink,
        rdev: attr.rdev,
        target,
        xattrs,
        mtime: Some(attr.mtime),
        content: if attr.kind == FileType::File { content(vfs, cred, ino).await? } else { Content::default() },
    })
}

/// Names in a directory and what they stand for, `.` and `..` and virtual files left out.
pub(crate) async fn list(vfs: &Vfs, dir: Ino) -> Result<Vec<(Vec<u8>, Ino)>> {
    let cred = Cred::root();
    let fh = vfs.opendir(&cred, dir).await?;
    let mut all = Vec::new();
    let mut offset = 0;
    loop {
        let page = vfs.readdir(&cred, fh, offset, PAGE, true).await?;
        let Some(last) = page.last() else { break };
        offset = last.next;
        let own = page
            .iter()
            .filter(|e| !matches!(&e.name[..], b"." | b"..") && !Vfs::is_virtual(e.ino) && e.ino != Ino::TRASH);
        all.extend(own.map(|e| (e.name.to_vec(), e.ino)));
    }
    vfs.releasedir(&cred, fh).await?;
    Ok(all)
}

/// A file's bytes. Holes are believed, but for their edges, which are read.
async fn content(vfs: &Vfs, cred: &Cred, ino: Ino) -> Result<Content> {
    let flags = OpenFlags { read: true, ..OpenFlags::default() };
    let opened = vfs.open(cred, ino, flags).await?;
    let content = read_all(vfs, cred, opened.fh, vfs.getattr(cred, ino).await?.length).await;
    vfs.release(cred, opened.fh).await?;
    content
}

async fn read_all(vfs: &Vfs, cred: &Cred, fh: Fh, length: u64) -> Result<Content> {
    let mut content = Content::default();
    content.resize(length);
    let mut at = 0;
    while at < length {
        let data = match vfs.lseek(cred, fh, at, Whence::Data).await {
            Ok(data) => data,
            Err(Error::Meta(cairn_meta::Error::NoOffset)) => length,
            Err(e) => return Err(e),
        };
        for edge in [at, data.saturating_sub(4096).max(at)] {
            let bytes = vfs.read(cred, fh, edge, (data - edge).min(4096) as u32).await?;
            content.write(edge, &bytes);
        }
        if data >= length {
            break;
        }
        let hole = vfs.lseek(cred, fh, data, Whence::Hole).await?;
        at = data;
        while at < hole {
            let bytes = vfs.read(cred, fh, at, (hole - at).min(u64::from(READ_BYTES)) as u32).await?;
            if bytes.is_empty() {
                return Ok(content);
            }
            content.write(at, &bytes);
            at += bytes.len() as u64;
        }
    }
    Ok(content)
}

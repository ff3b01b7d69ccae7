//! What a subtree adds up to.

use cairn_meta::record::NamedEntry;
use cairn_meta::{Error as MetaError, Meta};
use cairn_types::{Attr, FileType, Ino};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Serialize;

use crate::Result;
use crate::ops::Stat;
use crate::progress::{Phase, Progress, Watch};

/// Entries read at a time.
const PAGE: usize = 1000;

/// Deepest tree and longest list that a summary shows.
const DEPTH_MAX: u8 = 10;

/// Totals of a subtree, its top included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Summary {
    /// Bytes in regular files.
    pub length: u64,
    /// Space in bytes, 4 KiB steps.
    pub size: u64,
    /// Everything that is not a directory.
    pub files: u64,
    /// Directories.
    pub dirs: u64,
}

impl Summary {
    fn add(&mut self, attr: &Attr) {
        self.length += if attr.is_file() { attr.length } else { 0 };
        self.size += attr.space();
        if attr.is_dir() {
            self.dirs += 1;
        } else {
            self.files += 1;
        }
    }

    fn merge(&mut self, o: &Summary) {
        self.length += o.length;
        self.size += o.size;
        self.files += o.files;
        self.dirs += o.dirs;
    }
}

/// Adds up an inode and, if it is a directory, its entries or everything below.
///
/// Not `strict` believes the directories' statistics, which a client that died may have left a bit
/// off; strict reads the attributes of every entry.
pub async fn summarize(meta: &Meta, ino: Ino, recursive: bool, strict: bool, watch: Watch<'_>) -> Result<Summary> {
    let attr = meta.getattr(ino).await?;
    let mut total = Summary::default();
    total.add(&attr);
    if attr.is_dir() {
        below(meta, ino, recursive, strict, &mut total, watch).await?;
    }
    Ok(total)
}

async fn below(
    meta: &Meta,
    dir: Ino,
    recursive: bool,
    strict: bool,
    total: &mut Summary,
    watch: Watch<'_>,
) -> Result<()> {
    let mut dirs = vec![dir];
    while let Some(dir) = dirs.pop() {
        let entries = direct(meta, dir, strict, total).await?;
        if recursive {
            dirs.extend(entries);
        }
        let done = total.files + total.dirs;
        watch(Progress { phase: Phase::Summarize, done, total: None, bytes: total.size });
    }
    Ok(())
}

/// Adds a directory's direct entries; answers its sub-directories.
async fn direct(meta: &Meta, dir: Ino, strict: bool, total: &mut Summary) -> Result<Vec<Ino>> {
    let stat = if strict { None } else { meta.view(Stat(dir)).await? };
    let mut subdirs = Vec::new();
    let mut after = Vec::new();
    loop {
        let page = meta.readdir(dir, &after, PAGE, stat.is_none()).await?;
        for named in &page {
            if named.entry.kind == FileType::Directory {
                subdirs.push(named.entry.ino);
            }
            if stat.is_none() {
                total.add(&shown(named));
            }
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after.clone_from(&last.name),
            _ => break,
        }
    }
    if let Some(stat) = stat {
        let dirs = subdirs.len() as u64;
        total.merge(&Summary {
            length: stat.length as u64,
            size: stat.space as u64,
            files: (stat.inodes as u64).saturating_sub(dirs),
            dirs,
        });
    }
    Ok(subdirs)
}

/// An entry whose inode is gone counts as an empty one.
fn shown(named: &NamedEntry) -> Attr {
    named.attr.unwrap_or(Attr { kind: named.entry.kind, ..Attr::default() })
}

/// How much of a tree to show.
#[derive(Clone, Copy, Debug)]
pub struct SummaryOptions {
    /// Levels below the top, at most 10.
    pub depth: u8,
    /// Largest entries of each directory; the others become one line.
    pub top_n: usize,
    /// Read every attribute instead of believing statistics.
    pub strict: bool,
}

/// A tree with totals at each node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TreeSummary {
    /// The inode; 0 for the line that stands for the rest.
    pub inode: u64,
    /// Path from the top, or `...` for the rest.
    pub path: String,
    /// Stored type number.
    pub r#type: u8,
    /// Space in bytes.
    pub size: u64,
    /// Everything that is not a directory, itself included.
    pub files: u64,
    /// Directories, itself included.
    pub dirs: u64,
    /// The largest entries first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<TreeSummary>,
}

/// The reply of the control protocol.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct SummaryReply {
    /// 0, or why there is no tree.
    pub errno: i32,
    /// The tree.
    pub tree: Option<TreeSummary>,
}

impl TreeSummary {
    fn leaf(ino: Ino, path: String, attr: &Attr) -> TreeSummary {
        let is_dir = u64::from(attr.is_dir());
        TreeSummary {
            inode: ino.0,
            path,
            r#type: attr.kind as u8,
            size: attr.space(),
            files: 1 - is_dir,
            dirs: is_dir,
            children: Vec::new(),
        }
    }

    fn count(&mut self, o: &TreeSummary) {
        self.size += o.size;
        self.files += o.files;
        self.dirs += o.dirs;
    }
}

/// Adds up a subtree and shows its largest parts. `path` is how the top is called.
pub async fn summary(
    meta: &Meta,
    ino: Ino,
    path: &str,
    options: &SummaryOptions,
    watch: Watch<'_>,
) -> Result<TreeSummary> {
    let attr = meta.getattr(ino).await?;
    let depth = options.depth.min(DEPTH_MAX);
    let mut seen = 0;
    let walk = Walk { meta, options, watch };
    if attr.is_dir() {
        return walk.dir(TreeSummary::leaf(ino, path.to_owned(), &attr), depth, &mut seen).await;
    }
    Ok(TreeSummary::leaf(ino, path.to_owned(), &attr))
}

struct Walk<'a> {
    meta: &'a Meta,
    options: &'a SummaryOptions,
    watch: Watch<'a>,
}

impl Walk<'_> {
    /// Recursion is at most [`DEPTH_MAX`] deep: below, a loop adds up.
    fn dir<'s>(&'s self, mut node: TreeSummary, depth: u8, seen: &'s mut u64) -> BoxFuture<'s, Result<TreeSummary>> {
        async move {
            let ino = Ino(node.inode);
            if depth == 0 {
                let mut sum = Summary::default();
                below(self.meta, ino, true, self.options.strict, &mut sum, &crate::unwatched).await?;
                node.size += sum.size;
                node.files += sum.files;
                node.dirs += sum.dirs;
                return Ok(node);
            }
            let mut after = Vec::new();
            loop {
                let page = match self.meta.readdir(ino, &after, PAGE, true).await {
                    Err(MetaError::NoEntry) => break,
                    page => page?,
                };
                for named in &page {
                    let child = self.child(&node.path, named, depth, seen).await?;
                    node.count(&child);
                    node.children.push(child);
                }
                self.keep_largest(&mut node.children);
                *seen += page.len() as u64;
                (self.watch)(Progress { phase: Phase::Summarize, done: *seen, total: None, bytes: node.size });
                match page.last() {
                    Some(last) if page.len() == PAGE => after.clone_from(&last.name),
                    _ => break,
                }
            }
            Ok(node)
        }
        .boxed()
    }

    async fn child(&self, dir: &str, named: &NamedEntry, depth: u8, seen: &mut u64) -> Result<TreeSummary> {
        let name = String::from_utf8_lossy(&named.name);
        let path = if dir.is_empty() || dir.ends_with('/') { format!("{dir}{name}") } else { format!("{dir}/{name}") };
        let leaf = TreeSummary::leaf(named.entry.ino, path, &shown(named));
        if named.attr.is_some_and(|a| a.is_dir()) { self.dir(leaf, depth - 1, seen).await } else { Ok(leaf) }
    }

    /// Sorts by size, then name; what is beyond the limit becomes one line at the end.
    fn keep_largest(&self, children: &mut Vec<TreeSummary>) {
        let rest_at = children.iter().position(|c| c.inode == 0);
        let rest = rest_at.map(|at| children.remove(at));
        children.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.path.cmp(&b.path)));
        if children.len() <= self.options.top_n && rest.is_none() {
            return;
        }
        let mut line = rest.unwrap_or_else(|| TreeSummary {
            inode: 0,
            path: "...".into(),
            r#type: FileType::File as u8,
            size: 0,
            files: 0,
            dirs: 0,
            children: Vec::new(),
        });
        for omitted in children.split_off(children.len().min(self.options.top_n)) {
            line.count(&omitted);
        }
        children.push(line);
    }
}

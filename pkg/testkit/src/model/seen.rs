//! A file system as somebody sees it who walks it from the root.

use std::collections::BTreeMap;

use cairn_types::{FileType, Timestamp};

use super::{Content, Id, ROOT};

/// A path: names below the root.
pub(super) type Path = Vec<Vec<u8>>;

/// Everything that can be seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// By path; the root has the empty one.
    pub nodes: BTreeMap<Vec<Vec<u8>>, SeenNode>,
}

/// One inode, under one of its names.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "named like the fields of Attr")]
pub struct SeenNode {
    /// Names of one inode share it; it means nothing else.
    pub identity: u64,
    pub kind: FileType,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub rdev: u32,
    pub target: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `None` if it may be anything.
    pub mtime: Option<Timestamp>,
    pub content: Content,
}

impl Seen {
    pub(super) fn of_model(nodes: &super::Nodes, content: impl Fn(Id) -> Content) -> Seen {
        let seen = walk(nodes).into_iter().map(|(path, id)| {
            let n = &nodes[&id];
            let node = SeenNode {
                identity: id as u64,
                kind: n.kind,
                mode: n.mode,
                uid: n.uid,
                gid: n.gid,
                nlink: n.nlink,
                rdev: n.rdev,
                target: n.target.clone(),
                xattrs: n.xattrs.clone(),
                mtime: n.mtime,
                content: content(id),
            };
            (path, node)
        });
        Seen { nodes: seen.collect() }
    }

    /// What is wrong with `found` if `self` is right.
    pub fn difference(&self, found: &Seen) -> Option<String> {
        self.difference_in_names(found).or_else(|| {
            self.nodes.iter().find_map(|(path, right)| {
                let other = &found.nodes[path];
                if right.mtime.is_some() && right.mtime != other.mtime {
                    return Some(format!("{}: mtime {:?}, not {:?}", show(path), other.mtime, right.mtime));
                }
                let at = right.content.first_difference(&other.content)?;
                Some(format!(
                    "{}: content differs at byte {at}: {:?}, not {:?} (length {}, not {})",
                    show(path),
                    other.content.read(at, 8),
                    right.content.read(at, 8),
                    other.content.len(),
                    right.content.len(),
                ))
            })
        })
    }

    /// The same without contents and times.
    pub fn difference_in_names(&self, found: &Seen) -> Option<String> {
        let missing = self.nodes.keys().find(|p| !found.nodes.contains_key(*p));
        let extra = found.nodes.keys().find(|p| !self.nodes.contains_key(*p));
        match (missing, extra) {
            (Some(path), _) => return Some(format!("{} is missing", show(path))),
            (_, Some(path)) => return Some(format!("{} should not be there", show(path))),
            _ => {}
        }
        let mut pairs: BTreeMap<u64, u64> = BTreeMap::new();
        self.nodes.iter().find_map(|(path, right)| {
            let other = &found.nodes[path];
            let same = *pairs.entry(right.identity).or_insert(other.identity) == other.identity;
            if !same {
                return Some(format!("{} is another inode than its other name", show(path)));
            }
            let (a, b) = (right.facts(), other.facts());
            (a != b).then(|| format!("{}: {b}, not {a}", show(path)))
        })
    }
}

impl SeenNode {
    /// What must be equal, in words.
    fn facts(&self) -> String {
        format!(
            "{:?} {:04o} {}:{} nlink={} rdev={} target={} xattrs={:?}",
            self.kind,
            self.mode,
            self.uid,
            self.gid,
            self.nlink,
            self.rdev,
            String::from_utf8_lossy(&self.target),
            self.xattrs
                .iter()
                .map(|(n, v)| (String::from_utf8_lossy(n), v.len(), v.iter().map(|b| u64::from(*b)).sum::<u64>()))
                .collect::<Vec<_>>(),
        )
    }
}

/// Every path below the root and what it stands for.
pub(super) fn walk(nodes: &super::Nodes) -> Vec<(Path, Id)> {
    let mut all = vec![(Path::new(), ROOT)];
    let mut next = 0;
    while next < all.len() {
        let (path, id) = all[next].clone();
        for (name, child) in &nodes[&id].entries {
            let mut path = path.clone();
            path.push(name.clone());
            all.push((path, *child));
        }
        next += 1;
    }
    all
}

/// A path for people.
pub(super) fn show(path: &Path) -> String {
    let names: Vec<_> = path.iter().map(|n| String::from_utf8_lossy(n)).collect();
    format!("/{}", names.join("/"))
}

//! An ordered listing of keys over a tree of folders, for stores that list one folder at a time.
//!
//! Byte order of keys is not the order of names: `a-b` comes before `a/b`, because `-` sorts
//! before `/`. So a folder takes part in the order with its `/` at the end. One folder's names per
//! level are held in memory.

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};

use crate::{ObjectInfo, Result};

/// A store that can list one folder.
#[async_trait]
pub(crate) trait Folders: Send + Sync {
    /// What `folder` (`""`, or a key ending in `/`) holds, in any order, at least what is wanted.
    /// A folder that is not there holds nothing.
    async fn entries(&self, folder: String, wanted: Wanted) -> Result<Vec<Node>>;
}

/// One thing in a folder.
#[derive(Debug)]
pub(crate) enum Node {
    /// A folder below, its whole key ending in `/`.
    Folder(String),
    /// An object.
    Object(ObjectInfo),
}

impl Node {
    fn key(&self) -> &str {
        match self {
            Node::Folder(key) => key,
            Node::Object(info) => &info.key,
        }
    }
}

/// Which keys a listing asks for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) prefix: String,
    pub(crate) after: String,
    /// Instead of objects, what interrupted puts left behind.
    pub(crate) leftovers: bool,
}

impl Wanted {
    pub(crate) fn new(prefix: &str, after: &str) -> Wanted {
        Wanted { prefix: prefix.to_owned(), after: after.to_owned(), leftovers: false }
    }

    pub(crate) fn leftovers(prefix: &str) -> Wanted {
        Wanted { leftovers: true, ..Wanted::new(prefix, "") }
    }

    /// Is this object asked for?
    pub(crate) fn object(&self, key: &str) -> bool {
        key.starts_with(&self.prefix) && key > self.after.as_str()
    }

    /// Can this folder (ending in `/`) hold an object that is asked for?
    pub(crate) fn folder(&self, key: &str) -> bool {
        let on_the_way = key.starts_with(&self.prefix) || self.prefix.starts_with(key);
        // A folder before `after` that does not contain it holds only keys before it.
        on_the_way && (key > self.after.as_str() || self.after.starts_with(key))
    }

    fn node(&self, node: &Node) -> bool {
        match node {
            Node::Folder(key) => self.folder(key),
            Node::Object(info) => self.object(&info.key),
        }
    }

    /// The deepest folder that holds everything asked for.
    fn top(&self) -> String {
        match self.prefix.rfind('/') {
            Some(at) => self.prefix[..=at].to_owned(),
            None => String::new(),
        }
    }
}

/// All wanted objects in byte order of their keys.
pub(crate) fn walk<F: Folders>(folders: &F, wanted: Wanted) -> BoxStream<'_, Result<ObjectInfo>> {
    let start = vec![Node::Folder(wanted.top())];
    stream::try_unfold((start, wanted), move |(mut stack, wanted)| async move {
        while let Some(node) = stack.pop() {
            match node {
                Node::Object(info) => return Ok(Some((info, (stack, wanted)))),
                Node::Folder(folder) => {
                    let mut nodes = folders.entries(folder, wanted.clone()).await?;
                    nodes.retain(|node| wanted.node(node));
                    nodes.sort_unstable_by(|a, b| b.key().cmp(a.key()));
                    stack.append(&mut nodes);
                }
            }
        }
        Ok(None)
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_before_the_start_are_not_entered() {
        let wanted = Wanted::new("v/chunks/", "v/chunks/0/5/x");
        assert!(wanted.folder("v/") && wanted.folder("v/chunks/") && wanted.folder("v/chunks/0/5/"));
        assert!(wanted.folder("v/chunks/0/6/") && wanted.folder("v/chunks/1/"));
        assert!(!wanted.folder("v/chunks/0/4/") && !wanted.folder("v/meta/") && !wanted.folder("w/"));
        assert!(!wanted.object("v/chunks/0/5/x") && wanted.object("v/chunks/0/5/y"));
        assert_eq!(wanted.top(), "v/chunks/");
    }
}

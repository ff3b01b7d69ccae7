//! Identifiers. Newtypes, so that an inode is never taken for a session.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

id! {
    /// A file, directory, link or special file.
    Ino(u64)
}
id! {
    /// One contiguous write; also the name of its objects. 0 stands for a hole.
    SliceId(u64)
}
id! {
    /// One mounted client.
    SessionId(u64)
}
id! {
    /// Which 64 MiB window of a file.
    ChunkIndex(u32)
}

impl Ino {
    /// The root directory of a volume.
    pub const ROOT: Ino = Ino(1);
    /// The trash directory; hour directories follow it.
    pub const TRASH: Ino = Ino(0x7FFF_FFFF_1000_0000);
    /// First number of the virtual files (`.stats` and the like), which metadata never holds.
    pub const VIRTUAL_BASE: Ino = Ino(0x7FFF_FFFF_0000_0000);

    /// The trash directory itself, or an hour directory inside it.
    pub fn is_trash(self) -> bool {
        self >= Ino::TRASH
    }

    /// One of the virtual files.
    pub fn is_virtual(self) -> bool {
        self >= Ino::VIRTUAL_BASE && self < Ino::TRASH
    }
}

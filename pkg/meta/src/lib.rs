//! The tree: names, attributes, slice lists, sessions, locks, quotas, trash, in transactions.
//!
//! POSIX semantics live in [`ops`], once, as values over the typed records of [`txn`]; engines
//! ([`engine`]) store those records as JuiceFS does and know nothing of files. [`Meta`] is what the
//! rest of the house calls: it allocates ids, runs operations, retries conflicts (nobody else
//! does), and keeps count of what this client has open.
//!
//! Rules kept here: metadata never names data that is not stored ([`Meta::commit`] takes what only
//! `chunk` can make, by way of `vfs`); usage changes in the transaction that causes it; no
//! directory ever comes to lie below itself.
//!
//! Not here: bytes of files, blocks, object keys, and errno numbers. Meta never calls up: what
//! needs doing later goes into the [`Upkeep`] queue, which `jobs` drains.

pub mod changelog;
mod client;
mod cred;
pub mod engine;
mod error;
mod ids;
pub mod invariants;
mod opens;
pub mod ops;
pub mod overlay;
mod policy;
pub mod record;
pub mod secret;
mod setting;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod txn;

pub use client::{AtimeMode, Config, DirPage, Meta, StatFs, Upkeep};
pub use cred::{Cred, Want};
pub use error::{EngineError, Error, Result};
pub use opens::OpenTable;
pub use ops::acl::AclKind;
pub use ops::create::{Created, NewNode};
pub use ops::data::{Commit, Committed, FallocMode, NewSlice};
pub use ops::remove::{Fate, Removed};
pub use ops::rename::{RenameMode, Renamed};
pub use ops::setattr::{SetAttr, SetTime};
pub use ops::tree::OpenHow;
pub use ops::xattr::XattrMode;
pub use policy::Policy;
pub use setting::{format_volume, load_format, recount_owners, store_format};
pub use txn::Durability;

/// Longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// A symlink's target is shorter than this, in bytes.
pub const MAX_SYMLINK_BYTES: usize = 4096;
/// Longest value of an extended attribute, in bytes.
pub const MAX_XATTR_BYTES: usize = 65_536;
/// Most names of one inode, and most sub-directories of a directory: what SQL's signed 32 bits hold.
pub const MAX_LINKS: u32 = i32::MAX as u32;

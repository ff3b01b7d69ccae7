//! One thing that is wrong, and the files it hurts.

use std::fmt;

use cairn_meta::invariants::Violation;
use serde::{Serialize, Serializer};

/// A file or directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The inode.
    pub ino: u64,
    /// One of its paths; none if it hangs nowhere.
    pub path: Option<String>,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// A rule of the metadata is broken.
    Rule(Violation),
    /// A block is not there.
    MissingObject {
        /// Object key, below the volume's prefix.
        key: String,
        /// Plain bytes of the block.
        bytes: u64,
    },
    /// An object cannot be the block it is named after.
    WrongLength {
        /// Object key.
        key: String,
        /// Stored bytes.
        stored: u64,
        /// Plain bytes of the block.
        bytes: u64,
    },
    /// A block does not decode.
    Damaged {
        /// Object key.
        key: String,
        /// What did not fit.
        reason: String,
    },
    /// The store did not give a block out; it may the next time.
    Unreadable {
        /// Object key.
        key: String,
        /// The store's words.
        reason: String,
    },
}

impl Problem {
    /// Short name, stable for scripts.
    pub fn rule(&self) -> &'static str {
        match self {
            Problem::Rule(violation) => violation.rule(),
            Problem::MissingObject { .. } => "missing-object",
            Problem::WrongLength { .. } => "wrong-object-length",
            Problem::Damaged { .. } => "damaged-object",
            Problem::Unreadable { .. } => "unreadable-object",
        }
    }

    /// The object it is about, if there is one.
    pub fn object(&self) -> Option<&str> {
        match self {
            Problem::Rule(_) => None,
            Problem::MissingObject { key, .. }
            | Problem::WrongLength { key, .. }
            | Problem::Damaged { key, .. }
            | Problem::Unreadable { key, .. } => Some(key),
        }
    }

    /// Only sums are off; see [`Violation::is_drift`].
    pub fn is_drift(&self) -> bool {
        matches!(self, Problem::Rule(violation) if violation.is_drift())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Rule(violation) => violation.fmt(f),
            Problem::MissingObject { key, bytes } => write!(f, "object {key} ({bytes} bytes) is missing"),
            Problem::WrongLength { key, stored, bytes } => {
                write!(f, "object {key} has {stored} bytes, which cannot be a block of {bytes}")
            }
            Problem::Damaged { key, reason } => write!(f, "object {key} is damaged: {reason}"),
            Problem::Unreadable { key, reason } => write!(f, "object {key} could not be read: {reason}"),
        }
    }
}

/// A problem, where it shows, and whether it was mended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub problem: Problem,
    /// The inodes it is about; for an object the files that show its bytes. Empty if no file does.
    pub files: Vec<Place>,
    /// Mended by this run.
    pub repaired: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = self.files.first().and_then(|place| place.path.as_ref()) {
            write!(f, "{path}: ")?;
        }
        write!(f, "{}", self.problem)?;
        if self.files.len() > 1 {
            write!(f, " (and {} more files)", self.files.len() - 1)?;
        }
        if self.repaired { write!(f, " [repaired]") } else { Ok(()) }
    }
}

impl Serialize for Finding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shown<'a> {
            rule: &'a str,
            message: String,
            object: Option<&'a str>,
            drift: bool,
            repaired: bool,
            files: &'a [Place],
        }
        let p = &self.problem;
        Shown {
            rule: p.rule(),
            message: p.to_string(),
            object: p.object(),
            drift: p.is_drift(),
            repaired: self.repaired,
            files: &self.files,
        }
        .serialize(serializer)
    }
}

/// The path of `name` in the directory `dir`.
pub(super) fn join(dir: &str, name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    if dir.ends_with('/') { format!("{dir}{name}") } else { format!("{dir}/{name}") }
}

//! Whole subtrees: added up, shown, removed.
//!
//! The structures serialise to the JSON of the control protocol (volume format 8.2).

mod info;
mod remove;
mod summary;

pub use info::{FlockInfo, Info, InfoOptions, ObjectPart, PlockInfo, SlicePart, TierInfo, info};
pub use remove::{RemoveOptions, empty, remove};
pub use summary::{Summary, SummaryOptions, SummaryReply, TreeSummary, summarize, summary};

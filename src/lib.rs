//! Builds a volume from its settings, bottom up, and shuts it down, top down. Wiring only.
//!
//! [`Volume::open`] turns a [`Config`] into a running file system that a door (`cairn-fuse`) can
//! serve; [`Admin`] opens as much of a volume as an administrative command needs; [`create()`] makes
//! a new one. The rooms themselves are the crates below.
//!
//! Rules kept here: what is built last stops first, so nothing is asked for work after what it
//! stands on is gone; secrets are opened here and handed on, never logged.
//!
//! Not here: arguments, exit codes and terminals (`cmd/cairn`), and what any of it means (the rooms).

mod admin;
pub mod config;
mod control;
pub mod create;
mod error;
mod keys;
mod memory;
mod metrics;
mod session;
mod staging;
mod storage;
mod volume;

pub use admin::Admin;
pub use config::Config;
pub use create::{Created, create};
pub use error::{Error, Result};
pub use metrics::Exporter;
pub use session::rfc3339;
pub use storage::{check_bucket, location};
pub use volume::{Lost, Volume};

/// What this client calls itself: its own version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The version shown in sessions: the JuiceFS version whose features are here, then our own.
pub fn presented_version() -> String {
    format!("{}+cairn.{VERSION}", cairn_types::ClientVersion::IMPLEMENTED)
}

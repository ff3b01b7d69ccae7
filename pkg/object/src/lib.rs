//! Somebody else's bytes under keys: backends, and decorators around them.
//!
//! A backend implements [`ObjectStore`] and nothing else; time limits, retries, concurrency,
//! bandwidth and metrics are decorators (see [`stack`]) so that each rule is written once.
//! [`open`] turns the volume's setting into a backend; the suite every backend passes is `testing`.
//!
//! The rule kept here: an object is seen whole or not at all, and where a store keeps a checksum,
//! wrong bytes are an error and never an answer.
//!
//! Not here: what the bytes mean. Compression and encryption belong to `chunk`.

mod bandwidth;
mod checksum;
mod concurrency;
mod error;
mod file;
mod location;
mod mem;
mod metrics;
mod prefix;
mod probe;
mod remote;
mod retry;
mod shard;
mod stack;
mod store;
mod swap;
mod timeout;
mod walk;

#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use bandwidth::Bandwidth;
pub use error::{Error, Result};
pub use location::{Location, known_storages, open};
pub use mem::MemStore;
pub use metrics::Metrics;
pub use probe::{is_empty_prefix, mark, owner, probe};
pub use stack::{Dials, Limits, stack, stack_with};
pub use store::{ObjectInfo, ObjectStore, Payload, Sink};
pub use swap::Swappable;

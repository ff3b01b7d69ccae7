//! The whole crate over a volume in memory, and over volumes that JuiceFS wrote.

mod compaction;
mod fixtures;
mod fsck;
mod gc;
mod invariants;
mod soak;
mod tree;
mod upkeep;
mod world;

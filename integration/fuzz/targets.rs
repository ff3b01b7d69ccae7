//! The targets, by what they decode.

pub(crate) mod cached;
pub(crate) mod journal;
pub(crate) mod nouns;
pub(crate) mod sealed;
pub(crate) mod setting;

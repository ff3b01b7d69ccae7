//! Every decoder of bytes that others wrote, fed with bytes that nobody meant.
//!
//! A target takes any bytes and panics if a rule is broken: a decoder never panics, never believes a
//! length, and what it does read survives being written and read again. Two drivers use the targets:
//! [`mutate`] by chance, on any toolchain, in `make test`; `main.rs` by coverage, in `make fuzz`.
//!
//! Not here: the seeds themselves, which come from our own encoders and from volumes of JuiceFS.

pub mod mutate;
mod seeds;
mod targets;

pub use seeds::seeds;

/// One decoder, or a family of them.
pub struct Target {
    /// As `make fuzz` calls it.
    pub name: &'static str,
    /// Panics if a rule is broken.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "attr", run: targets::nouns::attr },
    Target { name: "slices", run: targets::nouns::slices },
    Target { name: "acl", run: targets::nouns::acl },
    Target { name: "records", run: targets::nouns::records },
    Target { name: "names", run: targets::nouns::names },
    Target { name: "setting", run: targets::setting::setting },
    Target { name: "place", run: targets::setting::place },
    Target { name: "control", run: targets::nouns::control },
    Target { name: "block", run: targets::sealed::block },
    Target { name: "object", run: targets::sealed::object },
    Target { name: "pem", run: targets::sealed::pem },
    Target { name: "cached", run: targets::cached::cached },
    Target { name: "journal", run: targets::journal::journal },
];

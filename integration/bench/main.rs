//! What the promises cost: each row of the benchmark beside its floor, measured in the same run.
//!
//! A floor is the least that any client could do: a file system that does nothing under the same
//! mount settings, raw SQLite transactions that write the same rows, raw round trips to a server
//! through the same wire, plain files in the store's directory. Both sides take turns, so that whatever else the machine does hits both. The real
//! binary is measured, through the kernel, in the state a user has it: default flags, trash on.
//!
//! Not here: a verdict for CI. Times are facts of a machine and a moment; no test waits on them.
//! docs/BENCHMARKS.md says how to run it and what was measured.

mod daemon;
mod encryption;
mod engines;
mod listing;
mod machine;
mod memory;
mod names;
mod null;
mod raw_engines;
mod raw_sqlite;
mod read;
mod report;
mod settings;
mod start;
mod turns;
mod world;
mod write;

#[path = "../support/mod.rs"]
#[expect(dead_code, unused_imports, reason = "shared with the tests, which use all of it")]
mod support;

use std::path::Path;

use anyhow::Context;

use report::Row;
use settings::Settings;
use world::World;

/// A group of rows that is measured together.
struct Group {
    name: &'static str,
    measure: fn(&World) -> anyhow::Result<Vec<Row>>,
}

/// In the order they run: memory is what the whole run leaves behind, so it is last.
const GROUPS: [Group; 8] = [
    Group { name: "write", measure: write::measure },
    Group { name: "read", measure: read::measure },
    Group { name: "encryption", measure: encryption::measure },
    Group { name: "names", measure: names::measure },
    Group { name: "listing", measure: listing::measure },
    Group { name: "engines", measure: engines::measure },
    Group { name: "start", measure: start::measure },
    Group { name: "memory", measure: memory::measure },
];

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, root, rest @ ..] = args.as_slice()
        && flag == null::FLAG
    {
        return null::serve(Path::new(root), rest.first().map(Path::new));
    }
    // Cargo adds a flag of its own.
    let asked: Vec<&str> = args.iter().map(String::as_str).filter(|a| !a.starts_with('-')).collect();
    let unknown = asked.iter().find(|a| GROUPS.iter().all(|g| g.name != **a));
    if let Some(unknown) = unknown {
        anyhow::bail!("no rows called {unknown:?}; there are {}", GROUPS.map(|g| g.name).join(", "));
    }
    let settings = Settings::from_environment()?;
    machine::take_precedence();
    println!("{}", machine::facts(&settings));
    let world = World::start(settings)?;
    let mut rows = Vec::new();
    for group in GROUPS.iter().filter(|g| asked.is_empty() || asked.contains(&g.name)) {
        eprintln!("measuring: {}", group.name);
        let measured = (group.measure)(&world).with_context(|| format!("rows {:?}", group.name))?;
        measured.iter().for_each(|row| println!("{row}"));
        rows.extend(measured);
    }
    println!("load at the end: {}", machine::load());
    println!("{}", report::summary(&rows));
    world.stop()
}

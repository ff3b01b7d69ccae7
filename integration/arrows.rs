//! The arrows between our crates are those that docs/ARCHITECTURE.md lists, no more and no fewer.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::support::run;

type Edges = BTreeMap<String, BTreeSet<String>>;

#[test]
fn crates_depend_on_each_other_as_the_architecture_says() {
    let (documented, real) = (documented(), real());
    let mut wrong = Vec::new();
    for (from, to) in &real {
        let allowed = documented.get(from).cloned().unwrap_or_default();
        wrong.extend(to.difference(&allowed).map(|to| format!("{from} -> {to} is not listed in docs/ARCHITECTURE.md")));
    }
    for (from, to) in &documented {
        let used = real.get(from).cloned().unwrap_or_default();
        wrong.extend(to.difference(&used).map(|to| format!("{from} -> {to} is listed, and no longer true")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_below_depends_on_testkit_in_earnest() {
    for package in packages() {
        let uses = dependencies(&package).any(|(name, kind)| name == "cairn-testkit" && kind != "dev");
        assert!(!uses, "{} needs cairn-testkit outside its tests", package["name"]);
    }
}

/// The fenced block ```edges: one line a crate, `vfs -> meta chunk types env`.
fn documented() -> Edges {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/ARCHITECTURE.md");
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let block = text.split("```edges\n").nth(1).and_then(|rest| rest.split("```").next());
    let block = block.expect("docs/ARCHITECTURE.md has a fenced block ```edges");
    let lines = block.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (from, to) = line.split_once("->").unwrap_or_else(|| panic!("not an edge: {line:?}"));
            (from.trim().to_owned(), to.split_whitespace().map(str::to_owned).collect())
        })
        .collect()
}

/// What cargo knows. Tests may use what they like; testkit counts by its ordinary dependencies.
fn real() -> Edges {
    let packages = packages();
    let ours: BTreeSet<String> = packages.iter().map(|p| text(&p["name"])).collect();
    packages
        .iter()
        .map(|package| {
            let to = dependencies(package).filter(|(name, kind)| ours.contains(name) && kind != "dev");
            (short(&text(&package["name"])), to.map(|(name, _)| short(&name)).collect::<BTreeSet<_>>())
        })
        .filter(|(_, to)| !to.is_empty())
        .collect()
}

fn packages() -> Vec<Value> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let json = run(root, &cargo, ["metadata", "--no-deps", "--offline", "--format-version", "1"]).ok();
    let mut metadata: Value = serde_json::from_str(&json).expect("cargo writes JSON");
    match metadata["packages"].take() {
        Value::Array(packages) => packages,
        other => panic!("cargo metadata lists no packages: {other}"),
    }
}

fn dependencies(package: &Value) -> impl Iterator<Item = (String, String)> + '_ {
    let list = package["dependencies"].as_array().expect("a package has a list of dependencies");
    list.iter().map(|d| (text(&d["name"]), d["kind"].as_str().unwrap_or("normal").to_owned()))
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

/// `cairn-meta` is drawn as `meta`, the root package as `root`.
fn short(name: &str) -> String {
    match name {
        "cairn" => "root".to_owned(),
        _ => name.trim_start_matches("cairn-").to_owned(),
    }
}

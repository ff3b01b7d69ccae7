//! `cairn info`: what a file is made of.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use cairn_env::Env;
use cairn_jobs::{Phase, Progress};
use clap::Args;
use serde_json::Value;

use crate::control::{self, Reply};
use crate::progress::Bars;
use crate::table::table;
use crate::{Global, units};

/// Message type on `.control`.
const INFO: u32 = 1005;

/// Flags of `info`.
#[derive(Args, Debug)]
pub(crate) struct InfoArgs {
    /// Files or directories; inode numbers with --inode
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The arguments are inode numbers of the volume mounted here
    #[arg(short = 'i', long)]
    inode: bool,
    /// Add up everything below a directory
    #[arg(short = 'r', long)]
    recursive: bool,
    /// Count instead of believing directory statistics
    #[arg(long)]
    strict: bool,
    /// Show slices instead of objects
    #[arg(long)]
    raw: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: InfoArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let env = Env::real();
    let mut all = Vec::new();
    for path in &args.paths {
        let (mountpoint, ino) = if args.inode {
            let number = path.to_str().and_then(|t| t.parse().ok());
            let ino = number.with_context(|| format!("{} is not an inode number", path.display()))?;
            (control::mount_of(".".as_ref())?, ino)
        } else {
            let seen = path.symlink_metadata().with_context(|| format!("look at {}", path.display()))?;
            (control::mount_of(path)?, seen.ino())
        };
        let mut body = u64::to_be_bytes(ino).to_vec();
        body.extend([args.recursive, args.raw, args.strict].map(u8::from));
        let bars = Bars::new(&env, global, args.json);
        let watch = |done, bytes| bars.watch(Progress { phase: Phase::Summarize, done, total: None, bytes });
        let reply = control::ask(&env, &mountpoint, &control::message(INFO, &body), watch).await;
        let Reply::Json(json) = reply.with_context(|| path.display().to_string())? else { bail!("no answer") };
        let info: Value = serde_json::from_slice(&json).context("read the answer")?;
        if args.json {
            all.push(info);
        } else {
            crate::show(&shown(&path.display().to_string(), &info))?;
        }
    }
    if args.json {
        crate::show(&(serde_json::to_string_pretty(&all)? + "\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn shown(path: &str, info: &Value) -> String {
    let number = |v: &Value| v.as_u64().unwrap_or(0);
    let sum = &info["Summary"];
    let mut out = format!("{path} :\n  inode: {}\n  files: {}\n   dirs: {}\n", info["Ino"], sum["Files"], sum["Dirs"]);
    out += &format!(" length: {}\n", units::shown_bytes(number(&sum["Length"])));
    out += &format!("   size: {}\n", units::shown_bytes(number(&sum["Size"])));
    let paths: Vec<&str> = info["Paths"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    match paths.as_slice() {
        [] => {}
        [one] => out += &format!("   path: {one}\n"),
        many => out += &format!("  paths:\n\t{}\n", many.join("\n\t")),
    }
    out += &part(
        "objects",
        &info["Objects"],
        &[
            ("chunkIndex", "ChunkIndex"),
            ("objectName", "Key"),
            ("size", "Size"),
            ("offset", "Off"),
            ("length", "Len"),
            ("pos", "Pos"),
        ],
    );
    out += &part(
        "chunks",
        &info["Chunks"],
        &[
            ("chunkIndex", "ChunkIndex"),
            ("sliceId", "Id"),
            ("size", "Size"),
            ("offset", "Off"),
            ("length", "Len"),
            ("pos", "Pos"),
        ],
    );
    out += &part("flocks", &info["FLocks"], &[("Sid", "Sid"), ("Owner", "Owner"), ("Type", "Type")]);
    out += &part(
        "plocks",
        &info["PLocks"],
        &[("Sid", "Sid"), ("Owner", "Owner"), ("Type", "Type"), ("Pid", "Pid"), ("Start", "Start"), ("End", "End")],
    );
    out
}

/// A list as a table; columns the answer does not have are left out.
fn part(name: &str, list: &Value, columns: &[(&str, &str)]) -> String {
    let Some(rows) = list.as_array().filter(|l| !l.is_empty()) else { return String::new() };
    let there: Vec<_> = columns.iter().filter(|(_, member)| rows[0].get(member).is_some()).collect();
    let head: Vec<&str> = there.iter().map(|(title, _)| *title).collect();
    let cell = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let cells: Vec<Vec<String>> = rows.iter().map(|r| there.iter().map(|(_, m)| cell(&r[m])).collect()).collect();
    format!("{name:>7}:\n{}", table(&head, &cells))
}

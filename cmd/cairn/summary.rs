//! `cairn summary`: how large a tree is, and its largest parts.

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
const SUMMARY: u32 = 1007;
/// Stored type number of a directory.
const DIRECTORY: u64 = 2;

/// Flags of `summary`.
#[derive(Args, Debug)]
pub(crate) struct SummaryArgs {
    /// A directory on a mounted volume
    path: PathBuf,
    /// Levels shown
    #[arg(short = 'd', long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=10))]
    depth: u8,
    /// Largest entries shown of each directory
    #[arg(short = 'e', long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=100))]
    entries: u8,
    /// Count instead of believing directory statistics
    #[arg(long)]
    strict: bool,
    /// Print CSV
    #[arg(long)]
    csv: bool,
    /// Print JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
}

pub(crate) async fn run(args: SummaryArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let env = Env::real();
    let shown = args.path.display();
    let place = args.path.canonicalize().with_context(|| format!("look at {shown}"))?;
    let ino = place.metadata()?.ino();
    let mountpoint = control::mount_of(&place)?;
    let mut body = ino.to_be_bytes().to_vec();
    body.extend([args.depth, args.entries, u8::from(args.strict)]);
    let bars = Bars::new(&env, global, args.json || args.csv);
    let watch = |done, bytes| bars.watch(Progress { phase: Phase::Summarize, done, total: None, bytes });
    let reply = control::ask(&env, &mountpoint, &control::message(SUMMARY, &body), watch).await;
    let Reply::Json(json) = reply.with_context(|| shown.to_string())? else { bail!("no answer") };
    bars.done();
    let mut reply: Value = serde_json::from_slice(&json).context("read the answer")?;
    if args.json {
        crate::show(&(serde_json::to_string_pretty(&reply["Tree"].take())? + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut rows = Vec::new();
    let name = args.path.file_name().map_or_else(|| "/".into(), |n| n.to_string_lossy().into_owned());
    collect(&reply["Tree"], &name, args.csv, &mut rows);
    if args.csv {
        crate::show("PATH,SIZE,DIRS,FILES\n")?;
        for row in rows {
            crate::show(&(row.join(",") + "\n"))?;
        }
    } else {
        crate::show(&table(&["PATH", "SIZE", "DIRS", "FILES"], &rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One row a node, top first; directories end in a slash.
fn collect(node: &Value, top: &str, csv: bool, rows: &mut Vec<Vec<String>>) {
    let inner = node["Path"].as_str().unwrap_or_default().trim_matches('/');
    let path = if inner.is_empty() { top.to_owned() } else { format!("{}/{inner}", top.trim_end_matches('/')) };
    let is_dir = node["Type"].as_u64() == Some(DIRECTORY) && !inner.ends_with("...");
    let path = if is_dir && !path.ends_with('/') { path + "/" } else { path };
    let size = node["Size"].as_u64().unwrap_or(0);
    let size = if csv { size.to_string() } else { units::short_bytes(size) };
    let path = if csv && path.contains([',', '"', '\n']) { format!("\"{}\"", path.replace('"', "\"\"")) } else { path };
    rows.push(vec![path, size, node["Dirs"].to_string(), node["Files"].to_string()]);
    for child in node["Children"].as_array().into_iter().flatten() {
        collect(child, top, csv, rows);
    }
}

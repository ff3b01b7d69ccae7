//! `cairn gc`: objects nobody needs.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use cairn::Admin;
use cairn_env::Env;
use cairn_jobs::Tally;
use cairn_jobs::gc::{self, Options, Report};
use clap::Args;

use crate::progress::Bars;
use crate::{Global, secrets, units};

/// Leaked objects named on the screen.
const NAMED_MAX: usize = 20;

/// Flags of `gc`.
#[derive(Args, Debug)]
pub(crate) struct GcArgs {
    /// Where the metadata is
    meta_url: String,
    /// Compact every chunk of more than one slice first
    #[arg(long)]
    compact: bool,
    /// Delete leaked objects, what waits for deletion, and expired trash; otherwise they are counted
    #[arg(long)]
    delete: bool,
    /// Deletions at a time
    #[arg(short = 'p', long, default_value_t = 10)]
    threads: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: GcArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let env = Env::real();
    let skip_younger = match std::env::var("JFS_GC_SKIPPEDTIME") {
        Ok(secs) => Duration::from_secs(secs.parse().context("JFS_GC_SKIPPEDTIME must be a number of seconds")?),
        Err(_) => Options::default().skip_younger,
    };
    let options = Options { delete: args.delete, compact: args.compact, skip_younger, threads: args.threads.max(1) };
    let read_only = !args.delete && !args.compact;
    let admin = Admin::open(&env, &secrets::meta_url(&args.meta_url)?, read_only).await?;
    let report = collect(&admin, &options, &Bars::new(&env, global, args.json)).await;
    admin.close().await;
    let report = report?;
    if args.json {
        crate::show(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        crate::show(&shown(&report, args.delete))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn collect(admin: &Admin, options: &Options, bars: &Bars) -> anyhow::Result<Report> {
    let (store, chunks) = admin.data(&secrets::passphrase()?).await?;
    let report = gc::run(admin.meta(), &store, &chunks, options, &|step| bars.watch(step)).await;
    bars.done();
    chunks.close().await;
    Ok(report?)
}

fn shown(report: &Report, delete: bool) -> String {
    let line = |name: &str, t: &Tally| format!("{name:>16}: {} ({})\n", t.count, units::short_bytes(t.bytes));
    let mut out = line("scanned objects", &report.scanned);
    out += &line("valid", &report.valid);
    out += &line("pending delete", &report.pending_delete);
    out += &line("compacted", &report.compacted);
    out += &line("leaked", &report.leaked);
    out += &line("too young", &report.skipped);
    if report.ignored.count > 0 {
        out += &line("not blocks", &report.ignored);
    }
    if report.unfinished.count > 0 {
        out += &line("unfinished", &report.unfinished);
    }
    if report.compactions.count > 0 {
        out += &line("compacted chunks", &report.compactions);
    }
    if delete {
        out += &line("deleted", &report.deleted);
        return out;
    }
    out += &line("pending files", &report.waiting_files);
    for (key, _) in report.leaked_keys.iter().take(NAMED_MAX) {
        out += &format!("leaked: {key}\n");
    }
    if report.leaked.count + report.unfinished.count + report.pending_delete.count + report.waiting_files.count > 0 {
        out += "nothing was deleted: pass --delete to do so\n";
    }
    out
}

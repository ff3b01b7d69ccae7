//! `cairn fsck`: is the volume whole?

use std::process::ExitCode;

use cairn::Admin;
use cairn_env::Env;
use cairn_jobs::fsck::{self, Options, Report};
use clap::Args;

use crate::progress::Bars;
use crate::{Global, secrets, units};

/// Flags of `fsck`. Exit code 1: something is damaged.
#[derive(Args, Debug)]
pub(crate) struct FsckArgs {
    /// Where the metadata is
    meta_url: String,
    /// Only this path of the volume
    #[arg(long)]
    path: Option<String>,
    /// Mend directories, and what the volume adds up: usage, quotas, statistics
    #[arg(long)]
    repair: bool,
    /// Everything below the path too
    #[arg(short = 'r', long)]
    recursive: bool,
    /// Mend usage counters of directories (`--repair` does, too)
    #[arg(long)]
    sync_dir_stat: bool,
    /// Mode of directories that are made anew, octal
    #[arg(long, value_parser = units::octal, default_value = "0755")]
    repair_dir_mode: u32,
    /// Read and decode every block
    #[arg(long)]
    verify: bool,
    /// Blocks looked at at a time
    #[arg(short = 'p', long, default_value_t = 10)]
    threads: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: FsckArgs, global: &Global) -> anyhow::Result<ExitCode> {
    let env = Env::real();
    let options = Options {
        path: args.path.map(String::into_bytes),
        recursive: args.recursive,
        repair: args.repair || args.sync_dir_stat,
        verify: args.verify,
        repair_dir_mode: args.repair_dir_mode as u16,
        threads: args.threads.max(1),
    };
    let admin = Admin::open(&env, &secrets::meta_url(&args.meta_url)?, !options.repair).await?;
    let report = check(&admin, &options, &Bars::new(&env, global, args.json)).await;
    let staging = staging_sessions(&admin).await;
    admin.close().await;
    let (report, staging) = (report?, staging?);
    if report.has_damage() && !staging.is_empty() {
        eprintln!("{}", waiting_for_upload(&staging));
    }
    if args.json {
        crate::show(&(serde_json::to_string_pretty(&report)? + "\n"))?;
    } else {
        crate::show(&shown(&report, options.verify))?;
    }
    Ok(if report.has_damage() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Where clients run that may hold blocks for the store on their own disks.
async fn staging_sessions(admin: &Admin) -> anyhow::Result<Vec<String>> {
    let infos = admin.meta().sessions().await?.into_iter().map(|session| session.info);
    let infos = infos.filter_map(|info| serde_json::from_str::<serde_json::Value>(&info).ok());
    let places = infos.filter(|info| info["WriteBack"] == true).map(|info| {
        let text = |name: &str| info[name].as_str().unwrap_or("?").to_owned();
        format!("{}:{}", text("HostName"), text("MountPoint"))
    });
    Ok(places.collect())
}

fn waiting_for_upload(places: &[String]) -> String {
    format!(
        "blocks named as missing may be on their way: {} with --writeback; `cairn umount --flush` there uploads them, \
         then look again",
        match places {
            [one] => format!("{one} is mounted"),
            many => format!("{} are mounted", many.join(", ")),
        }
    )
}

async fn check(admin: &Admin, options: &Options, bars: &Bars) -> anyhow::Result<Report> {
    let (store, chunks) = admin.data(&secrets::passphrase()?).await?;
    let report = fsck::run(admin.meta(), &store, &chunks, options, &|step| bars.watch(step)).await;
    bars.done();
    chunks.close().await;
    Ok(report?)
}

fn shown(report: &Report, verify: bool) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        let kind = if finding.repaired {
            "mended"
        } else if finding.problem.is_drift() {
            "drift"
        } else {
            "damaged"
        };
        out += &format!("{kind}: {finding}\n");
    }
    out += &format!(
        "{} inodes, {} slices, {} blocks ({})",
        report.inodes,
        report.slices.count,
        report.blocks.count,
        units::short_bytes(report.blocks.bytes)
    );
    if verify {
        out += &format!(", {} slices read", report.verified.count);
    }
    let damaged = report.findings.iter().filter(|f| !f.repaired && !f.problem.is_drift()).count();
    out + &if report.findings.is_empty() {
        ": clean\n".to_owned()
    } else {
        format!(": {damaged} damaged, {} found\n", report.findings.len())
    }
}

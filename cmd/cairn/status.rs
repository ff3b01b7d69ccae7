//! `cairn status`: setting, sessions, usage.

use std::process::ExitCode;

use anyhow::{Context, bail};
use cairn::Admin;
use cairn_env::Env;
use cairn_jobs::{Tally, gc};
use cairn_meta::record::SessionRecord;
use clap::Args;
use serde_json::{Map, Value, json};

use crate::{control, secrets};

/// Flags of `status`.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// Where the metadata is
    meta_url: String,
    /// Show only this session
    #[arg(short = 's', long, value_name = "SID")]
    session: Option<u64>,
    /// Show what waits for deletion too; takes longer
    #[arg(short = 'm', long)]
    more: bool,
    /// Print JSON (it always is)
    #[arg(long, hide = true)]
    json: bool,
}

pub(crate) async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let admin = Admin::open(&Env::real(), &secrets::meta_url(&args.meta_url)?, true).await?;
    let shown = show(&admin, &args).await;
    admin.close().await;
    crate::show(&(serde_json::to_string_pretty(&shown?)? + "\n"))?;
    Ok(ExitCode::SUCCESS)
}

async fn show(admin: &Admin, args: &StatusArgs) -> anyhow::Result<Value> {
    let meta = admin.meta();
    let sessions = meta.sessions().await?;
    if let Some(sid) = args.session {
        let Some(found) = sessions.iter().find(|s| s.sid.0 == sid) else { bail!("there is no session {sid}") };
        return Ok(session(found));
    }
    let stat = meta.statfs().await?;
    let mut statistic = json!({
        "UsedSpace": stat.total_bytes - stat.avail_bytes,
        "AvailableSpace": stat.avail_bytes,
        "UsedInodes": stat.used_inodes,
        "AvailableInodes": stat.avail_inodes,
    });
    if args.more {
        let (files, slices) = waiting(admin).await.context("count what waits")?;
        for (name, tally) in [("PendingDeletedFile", files), ("PendingDeletedSlice", slices)] {
            statistic[format!("{name}Count")] = tally.count.into();
            statistic[format!("{name}Size")] = tally.bytes.into();
        }
    }
    Ok(json!({
        "Setting": admin.format().masked(),
        "Sessions": sessions.iter().map(session).collect::<Vec<_>>(),
        "Statistic": statistic,
    }))
}

/// Files and slices that wait for deletion. A dry run of gc knows; its listing of the store is the price.
async fn waiting(admin: &Admin) -> anyhow::Result<(Tally, Tally)> {
    let (store, chunks) = admin.data(&secrets::passphrase()?).await?;
    let options = gc::Options::default();
    let report = gc::run(admin.meta(), &store, &chunks, &options, &cairn_jobs::unwatched).await;
    chunks.close().await;
    let report = report?;
    Ok((report.waiting_files, report.unowned))
}

/// What the session says of itself, and when it counts as dead.
fn session(record: &SessionRecord) -> Value {
    let mut shown = Map::new();
    shown.insert("Sid".into(), record.sid.0.into());
    shown.insert("Expire".into(), crate::units::shown_time(record.expire_secs).into());
    if let Ok(Value::Object(info)) = serde_json::from_str(&record.info) {
        shown.extend(info);
    }
    if shown.get("WriteBack").is_some_and(|on| on == true)
        && let Some(staged) = staged_at(&shown)
    {
        shown.insert("Staged".into(), staged);
    }
    Value::Object(shown)
}

/// What waits for upload at a mount of this machine, if it can be asked.
fn staged_at(session: &Map<String, Value>) -> Option<Value> {
    let here = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if session.get("HostName")?.as_str()? != here {
        return None;
    }
    let stats = control::internal(session.get("MountPoint")?.as_str()?.as_ref(), "stats")?;
    let text = std::fs::read_to_string(stats).ok()?;
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("juicefs_staging_")?.strip_prefix(name));
        line.and_then(|value| value.trim().parse::<f64>().ok()).map(|value| value as u64)
    };
    Some(json!({
        "Blocks": number("blocks ")?,
        "Bytes": number("block_bytes ")?,
        "OldestSeconds": number("oldest_seconds ")?,
    }))
}

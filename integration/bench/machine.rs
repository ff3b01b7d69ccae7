//! What the numbers were measured on.

use std::fmt::Write;
use std::fs;

use crate::settings::Settings;

/// The daemon gives itself this priority when root starts it; everybody here gets the same.
const NICE: i32 = -19;

/// Puts this process, and those it starts, before others: so that both sides are measured, not the
/// neighbours. Needs root; without it the run goes on.
pub(crate) fn take_precedence() {
    if let Err(e) = rustix::process::setpriority_process(None, NICE) {
        eprintln!("no priority over other processes ({e}): numbers will be noisier");
    }
}

/// A few lines for the head of the report.
pub(crate) fn facts(settings: &Settings) -> String {
    let mut out = String::new();
    let uname = rustix::system::uname();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let nice = rustix::process::getpriority_process(None).unwrap_or(0);
    let mut line = |name: &str, value: String| writeln!(out, "{name:<10} {value}").expect("a string takes everything");
    line("kernel", format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()));
    line("processor", format!("{cpus} x {}", processor()));
    line("memory", memory());
    line("folder", format!("{} ({})", settings.folder.display(), file_system(settings)));
    line("load", format!("{} at the start; everything measured runs at nice {nice}", load()));
    line("turns", format!("{} of each side, taking turns; median [least - most]", settings.turns));
    line("fsync", format!("{} in the store", if store_syncs() { "on" } else { "off" }));
    out
}

/// Does the `file` store make its objects durable? The floor then does the same.
pub(crate) fn store_syncs() -> bool {
    std::env::var_os("CAIRN_FILE_NO_FSYNC").is_none()
}

/// Load averages.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|l| l.strip_prefix("model name")).and_then(|l| l.split_once(": "));
    model.map_or("unknown", |(_, model)| model).to_owned()
}

fn memory() -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text.lines().next().and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
    format!("{} MiB", kib.unwrap_or(0) / 1024)
}

/// Type of the file system that holds the folder: the longest mount point that leads there.
fn file_system(settings: &Settings) -> String {
    let text = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let folder = settings.folder.canonicalize().unwrap_or_else(|_| settings.folder.clone());
    let fields = text.lines().map(|l| l.split(' ').collect::<Vec<_>>()).filter(|f| f.len() > 2);
    let best = fields.filter(|f| folder.starts_with(f[1])).max_by_key(|f| f[1].len());
    best.map_or("unknown".into(), |f| f[2].to_owned())
}

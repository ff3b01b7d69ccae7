//! The `cairn` command: arguments to one call, result to an exit code.
//!
//! Names, flags, units and exit codes are those of JuiceFS, so that its users' fingers work. Each
//! subcommand has a file of its own. Rules kept here: a flag either works or is refused with a
//! sentence ([`later`]); a secret leaves the process list as soon as it was read ([`secrets`]);
//! exit 0 means done, 1 that it was not.
//!
//! Not here: how a volume is put together (the root crate), and what any of it means (the rooms).

mod config;
mod control;
mod daemon;
mod farewell;
mod format;
mod fsck;
mod fstab;
mod gc;
mod info;
mod later;
mod logging;
mod metrics_page;
mod mount;
mod mount_args;
mod mountpoint;
mod paths;
mod progress;
mod rmr;
mod secrets;
mod status;
mod summary;
mod table;
mod umount;
mod units;
mod version;
mod warmup;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

/// A POSIX file system over any object store, with JuiceFS-compatible volumes.
#[derive(Parser)]
#[command(name = "cairn", version = cairn::VERSION, propagate_version = true, disable_help_subcommand = true)]
#[command(disable_version_flag = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Log at debug level
    #[arg(long, visible_alias = "debug", short = 'v', global = true)]
    verbose: bool,
    /// Log only warnings and errors, show no progress
    #[arg(long, short = 'q', global = true)]
    quiet: bool,
    /// Log at trace level
    #[arg(long, global = true)]
    trace: bool,
    /// Log at this level: trace, debug, info, warn, error
    #[arg(long, global = true, hide = true)]
    log_level: Option<String>,
    /// Put this in each log line; `random` makes one up
    #[arg(long, global = true)]
    log_id: Option<String>,
    /// Open no debug listener (there is none to open)
    #[arg(long, global = true, hide = true)]
    no_agent: bool,
    /// No colours
    #[arg(long, global = true)]
    no_color: bool,
    /// Print the version
    #[arg(long, short = 'V', action = clap::ArgAction::Version)]
    version: Option<bool>,
}

#[derive(Subcommand)]
enum Command {
    /// Make a volume, or change the setting of one
    Format(Box<format::FormatArgs>),
    /// Mount a volume
    Mount(Box<mount_args::MountArgs>),
    /// Unmount a volume
    Umount(umount::UmountArgs),
    /// Show a volume's setting, sessions and usage
    Status(status::StatusArgs),
    /// Show or change a volume's setting
    Config(Box<config::ConfigArgs>),
    /// Show what a file or directory is made of
    Info(info::InfoArgs),
    /// Show how large a tree is, and its largest parts
    Summary(summary::SummaryArgs),
    /// Find objects nobody needs; delete them with --delete
    Gc(gc::GcArgs),
    /// Check that a volume is whole
    Fsck(fsck::FsckArgs),
    /// Remove directories with all that is in them
    Rmr(rmr::RmrArgs),
    /// Fill the local cache with files, empty it of them, or see what is there
    Warmup(warmup::WarmupArgs),
    /// Print the version
    Version,
}

fn main() -> ExitCode {
    let args = fstab::translate(std::env::args_os().collect());
    match parse(args).and_then(run) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("ERROR: {}", secrets::masked(&format!("{e:#}")));
            ExitCode::FAILURE
        }
    }
}

/// Reads the arguments. What clap itself prints (help, usage errors) ends the process here.
fn parse(args: Vec<OsString>) -> anyhow::Result<Cli> {
    let command = later::declare(Cli::command());
    let matches = command.try_get_matches_from(args).unwrap_or_else(|e| {
        // Usage errors are 1, as every other failure.
        _ = e.print();
        std::process::exit(i32::from(e.use_stderr()));
    });
    secrets::hide(&matches);
    if let Some((name, given)) = matches.subcommand() {
        later::refuse(name, given)?;
    }
    Cli::from_arg_matches(&matches).context("arguments")
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // One TLS stack for everything; a second call would only say that it is there.
    _ = rustls::crypto::ring::default_provider().install_default();
    let global = &cli.global;
    if !matches!(cli.command, Command::Mount(_)) {
        logging::start(global, None)?;
    }
    match cli.command {
        Command::Format(args) => wait(format::run(*args)),
        Command::Mount(args) => mount::run(*args, global),
        Command::Umount(args) => wait(umount::run(args)),
        Command::Status(args) => wait(status::run(args)),
        Command::Config(args) => wait(config::run(*args)),
        Command::Info(args) => wait(info::run(args, global)),
        Command::Summary(args) => wait(summary::run(args, global)),
        Command::Gc(args) => wait(gc::run(args, global)),
        Command::Fsck(args) => wait(fsck::run(args, global)),
        Command::Rmr(args) => wait(rmr::run(args, global)),
        Command::Warmup(args) => wait(warmup::run(args, global)),
        Command::Version => version::run(),
    }
}

/// The runtime of a command.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("cairn").build().context("start threads")
}

/// Prints to standard output. A reader that has seen enough (`| head`) is no failure.
fn show(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("print"),
        _ => Ok(()),
    }
}

fn wait(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        let matches = later::declare(Cli::command()).try_get_matches_from(line.split_whitespace())?;
        Cli::from_arg_matches(&matches)
    }

    #[test]
    fn the_commands_are_consistent() {
        later::declare(Cli::command()).debug_assert();
    }

    #[test]
    fn flags_may_follow_positionals() {
        let line = "cairn format sqlite3:///x.db vol --block-size 1M --trash-days 0 -v";
        let cli = parsed(line).unwrap_or_else(|e| panic!("{e}"));
        let Command::Format(args) = cli.command else { panic!("format") };
        assert_eq!((args.block_size_kib, args.trash_days, cli.global.verbose), (Some(1024), Some(0), true));
        assert!(parsed("cairn mount sqlite3:///x.db /mnt -d --cache-size 1G -o allow_other,noatime").is_ok());
        assert!(parsed("cairn mount --no-such-flag sqlite3:///x.db /mnt").is_err());
    }

    #[test]
    fn every_refused_flag_is_known_and_refused_by_name() {
        for line in ["mount m p --backup-meta 1h", "mount m p --open-cache 5s", "format m v --ranger-service x"] {
            let line = format!("cairn {line}");
            let matches =
                later::declare(Cli::command()).try_get_matches_from(line.split_whitespace()).expect("known flag");
            let (name, given) = matches.subcommand().expect("a command");
            let said = later::refuse(name, given).expect_err("refused").to_string();
            let flag = line.split_whitespace().find(|w| w.starts_with("--")).expect("a flag");
            assert!(said.contains(flag), "{said}");
        }
    }
}

//! Flags of the reference that do nothing here yet: known, and refused with a sentence.
//!
//! A value that asks for what we do anyway (`--open-cache 0`) is taken.

use anyhow::bail;
use clap::{Arg, ArgAction, ArgMatches, Command};

struct Flag {
    name: &'static str,
    /// Values that ask for nothing; `None`: a switch.
    harmless: Option<&'static [&'static str]>,
    why: &'static str,
}

const fn switch(name: &'static str, why: &'static str) -> Flag {
    Flag { name, harmless: None, why }
}

const fn value(name: &'static str, harmless: &'static [&'static str], why: &'static str) -> Flag {
    Flag { name, harmless: Some(harmless), why }
}

const OFF: &[&str] = &["0", "0s", "", "false"];
const HADOOP: &str = "Ranger and Kerberos belong to the Hadoop client, which is not part of this release";
const TAGS: &str = "objects are put without tags";
const BACKUP: &str = "metadata is not backed up into the bucket";

const COMMANDS: &[(&str, &[Flag])] = &[
    (
        "format",
        &[
            value("ranger-rest-url", &[""], HADOOP),
            value("ranger-service", &[""], HADOOP),
            value("kerberos-config-file", &[""], HADOOP),
            value("tag", &[""], TAGS),
        ],
    ),
    (
        "config",
        &[
            value("ranger-rest-url", &[], HADOOP),
            value("ranger-service", &[], HADOOP),
            value("kerberos-config-file", &[], HADOOP),
            value("tag", &[""], TAGS),
            value("tier", &["0"], "storage tiers come later"),
        ],
    ),
    (
        "mount",
        &[
            switch("update-fstab", "add the line to /etc/fstab yourself, with type fuse.cairn"),
            value("backup-meta", OFF, BACKUP),
            switch("backup-skip-trash", BACKUP),
            value("skip-dir-nlink", &["0"], "it is for key-value engines, which come later"),
            switch("fast-statfs", "usage is read from the metadata engine each time"),
            value("network-interfaces", &[""], "sessions record no addresses"),
            value("open-cache", OFF, "attributes are checked at each open"),
            value("open-cache-limit", &["10000"], "there is no open cache"),
            value("tag", &[""], TAGS),
            switch("cache-partial-only", "whole blocks are cached too"),
            value("cache-scan-interval", OFF, "the cache is scanned once, at the start"),
            value("cache-expire", OFF, "blocks leave the cache for want of room, not by age"),
            value("consul", &[""], "the metrics address is not registered anywhere"),
            value("pyroscope", &[""], "profiles are not pushed anywhere"),
        ],
    ),
    ("gc", &[value("external-sort-dir", &[""], "slice ids are kept in memory, 16 bytes each")]),
];

/// Adds the refused flags to the commands, out of sight of the help.
pub(crate) fn declare(mut command: Command) -> Command {
    for (name, flags) in COMMANDS {
        command = command.mut_subcommand(*name, |sub| sub.args(flags.iter().map(Flag::arg)));
    }
    command
}

/// Fails if one of them is given and asks for something.
pub(crate) fn refuse(command: &str, given: &ArgMatches) -> anyhow::Result<()> {
    let flags = COMMANDS.iter().filter(|(name, _)| *name == command).flat_map(|(_, flags)| flags.iter());
    for flag in flags {
        if flag.asks(given) {
            bail!("--{} is not supported yet: {}", flag.name, flag.why);
        }
    }
    Ok(())
}

impl Flag {
    fn arg(&self) -> Arg {
        let arg = Arg::new(self.name).long(self.name).hide(true);
        if self.harmless.is_some() { arg.action(ArgAction::Append) } else { arg.action(ArgAction::SetTrue) }
    }

    fn asks(&self, given: &ArgMatches) -> bool {
        match self.harmless {
            None => given.get_flag(self.name),
            Some(harmless) => {
                given.get_many::<String>(self.name).into_iter().flatten().any(|v| !harmless.contains(&v.as_str()))
            }
        }
    }
}

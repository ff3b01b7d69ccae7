//! `cairn config`: shows or changes a volume's setting.

use std::io::Write;
use std::process::ExitCode;

use anyhow::bail;
use cairn::{Admin, check_bucket, location};
use cairn_env::Env;
use cairn_types::{ClientVersion, Format};
use clap::Args;

use crate::{format, secrets, units};

/// Flags of `config`.
#[derive(Args, Debug)]
pub(crate) struct ConfigArgs {
    /// Where the metadata is
    meta_url: String,

    /// Object storage driver
    #[arg(long, help_heading = "Data storage options")]
    storage: Option<String>,
    /// Bucket
    #[arg(long, help_heading = "Data storage options")]
    bucket: Option<String>,
    /// Access key
    #[arg(long, help_heading = "Data storage options")]
    access_key: Option<String>,
    /// Secret key; `-` reads it from standard input
    #[arg(long, help_heading = "Data storage options", allow_hyphen_values = true)]
    secret_key: Option<String>,
    /// Token of temporary credentials
    #[arg(long, help_heading = "Data storage options")]
    session_token: Option<String>,
    /// Storage class of new objects
    #[arg(long, help_heading = "Data storage options")]
    storage_class: Option<String>,
    /// Upload bandwidth of each client, Mbit/s; 0: unlimited
    #[arg(long, value_parser = units::mbit, help_heading = "Data storage options")]
    upload_limit: Option<u64>,
    /// Download bandwidth of each client, Mbit/s; 0: unlimited
    #[arg(long, value_parser = units::mbit, help_heading = "Data storage options")]
    download_limit: Option<u64>,

    /// Space limit (base GiB); 0: none
    #[arg(long, value_parser = units::gib_bytes, help_heading = "Management options")]
    capacity: Option<u64>,
    /// Inode limit; 0: none
    #[arg(long, help_heading = "Management options")]
    inodes: Option<u64>,
    /// Days that removed files are kept
    #[arg(long, help_heading = "Management options")]
    trash_days: Option<u32>,
    /// POSIX ACLs; cannot be turned off again
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = "Management options")]
    enable_acl: Option<bool>,
    /// Encrypt secrets that are stored in the clear
    #[arg(long, help_heading = "Management options")]
    encrypt_secret: bool,
    /// Oldest client that may use the volume
    #[arg(long, help_heading = "Management options")]
    min_client_version: Option<String>,
    /// Newest client that may use the volume
    #[arg(long, help_heading = "Management options")]
    max_client_version: Option<String>,
    /// Usage of each directory
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = "Management options")]
    dir_stats: Option<bool>,
    /// Quotas of users and groups
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = "Management options")]
    user_group_quota: Option<bool>,
    /// Record every change of metadata
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true, help_heading = "Management options")]
    changelog: Option<bool>,
    /// Age at which such records go; 0: never
    #[arg(long, value_parser = units::duration, help_heading = "Management options")]
    changelog_max_age: Option<std::time::Duration>,
    /// Number of records kept; 0: all
    #[arg(long, help_heading = "Management options")]
    changelog_max_lines: Option<u64>,

    /// Ask nothing
    #[arg(short = 'y', long)]
    yes: bool,
    /// Skip checks
    #[arg(long)]
    force: bool,
    /// Print JSON (the setting always is)
    #[arg(long, hide = true)]
    json: bool,
}

/// Age of change-log records when it is first turned on, seconds.
const CHANGE_LOG_AGE_SECS: u64 = 7200;

pub(crate) async fn run(args: ConfigArgs) -> anyhow::Result<ExitCode> {
    let env = Env::real();
    let url = secrets::meta_url(&args.meta_url)?;
    // Looking must not need the right to write.
    let reader = Admin::open(&env, &url, true).await?;
    let stored = reader.format();
    let old = reader.revealed_to_change();
    reader.close().await;
    if !args.changes() {
        crate::show(&(stored.to_masked_json() + "\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let old = old?;
    let (new, said) = args.apply(&old)?;
    if said.is_empty() {
        crate::show("nothing to change\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    for line in &said {
        crate::show(&format!("{line}\n"))?;
    }
    args.check(&env, &old, &new).await?;
    let admin = Admin::open(&env, &url, false).await?;
    let reset = new.dir_stats && !old.dir_stats;
    let stored = admin.store_sealed(&new, reset).await;
    let counted = match &stored {
        Ok(_) if new.user_group_quota && !old.user_group_quota => admin.recount_owners().await,
        _ => Ok(()),
    };
    admin.close().await;
    stored?;
    counted?;
    Ok(ExitCode::SUCCESS)
}

impl ConfigArgs {
    fn changes(&self) -> bool {
        self.storage.is_some()
            || self.bucket.is_some()
            || self.access_key.is_some()
            || self.secret_key.is_some()
            || self.session_token.is_some()
            || self.storage_class.is_some()
            || self.upload_limit.is_some()
            || self.download_limit.is_some()
            || self.capacity.is_some()
            || self.inodes.is_some()
            || self.trash_days.is_some()
            || self.enable_acl.is_some()
            || self.encrypt_secret
            || self.min_client_version.is_some()
            || self.max_client_version.is_some()
            || self.dir_stats.is_some()
            || self.user_group_quota.is_some()
            || self.changelog.is_some()
            || self.changelog_max_age.is_some()
            || self.changelog_max_lines.is_some()
    }

    /// The new setting, and a line for each change.
    fn apply(&self, old: &Format) -> anyhow::Result<(Format, Vec<String>)> {
        let mut new = old.clone();
        let mut log = Changes(Vec::new());
        self.apply_storage(&mut new, &mut log)?;
        self.apply_limits(&mut new, &mut log)?;
        self.apply_versions(&mut new, &mut log)?;
        self.apply_switches(&mut new, &mut log)?;
        Ok((new, log.0))
    }

    fn apply_storage(&self, new: &mut Format, log: &mut Changes) -> anyhow::Result<()> {
        if let Some(storage) = &self.storage {
            log.set("storage", &mut new.storage, storage.to_lowercase());
        }
        if let Some(bucket) = &self.bucket {
            let bucket = format::bucket(&new.storage, Some(bucket.clone()))?;
            log.set("bucket", &mut new.bucket, bucket);
        }
        if let Some(key) = &self.access_key {
            log.secret("access-key", &mut new.access_key, key.clone());
        }
        if let Some(key) = &self.secret_key {
            let key =
                if key == "-" { std::io::read_to_string(std::io::stdin())?.trim().to_owned() } else { key.clone() };
            log.secret("secret-key", &mut new.secret_key, key);
        }
        if let Some(token) = &self.session_token {
            log.secret("session-token", &mut new.session_token, token.clone());
        }
        if let Some(class) = &self.storage_class {
            log.set("storage-class", &mut new.storage_class, class.clone());
            if let Some(tier) = new.tiers.as_mut().and_then(|t| t.get_mut("0")) {
                tier.storage_class.clone_from(class);
            }
        }
        if self.encrypt_secret && !new.key_encrypted {
            if new.secret_key.is_empty() && new.session_token.is_empty() && new.encrypt_key.is_empty() {
                bail!("--encrypt-secret: the volume has no secrets");
            }
            log.0.push("encrypt-secret: false -> true".into());
        }
        Ok(())
    }

    fn apply_limits(&self, new: &mut Format, log: &mut Changes) -> anyhow::Result<()> {
        if let Some(limit) = self.upload_limit {
            log.set("upload-limit", &mut new.upload_limit, limit);
        }
        if let Some(limit) = self.download_limit {
            log.set("download-limit", &mut new.download_limit, limit);
        }
        if let Some(capacity) = self.capacity {
            log.set_as("capacity", &mut new.capacity, capacity, |c| units::round_bytes(*c));
        }
        if let Some(inodes) = self.inodes {
            log.set("inodes", &mut new.inodes, inodes);
        }
        if let Some(days) = self.trash_days {
            log.set("trash-days", &mut new.trash_days, days);
        }
        Ok(())
    }

    fn apply_versions(&self, new: &mut Format, log: &mut Changes) -> anyhow::Result<()> {
        if let Some(text) = &self.min_client_version {
            let Some(wanted) = ClientVersion::parse(text) else {
                bail!("--min-client-version {text:?} is not a version")
            };
            if ClientVersion::parse(&new.min_client_version).is_some_and(|have| wanted < have) {
                bail!("--min-client-version may only go up from {}", new.min_client_version);
            }
            log.set("min-client-version", &mut new.min_client_version, text.clone());
        }
        if let Some(text) = &self.max_client_version {
            if !text.is_empty() && ClientVersion::parse(text).is_none() {
                bail!("--max-client-version {text:?} is not a version");
            }
            log.set("max-client-version", &mut new.max_client_version, text.clone());
        }
        if let Err(e) = new.check_version(&ClientVersion::implemented()) {
            bail!("that would keep this client out: {e}");
        }
        Ok(())
    }

    fn apply_switches(&self, new: &mut Format, log: &mut Changes) -> anyhow::Result<()> {
        match self.enable_acl {
            Some(false) if new.enable_acl => bail!("--enable-acl: POSIX ACLs cannot be turned off again"),
            Some(on) => log.set("enable-acl", &mut new.enable_acl, on),
            None => {}
        }
        if new.enable_acl {
            new.require_client("1.2.0-A");
        }
        if let Some(on) = self.dir_stats {
            log.set("dir-stats", &mut new.dir_stats, on);
        }
        if let Some(on) = self.user_group_quota {
            log.set("user-group-quota", &mut new.user_group_quota, on);
        }
        if let Some(on) = self.changelog {
            if on && !new.change_log && new.change_log_max_age == 0 && self.changelog_max_age.is_none() {
                new.change_log_max_age = CHANGE_LOG_AGE_SECS;
            }
            log.set("changelog", &mut new.change_log, on);
        }
        if let Some(age) = self.changelog_max_age {
            log.set("changelog-max-age", &mut new.change_log_max_age, age.as_secs());
        }
        if let Some(lines) = self.changelog_max_lines {
            log.set("changelog-max-lines", &mut new.change_log_max_lines, lines);
        }
        Ok(())
    }

    /// Tries another bucket before the volume is told of it, and asks before what may surprise.
    async fn check(&self, env: &Env, old: &Format, new: &Format) -> anyhow::Result<()> {
        if self.force {
            return Ok(());
        }
        if location(old) != location(new) {
            let store = cairn_object::open(env, &location(new))?;
            check_bucket(env, &*store).await?;
        }
        let mut warnings = Vec::new();
        if new.trash_days == 0 && old.trash_days > 0 {
            warnings.push("removed files will be gone at once, and what is in the trash soon");
        }
        if (&old.storage, &old.bucket) != (&new.storage, &new.bucket) {
            warnings.push("all objects must already be in the new bucket");
        }
        if warnings.is_empty() || self.yes {
            return Ok(());
        }
        for warning in warnings {
            eprintln!("WARNING: {warning}");
        }
        eprint!("Proceed anyway? [y/N]: ");
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        if !matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") {
            bail!("nothing was changed");
        }
        Ok(())
    }
}

/// Lines of what changes.
struct Changes(Vec<String>);

impl Changes {
    fn set<T: PartialEq + std::fmt::Display>(&mut self, name: &str, member: &mut T, value: T) {
        self.set_as(name, member, value, T::to_string);
    }

    fn set_as<T: PartialEq>(&mut self, name: &str, member: &mut T, value: T, shown: impl Fn(&T) -> String) {
        if *member != value {
            self.0.push(format!("{name}: {} -> {}", shown(member), shown(&value)));
            *member = value;
        }
    }

    fn secret(&mut self, name: &str, member: &mut String, value: String) {
        if *member != value {
            self.0.push(format!("{name}: updated"));
            *member = value;
        }
    }
}

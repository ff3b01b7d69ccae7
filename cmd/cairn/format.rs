//! `cairn format`: makes a volume.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use cairn::create::Options;
use cairn::{Created, create};
use cairn_crypt::Algorithm;
use cairn_env::Env;
use cairn_types::{Format, Tier, is_valid_volume_name};
use clap::Args;

use crate::mount_args::absolute_folder;
use crate::{paths, secrets, units};

const BLOCK_KIB: std::ops::RangeInclusive<u64> = 64..=16384;
const SHARDS_MAX: u32 = 256;

/// Flags of `format`. What is not given leaves an existing volume as it is.
#[derive(Args, Debug)]
pub(crate) struct FormatArgs {
    /// Where the metadata is, e.g. sqlite3:///path/to/volume.db
    meta_url: String,
    /// The volume's name: 3 to 63 lower-case letters, digits and inner hyphens
    name: String,

    /// Object storage driver [default: file]
    #[arg(long, help_heading = "Data storage options")]
    storage: Option<String>,
    /// Bucket: a URL, or a folder for `file`
    #[arg(long, help_heading = "Data storage options")]
    bucket: Option<String>,
    /// Access key (better: by environment)
    #[arg(long, env = "ACCESS_KEY", hide_env_values = true, help_heading = "Data storage options")]
    access_key: Option<String>,
    /// Secret key (better: by environment)
    #[arg(long, env = "SECRET_KEY", hide_env_values = true, help_heading = "Data storage options")]
    secret_key: Option<String>,
    /// Token of temporary credentials (better: by environment)
    #[arg(long, env = "SESSION_TOKEN", hide_env_values = true, help_heading = "Data storage options")]
    session_token: Option<String>,
    /// Storage class of new objects
    #[arg(long, help_heading = "Data storage options")]
    storage_class: Option<String>,

    /// Largest object (base KiB), 64K to 16M [default: 4M]
    #[arg(long = "block-size", value_name = "SIZE", value_parser = units::kib, help_heading = "Data format options")]
    pub(crate) block_size_kib: Option<u64>,
    /// Compression of objects: none, lz4 or zstd [default: none]
    #[arg(long, help_heading = "Data format options")]
    compress: Option<String>,
    /// Encrypt objects; this file holds the RSA private key, PEM (its passphrase: JFS_RSA_PASSPHRASE)
    #[arg(long, value_name = "PATH", help_heading = "Data format options")]
    encrypt_rsa_key: Option<PathBuf>,
    /// What to encrypt with: aes256gcm-rsa or chacha20-rsa [default: aes256gcm-rsa]
    #[arg(long, value_name = "ALGO", help_heading = "Data format options")]
    encrypt_algo: Option<String>,
    /// Spread object names over 256 prefixes
    #[arg(long, help_heading = "Data format options")]
    hash_prefix: bool,
    /// Spread objects over this many buckets; %d in the bucket's name counts them
    #[arg(long, help_heading = "Data format options")]
    shards: Option<u32>,

    /// Space limit (base GiB); 0: none
    #[arg(long, value_parser = units::gib_bytes, help_heading = "Management options")]
    capacity: Option<u64>,
    /// Inode limit; 0: none
    #[arg(long, help_heading = "Management options")]
    inodes: Option<u64>,
    /// Days that removed files are kept; 0: not at all [default: 1]
    #[arg(long, help_heading = "Management options")]
    pub(crate) trash_days: Option<u32>,
    /// POSIX ACLs; cannot be turned off again
    #[arg(long, help_heading = "Management options")]
    enable_acl: bool,

    /// Change of an existing volume what should not change, take a bucket that is not empty
    #[arg(long)]
    force: bool,
    /// Leave an existing volume as it is
    #[arg(long)]
    no_update: bool,
}

pub(crate) async fn run(args: FormatArgs) -> anyhow::Result<ExitCode> {
    let meta_url = secrets::meta_url(&args.meta_url)?;
    let options = Options {
        force: args.force,
        no_update: args.no_update,
        no_check: std::env::var_os("JFS_NO_CHECK_OBJECT_STORAGE").is_some(),
        passphrase: secrets::passphrase()?,
    };
    args.check()?;
    let (what, format) = match create(&Env::real(), &meta_url, |old| args.format(old), options).await? {
        Created::New(format) => ("formatted", format),
        Created::Updated(format) => ("updated", format),
        Created::Kept(format) => ("is there already and was left as it is", format),
    };
    crate::show(&format!("Volume {} {what}:\n{}\n", format.name, format.to_masked_json()))?;
    Ok(ExitCode::SUCCESS)
}

impl FormatArgs {
    /// Refuses what is wrong whatever is there already.
    fn check(&self) -> anyhow::Result<()> {
        if !is_valid_volume_name(&self.name) {
            bail!(
                "{:?} is not a volume name: 3 to 63 lower-case letters, digits and hyphens, no hyphen at either end",
                self.name
            );
        }
        if let Some(shards) = self.shards.filter(|s| *s > SHARDS_MAX) {
            bail!("--shards {shards}: at most {SHARDS_MAX}");
        }
        Ok(())
    }

    /// The setting to store, secrets in the clear: what was given over what is there, or over the
    /// setting of new volumes.
    fn format(&self, old: Option<&Format>) -> anyhow::Result<Format> {
        let mut format = old.cloned().unwrap_or_else(unwritten);
        format.name.clone_from(&self.name);
        self.apply_place(&mut format, old)?;
        set(&mut format.access_key, &self.access_key);
        set(&mut format.secret_key, &self.secret_key);
        set(&mut format.session_token, &self.session_token);
        set(&mut format.storage_class, &self.storage_class);
        if old.is_none() || self.storage_class.is_some() {
            let tier = Tier { id: 0, storage_class: format.storage_class.clone(), tag: String::new() };
            format.tiers.get_or_insert_default().entry("0".into()).or_insert(tier).storage_class =
                format.storage_class.clone();
        }
        self.apply_data_format(&mut format)?;
        set(&mut format.capacity, &self.capacity);
        set(&mut format.inodes, &self.inodes);
        set(&mut format.trash_days, &self.trash_days);
        format.enable_acl |= self.enable_acl;
        if self.enable_acl {
            format.require_client("1.2.0-A");
        }
        Ok(format)
    }

    /// Storage and bucket. Another spelling of what is there is no change.
    fn apply_place(&self, format: &mut Format, old: Option<&Format>) -> anyhow::Result<()> {
        let storage = self.storage.as_ref().map_or_else(|| format.storage.to_lowercase(), |s| s.to_lowercase());
        let same_storage = old.is_some_and(|old| old.storage.eq_ignore_ascii_case(&storage));
        if same_storage && self.bucket.as_ref().is_none_or(|b| b.is_empty()) {
            return Ok(());
        }
        let wanted = bucket(&storage, self.bucket.clone())?;
        if same_storage && bucket(&storage, Some(format.bucket.clone())).is_ok_and(|b| b == wanted) {
            return Ok(());
        }
        (format.storage, format.bucket) = (storage, wanted);
        Ok(())
    }

    /// What is fixed for the life of a volume.
    fn apply_data_format(&self, format: &mut Format) -> anyhow::Result<()> {
        if let Some(kib) = self.block_size_kib {
            format.block_size = block_size(kib);
        }
        if let Some(wanted) = &self.compress {
            let given = Format { compression: wanted.to_lowercase(), ..Format::default() };
            let codec = given.compression().map_err(|e| anyhow::anyhow!("--compress: {e}"))?;
            // An empty text means none, too.
            if format.compression() != Ok(codec) || format.uuid.is_empty() {
                format.compression = given.compression;
            }
        }
        if let Some(shards) = self.shards
            && shards.max(1) != format.shards.max(1)
        {
            format.shards = shards;
        }
        format.hash_prefix |= self.hash_prefix;
        self.apply_encryption(format)
    }

    /// The private key is stored byte for byte as its file has it, locked if it was.
    fn apply_encryption(&self, format: &mut Format) -> anyhow::Result<()> {
        if let Some(file) = self.encrypt_rsa_key.as_ref().filter(|f| !f.as_os_str().is_empty()) {
            let read = std::fs::read_to_string(file);
            format.encrypt_key = read.with_context(|| format!("--encrypt-rsa-key: read {}", file.display()))?;
            if format.encrypt_key.is_empty() {
                bail!("--encrypt-rsa-key: {} is empty", file.display());
            }
        }
        if let Some(wanted) = self.encrypt_algo.as_ref().filter(|a| !a.is_empty()) {
            let algorithm: Algorithm = wanted.parse().map_err(|e| anyhow::anyhow!("--encrypt-algo: {e}"))?;
            // An empty text means the default, too.
            if format.encrypt_algo.parse() != Ok(algorithm) {
                format.encrypt_algo = algorithm.to_string();
            }
        }
        Ok(())
    }
}

/// The setting of a volume of which nothing was said.
fn unwritten() -> Format {
    let mut format = Format {
        storage: "file".into(),
        block_size: block_size(4096),
        compression: "none".into(),
        // Written even without encryption: it also names the cipher of stored secrets.
        encrypt_algo: "aes256gcm-rsa".into(),
        trash_days: 1,
        meta_version: Format::META_VERSION,
        dir_stats: true,
        ..Format::default()
    };
    format.require_client("1.1.0-A");
    format
}

fn set<T: Clone>(member: &mut T, given: &Option<T>) {
    if let Some(value) = given {
        member.clone_from(value);
    }
}

/// A power of two within what the format allows.
fn block_size(kib: u64) -> u32 {
    let within = kib.clamp(*BLOCK_KIB.start(), *BLOCK_KIB.end());
    1 << within.ilog2()
}

pub(crate) fn bucket(storage: &str, given: Option<String>) -> anyhow::Result<String> {
    match (storage, given.filter(|b| !b.is_empty())) {
        ("file", None) => Ok(absolute_folder(&paths::bucket().display().to_string())),
        ("file", Some(folder)) if Path::new(&folder).is_file() => bail!("the bucket {folder} is a file, not a folder"),
        ("file", Some(folder)) => Ok(absolute_folder(&folder)),
        (_, Some(bucket)) => Ok(bucket),
        (_, None) => None.with_context(|| format!("--storage {storage} needs --bucket")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_are_rounded_down_and_clamped() {
        assert_eq!([1, 64, 100, 4096, 5000, 1 << 20].map(block_size), [64, 64, 64, 4096, 4096, 16384]);
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: FormatArgs,
    }

    fn wished(flags: &[&str], old: Option<&Format>) -> anyhow::Result<Format> {
        let line = ["format", "sqlite3:///nowhere/x.db", "vol"].iter().chain(flags);
        <Line as clap::Parser>::try_parse_from(line)?.args.format(old)
    }

    #[test]
    fn what_is_not_given_stays_as_it_is() {
        let flags = ["--bucket", "/nowhere/b", "--compress", "zstd", "--trash-days", "7", "--capacity", "3"];
        let mut old = wished(&flags, None).expect("a wish");
        old.uuid = "there".into();
        assert!(wished(&[], Some(&old)).expect("a wish") == old);
        let again = ["--storage", "FILE", "--bucket", "/nowhere/b/", "--compress", "ZSTD", "--shards", "1"];
        assert!(wished(&again, Some(&old)).expect("a wish") == old);
        let changed = wished(&["--trash-days", "0"], Some(&old)).expect("a wish");
        assert!(changed == Format { trash_days: 0, ..old.clone() });
        assert_eq!(wished(&["--bucket", "/nowhere/c"], Some(&old)).expect("a wish").bucket, "/nowhere/c/");
        assert!(wished(&["--storage", "s3"], Some(&old)).is_err(), "the old bucket is no bucket of s3");
    }

    #[test]
    fn a_new_volume_has_the_reference_defaults() {
        let new = wished(&["--bucket", "/nowhere/b"], None).expect("a wish");
        assert_eq!((new.storage.as_str(), new.compression.as_str()), ("file", "none"));
        assert_eq!((new.block_size, new.trash_days, new.capacity), (4096, 1, 0));
        assert_eq!(new.tiers.expect("tiers")["0"].storage_class, "");
    }

    #[test]
    fn a_folder_ends_in_a_slash() {
        assert_eq!(bucket("file", Some("/nowhere/b".into())).expect("a folder"), "/nowhere/b/");
        assert_eq!(bucket("s3", Some("https://b.host".into())).expect("a url"), "https://b.host");
        assert!(bucket("s3", None).is_err());
    }
}

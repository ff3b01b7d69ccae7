//! `cairn format`: makes a volume.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use cairn::create::Options;
use cairn::{Created, create};
use cairn_env::Env;
use cairn_types::{Format, Tier, is_valid_volume_name};
use clap::Args;

use crate::mount_args::absolute_folder;
use crate::{paths, secrets, units};

const BLOCK_KIB: std::ops::RangeInclusive<u64> = 64..=16384;
const SHARDS_MAX: u32 = 256;

/// Flags of `format`.
#[derive(Args, Debug)]
pub(crate) struct FormatArgs {
    /// Where the metadata is, e.g. sqlite3:///path/to/volume.db
    meta_url: String,
    /// The volume's name: 3 to 63 lower-case letters, digits and inner hyphens
    name: String,

    /// Object storage driver
    #[arg(long, default_value = "file", help_heading = "Data storage options")]
    storage: String,
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

    /// Largest object (base KiB), 64K to 16M
    #[arg(long = "block-size", value_name = "SIZE", value_parser = units::kib, default_value = "4M", help_heading = "Data format options")]
    pub(crate) block_size_kib: u64,
    /// Compression of objects: none, lz4 or zstd
    #[arg(long, default_value = "none", help_heading = "Data format options")]
    compress: String,
    /// Spread object names over 256 prefixes
    #[arg(long, help_heading = "Data format options")]
    hash_prefix: bool,
    /// Spread objects over this many buckets; %d in the bucket's name counts them
    #[arg(long, default_value_t = 0, help_heading = "Data format options")]
    shards: u32,

    /// Space limit (base GiB); 0: none
    #[arg(long, value_parser = units::gib_bytes, default_value = "0", help_heading = "Management options")]
    capacity: u64,
    /// Inode limit; 0: none
    #[arg(long, default_value_t = 0, help_heading = "Management options")]
    inodes: u64,
    /// Days that removed files are kept; 0: not at all
    #[arg(long, default_value_t = 1, help_heading = "Management options")]
    pub(crate) trash_days: u32,
    /// POSIX ACLs; cannot be turned off again
    #[arg(long, help_heading = "Management options")]
    enable_acl: bool,

    /// Overwrite the setting of an existing volume, take a bucket that is not empty
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
    };
    let wanted = args.format()?;
    let (what, format) = match create(&Env::real(), &meta_url, wanted, options).await? {
        Created::New(format) => ("formatted", format),
        Created::Updated(format) => ("updated", format),
        Created::Kept(format) => ("is there already and was left as it is", format),
    };
    crate::show(&format!("Volume {} {what}:\n{}\n", format.name, format.to_masked_json()))?;
    Ok(ExitCode::SUCCESS)
}

impl FormatArgs {
    /// The setting to store, secrets in the clear, without a UUID.
    fn format(self) -> anyhow::Result<Format> {
        if !is_valid_volume_name(&self.name) {
            bail!(
                "{:?} is not a volume name: 3 to 63 lower-case letters, digits and hyphens, no hyphen at either end",
                self.name
            );
        }
        if self.shards > SHARDS_MAX {
            bail!("--shards {}: at most {SHARDS_MAX}", self.shards);
        }
        let storage = self.storage.to_lowercase();
        let class = self.storage_class.unwrap_or_default();
        let mut format = Format {
            bucket: bucket(&storage, self.bucket)?,
            storage,
            name: self.name,
            tiers: Some([("0".into(), Tier { id: 0, storage_class: class.clone(), tag: String::new() })].into()),
            storage_class: class,
            access_key: self.access_key.unwrap_or_default(),
            secret_key: self.secret_key.unwrap_or_default(),
            session_token: self.session_token.unwrap_or_default(),
            block_size: block_size(self.block_size_kib),
            compression: self.compress.to_lowercase(),
            shards: self.shards,
            hash_prefix: self.hash_prefix,
            capacity: self.capacity,
            inodes: self.inodes,
            // Written even without encryption: it also names the cipher of stored secrets.
            encrypt_algo: "aes256gcm-rsa".into(),
            trash_days: self.trash_days,
            meta_version: Format::META_VERSION,
            dir_stats: true,
            enable_acl: self.enable_acl,
            ..Format::default()
        };
        format.compression().map_err(|e| anyhow::anyhow!("--compress: {e}"))?;
        format.require_client("1.1.0-A");
        if format.enable_acl {
            format.require_client("1.2.0-A");
        }
        Ok(format)
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

    #[test]
    fn a_folder_ends_in_a_slash() {
        assert_eq!(bucket("file", Some("/nowhere/b".into())).expect("a folder"), "/nowhere/b/");
        assert_eq!(bucket("s3", Some("https://b.host".into())).expect("a url"), "https://b.host");
        assert!(bucket("s3", None).is_err());
    }
}

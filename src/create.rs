//! Making a volume: the bucket is tried and marked before the metadata names it.

use cairn_env::Env;
use cairn_object::ObjectStore;
use cairn_types::Format;

use crate::error::refused;
use crate::storage::{check_bucket, check_supported, location};
use crate::{Result, admin};

/// What became of the wish for a volume.
#[derive(Debug)]
pub enum Created {
    /// A new volume.
    New(Format),
    /// One was there; its setting is now this.
    Updated(Format),
    /// One was there and was left alone.
    Kept(Format),
}

/// How to treat what is there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Change what an existing volume must not change, and take a bucket that is not empty.
    pub force: bool,
    /// Leave an existing volume alone.
    pub no_update: bool,
    /// Do not touch the bucket.
    pub no_check: bool,
}

/// Makes the volume `wanted` describes (secrets in the clear, no UUID) at `meta_url`, or changes the
/// setting of the one that is there.
///
/// # Errors
/// A sentence: the bucket cannot be used, is not empty, or an existing volume differs in what may
/// never change. Nothing was changed then.
pub async fn create(env: &Env, meta_url: &str, wanted: Format, options: Options) -> Result<Created> {
    check_supported(&wanted)?;
    let open = cairn_meta::engine::Options { create: true, read_only: false };
    let engine = cairn_meta::engine::open(env.clone(), meta_url, open).await?;
    let made = make(env, &*engine, wanted, options).await;
    engine.close().await;
    made
}

async fn make(
    env: &Env,
    engine: &dyn cairn_meta::txn::Engine,
    mut wanted: Format,
    options: Options,
) -> Result<Created> {
    let old = cairn_meta::load_format(env, engine).await?;
    if let Some(old) = old.as_ref() {
        if options.no_update {
            return Ok(Created::Kept(old.clone()));
        }
        if !options.force {
            check_unchangeable(old, &wanted)?;
        }
        inherit(old, &mut wanted);
    } else {
        wanted.uuid = new_uuid(env);
    }
    if !options.no_check {
        prepare_bucket(env, &wanted, old.is_none(), options.force).await?;
    }
    let sealed = admin::sealed(env, &wanted)?;
    cairn_meta::format_volume(env, engine, &sealed).await?;
    Ok(if old.is_some() { Created::Updated(sealed) } else { Created::New(sealed) })
}

/// A random UUID, version 4, from the volume's source of chance.
fn new_uuid(env: &Env) -> String {
    let bytes = (u128::from(env.random()) << 64 | u128::from(env.random())).to_be_bytes();
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

async fn prepare_bucket(env: &Env, format: &Format, new: bool, force: bool) -> Result<()> {
    let store = cairn_object::open(env, &location(format))?;
    if let Err(e) = store.create().await {
        return refused(format!("the bucket {} cannot be made: {e}", store.describe()));
    }
    check_bucket(env, &*store).await?;
    if new {
        refuse_foreign(&*store, format, force).await?;
        cairn_object::mark(&*store, &format.uuid).await?;
    }
    Ok(())
}

/// A bucket with objects under the volume's name belongs to somebody.
async fn refuse_foreign(store: &dyn ObjectStore, format: &Format, force: bool) -> Result<()> {
    if force || cairn_object::is_empty_prefix(store).await? {
        return Ok(());
    }
    let owner = match store.get("juicefs_uuid", None).await {
        Ok(uuid) => format!(" (they belong to volume {})", String::from_utf8_lossy(&uuid).trim()),
        Err(_) => String::new(),
    };
    refused(format!(
        "the bucket is not empty: {} has objects under {:?}{owner}; choose another name or bucket, or pass --force if \
         nobody needs them",
        store.describe(),
        format!("{}/", format.name),
    ))
}

/// What stays as it is however the volume is formatted again.
fn check_unchangeable(old: &Format, new: &Format) -> Result<()> {
    let mut differs = Vec::new();
    let mut must_equal = |what: &str, old: String, new: String| {
        if old != new {
            differs.push(format!("{what} is {old}, not {new}"));
        }
    };
    let codec = |f: &Format| f.compression().map_or_else(|e| e, |c| format!("{c:?}").to_lowercase());
    must_equal("the name", old.name.clone(), new.name.clone());
    must_equal("the block size", format!("{} KiB", old.block_size), format!("{} KiB", new.block_size));
    must_equal("compression", codec(old), codec(new));
    must_equal("the number of shards", old.shards.max(1).to_string(), new.shards.max(1).to_string());
    must_equal("hash-prefix", old.hash_prefix.to_string(), new.hash_prefix.to_string());
    if differs.is_empty() {
        return Ok(());
    }
    refused(format!("this database holds volume {:?}, and these can never change: {}", old.name, differs.join("; ")))
}

/// Keeps of an existing volume what a new wish does not speak of.
fn inherit(old: &Format, wanted: &mut Format) {
    wanted.uuid.clone_from(&old.uuid);
    wanted.meta_version = old.meta_version;
    wanted.enable_acl |= old.enable_acl;
    wanted.min_client_version.clone_from(&old.min_client_version);
    wanted.max_client_version.clone_from(&old.max_client_version);
    wanted.dir_stats = old.dir_stats;
    wanted.user_group_quota = old.user_group_quota;
    wanted.change_log = old.change_log;
    wanted.change_log_max_age = old.change_log_max_age;
    wanted.change_log_max_lines = old.change_log_max_lines;
    wanted.upload_limit = old.upload_limit;
    wanted.download_limit = old.download_limit;
    wanted.tiers.clone_from(&old.tiers);
    wanted.other.clone_from(&old.other);
    if wanted.enable_acl {
        wanted.require_client("1.2.0-A");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_change_is_told_at_once() {
        let old = Format { name: "one".into(), block_size: 4096, ..Format::default() };
        let new = Format { name: "two".into(), block_size: 1024, compression: "lz4".into(), ..Format::default() };
        let said = check_unchangeable(&old, &new).unwrap_err().to_string();
        for word in ["one", "two", "4096 KiB", "lz4"] {
            assert!(said.contains(word), "{said}");
        }
        assert!(check_unchangeable(&old, &Format { compression: "none".into(), ..old.clone() }).is_ok());
    }
}

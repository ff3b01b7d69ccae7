//! As much of a volume as an administrative command needs: no session, no files, no upkeep.

use std::sync::Arc;

use cairn_cache::BlockCache;
use cairn_chunk::ChunkStore;
use cairn_crypt::Passphrase;
use cairn_env::Env;
use cairn_meta::Meta;
use cairn_meta::txn::Engine;
use cairn_object::{Dials, ObjectStore};
use cairn_types::Format;

use crate::config::Config;
use crate::storage::{self, Failing, check_supported};
use crate::volume::chunk_config;
use crate::{Error, Result, keys};

/// An open volume for commands.
pub struct Admin {
    env: Env,
    config: Config,
    meta: Arc<Meta>,
}

impl Admin {
    /// Opens the volume at `meta_url`.
    ///
    /// # Errors
    /// As the engine says; no volume there is [`Error::Refused`].
    pub async fn open(env: &Env, meta_url: &str, read_only: bool) -> Result<Admin> {
        let mut config = Config::new(meta_url);
        config.client.read_only = read_only;
        let options = cairn_meta::engine::Options { create: false, read_only };
        let engine = cairn_meta::engine::open(env.clone(), meta_url, options).await?;
        let settings = cairn_meta::Config { read_only, ..cairn_meta::Config::mount() };
        match Meta::open(env.clone(), engine.clone(), settings).await {
            Ok(meta) => Ok(Admin { env: env.clone(), config, meta }),
            Err(e) => {
                engine.close().await;
                Err(unformatted(e))
            }
        }
    }

    /// The metadata.
    pub fn meta(&self) -> &Arc<Meta> {
        &self.meta
    }

    /// The setting as stored: secrets may be sealed.
    pub fn format(&self) -> Arc<Format> {
        self.meta.format()
    }

    /// The object store with time limits and retries, and blocks over it without a disk cache.
    /// `passphrase` unlocks the private key of an encrypted volume.
    ///
    /// # Errors
    /// A sentence, at once, if the bucket is missing, another volume's or cannot be read.
    pub async fn data(&self, passphrase: &Passphrase) -> Result<(Arc<dyn ObjectStore>, Arc<ChunkStore>)> {
        let format = opened(&self.meta.format())?;
        check_supported(&format)?;
        // Asked without retries: those would take a minute to find out.
        let (env, storage) = (&self.env, &self.config.storage);
        let cipher = keys::cipher(env, &format, passphrase).await?;
        storage::check_owner(env, &format, storage, cipher.as_ref(), Failing::Refuse).await?;
        let store = storage::open(env, &format, storage, &Dials::default())?;
        let cache = BlockCache::open(env.clone(), no_cache(&format))?;
        let settings = chunk_config(&self.config, &format)?;
        let chunks = ChunkStore::with_cipher(env.clone(), store.clone(), cache, settings, cipher);
        Ok((store, chunks))
    }

    /// Closes the engine.
    pub async fn close(self) {
        self.meta.close().await;
    }
}

/// Everything is read from the store: what a command checks must be what is there.
fn no_cache(format: &Format) -> cairn_cache::Config {
    cairn_cache::Config {
        dirs: Vec::new(),
        memory_bytes: 0,
        disk_bytes: 0,
        disk_items: 0,
        free_space_ratio: 0.0,
        checksum: cairn_cache::ChecksumLevel::Full,
        eviction: cairn_cache::Eviction::None,
        file_mode: 0o600,
        key_layout: format.key_layout(),
    }
}

fn unformatted(e: cairn_meta::Error) -> Error {
    match e {
        cairn_meta::Error::NotFormatted => {
            Error::Refused("no volume is formatted in this database: run `cairn format` first".into())
        }
        e => e.into(),
    }
}

/// Reads the setting of a volume that must be there, secrets in the clear.
pub(crate) async fn load(env: &Env, engine: &dyn Engine) -> Result<Arc<Format>> {
    let format = cairn_meta::load_format(env, engine).await?.ok_or(cairn_meta::Error::NotFormatted);
    Ok(Arc::new(opened(&format.map_err(unformatted)?)?))
}

/// A copy of the setting with its secrets in the clear.
pub(crate) fn opened(format: &Format) -> Result<Format> {
    Ok(cairn_meta::secret::revealed(format)?)
}

/// The same for who is about to change it: secrets that a dump has stripped are empty, not an error.
/// What is to be stored then goes through [`given_again`].
pub(crate) fn opened_to_change(format: &Format) -> Result<Format> {
    let mut stripped = format.clone();
    for secret in [&mut stripped.secret_key, &mut stripped.session_token, &mut stripped.encrypt_key] {
        if secret == cairn_meta::secret::REMOVED {
            secret.clear();
        }
    }
    opened(&stripped)
}

/// Refuses `wanted` if it still lacks a secret that was stripped from `stored`. A token may stay away:
/// its time is over most likely.
pub(crate) fn given_again(stored: &Format, wanted: &Format) -> Result<()> {
    let is_missing = |had: &str, has: &str| had == cairn_meta::secret::REMOVED && has.is_empty();
    if is_missing(&stored.secret_key, &wanted.secret_key) || is_missing(&stored.encrypt_key, &wanted.encrypt_key) {
        // It says which, and what to do.
        opened(stored)?;
    }
    Ok(())
}

/// A copy of the setting as it is stored: secrets encrypted.
pub(crate) fn sealed(env: &Env, format: &Format) -> Result<Format> {
    Ok(cairn_meta::secret::hidden(env, format)?)
}

impl Admin {
    /// The setting with its secrets in the clear. What a dump has stripped is empty, and
    /// [`Admin::store_sealed`] wants it given again.
    pub fn revealed_to_change(&self) -> Result<Format> {
        opened_to_change(&self.meta.format())
    }

    /// Stores a setting whose secrets are in the clear; they are encrypted on the way.
    pub async fn store_sealed(&self, format: &Format, reset_dir_stats: bool) -> Result<Format> {
        given_again(&self.meta.format(), format)?;
        let sealed = sealed(&self.env, format)?;
        cairn_meta::store_format(&self.env, &**self.meta.engine(), &sealed, reset_dir_stats).await?;
        Ok(sealed)
    }

    /// Counts what every user and group owns, once the setting says that it is to be kept.
    pub async fn recount_owners(&self) -> Result<()> {
        Ok(cairn_meta::recount_owners(&self.env, &**self.meta.engine(), false).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stripped_secret_has_to_be_given_again() {
        let removed = || cairn_meta::secret::REMOVED.to_owned();
        let stored = Format { secret_key: removed(), session_token: removed(), ..Format::default() };
        assert!(opened(&stored).is_err());
        let mut wanted = opened_to_change(&stored).expect("it may be changed");
        assert_eq!((wanted.secret_key.as_str(), wanted.session_token.as_str()), ("", ""));
        let said = given_again(&stored, &wanted).unwrap_err().to_string();
        assert!(said.contains("SecretKey"), "{said}");
        wanted.secret_key = "new".into();
        given_again(&stored, &wanted).expect("the token may stay away");
    }
}

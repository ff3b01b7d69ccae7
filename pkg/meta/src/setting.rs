//! The volume setting: read and written whole, checked on the way.

use cairn_env::Env;
use cairn_types::{ClientVersion, Format, Timestamp};
use parking_lot::Mutex;
use std::sync::Arc;

use crate::ops::recount::RecountOwners;
use crate::ops::tree::{GetSetting, PutSetting};
use crate::txn::{Context, Durability, Engine, Op};
use crate::{Error, Policy, Result};

/// Runs one operation outside any mounted client: for `format` and tests.
pub(crate) async fn run_detached<O: Op>(env: &Env, engine: &dyn Engine, op: O, write: bool) -> Result<O::Out> {
    let out = Arc::new(Mutex::new(None));
    let slot = out.clone();
    let (env, policy) = (env.clone(), Policy::new(&Format::default(), std::time::Duration::ZERO));
    let work = Box::new(move |tx: &mut dyn crate::txn::Txn| {
        let cx = Context::detached(Timestamp::from(env.now()), policy.clone());
        *slot.lock() = Some(op.apply(&cx, tx)?);
        Ok(())
    });
    if write {
        engine.write(work, Durability::Power).await?
    } else {
        engine.read(work).await?
    }
    let result = out.lock().take();
    Ok(result.expect("the engine ran the work it reports done"))
}

/// Reads the setting; `None` if the database holds no volume.
pub async fn load_format(env: &Env, engine: &dyn Engine) -> Result<Option<Format>> {
    let Some(text) = run_detached(env, engine, GetSetting, false).await? else { return Ok(None) };
    let format =
        Format::from_json(&text).map_err(|e| Error::Corrupt(format!("volume setting is not readable: {e}")))?;
    format.check_version(&ClientVersion::implemented()).map_err(|e| Error::Refused(e.to_string()))?;
    Ok(Some(format))
}

/// Stores the setting of an existing volume.
pub async fn store_format(env: &Env, engine: &dyn Engine, format: &Format, reset_dir_stats: bool) -> Result<()> {
    let op = PutSetting { json: format.to_json(), trash: format.trash_days > 0, reset_dir_stats };
    run_detached(env, engine, op, true).await
}

/// Counts what every user and group owns. After `UserGroupQuota` is switched on, with
/// `keep_limits` false; to repair the counts, with true. The switch comes first, so that running
/// clients count what they change from then on.
pub async fn recount_owners(env: &Env, engine: &dyn Engine, keep_limits: bool) -> Result<()> {
    run_detached(env, engine, RecountOwners { keep_limits }, true).await
}

/// Makes the tables, the root, the trash, the counters and the setting of a new volume; on an
/// existing one only the setting changes.
pub async fn format_volume(env: &Env, engine: &dyn Engine, format: &Format) -> Result<()> {
    engine.create_tables().await?;
    store_format(env, engine, format, false).await
}

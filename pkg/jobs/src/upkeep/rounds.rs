//! What is done by the clock: every heartbeat, and every hour by one client of all.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_meta::ops::session::SetIfSmall;
use cairn_meta::txn::Counter;

use super::Inner;
use crate::Result;
use crate::ops::TrimChangeLog;

/// A client that won an hourly job within this many seconds keeps others out.
const HOURLY_STAMP_SECS: i64 = 3240;

/// The same for the change log.
const CHANGE_LOG_STAMP_SECS: i64 = 270;

/// A job yields after this long; the next hour goes on.
const JOB_TIME_MAX: Duration = Duration::from_secs(50 * 60);

/// Files removed more recently than this are the removing client's to delete.
const FOREIGN_FILE_SECS: i64 = 3600;

/// Slices without owner looked at in one hourly run.
const UNOWNED_MAX: usize = 100_000;

impl Inner {
    /// The session comes first: it must live even while the setting cannot be read.
    pub(super) async fn beat(self: Arc<Self>) -> Result<()> {
        let read_only = self.meta.config().read_only;
        if !read_only {
            self.meta.heartbeat().await?;
        }
        self.reload().await?;
        let within = self.meta.config().heartbeat.as_secs_f64() * 0.9;
        let reaps = !read_only && !self.config.no_bgjob;
        if reaps && self.wins(Counter::LastCleanupSessions, within as i64).await? {
            self.reap().await?;
        }
        Ok(())
    }

    async fn reload(&self) -> Result<()> {
        use cairn_meta::Error;
        match self.meta.refresh().await {
            Ok(None) => Ok(()),
            Ok(Some(format)) => {
                tracing::info!("the volume's setting has changed");
                self.state.send_modify(|state| state.format = format);
                Ok(())
            }
            Err(e @ (Error::NotFormatted | Error::Refused(_))) => {
                if self.state.borrow().lost.is_none() {
                    tracing::error!(error = %e, "the volume is not what was mounted: this client must stop");
                    self.state.send_modify(|state| state.lost = Some(e));
                }
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    pub(super) async fn reap(&self) -> Result<()> {
        let reaped = self.reclaim.reap_sessions().await?;
        self.counters.sessions.fetch_add(reaped as u64, Ordering::Relaxed);
        Ok(())
    }

    // --- every hour, by one client

    async fn wins(&self, stamp: Counter, within_secs: i64) -> Result<bool> {
        Ok(self.meta.run(SetIfSmall { stamp, within_secs }).await?)
    }

    pub(super) async fn hourly(self: Arc<Self>) -> Result<()> {
        let deletes = self.config.max_deletes > 0;
        if deletes && self.wins(Counter::LastCleanupFiles, HOURLY_STAMP_SECS).await? {
            let outcome = self.deleted_files(FOREIGN_FILE_SECS).await;
            self.note(outcome);
        }
        if self.wins(Counter::LastCleanupTrash, HOURLY_STAMP_SECS).await? {
            let outcome = self.trash().await;
            self.note(outcome);
        }
        if deletes && self.wins(Counter::NextCleanupSlices, HOURLY_STAMP_SECS).await? {
            self.slices().await?;
        }
        Ok(())
    }

    /// Says when a job should yield.
    fn go_on(&self) -> impl Fn() -> bool + Send + Sync + '_ {
        let start = self.env.instant();
        move || !self.tasks.is_stopping() && self.env.instant() - start < JOB_TIME_MAX
    }

    pub(super) async fn deleted_files(&self, older_than_secs: i64) -> Result<()> {
        let until = self.meta.now().secs - older_than_secs;
        self.reclaim
            .delete_waiting_files(until, &self.go_on(), &mut |_, unowned| {
                self.counters.files.fetch_add(1, Ordering::Relaxed);
                self.defer(unowned);
            })
            .await
    }

    pub(super) async fn trash(&self) -> Result<()> {
        let removed = self.reclaim.expire_trash(&self.go_on()).await?;
        self.counters.trash_entries.fetch_add(removed, Ordering::Relaxed);
        self.reclaim.expire_delayed(&self.go_on(), &mut |unowned| self.defer(unowned)).await?;
        Ok(())
    }

    /// Finds slices without owner that some client did not come to delete. They too wait their
    /// minute: the last owner may have gone just now.
    pub(super) async fn slices(&self) -> Result<()> {
        let unowned = self.reclaim.unowned_slices(UNOWNED_MAX).await?;
        self.defer(unowned);
        Ok(())
    }

    pub(super) async fn trim_change_log(self: Arc<Self>) -> Result<()> {
        let format = self.meta.format();
        if format.change_log && self.wins(Counter::LastCleanupChangelog, CHANGE_LOG_STAMP_SECS).await? {
            let op = TrimChangeLog { max_age_secs: format.change_log_max_age, max_lines: format.change_log_max_lines };
            self.meta.run(op).await?;
        }
        Ok(())
    }
}

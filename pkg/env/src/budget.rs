//! A bounded amount of something (bytes of buffer, uploads in flight) that is lent in permits.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A budget of `total` units. Whoever asks for more than is free waits in line.
#[derive(Clone, Debug)]
pub struct Budget {
    semaphore: Arc<Semaphore>,
    total: u32,
}

/// Units borrowed from a [`Budget`]; dropping it gives them back.
#[derive(Debug)]
#[must_use]
pub struct Permit(OwnedSemaphorePermit);

impl Budget {
    /// A budget of `total` units (at most 2^32 - 1; more is cut to that).
    pub fn new(total: u64) -> Budget {
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        Budget { semaphore: Arc::new(Semaphore::new(total as usize)), total }
    }

    /// Borrows `units`, waiting first come first served. More than the total waits for all of it.
    pub async fn acquire(&self, units: u64) -> Permit {
        let units = self.clamp(units);
        let permit = self.semaphore.clone().acquire_many_owned(units).await;
        Permit(permit.expect("a budget is never closed"))
    }

    /// Borrows `units` if they are free now and nobody waits before us.
    pub fn try_acquire(&self, units: u64) -> Option<Permit> {
        self.semaphore.clone().try_acquire_many_owned(self.clamp(units)).ok().map(Permit)
    }

    fn clamp(&self, units: u64) -> u32 {
        u32::try_from(units).unwrap_or(u32::MAX).min(self.total)
    }

    /// Units not lent at the moment.
    pub fn free(&self) -> u64 {
        self.semaphore.available_permits() as u64
    }

    /// Units lent at the moment.
    pub fn used(&self) -> u64 {
        u64::from(self.total).saturating_sub(self.free())
    }

    /// Units in all.
    pub fn total(&self) -> u64 {
        u64::from(self.total)
    }
}

impl Permit {
    /// Units held.
    pub fn units(&self) -> u64 {
        self.0.num_permits() as u64
    }

    /// Splits `units` off into a permit of their own; `None` if it holds fewer.
    pub fn split(&mut self, units: u64) -> Option<Permit> {
        self.0.split(units as usize).map(Permit)
    }

    /// Takes over what `other` holds. Both must come from one budget.
    pub fn merge(&mut self, other: Permit) {
        self.0.merge(other.0);
    }
}

//! Points in time as metadata stores them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time: whole seconds since 1970 (floor, may be negative) and nanoseconds within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 UTC, rounded down.
    pub secs: i64,
    /// 0 ..= 999,999,999, counted upwards from `secs`.
    pub nanos: u32,
}

const NANOS_PER_SEC: i64 = 1_000_000_000;

impl Timestamp {
    /// From nanoseconds since 1970.
    pub fn from_nanos(total: i64) -> Self {
        Timestamp { secs: total.div_euclid(NANOS_PER_SEC), nanos: total.rem_euclid(NANOS_PER_SEC) as u32 }
    }

    /// Nanoseconds since 1970, clamped to what an `i64` holds (years 1677 to 2262).
    pub fn as_nanos(self) -> i64 {
        let total = i128::from(self.secs) * i128::from(NANOS_PER_SEC) + i128::from(self.nanos);
        total.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    /// Time from `earlier` to here; zero if `earlier` is later.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(self.as_nanos().saturating_sub(earlier.as_nanos()).max(0) as u64)
    }

    /// This point moved `by` into the past.
    pub fn minus(self, by: Duration) -> Timestamp {
        let by = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
        Timestamp::from_nanos(self.as_nanos().saturating_sub(by))
    }

    /// This point moved `by` into the future.
    pub fn plus(self, by: Duration) -> Timestamp {
        let by = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
        Timestamp::from_nanos(self.as_nanos().saturating_add(by))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(t: SystemTime) -> Self {
        match t.duration_since(UNIX_EPOCH) {
            Ok(d) => Timestamp { secs: d.as_secs() as i64, nanos: d.subsec_nanos() },
            Err(before) => {
                let d = before.duration();
                let (mut secs, mut nanos) = (-(d.as_secs() as i64), d.subsec_nanos());
                if nanos > 0 {
                    secs -= 1;
                    nanos = NANOS_PER_SEC as u32 - nanos;
                }
                Timestamp { secs, nanos }
            }
        }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(t: Timestamp) -> Self {
        if t.secs >= 0 {
            UNIX_EPOCH + Duration::new(t.secs as u64, t.nanos)
        } else {
            UNIX_EPOCH - Duration::new(t.secs.unsigned_abs(), 0) + Duration::from_nanos(u64::from(t.nanos))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_times_round_down() {
        let t = Timestamp::from_nanos(-1_500_000_000);
        assert_eq!(t, Timestamp { secs: -2, nanos: 500_000_000 });
        assert_eq!(t.as_nanos(), -1_500_000_000);
        assert_eq!(Timestamp::from(SystemTime::from(t)), t);
    }

    #[test]
    fn far_times_are_clamped() {
        let t = Timestamp { secs: i64::MAX, nanos: 0 };
        assert_eq!(t.as_nanos(), i64::MAX);
    }
}

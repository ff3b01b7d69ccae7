//! Columns that every SQL database of a volume shares, and how times are kept in them
//! (volume format 5.3.3).

use cairn_types::Timestamp;

/// Columns of `node` without the inode, in the order every engine reads them.
pub(in crate::engine) const ATTR_COLUMNS: &str = "type, flags, mode, uid, gid, atime, atimensec, mtime, mtimensec, ctime, ctimensec, \
                                       nlink, length, rdev, parent, access_acl_id, default_acl_id, tier_id";

/// A time from its microseconds and the nanoseconds they leave out.
pub(in crate::engine) fn time_of(micros: i64, nanos: i64) -> Timestamp {
    Timestamp::from_nanos(micros.saturating_mul(1000).saturating_add(nanos))
}

/// The microseconds and the left-over nanoseconds of a time.
///
/// Times before 1970 are stored in whole seconds, because JuiceFS misreads their fractions.
pub(in crate::engine) fn columns_of(time: Timestamp) -> (i64, i64) {
    let nanos = time.as_nanos();
    if nanos < 0 {
        let secs = nanos.div_euclid(1_000_000_000);
        return (secs.saturating_mul(1_000_000), 0);
    }
    (nanos / 1000, nanos % 1000)
}

/// The number of a user or group quota's kind; `None` for directories, which have a table of their own.
pub(in crate::engine) fn owner_kind(kind: crate::record::QuotaKind) -> Option<i64> {
    match kind {
        crate::record::QuotaKind::Dir => None,
        crate::record::QuotaKind::User => Some(1),
        crate::record::QuotaKind::Group => Some(2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_as_juicefs_rounds_them() {
        let t = Timestamp { secs: 1_700_000_001, nanos: 123_456_789 };
        assert_eq!(columns_of(t), (1_700_000_001_123_456, 789));
        assert_eq!(time_of(1_700_000_001_123_456, 789), t);
        assert_eq!(time_of(-1_500_000, 0), Timestamp { secs: -2, nanos: 500_000_000 });
    }

    #[test]
    fn times_before_1970_keep_whole_seconds() {
        assert_eq!(columns_of(Timestamp { secs: -2, nanos: 500_000_000 }), (-2_000_000, 0));
        assert_eq!(time_of(-2_000_000, 0), Timestamp { secs: -2, nanos: 0 });
    }

    #[test]
    fn far_times_are_clamped() {
        let far = Timestamp { secs: 1 << 40, nanos: 5 };
        let (micros, nanos) = columns_of(far);
        assert_eq!(time_of(micros, nanos), Timestamp::from_nanos(i64::MAX));
        assert_eq!(time_of(i64::MAX, 999), Timestamp::from_nanos(i64::MAX));
        let (micros, nanos) = columns_of(Timestamp { secs: -(1 << 40), nanos: 5 });
        assert!(time_of(micros, nanos).secs <= -9_223_372_036);
    }
}

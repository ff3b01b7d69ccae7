//! Dates of points in time, UTC, in the proleptic Gregorian calendar (Howard Hinnant's algorithms).

use crate::Timestamp;

const SECS_PER_DAY: i64 = 86_400;

/// A point in time as a calendar and a clock show it, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named like the parts of a date")]
pub struct Date {
    pub year: i64,
    /// 1 to 12.
    pub month: i64,
    /// 1 to 31.
    pub day: i64,
    pub hour: i64,
    pub minute: i64,
    pub second: i64,
}

impl From<Timestamp> for Date {
    fn from(t: Timestamp) -> Date {
        let (days, secs) = (t.secs.div_euclid(SECS_PER_DAY), t.secs.rem_euclid(SECS_PER_DAY));
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        Date {
            year: yoe + era * 400 + i64::from(month <= 2),
            month,
            day: doy - (153 * mp + 2) / 5 + 1,
            hour: secs / 3600,
            minute: secs / 60 % 60,
            second: secs % 60,
        }
    }
}

impl Date {
    /// Unix seconds. Parts out of their range run over into the next.
    pub fn secs(&self) -> i64 {
        let (y, m) = (self.year - i64::from(self.month <= 2), self.month);
        let era = y.div_euclid(400);
        let yoe = y.rem_euclid(400);
        let doy = (153 * (if m > 2 { m - 3 } else { m + 9 }) + 2) / 5 + self.day - 1;
        let days = era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468;
        days * SECS_PER_DAY + self.hour * 3600 + self.minute * 60 + self.second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_seconds_agree() {
        let date = |secs| Date::from(Timestamp { secs, nanos: 0 });
        assert_eq!((date(951_782_399).month, date(951_782_399).day), (2, 28));
        assert_eq!((date(951_782_400).month, date(951_782_400).day), (2, 29));
        assert_eq!(date(-1), Date { year: 1969, month: 12, day: 31, hour: 23, minute: 59, second: 59 });
        for secs in (-3_000_000_000..5_000_000_000).step_by(86_399_777) {
            assert_eq!(date(secs).secs(), secs);
        }
    }
}

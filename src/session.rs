//! This client's record in the volume (volume format 7.2).

use std::path::Path;

use cairn_env::Env;
use cairn_types::Timestamp;
use serde_json::json;

/// The JSON that other clients show in `status`.
pub(crate) fn info(env: &Env, mountpoint: &Path) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    json!({
        "Version": crate::presented_version(),
        "HostName": host,
        "MountPoint": mountpoint.display().to_string(),
        "MountTime": rfc3339(Timestamp::from(env.now())),
        "ProcessID": std::process::id(),
    })
    .to_string()
}

/// `2026-11-21T01:54:17.382943663Z`.
pub fn rfc3339(t: Timestamp) -> String {
    let (days, secs) = (t.secs.div_euclid(86_400), t.secs.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (h, m, s) = (secs / 3600, secs / 60 % 60, secs % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:09}Z", t.nanos)
}

/// The calendar date of a day counted from 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z.rem_euclid(146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_others_read_them() {
        let t = Timestamp { secs: 1_795_225_457, nanos: 382_943_663 };
        assert_eq!(rfc3339(t), "2026-11-21T01:44:17.382943663Z");
        assert_eq!(rfc3339(Timestamp { secs: 951_782_400, nanos: 0 }), "2000-02-29T00:00:00.000000000Z");
    }
}

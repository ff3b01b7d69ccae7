//! This client's record in the volume (volume format 7.2).

use std::path::Path;

use cairn_env::Env;
use cairn_types::{Date, Timestamp};
use serde_json::json;

/// The JSON that other clients show in `status`.
///
/// `writes_back`: blocks that it names may be on its disk only.
pub(crate) fn info(env: &Env, mountpoint: &Path, writes_back: bool) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut info = json!({
        "Version": crate::presented_version(),
        "HostName": host,
        "MountPoint": mountpoint.display().to_string(),
        "MountTime": rfc3339(Timestamp::from(env.now())),
        "ProcessID": std::process::id(),
    });
    if writes_back {
        info["WriteBack"] = true.into();
    }
    info.to_string()
}

/// `2026-11-21T01:54:17.382943663Z`.
pub fn rfc3339(t: Timestamp) -> String {
    let Date { year, month, day, hour, minute, second } = Date::from(t);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:09}Z", t.nanos)
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

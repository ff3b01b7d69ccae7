//! Units as they are typed: sizes, bandwidth, durations. Nobody below sees them.

use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Bytes of `text`: a number, possibly fractional, of `base` bytes, or with a suffix of its own.
fn size(text: &str, base: u64) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size: give a number with K, M, G, T, P or E");
    let text = text.trim();
    let upper = text.to_ascii_uppercase();
    let digits = upper.trim_end_matches("IB").trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &upper[digits.len()..] {
        "" => base,
        "B" => 1,
        "K" | "KB" | "KIB" => KIB,
        "M" | "MB" | "MIB" => MIB,
        "G" | "GB" | "GIB" => GIB,
        "T" | "TB" | "TIB" => GIB << 10,
        "P" | "PB" | "PIB" => GIB << 20,
        "E" | "EB" | "EIB" => GIB << 30,
        _ => return Err(bad()),
    };
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(unit).ok_or_else(|| format!("{text} is more than can be counted"));
    }
    let number: f64 = digits.parse().map_err(|_| bad())?;
    let bytes = number * unit as f64;
    if number.is_finite() && (0.0..1.8e19).contains(&bytes) { Ok(bytes as u64) } else { Err(bad()) }
}

/// A size whose bare number counts bytes.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    size(text, 1)
}

/// A span of hours of the day: `23,4` or `9-17`.
pub(crate) fn hours(text: &str) -> Result<(u8, u8), String> {
    let bad = || format!("{text:?} is not a span of hours: give two numbers from 0 to 23, e.g. 23,4");
    let (from, to) = text.split_once([',', '-']).ok_or_else(bad)?;
    let hour = |text: &str| text.trim().parse::<u8>().ok().filter(|hour| *hour < 24).ok_or_else(bad);
    Ok((hour(from)?, hour(to)?))
}

/// A size whose bare number counts KiB, in KiB.
pub(crate) fn kib(text: &str) -> Result<u64, String> {
    Ok(size(text, KIB)? / KIB)
}

/// A size whose bare number counts KiB, in bytes.
pub(crate) fn kib_bytes(text: &str) -> Result<u64, String> {
    size(text, KIB)
}

/// A size whose bare number counts MiB, in bytes.
pub(crate) fn mib_bytes(text: &str) -> Result<u64, String> {
    size(text, MIB)
}

/// A size whose bare number counts GiB, in bytes.
pub(crate) fn gib_bytes(text: &str) -> Result<u64, String> {
    size(text, GIB)
}

/// Bandwidth in Mbit/s.
pub(crate) fn mbit(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a bandwidth: give Mbit/s, or a number with M, G, T or P");
    let upper = text.trim().to_ascii_uppercase();
    let digits = upper.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match upper[digits.len()..].trim_end_matches("BPS") {
        "" | "M" => 1.0,
        "G" => 1e3,
        "T" => 1e6,
        "P" => 1e9,
        _ => return Err(bad()),
    };
    let number: f64 = digits.parse().map_err(|_| bad())?;
    if number.is_finite() && number >= 0.0 { Ok((number * unit).round() as u64) } else { Err(bad()) }
}

/// A duration: seconds, or `1h30m`, `500ms`, `2d12h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration: give seconds, or 500ms, 90s, 1h30m, 2d12h");
    let whole = text.trim();
    if let Ok(secs) = whole.parse::<f64>() {
        return Duration::try_from_secs_f64(secs).map_err(|_| bad());
    }
    let (mut rest, mut secs) = (whole, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        secs += number
            * match &rest[..letters] {
                "d" => 86_400.0,
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return Err(bad()),
            };
        rest = &rest[letters..];
    }
    if whole.is_empty() { Err(bad()) } else { Duration::try_from_secs_f64(secs).map_err(|_| bad()) }
}

/// An octal mode such as `022` or `0600`.
pub(crate) fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text.trim_start_matches("0o"), 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err(format!("{text:?} is not an octal mode from 0 to 777")),
    }
}

/// `uid:gid`.
pub(crate) fn squash(text: &str) -> Result<(u32, u32), String> {
    let ids = text.split_once(':').and_then(|(u, g)| Some((u.parse().ok()?, g.parse().ok()?)));
    ids.ok_or_else(|| format!("{text:?} is not uid:gid"))
}

/// A host and a port to listen at; without a host, all of this machine's; empty is empty.
pub(crate) fn address(text: &str) -> Result<String, String> {
    let bad = || format!("{text:?} is not an address: give host:port, such as 127.0.0.1:9567");
    if text.is_empty() {
        return Ok(String::new());
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let is_host = match bracketed {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
    };
    if !is_host || port.parse::<u16>().is_err() {
        return Err(bad());
    }
    Ok(if host.is_empty() { format!("0.0.0.0:{port}") } else { text.to_owned() })
}

/// `1536` as `1.50 KiB (1536 Bytes)`.
pub(crate) fn shown_bytes(bytes: u64) -> String {
    if bytes < KIB { format!("{bytes} Bytes") } else { format!("{} ({bytes} Bytes)", short_bytes(bytes)) }
}

/// `1536` as `1.50 KiB`.
pub(crate) fn short_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB", "PiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.2} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.2} EiB")
}

/// A limit: `1 GiB`, `1.50 GiB`, `0`.
pub(crate) fn round_bytes(bytes: u64) -> String {
    if bytes == 0 { "0".into() } else { short_bytes(bytes).replace(".00 ", " ") }
}

/// Unix seconds as `2026-11-21T01:54:17Z`.
pub(crate) fn shown_time(secs: i64) -> String {
    cairn::rfc3339(cairn_types::Timestamp { secs, nanos: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_of_the_day() {
        assert_eq!((hours("23,4"), hours("9-17")), (Ok((23, 4)), Ok((9, 17))));
        for bad in ["", "7", "1,24", "a-b", "-1,3"] {
            assert!(hours(bad).is_err(), "{bad}");
        }
        assert_eq!((bytes("10"), bytes("2K")), (Ok(10), Ok(2048)));
    }

    #[test]
    fn sizes_take_suffixes_and_count_their_base_without() {
        assert_eq!(kib("4M"), Ok(4096));
        assert_eq!(kib("4096"), Ok(4096));
        assert_eq!(mib_bytes("300M"), Ok(300 * MIB));
        assert_eq!(mib_bytes("300"), Ok(300 * MIB));
        assert_eq!(gib_bytes("1.5T"), Ok(1536 * GIB));
        assert_eq!(kib_bytes("64KiB"), Ok(64 * KIB));
        assert_eq!(size("7B", MIB), Ok(7));
        for bad in ["", "M", "4X", "-1", "1e400"] {
            assert!(mib_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for fine in ["127.0.0.1:9567", "localhost:0", "[::1]:80", ""] {
            assert_eq!(address(fine), Ok(fine.to_owned()));
        }
        assert_eq!(address(":9567"), Ok("0.0.0.0:9567".into()));
        for bad in ["9567", "localhost", "h:99999", "h:port", "::1:80", "http://h:80", "a b:1"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn round_sizes_are_shown_short() {
        assert_eq!([0, 1 << 30, 1536 << 20, 7].map(round_bytes), ["0", "1 GiB", "1.50 GiB", "7 B"]);
    }

    #[test]
    fn bandwidth_is_in_megabits() {
        assert_eq!((mbit("100"), mbit("100M"), mbit("1.5G")), (Ok(100), Ok(100), Ok(1500)));
        assert!(mbit("fast").is_err());
    }

    #[test]
    fn durations_are_seconds_or_go_style_or_days() {
        assert_eq!(duration("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("2d12h"), Ok(Duration::from_secs(60 * 3600)));
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
        for bad in ["", "1x", "h", "-3", "1h2"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn modes_and_owners_are_checked() {
        assert_eq!(octal("0600"), Ok(0o600));
        assert!(octal("9").is_err() && octal("7777").is_err());
        assert_eq!(squash("99:100"), Ok((99, 100)));
        assert!(squash("99").is_err());
    }
}

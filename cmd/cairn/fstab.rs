//! Called by mount(8) as `mount.cairn SOURCE TARGET -o a,b=c`: mount options become our flags.

use std::ffi::OsString;
use std::path::Path;

/// Options that mean nothing to us.
const DROPPED: [&str; 9] = ["_netdev", "nofail", "rw", "defaults", "remount", "background", "auto", "noauto", "users"];

/// The arguments as if they had been typed.
pub(crate) fn translate(args: Vec<OsString>) -> Vec<OsString> {
    let name = args.first().map(|a| Path::new(a).file_name().unwrap_or_default().to_os_string()).unwrap_or_default();
    let called = name == "mount.cairn" || std::env::var_os("CALL_VIA_MOUNT").is_some();
    let text: Option<Vec<String>> = args.iter().map(|a| a.to_str().map(str::to_owned)).collect();
    match text {
        Some(text) if called && text.len() >= 3 => from_mount(&text).into_iter().map(OsString::from).collect(),
        _ => args,
    }
}

fn from_mount(args: &[String]) -> Vec<String> {
    let mut out = vec![args[0].clone(), "mount".into(), "-d".into(), args[1].clone(), args[2].clone()];
    let mut rest = args[3..].iter();
    let mut kept = Vec::new();
    while let Some(arg) = rest.next() {
        if arg != "-o" {
            continue;
        }
        for option in rest.next().map(String::as_str).unwrap_or_default().split(',') {
            option_to_flag(option, &mut out, &mut kept);
        }
    }
    if !kept.is_empty() {
        out.extend(["-o".into(), kept.join(",")]);
    }
    out
}

fn option_to_flag(option: &str, out: &mut Vec<String>, kept: &mut Vec<String>) {
    let (name, value) = option.split_once('=').map_or((option, None), |(n, v)| (n, Some(v)));
    let name = match name {
        "attrcacheto" => "attr-cache",
        "entrycacheto" => "entry-cache",
        "direntrycacheto" => "dir-entry-cache",
        name => name,
    };
    let known = ["ro", "allow_other", "allow_root", "noatime", "nosuid", "nodev", "noexec", "suid", "dev", "exec"];
    match (name, value) {
        ("", _) => {}
        (name, _) if DROPPED.contains(&name) || name.starts_with("x-") => {}
        ("ro", _) => out.push("--read-only".into()),
        (name, None) if known.contains(&name) || name.contains('_') => kept.push(name.into()),
        (name, None) => out.push(format!("--{name}")),
        (name, Some(value)) => out.push(format!("--{name}={value}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_mount_become_flags() {
        let line =
            "/sbin/mount.cairn sqlite3:///v.db /mnt -o rw,_netdev,cache-size=1G,attrcacheto=2,allow_other,enable-xattr";
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let told = from_mount(&args)[1..].join(" ");
        assert_eq!(told, "mount -d sqlite3:///v.db /mnt --cache-size=1G --attr-cache=2 --enable-xattr -o allow_other");
    }
}

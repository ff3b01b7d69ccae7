//! Which extended attributes are served, and how their sizes are asked for.

use fuser::{Errno, ReplyXattr};

use crate::Config;

/// What a name is answered with before metadata is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// Metadata knows.
    Yes,
    /// It does not exist, and cannot be set.
    Never,
}

/// Is the attribute `name` served here?
pub(crate) fn served(config: &Config, name: &[u8]) -> Served {
    let on = match name {
        b"security.capability" => config.enable_cap,
        b"security.selinux" => config.enable_selinux,
        _ if name.starts_with(b"system.posix_acl_") => config.enable_acl,
        _ => true,
    };
    if on { Served::Yes } else { Served::Never }
}

/// What reading a name that is never served answers: no such ACL, or no such attribute.
pub(crate) fn absent(name: &[u8]) -> Errno {
    if name.starts_with(b"system.") { Errno::EOPNOTSUPP } else { Errno::ENODATA }
}

/// The names as listxattr(2) wants them: each ends in NUL.
pub(crate) fn joined(config: &Config, names: Vec<Vec<u8>>) -> Vec<u8> {
    let mut list = Vec::new();
    for name in names.iter().filter(|name| served(config, name) == Served::Yes) {
        list.extend_from_slice(name);
        list.push(0);
    }
    list
}

/// Answers with the size alone (`room` 0), with the value, or that there is no room for it.
pub(crate) fn answer(reply: ReplyXattr, room: u32, value: Result<Vec<u8>, Errno>) {
    match value {
        Ok(value) if room == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() <= room as usize => reply.data(&value),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(errno) => reply.error(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::settings;

    #[test]
    fn security_and_acl_names_need_their_switches() {
        let off = settings();
        let on = Config { enable_cap: true, enable_selinux: true, enable_acl: true, ..settings() };
        for name in [&b"security.capability"[..], b"security.selinux", b"system.posix_acl_access"] {
            assert_eq!((served(&off, name), served(&on, name)), (Served::Never, Served::Yes));
        }
        assert_eq!(served(&off, b"user.x"), Served::Yes);
    }

    #[test]
    fn listed_names_end_in_nul_and_hide_what_is_not_served() {
        let names = vec![b"user.a".to_vec(), b"security.selinux".to_vec(), b"user.b".to_vec()];
        assert_eq!(joined(&settings(), names), b"user.a\0user.b\0");
    }
}

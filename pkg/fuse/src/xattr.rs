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
    /// No file system knows such names.
    Unknown,
}

/// Where a name may begin, as xattr(7) has it.
const NAMESPACES: [&[u8]; 4] = [b"user.", b"trusted.", b"security.", b"system."];

/// Is the attribute `name` served here?
pub(crate) fn served(config: &Config, name: &[u8]) -> Served {
    let on = match name {
        b"security.capability" => config.enable_cap,
        b"security.selinux" => config.enable_selinux,
        _ if name.starts_with(b"system.posix_acl_") => config.enable_acl,
        _ if !NAMESPACES.iter().any(|space| name.starts_with(space)) => return Served::Unknown,
        _ => true,
    };
    if on { Served::Yes } else { Served::Never }
}

/// What reading or removing a name that is not served answers: no such thing, or no such attribute.
pub(crate) fn absent(config: &Config, name: &[u8]) -> Option<Errno> {
    match served(config, name) {
        Served::Yes => None,
        Served::Never if !name.starts_with(b"system.") => Some(Errno::ENODATA),
        Served::Never | Served::Unknown => Some(Errno::EOPNOTSUPP),
    }
}

/// The names as listxattr(2) wants them: each ends in NUL. `trusted.*` is root's alone to see.
pub(crate) fn joined(config: &Config, is_root: bool, names: Vec<Vec<u8>>) -> Vec<u8> {
    let mut list = Vec::new();
    let is_shown = |name: &&Vec<u8>| served(config, name) == Served::Yes && (is_root || !name.starts_with(b"trusted."));
    for name in names.iter().filter(is_shown) {
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
        assert_eq!(joined(&settings(), false, names), b"user.a\0user.b\0");
        let names = || vec![b"trusted.t".to_vec(), b"user.a".to_vec()];
        assert_eq!(joined(&settings(), true, names()), b"trusted.t\0user.a\0");
        assert_eq!(joined(&settings(), false, names()), b"user.a\0");
    }

    #[test]
    fn names_outside_of_every_namespace_are_not_supported() {
        let absent = |name: &[u8]| absent(&settings(), name).map(|e| e.code());
        assert_eq!(absent(b"user.x"), None);
        assert_eq!(absent(b"security.selinux"), Some(libc::ENODATA));
        assert_eq!(absent(b"system.posix_acl_access"), Some(libc::EOPNOTSUPP));
        for name in [&b"foo.bar"[..], b"users.x", b"osx"] {
            assert_eq!(absent(name), Some(libc::EOPNOTSUPP));
        }
    }
}

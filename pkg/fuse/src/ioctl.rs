//! The ioctls of lsattr(1) and chattr(1): inode flags (volume format 6.6).

use cairn_types::Flags;
use fuser::Errno;

/// Numbers of the 64-bit and the 32-bit callers; the kernel itself sends the first with four bytes.
const GET_FLAGS: [u32; 2] = [0x8008_6601, 0x8004_6601];
const SET_FLAGS: [u32; 2] = [0x4008_6602, 0x4004_6602];
const GET_XATTR: u32 = 0x801c_581f;
const SET_XATTR: u32 = 0x401c_5820;

/// Bytes of `struct fsxattr`.
const FSXATTR_BYTES: usize = 28;

const FS_SECRM: u32 = 0x1;
const FS_IMMUTABLE: u32 = 0x10;
const FS_APPEND: u32 = 0x20;
const XFLAG_IMMUTABLE: u32 = 0x8;
const XFLAG_APPEND: u32 = 0x10;

/// The flags a caller may see and set; the others of an inode stay as they are.
const SETTABLE: Flags = Flags(Flags::IMMUTABLE.0 | Flags::APPEND.0 | Flags::SKIP_TRASH.0);

/// What an ioctl asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The flags, in this many bytes.
    GetFlags(usize),
    /// The flags inside a `struct fsxattr`.
    GetXattr,
    /// `change` replaces what `mask` covers.
    Set {
        /// New flags.
        change: Flags,
        /// Flags it is about.
        mask: Flags,
    },
}

/// Reads an ioctl; what is none of ours is ENOTTY, a flag we do not have ENOTSUP.
pub(crate) fn ask(cmd: u32, data: &[u8], out_bytes: u32) -> Result<Ask, Errno> {
    if GET_FLAGS.contains(&cmd) {
        Ok(Ask::GetFlags((out_bytes as usize).min(8)))
    } else if SET_FLAGS.contains(&cmd) {
        let change = from_bits(
            word(data)?,
            &[(FS_IMMUTABLE, Flags::IMMUTABLE), (FS_APPEND, Flags::APPEND), (FS_SECRM, Flags::SKIP_TRASH)],
        )?;
        Ok(Ask::Set { change, mask: SETTABLE })
    } else if cmd == GET_XATTR {
        Ok(Ask::GetXattr)
    } else if cmd == SET_XATTR {
        let change = from_bits(word(data)?, &[(XFLAG_IMMUTABLE, Flags::IMMUTABLE), (XFLAG_APPEND, Flags::APPEND)])?;
        Ok(Ask::Set { change, mask: Flags::IMMUTABLE.with(Flags::APPEND) })
    } else {
        Err(Errno::ENOTTY)
    }
}

impl Ask {
    /// The flags an inode with `old` gets, if this sets any.
    pub(crate) fn applied_to(self, old: Flags) -> Option<Flags> {
        match self {
            Ask::Set { change, mask } => Some(Flags(old.0 & !mask.0 | change.0)),
            Ask::GetFlags(_) | Ask::GetXattr => None,
        }
    }

    /// The bytes answered for an inode with `flags`.
    pub(crate) fn answer(self, flags: Flags) -> Vec<u8> {
        match self {
            Ask::GetFlags(bytes) => {
                let bits = to_bits(
                    flags,
                    &[(FS_IMMUTABLE, Flags::IMMUTABLE), (FS_APPEND, Flags::APPEND), (FS_SECRM, Flags::SKIP_TRASH)],
                );
                u64::from(bits).to_ne_bytes()[..bytes].to_vec()
            }
            Ask::GetXattr => {
                let bits = to_bits(flags, &[(XFLAG_IMMUTABLE, Flags::IMMUTABLE), (XFLAG_APPEND, Flags::APPEND)]);
                let mut fsxattr = bits.to_ne_bytes().to_vec();
                fsxattr.resize(FSXATTR_BYTES, 0);
                fsxattr
            }
            Ask::Set { .. } => vec![],
        }
    }
}

fn word(data: &[u8]) -> Result<u32, Errno> {
    data.first_chunk().map(|b| u32::from_ne_bytes(*b)).ok_or(Errno::EINVAL)
}

fn from_bits(bits: u32, table: &[(u32, Flags)]) -> Result<Flags, Errno> {
    let known = table.iter().fold(0, |all, (bit, _)| all | bit);
    if bits & !known != 0 {
        return Err(Errno::ENOTSUP);
    }
    Ok(table.iter().filter(|(bit, _)| bits & bit != 0).fold(Flags::default(), |all, (_, flag)| all.with(*flag)))
}

fn to_bits(flags: Flags, table: &[(u32, Flags)]) -> u32 {
    table.iter().filter(|(_, flag)| flags.has(*flag)).fold(0, |all, (bit, _)| all | bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_translate_both_ways_and_keep_the_windows_bits() {
        let set = ask(SET_FLAGS[0], &(FS_IMMUTABLE | FS_SECRM).to_ne_bytes(), 0).unwrap();
        let old = Flags(4).with(Flags::APPEND);
        let new = set.applied_to(old).unwrap();
        assert_eq!(new, Flags(4).with(Flags::IMMUTABLE).with(Flags::SKIP_TRASH));
        let get = ask(GET_FLAGS[0], &[], 4).unwrap();
        assert_eq!(get.answer(new), (FS_IMMUTABLE | FS_SECRM).to_ne_bytes());
        assert_eq!(ask(GET_FLAGS[0], &[], 8).unwrap().answer(new).len(), 8);
    }

    #[test]
    fn fsxattr_has_two_flags_and_leaves_skip_trash_alone() {
        let mut data = [0u8; FSXATTR_BYTES];
        data[0] = XFLAG_APPEND as u8;
        let set = ask(SET_XATTR, &data, 0).unwrap();
        let new = set.applied_to(Flags::SKIP_TRASH.with(Flags::IMMUTABLE)).unwrap();
        assert_eq!(new, Flags::SKIP_TRASH.with(Flags::APPEND));
        let answer = ask(GET_XATTR, &[], 28).unwrap().answer(new);
        assert_eq!((answer.len(), answer[0]), (FSXATTR_BYTES, XFLAG_APPEND as u8));
    }

    #[test]
    fn foreign_flags_and_commands_are_refused() {
        assert_eq!(ask(SET_FLAGS[0], &0x80u32.to_ne_bytes(), 0), Err(Errno::ENOTSUP));
        assert_eq!(ask(SET_FLAGS[0], &[], 0), Err(Errno::EINVAL));
        assert_eq!(ask(0x5401, &[], 0), Err(Errno::ENOTTY));
    }
}

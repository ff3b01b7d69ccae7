//! Fields of requests that fuser 0.18 reads and does not pass on.
//!
//! A [`Request`] is, by declaration (`repr(transparent)`), the header of the message the kernel
//! wrote, and fuser lends it in place: what follows the header in the receive buffer is the rest of
//! that message. Without these fields flock(2) cannot be told from fcntl(2), and set-uid bits
//! survive a truncate. Each read checks the opcode and the length first, and takes nothing if
//! they are not what they must be. The version of fuser is fixed in Cargo.toml for this reason.

use fuser::Request;

/// Bytes of `fuse_in_header`: len, opcode, unique, nodeid, uid, gid, pid, padding.
const HEADER_BYTES: usize = 40;

const FUSE_SETATTR: u32 = 4;
const FUSE_OPEN: u32 = 14;
const FUSE_GETLK: u32 = 31;
const FUSE_SETLK: u32 = 32;
const FUSE_SETLKW: u32 = 33;
const FUSE_CREATE: u32 = 35;

const FUSE_LK_FLOCK: u32 = 1;
const FUSE_OPEN_KILL_SUIDGID: u32 = 1;
const FATTR_KILL_SUIDGID: u32 = 1 << 11;

/// Is this lock request flock(2) rather than fcntl(2)?
pub(crate) fn is_flock(req: &Request) -> bool {
    // fh 8, owner 8, start 8, end 8, type 4, pid 4, then lk_flags.
    field(req, &[FUSE_GETLK, FUSE_SETLK, FUSE_SETLKW], 40).is_some_and(|flags| flags & FUSE_LK_FLOCK != 0)
}

/// Must this OPEN (with O_TRUNC) take set-uid and set-gid away?
pub(crate) fn open_drops_privilege(req: &Request) -> bool {
    field(req, &[FUSE_OPEN], 4).is_some_and(|flags| flags & FUSE_OPEN_KILL_SUIDGID != 0)
}

/// Must this CREATE (of a file that exists, with O_TRUNC) take set-uid and set-gid away?
pub(crate) fn create_drops_privilege(req: &Request) -> bool {
    field(req, &[FUSE_CREATE], 12).is_some_and(|flags| flags & FUSE_OPEN_KILL_SUIDGID != 0)
}

/// Must this SETATTR (of a length) take set-uid and set-gid away?
pub(crate) fn setattr_drops_privilege(req: &Request) -> bool {
    field(req, &[FUSE_SETATTR], 0).is_some_and(|valid| valid & FATTR_KILL_SUIDGID != 0)
}

/// The 32-bit field `at` bytes behind the header, if the request is one of `opcodes` and that long.
fn field(req: &Request, opcodes: &[u32], at: usize) -> Option<u32> {
    const { assert!(size_of::<Request>() == HEADER_BYTES) };
    let message = std::ptr::from_ref(req).cast::<u32>();
    // SAFETY: a `Request` is the 40 bytes of `fuse_in_header`, whose first words are len and opcode.
    let (len, opcode) = unsafe { (message.read(), message.add(1).read()) };
    if !opcodes.contains(&opcode) || (len as usize) < HEADER_BYTES + at + 4 {
        return None;
    }
    // SAFETY: fuser hands out the header where it lies in its receive buffer, after checking that `len` bytes were
    // received; nobody writes to the buffer while the request is borrowed, and `at` is a multiple of 4.
    Some(unsafe { message.add((HEADER_BYTES + at) / 4).read() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as the kernel writes it, viewed as fuser views it.
    fn with_message<T>(opcode: u32, body: &[u32], see: impl FnOnce(&Request) -> T) -> T {
        let len = (HEADER_BYTES + body.len() * 4) as u32;
        let mut words = vec![len, opcode, 7, 0, 1, 0, 1000, 1000, 4242, 0];
        words.extend(body);
        words.resize(words.len() + words.len() % 2, 0);
        let aligned: Vec<u64> = words.chunks(2).map(|w| u64::from(w[0]) | u64::from(w[1]) << 32).collect();
        // SAFETY: `Request` is a transparent `fuse_in_header`: ten plain words, aligned to 8, all there.
        see(unsafe { &*aligned.as_ptr().cast::<Request>() })
    }

    #[test]
    fn the_header_is_read_where_fuser_reads_it() {
        with_message(FUSE_OPEN, &[0, 0], |req| assert_eq!((req.uid(), req.gid(), req.pid()), (1000, 1000, 4242)));
    }

    #[test]
    fn flock_is_told_from_fcntl() {
        let mut body = [0u32; 12];
        assert!(!with_message(FUSE_SETLKW, &body, is_flock));
        body[10] = FUSE_LK_FLOCK;
        assert!(with_message(FUSE_SETLKW, &body, is_flock));
        assert!(!with_message(FUSE_OPEN, &body, is_flock), "another opcode");
        assert!(!with_message(FUSE_SETLK, &body[..10], is_flock), "too short");
    }

    #[test]
    fn requests_that_drop_privilege_are_seen() {
        assert!(with_message(FUSE_OPEN, &[0, 1], open_drops_privilege));
        assert!(with_message(FUSE_CREATE, &[0, 0, 0, 1], create_drops_privilege));
        assert!(with_message(FUSE_SETATTR, &[1 << 11 | 1 << 3, 0], setattr_drops_privilege));
        assert!(!with_message(FUSE_SETATTR, &[1 << 3, 0], setattr_drops_privilege));
    }
}

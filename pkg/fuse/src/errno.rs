//! The only table from conditions to errno.
//!
//! No `_` arm: a new condition stops the build here until somebody chooses its number.

use cairn_chunk::Error as Chunk;
use cairn_meta::Error as Meta;
use cairn_vfs::Error as Vfs;
use fuser::Errno;

use crate::door::Call;

/// What a caller is told about `err`.
pub(crate) fn errno_of(err: &Vfs) -> Errno {
    match err {
        Vfs::BadHandle { .. } => Errno::EBADF,
        Vfs::TooManyHandles => Errno::ENFILE,
        Vfs::Interrupted => Errno::EINTR,
        Vfs::Closing => Errno::ENODEV,
        Vfs::Lost { .. } => Errno::EIO,
        Vfs::PassedThrough { .. } => Errno::from_i32(libc::ETXTBSY),
        Vfs::Meta(err) => of_meta(err),
        Vfs::Chunk(err) => of_chunk(err),
    }
}

/// The same as a number in one byte: what the control protocol says of a failure.
pub fn errno_number(err: &Vfs) -> u8 {
    // Linux numbers its errors below 134.
    u8::try_from(errno_of(err).code()).unwrap_or(libc::EIO as u8)
}

fn of_meta(err: &Meta) -> Errno {
    match err {
        Meta::NoEntry => Errno::ENOENT,
        Meta::Exists => Errno::EEXIST,
        Meta::NotDirectory => Errno::ENOTDIR,
        Meta::IsDirectory => Errno::EISDIR,
        Meta::NotEmpty => Errno::ENOTEMPTY,
        Meta::Access => Errno::EACCES,
        Meta::NotPermitted => Errno::EPERM,
        Meta::Invalid(_) => Errno::EINVAL,
        Meta::NameTooLong => Errno::ENAMETOOLONG,
        Meta::TooLarge => Errno::EFBIG,
        Meta::TooBig => Errno::E2BIG,
        Meta::Range => Errno::ERANGE,
        Meta::TooManyLinks => Errno::EMLINK,
        Meta::NoSpace => Errno::ENOSPC,
        Meta::Quota => Errno::EDQUOT,
        Meta::NoAttribute => Errno::ENODATA,
        Meta::NotSupported => Errno::ENOTSUP,
        Meta::WouldBlock => Errno::EAGAIN,
        Meta::Interrupted => Errno::EINTR,
        Meta::Pipe => Errno::EPIPE,
        Meta::NoOffset => Errno::ENXIO,
        Meta::ReadOnly => Errno::EROFS,
        Meta::Changed => Errno::EBUSY,
        // Ours or the engine's trouble; which, the log says.
        Meta::CorruptChunk { .. }
        | Meta::Corrupt(_)
        | Meta::NotFormatted
        | Meta::Refused(_)
        | Meta::Missing
        | Meta::Engine(_)
        | Meta::SessionLost => Errno::EIO,
    }
}

fn of_chunk(err: &Chunk) -> Errno {
    match err {
        // Whatever the store said (refused, missing, damaged, away): the file cannot be read or written now.
        Chunk::Store { .. }
        | Chunk::Missing { .. }
        | Chunk::Corrupt { .. }
        | Chunk::OutOfSlice { .. }
        | Chunk::Discarded { .. }
        | Chunk::Interrupted { .. } => Errno::EIO,
    }
}

/// Logs `err`, which travels no further: trouble of ours loudly, answers quietly.
pub(crate) fn log(call: &Call, err: &Vfs, errno: Errno) {
    if errno == Errno::EIO {
        tracing::error!(op = call.name, ino = call.ino, "{}", Chain(err));
    } else {
        tracing::debug!(op = call.name, ino = call.ino, errno = errno.code(), "{}", Chain(err));
    }
}

/// An error with its sources, as one sentence.
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut next = self.0.source();
        while let Some(err) = next {
            write!(f, ": {err}")?;
            next = err.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use cairn_types::{BlockKey, Ino, SliceId, SliceRef};
    use cairn_vfs::Fh;

    use super::*;

    #[test]
    fn every_condition_has_its_number() {
        let key = BlockKey { id: SliceId(1), index: 0, len: 1 };
        let meta = |err: Meta, errno| (Vfs::Meta(err), errno);
        let chunk = |err: Chunk| (Vfs::Chunk(err), libc::EIO);
        let table = [
            (Vfs::BadHandle { fh: Fh(1) }, libc::EBADF),
            (Vfs::TooManyHandles, libc::ENFILE),
            (Vfs::Interrupted, libc::EINTR),
            (Vfs::Closing, libc::ENODEV),
            (Vfs::Lost { ino: Ino(1) }, libc::EIO),
            (Vfs::PassedThrough { ino: Ino(1) }, libc::ETXTBSY),
            meta(Meta::NoEntry, libc::ENOENT),
            meta(Meta::Exists, libc::EEXIST),
            meta(Meta::NotDirectory, libc::ENOTDIR),
            meta(Meta::IsDirectory, libc::EISDIR),
            meta(Meta::NotEmpty, libc::ENOTEMPTY),
            meta(Meta::Access, libc::EACCES),
            meta(Meta::NotPermitted, libc::EPERM),
            meta(Meta::Invalid("x"), libc::EINVAL),
            meta(Meta::NameTooLong, libc::ENAMETOOLONG),
            meta(Meta::TooLarge, libc::EFBIG),
            meta(Meta::TooBig, libc::E2BIG),
            meta(Meta::Range, libc::ERANGE),
            meta(Meta::TooManyLinks, libc::EMLINK),
            meta(Meta::NoSpace, libc::ENOSPC),
            meta(Meta::Quota, libc::EDQUOT),
            meta(Meta::NoAttribute, libc::ENODATA),
            meta(Meta::NotSupported, libc::EOPNOTSUPP),
            meta(Meta::WouldBlock, libc::EAGAIN),
            meta(Meta::Interrupted, libc::EINTR),
            meta(Meta::Pipe, libc::EPIPE),
            meta(Meta::NoOffset, libc::ENXIO),
            meta(Meta::ReadOnly, libc::EROFS),
            meta(Meta::Changed, libc::EBUSY),
            meta(Meta::Corrupt("x".into()), libc::EIO),
            meta(Meta::Missing, libc::EIO),
            meta(Meta::SessionLost, libc::EIO),
            meta(Meta::engine("get", "away"), libc::EIO),
            chunk(Chunk::Missing { key }),
            chunk(Chunk::Corrupt { key, reason: "x".into() }),
            chunk(Chunk::Discarded { id: SliceId(1) }),
            chunk(Chunk::OutOfSlice { slice: SliceRef { id: SliceId(1), size: 1 }, off: 0, len: 2 }),
        ];
        for (err, errno) in table {
            assert_eq!(errno_of(&err).code(), errno, "{err}");
        }
    }

    #[test]
    fn a_chain_reads_as_one_sentence() {
        let err = Vfs::Meta(Meta::engine("read attr", "connection refused"));
        assert_eq!(Chain(&err).to_string(), "metadata engine: read attr: connection refused");
    }
}

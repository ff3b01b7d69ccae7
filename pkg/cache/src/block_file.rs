//! One cached file: the block, a CRC-32C of each 32 KiB, perhaps a footer (volume format 9.2). Or the
//! block sealed, see `sealed_file`.

use std::fs::File;
use std::io::{self, IoSliceMut, Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use cairn_crypt::Cipher;
use parking_lot::Mutex;
use rustix::io::{Errno, ReadWriteFlags};

use crate::ChecksumLevel;
use crate::sealed_file::SealedFile;

/// Data bytes that share one checksum.
pub(crate) const PIECE_BYTES: u32 = 32 * 1024;
const CHECKSUM_BYTES: usize = 4;
/// Uses of a file within this time count once.
const NEWS_EVERY_MICROS: u64 = 1_000_000;

/// Why a cached file gave nothing.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It is not the block: remove it.
    Damaged,
    /// The file system failed, or there is no such file.
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(e: io::Error) -> Self {
        // A file shorter than it was when opened has been cut by somebody.
        if e.kind() == io::ErrorKind::UnexpectedEof { Fault::Damaged } else { Fault::Io(e) }
    }
}

/// The checksums that follow `data`.
pub(crate) fn checksums(data: &[u8]) -> Vec<u8> {
    data.chunks(PIECE_BYTES as usize).flat_map(|piece| crc_fast::crc32_iscsi(piece).to_be_bytes()).collect()
}

/// Writes a whole cached file.
pub(crate) fn write(file: &mut File, data: &[u8], level: ChecksumLevel) -> io::Result<()> {
    file.write_all(data)?;
    if level == ChecksumLevel::None { Ok(()) } else { file.write_all(&checksums(data)) }
}

/// Does a file of `file_bytes` hold a block of `len` bytes, and are checksums with it? `None` if no.
pub(crate) fn has_checksums(file_bytes: u64, len: u32) -> Option<bool> {
    let extra = file_bytes.checked_sub(u64::from(len))?;
    let checksum_bytes = u64::from(len.div_ceil(PIECE_BYTES)) * CHECKSUM_BYTES as u64;
    match extra {
        0 => Some(false),
        _ if extra % CHECKSUM_BYTES as u64 != 0 => Some(false), // a footer alone
        _ => (extra >= checksum_bytes).then_some(true),
    }
}

/// An open cached file whose size has been checked.
#[derive(Debug)]
pub(crate) struct BlockFile {
    file: File,
    len: u32,
    /// One for each piece; empty if the file has none or nobody wants them.
    checksums: Vec<u32>,
    /// The file lies in memory: reading it never waits.
    in_memory: bool,
    /// The block is not in clear.
    sealed: Option<SealedFile>,
    trusted: Mutex<Trusted>,
    /// When the index heard of a use last, microseconds.
    told_at: AtomicU64,
}

/// Pieces that were right and lie in the kernel's memory since: they need not be read whole again, as long
/// as nobody has written to the file. What has to come from the disk is verified each time.
#[derive(Debug)]
struct Trusted {
    stamp: Stamp,
    /// A bit for each piece.
    pieces: Vec<u64>,
}

/// What changes when a file is written to.
type Stamp = (i64, u64, i64, u64, i64);

fn stamp(file: &File) -> io::Result<Stamp> {
    let stat = rustix::fs::fstat(file)?;
    Ok((stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec, stat.st_size))
}

impl Trusted {
    fn has(&self, pieces: &Range<u32>) -> bool {
        pieces.clone().all(|piece| self.pieces[piece as usize / 64] >> (piece % 64) & 1 == 1)
    }

    fn add(&mut self, pieces: Range<u32>) {
        pieces.for_each(|piece| self.pieces[piece as usize / 64] |= 1 << (piece % 64));
    }
}

/// What statfs says of tmpfs, which refuses to promise that a read will not wait, though none does.
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

impl BlockFile {
    /// Opens the file of a block of `len` bytes.
    pub(crate) fn open(path: &Path, len: u32, level: ChecksumLevel) -> Result<BlockFile, Fault> {
        let mut file = File::open(path)?;
        let checksummed = has_checksums(file.metadata()?.len(), len).ok_or(Fault::Damaged)?;
        let mut checksums = Vec::new();
        if checksummed && level != ChecksumLevel::None {
            checksums = read_checksums(&mut file, len)?;
        }
        let in_memory = rustix::fs::fstatfs(&file).is_ok_and(|fs| fs.f_type == TMPFS_MAGIC);
        BlockFile::over(file, len, checksums, in_memory, None)
    }

    /// Opens the sealed file of the block `name` of `len` bytes.
    pub(crate) fn open_sealed(path: &Path, len: u32, cipher: &Cipher, name: &str) -> Result<BlockFile, Fault> {
        let file = File::open(path)?;
        let sealed = Some(SealedFile::open(&file, len, cipher, name)?);
        BlockFile::over(file, len, Vec::new(), false, sealed)
    }

    fn over(
        file: File,
        len: u32,
        checksums: Vec<u32>,
        in_memory: bool,
        sealed: Option<SealedFile>,
    ) -> Result<BlockFile, Fault> {
        let pieces = vec![0; len.div_ceil(PIECE_BYTES).div_ceil(64) as usize];
        let trusted = Mutex::new(Trusted { stamp: stamp(&file)?, pieces });
        Ok(BlockFile { file, len, checksums, in_memory, sealed, trusted, told_at: AtomicU64::new(0) })
    }

    /// Is it time to note a use? One in so many microseconds is enough for whoever picks the next to go.
    pub(crate) fn is_news(&self, now: u64) -> bool {
        let told = self.told_at.load(Relaxed);
        now.abs_diff(told) >= NEWS_EVERY_MICROS && self.told_at.compare_exchange(told, now, Relaxed, Relaxed).is_ok()
    }

    /// The bytes of `range`, verified as `level` asks. May wait for the disk.
    pub(crate) fn read(&self, range: Range<u32>, level: ChecksumLevel) -> Result<Bytes, Fault> {
        match &self.sealed {
            None => self.read_with(range, level, self.in_memory, |file, buf, at| file.read_exact_at(buf, at)),
            Some(sealed) => sealed.read(&self.file, range.start as usize..range.end as usize),
        }
    }

    /// The same if the kernel has the bytes in memory; `None` if it would have to wait or cannot tell.
    pub(crate) fn read_nowait(&self, range: Range<u32>, level: ChecksumLevel) -> Option<Result<Bytes, Fault>> {
        if self.sealed.is_some() {
            // Opening is work: not for the thread that only asks.
            return None;
        }
        if self.in_memory {
            return Some(self.read(range, level));
        }
        let outcome = self.read_with(range, level, true, |file, buf, at| {
            let bytes = buf.len();
            match rustix::io::preadv2(file, &mut [IoSliceMut::new(buf)], at, ReadWriteFlags::NOWAIT) {
                Ok(n) if n == bytes => Ok(()),
                Ok(_) => Err(Errno::AGAIN.into()),
                Err(e) => Err(e.into()),
            }
        });
        match outcome {
            Err(Fault::Io(_)) => None,
            other => Some(other),
        }
    }

    fn read_with(
        &self,
        range: Range<u32>,
        level: ChecksumLevel,
        from_memory: bool,
        read: impl FnOnce(&File, &mut [u8], u64) -> io::Result<()>,
    ) -> Result<Bytes, Fault> {
        let mut plan = Plan::new(&range, self.len, if self.checksums.is_empty() { ChecksumLevel::None } else { level });
        let stamp = if plan.verify.is_empty() { None } else { Some(stamp(&self.file)?) };
        if from_memory && stamp.is_some_and(|stamp| self.trusts(stamp, &plan.verify)) {
            plan = Plan { read: range.clone(), verify: 0..0 };
        }
        let mut buf = vec![0; plan.read.len()];
        read(&self.file, &mut buf, u64::from(plan.read.start))?;
        let start = (plan.verify.start * PIECE_BYTES).saturating_sub(plan.read.start) as usize;
        let pieces = buf[start.min(buf.len())..].chunks(PIECE_BYTES as usize);
        let wanted = &self.checksums[plan.verify.start as usize..plan.verify.end as usize];
        if pieces.zip(wanted).any(|(piece, sum)| crc_fast::crc32_iscsi(piece) != *sum) {
            return Err(Fault::Damaged);
        }
        if let Some(stamp) = stamp.filter(|_| !plan.verify.is_empty()) {
            self.trust(stamp, plan.verify.clone());
        }
        let skip = (range.start - plan.read.start) as usize;
        Ok(Bytes::from(buf).slice(skip..skip + range.len()))
    }

    /// Were these pieces right, and is the file as it was then?
    fn trusts(&self, stamp: Stamp, pieces: &Range<u32>) -> bool {
        let trusted = self.trusted.lock();
        trusted.stamp == stamp && trusted.has(pieces)
    }

    /// These pieces were right in the file as it was when it had this stamp.
    fn trust(&self, stamp: Stamp, pieces: Range<u32>) {
        let mut trusted = self.trusted.lock();
        if trusted.stamp != stamp {
            *trusted = Trusted { stamp, pieces: vec![0; trusted.pieces.len()] };
        }
        trusted.add(pieces);
    }
}

fn read_checksums(file: &mut File, len: u32) -> io::Result<Vec<u32>> {
    use std::io::Seek;
    let mut bytes = vec![0; len.div_ceil(PIECE_BYTES) as usize * CHECKSUM_BYTES];
    file.seek(io::SeekFrom::Start(u64::from(len)))?;
    file.read_exact(&mut bytes)?;
    let (sums, _) = bytes.as_chunks::<CHECKSUM_BYTES>();
    Ok(sums.iter().map(|sum| u32::from_be_bytes(*sum)).collect())
}

/// What to read for a range, and which pieces of it to verify. The pieces lie within what is read.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    read: Range<u32>,
    verify: Range<u32>,
}

impl Plan {
    fn new(range: &Range<u32>, len: u32, level: ChecksumLevel) -> Plan {
        let pieces = len.div_ceil(PIECE_BYTES);
        let outer = range.start / PIECE_BYTES..range.end.div_ceil(PIECE_BYTES);
        let first_inner = range.start.div_ceil(PIECE_BYTES);
        let end_inner = if range.end == len { pieces } else { range.end / PIECE_BYTES };
        match level {
            ChecksumLevel::Full if *range == (0..len) => Plan { read: range.clone(), verify: 0..pieces },
            ChecksumLevel::Shrink if first_inner < end_inner => {
                Plan { read: range.clone(), verify: first_inner..end_inner }
            }
            ChecksumLevel::Extend => {
                let end = (outer.end * PIECE_BYTES).min(len);
                Plan { read: outer.start * PIECE_BYTES..end, verify: outer }
            }
            ChecksumLevel::None | ChecksumLevel::Full | ChecksumLevel::Shrink => {
                Plan { read: range.clone(), verify: 0..0 }
            }
        }
    }
}

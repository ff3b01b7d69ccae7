//! Whole files as plain bytes, for the kernel to read by itself (FUSE passthrough).
//!
//! An image is one sparse file named after an inode and one state of its content; what it must contain stands
//! beside it as a CRC-32C of each MiB. It is made from blocks that were verified, and handed out only if this
//! client has made or verified it since it started. Nothing here is the only copy: whatever is wrong with an
//! image, it is removed and the file is read like any other.
//!
//! Not here: which files deserve one, and what the kernel demands of whoever has one open (`cairn_vfs`).

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Bytes that share one checksum.
const PIECE_BYTES: usize = 1 << 20;
const CHECKSUM_BYTES: usize = 4;
/// Images at most, however small: they are listed at each start.
const IMAGES_MAX: usize = 4096;
const SUMS_SUFFIX: &str = ".sums";
const TMP_SUFFIX: &str = ".tmp";

/// One state of one file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ImageKey {
    /// The inode.
    pub ino: u64,
    /// Its length, in bytes.
    pub length: u64,
    /// Its time of modification, which every change of content moves (volume format 11.1).
    pub mtime: (i64, u32),
}

impl ImageKey {
    fn name(&self) -> String {
        format!("{}-{}-{}.{:09}", self.ino, self.length, self.mtime.0, self.mtime.1)
    }

    fn parse(name: &str) -> Option<ImageKey> {
        let (rest, nanos) = name.rsplit_once('.')?;
        let mut parts = rest.splitn(3, '-');
        let (ino, length, secs) = (parts.next()?, parts.next()?, parts.next()?);
        let key = ImageKey {
            ino: ino.parse().ok()?,
            length: length.parse().ok()?,
            mtime: (secs.parse().ok()?, nanos.parse().ok()?),
        };
        (key.name() == name).then_some(key)
    }
}

/// An open image.
#[derive(Debug)]
pub struct Image {
    /// What it shows.
    pub key: ImageKey,
    /// Its bytes.
    pub file: File,
}

/// What there is of a file.
#[derive(Clone, Debug)]
pub enum Found {
    /// Its image, good to use.
    Ready(Arc<Image>),
    /// An image of an earlier start, to be verified first.
    Unverified,
    /// None.
    Absent,
}

/// The images of one volume, in one folder of the cache.
#[derive(Debug)]
pub struct Images {
    folder: PathBuf,
    bytes_max: u64,
    free_space_ratio: f64,
    shelf: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    images: HashMap<ImageKey, Entry>,
    bytes: u64,
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    state: State,
    used_at: u64,
}

#[derive(Clone, Debug)]
enum State {
    Building,
    Unverified,
    /// Good; open as long as somebody has it.
    Ready(Weak<Image>),
}

impl Images {
    /// The images in `folder`, which is made if it is missing. Their bytes stay below `bytes_max`, and this
    /// share of the file system stays free. Reads one folder.
    ///
    /// # Errors
    /// The folder cannot be made, read or written.
    pub fn open(folder: PathBuf, bytes_max: u64, free_space_ratio: f64) -> io::Result<Arc<Images>> {
        fs::create_dir_all(&folder)?;
        rustix::fs::access(&folder, rustix::fs::Access::WRITE_OK)?;
        let mut shelf = Shelf::default();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            match ImageKey::parse(name) {
                Some(key) => shelf.put(key, State::Unverified),
                None if name.ends_with(TMP_SUFFIX) => fs::remove_file(entry.path())?,
                None => {}
            }
        }
        let images = Images { folder, bytes_max, free_space_ratio, shelf: Mutex::new(shelf) };
        images.make_room(0);
        Ok(Arc::new(images))
    }

    /// What there is for this state of a file. Opens it, no more.
    pub fn find(&self, key: ImageKey) -> Found {
        let mut shelf = self.shelf.lock();
        shelf.clock += 1;
        let now = shelf.clock;
        let Some(entry) = shelf.images.get_mut(&key) else { return Found::Absent };
        entry.used_at = now;
        match &mut entry.state {
            State::Unverified => Found::Unverified,
            State::Building => Found::Absent,
            State::Ready(open) => match open.upgrade().map_or_else(|| self.open_image(key), Ok) {
                Ok(image) => {
                    *open = Arc::downgrade(&image);
                    Found::Ready(image)
                }
                Err(e) => {
                    self.complain(&e);
                    shelf.take(key);
                    Found::Absent
                }
            },
        }
    }

    fn open_image(&self, key: ImageKey) -> io::Result<Arc<Image>> {
        Ok(Arc::new(Image { key, file: File::open(self.path(key, ""))? }))
    }

    /// Bytes and images held.
    pub fn usage(&self) -> (u64, u64) {
        let shelf = self.shelf.lock();
        (shelf.bytes, shelf.images.len() as u64)
    }

    /// A place for a new image; `None` if there is no room or it is there or being made already. Older states
    /// of the file go. Waits for the disk.
    pub fn build(self: &Arc<Self>, key: ImageKey) -> Option<Building> {
        if key.length == 0 || key.length > self.bytes_max || self.shelf.lock().images.contains_key(&key) {
            return None;
        }
        self.forget_others(key);
        if !self.make_room(key.length) {
            return None;
        }
        {
            let mut shelf = self.shelf.lock();
            if shelf.images.contains_key(&key) {
                return None;
            }
            shelf.put(key, State::Building);
        }
        let tmp = self.path(key, TMP_SUFFIX);
        let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&tmp);
        match made.and_then(|file| file.set_len(key.length).map(|()| file)) {
            Ok(file) => {
                Some(Building { images: self.clone(), key, file, at: 0, sums: Vec::new(), piece: crc(), done: false })
            }
            Err(e) => {
                self.complain(&e);
                self.remove(key);
                None
            }
        }
    }

    /// Reads an image of an earlier start and compares it with its checksums; from then on it is found, or it
    /// is gone. Waits for the disk.
    pub fn verify(&self, key: ImageKey) {
        match self.read_and_compare(key) {
            Ok(true) => self.shelf.lock().ready(key),
            Ok(false) => {
                tracing::warn!(ino = key.ino, "an image is damaged: removed");
                self.remove(key);
            }
            Err(e) => {
                self.complain(&e);
                self.remove(key);
            }
        }
    }

    fn read_and_compare(&self, key: ImageKey) -> io::Result<bool> {
        let mut file = File::open(self.path(key, ""))?;
        let sums = fs::read(self.path(key, SUMS_SUFFIX))?;
        if file.metadata()?.len() != key.length || sums.len() as u64 != sums_bytes(key.length) {
            return Ok(false);
        }
        let mut piece = vec![0; PIECE_BYTES];
        for sum in sums.as_chunks::<CHECKSUM_BYTES>().0 {
            let mut len = 0;
            while len < PIECE_BYTES {
                match file.read(&mut piece[len..])? {
                    0 => break,
                    n => len += n,
                }
            }
            if crc_fast::crc32_iscsi(&piece[..len]).to_be_bytes() != *sum {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes an image; who has it open keeps it.
    pub fn remove(&self, key: ImageKey) {
        self.shelf.lock().take(key);
        for suffix in ["", SUMS_SUFFIX] {
            match fs::remove_file(self.path(key, suffix)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => self.complain(&e),
                _ => {}
            }
        }
    }

    fn forget_others(&self, key: ImageKey) {
        let others: Vec<_> = {
            let shelf = self.shelf.lock();
            let is_other = |other: &&ImageKey| other.ino == key.ino && **other != key;
            shelf.images.keys().filter(is_other).filter(|other| shelf.may_go(other)).copied().collect()
        };
        others.into_iter().for_each(|other| self.remove(other));
    }

    /// Lets the images used longest ago go until `bytes` more fit.
    fn make_room(&self, bytes: u64) -> bool {
        loop {
            let victim = {
                let shelf = self.shelf.lock();
                let fits = shelf.bytes + bytes <= self.bytes_max && shelf.images.len() < IMAGES_MAX;
                if fits && self.disk_has(bytes) {
                    return true;
                }
                let those = shelf.images.iter().filter(|(key, _)| shelf.may_go(key));
                those.min_by_key(|(_, entry)| entry.used_at).map(|(key, _)| *key)
            };
            match victim {
                Some(victim) => self.remove(victim),
                None => return false,
            }
        }
    }

    fn disk_has(&self, bytes: u64) -> bool {
        rustix::fs::statvfs(&self.folder).is_ok_and(|fs| {
            let keep = (fs.f_blocks * fs.f_frsize) as f64 * self.free_space_ratio;
            fs.f_bavail * fs.f_frsize >= keep as u64 + bytes
        })
    }

    fn path(&self, key: ImageKey, suffix: &str) -> PathBuf {
        self.folder.join(key.name() + suffix)
    }

    fn complain(&self, e: &io::Error) {
        tracing::warn!(folder = %self.folder.display(), error = %e, "images of files cannot be used");
    }

    /// Where they lie.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn sums_bytes(length: u64) -> u64 {
    length.div_ceil(PIECE_BYTES as u64) * CHECKSUM_BYTES as u64
}

fn crc() -> crc_fast::Digest {
    crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi)
}

impl Shelf {
    fn put(&mut self, key: ImageKey, state: State) {
        self.clock += 1;
        self.bytes += key.length;
        self.images.insert(key, Entry { state, used_at: self.clock });
    }

    fn take(&mut self, key: ImageKey) {
        if self.images.remove(&key).is_some() {
            self.bytes -= key.length;
        }
    }

    fn ready(&mut self, key: ImageKey) {
        if let Some(entry) = self.images.get_mut(&key) {
            entry.state = State::Ready(Weak::new());
        }
    }

    /// Nobody makes it or has it open.
    fn may_go(&self, key: &ImageKey) -> bool {
        match self.images.get(key).map(|entry| &entry.state) {
            Some(State::Ready(open)) => open.strong_count() == 0,
            Some(State::Unverified) => true,
            Some(State::Building) | None => false,
        }
    }
}

/// An image that is being made, from front to back. Dropping it before [`Building::finish`] leaves nothing.
#[derive(Debug)]
pub struct Building {
    images: Arc<Images>,
    key: ImageKey,
    file: File,
    at: u64,
    sums: Vec<u8>,
    piece: crc_fast::Digest,
    done: bool,
}

impl Building {
    /// The next bytes. Zeros of a whole piece stay a hole.
    ///
    /// # Errors
    /// The disk's.
    pub fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = PIECE_BYTES - self.at as usize % PIECE_BYTES;
            let (part, rest) = bytes.split_at(room.min(bytes.len()));
            if part.iter().any(|byte| *byte != 0) {
                self.file.write_all_at(part, self.at)?;
            }
            self.piece.update(part);
            self.at += part.len() as u64;
            if self.at.is_multiple_of(PIECE_BYTES as u64) {
                self.end_piece();
            }
            bytes = rest;
        }
        Ok(())
    }

    fn end_piece(&mut self) {
        let sum = std::mem::replace(&mut self.piece, crc()).finalize() as u32;
        self.sums.extend(sum.to_be_bytes());
    }

    /// All bytes are there: it may be found from now on.
    ///
    /// # Errors
    /// The disk's, or it is not complete.
    pub fn finish(mut self) -> io::Result<()> {
        if self.at != self.key.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !self.at.is_multiple_of(PIECE_BYTES as u64) {
            self.end_piece();
        }
        let (images, key) = (self.images.clone(), self.key);
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(0o600);
        options.open(images.path(key, SUMS_SUFFIX))?.write_all(&self.sums)?;
        fs::rename(images.path(key, TMP_SUFFIX), images.path(key, ""))?;
        self.done = true;
        images.shelf.lock().ready(key);
        Ok(())
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if !self.done {
            self.images.remove(self.key);
            _ = fs::remove_file(self.images.path(self.key, TMP_SUFFIX));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ino: u64, length: u64) -> ImageKey {
        ImageKey { ino, length, mtime: (-5, 7) }
    }

    fn content(key: ImageKey) -> Vec<u8> {
        (0..key.length).map(|i| if i / 65536 % 3 == 1 { 0 } else { (i / 13 + key.ino) as u8 }).collect()
    }

    fn make(images: &Arc<Images>, key: ImageKey) -> bool {
        let Some(mut building) = images.build(key) else { return false };
        content(key).chunks(100_000).for_each(|part| building.append(part).unwrap());
        building.finish().unwrap();
        true
    }

    fn read(found: Found) -> Option<Vec<u8>> {
        let Found::Ready(image) = found else { return None };
        let mut bytes = vec![0; image.key.length as usize];
        image.file.read_exact_at(&mut bytes, 0).unwrap();
        Some(bytes)
    }

    #[test]
    fn an_image_is_found_at_once_and_after_a_restart_once_it_was_verified() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path().join("images"), 100 << 20, 0.0).unwrap();
        for key in [key(1, 1), key(2, 3 << 20), key(3, (2 << 20) + 77)] {
            assert!(make(&images, key) && !make(&images, key));
            assert_eq!(read(images.find(key)), Some(content(key)));
        }
        drop(images);
        let images = Images::open(dir.path().join("images"), 100 << 20, 0.0).unwrap();
        assert!(matches!(images.find(key(2, 3 << 20)), Found::Unverified));
        images.verify(key(2, 3 << 20));
        assert_eq!(read(images.find(key(2, 3 << 20))), Some(content(key(2, 3 << 20))));
        assert!(matches!(images.find(key(2, 4 << 20)), Found::Absent), "another state of the file");
    }

    #[test]
    fn a_damaged_cut_or_unfinished_image_is_never_handed_out() {
        let dir = tempfile::tempdir().unwrap();
        let key = key(1, (2 << 20) + 5);
        let harms: [&dyn Fn(&Path); 3] = [
            &|path| File::options().write(true).open(path).unwrap().write_all_at(&[99], 1 << 20).unwrap(),
            &|path| File::options().write(true).open(path).unwrap().set_len(2 << 20).unwrap(),
            &|path| fs::write(path.with_file_name(key.name() + SUMS_SUFFIX), [0; 8]).unwrap(),
        ];
        for harm in harms {
            assert!(make(&Images::open(dir.path().into(), 100 << 20, 0.0).unwrap(), key));
            harm(&dir.path().join(key.name()));
            let images = Images::open(dir.path().into(), 100 << 20, 0.0).unwrap();
            images.verify(key);
            assert!(matches!(images.find(key), Found::Absent));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left of it");
        }
        let images = Images::open(dir.path().into(), 100 << 20, 0.0).unwrap();
        let mut building = images.build(key).unwrap();
        building.append(&[1; 1000]).unwrap();
        assert!(matches!(images.find(key), Found::Absent));
        assert!(building.finish().is_err(), "it is not complete");
        assert_eq!((images.usage(), fs::read_dir(dir.path()).unwrap().count()), ((0, 0), 0));
    }

    #[test]
    fn the_ones_used_longest_ago_go_but_not_who_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(dir.path().into(), 300_000, 0.0).unwrap();
        (1..=3).for_each(|ino| assert!(make(&images, key(ino, 100_000))));
        let open = images.find(key(1, 100_000));
        _ = images.find(key(2, 100_000));
        assert!(make(&images, key(4, 100_000)));
        let is_there = |ino| matches!(images.find(key(ino, 100_000)), Found::Ready(_));
        assert!(is_there(1) && is_there(2) && !is_there(3) && is_there(4));
        assert!(!make(&images, key(5, 300_000)), "one is in use");
        drop(open);
        assert!(make(&images, key(5, 300_000)) && images.usage() == (300_000, 1));
        assert!(!make(&images, key(6, 300_001)), "larger than all there may be");
        // A new state of a file replaces the old one.
        assert!(make(&images, key(5, 1000)) && images.usage() == (1000, 1));
    }
}

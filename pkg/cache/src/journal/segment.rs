//! One segment read back: which records are in it, and whether something is wrong with it.
//!
//! Reading goes from record to record. Where one does not fit, what follows is searched for more: a
//! power cut leaves nothing behind the first bad record that anybody was promised, so records found
//! there mean that the disk has damaged one in between. They are used all the same, since a block
//! never changes and an intent is checked before it is believed.

use std::io;

use bytes::Bytes;

use super::door::{Door, DoorFile};
use super::format::{ALIGN, HEADER_BYTES, HEADER_COPY_AT, Header, RECORD_BYTES, RECORDS_AT, SegmentHeader, crc};

/// Bytes searched at a time.
const WINDOW_BYTES: usize = 1 << 20;

/// What a file of the journal's folder turned out to be.
pub(crate) enum Found {
    /// A segment of ours.
    Segment(Segment),
    /// Made by a power cut: nothing was ever promised in it.
    Empty,
    /// It has bytes, but no readable header.
    Unreadable,
}

/// A segment and its records, in order.
pub(crate) struct Segment {
    pub(crate) header: SegmentHeader,
    pub(crate) file: std::sync::Arc<dyn DoorFile>,
    /// Each with the place of its payload.
    pub(crate) records: Vec<(Header, u64)>,
    /// End of the last record.
    pub(crate) end: u64,
    /// A record in the middle is damaged.
    pub(crate) is_damaged: bool,
    /// Behind the last record there is something that is none: torn by a power cut, or damaged.
    pub(crate) is_torn: bool,
}

/// The name of a segment's file.
pub(crate) fn name(number: u64) -> String {
    format!("{number:016x}.seg")
}

/// The number in a segment's name; `None` for other files.
pub(crate) fn number(name: &str) -> Option<u64> {
    let hex = name.strip_suffix(".seg").filter(|hex| hex.len() == 16)?;
    u64::from_str_radix(hex, 16).ok()
}

/// Both copies of the header and all records that can be read.
pub(crate) fn read(door: &dyn Door, name: &str) -> io::Result<Found> {
    let file = door.open(name)?;
    let mut head = [0; RECORDS_AT as usize];
    let got = file.read_at(0, &mut head)?;
    let copy = |at: usize| SegmentHeader::decode(head[at..at + HEADER_BYTES].try_into().expect("a header's bytes"));
    let Some(header) = copy(0).or_else(|| copy(HEADER_COPY_AT)) else {
        return Ok(if head[..got].iter().all(|b| *b == 0) { Found::Empty } else { Found::Unreadable });
    };
    let mut walk = Walk { file: &*file, len: file.bytes()?, nonce: header.nonce, last: 0, at: RECORDS_AT };
    let mut records = Vec::new();
    let (mut end, mut is_damaged) = (RECORDS_AT, false);
    loop {
        while let Some(record) = walk.next()? {
            records.push(record);
            end = walk.at;
        }
        if !walk.search()? {
            break;
        }
        is_damaged = true;
    }
    let mut behind = [0; RECORD_BYTES];
    file.read_at(end, &mut behind)?;
    let is_torn = behind.iter().any(|b| *b != 0);
    Ok(Found::Segment(Segment { header, file, records, end, is_damaged, is_torn }))
}

struct Walk<'a> {
    file: &'a dyn DoorFile,
    len: u64,
    nonce: [u8; 16],
    /// Number of the last record.
    last: u64,
    at: u64,
}

impl Walk<'_> {
    /// The record at this place; goes on behind it.
    fn next(&mut self) -> io::Result<Option<(Header, u64)>> {
        let mut bytes = [0; RECORD_BYTES];
        if self.file.read_at(self.at, &mut bytes)? < RECORD_BYTES {
            return Ok(None);
        }
        let Some(header) = self.fitting(&bytes, self.at) else { return Ok(None) };
        let payload_at = self.at + RECORD_BYTES as u64;
        self.at += header.total();
        self.last = header.number;
        Ok(Some((header, payload_at)))
    }

    fn fitting(&self, bytes: &[u8; RECORD_BYTES], at: u64) -> Option<Header> {
        let header = Header::decode(bytes, &self.nonce)?;
        (header.number > self.last && at + header.total() <= self.len).then_some(header)
    }

    /// Moves to the next place where a record begins; `false` if there is none.
    fn search(&mut self) -> io::Result<bool> {
        let mut window = vec![0; WINDOW_BYTES];
        let mut start = self.at + ALIGN;
        while start + (RECORD_BYTES as u64) <= self.len {
            let got = self.file.read_at(start, &mut window)?;
            if got < RECORD_BYTES {
                return Ok(false);
            }
            if window[..got].iter().any(|b| *b != 0) {
                for place in (0..=got - RECORD_BYTES).step_by(ALIGN as usize) {
                    let bytes = window[place..place + RECORD_BYTES].try_into().expect("a header's bytes");
                    if self.fitting(bytes, start + place as u64).is_some() {
                        self.at = start + place as u64;
                        return Ok(true);
                    }
                }
            }
            // The last places of this window lacked the bytes behind it.
            start += ((got - RECORD_BYTES) as u64 / ALIGN + 1) * ALIGN;
        }
        Ok(false)
    }
}

/// The payload of a record, if its checksum says so.
pub(crate) fn payload(file: &dyn DoorFile, at: u64, len: u32, wanted: u32) -> io::Result<Option<Bytes>> {
    let mut bytes = vec![0; len as usize];
    let got = file.read_at(at, &mut bytes)?;
    Ok((got == bytes.len() && crc(&[&bytes[..]]) == wanted).then(|| bytes.into()))
}

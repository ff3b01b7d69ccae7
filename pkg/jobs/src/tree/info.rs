//! Everything about one inode, as `info` shows it.

use cairn_meta::Meta;
use cairn_meta::record::FlockKind;
use cairn_types::{BlockKey, ChunkIndex, Format, Ino, SliceRecord, layout};
use serde::Serialize;

use super::summary::{Summary, summarize};
use crate::Result;
use crate::ops::{ChunksOf, LocksOf, PathsOf};
use crate::progress::Watch;

/// Chunks read at a time.
const PAGE: usize = 1000;

/// Paths shown of an inode with many names.
const PATHS_MAX: usize = 1000;

/// What to look at.
#[derive(Clone, Copy, Debug, Default)]
pub struct InfoOptions {
    /// Add up everything below a directory.
    pub recursive: bool,
    /// Show slices instead of objects.
    pub raw: bool,
    /// Read every attribute instead of believing statistics.
    pub strict: bool,
}

/// The reply of the control protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Info {
    /// The inode.
    pub ino: u64,
    /// Could not be told.
    pub failed: bool,
    /// Why not.
    pub reason: String,
    /// Totals.
    pub summary: Summary,
    /// Where it is.
    pub paths: Vec<String>,
    /// What each part of the file shows; only if asked for.
    pub chunks: Vec<SlicePart>,
    /// The same by object.
    pub objects: Vec<ObjectPart>,
    /// POSIX locks.
    #[serde(rename = "PLocks")]
    pub plocks: Vec<PlockInfo>,
    /// BSD locks.
    #[serde(rename = "FLocks")]
    pub flocks: Vec<FlockInfo>,
    /// Where its objects are kept.
    pub tier: TierInfo,
    /// Of objects in cold storage; empty here.
    pub restore_status: String,
}

/// A segment of a chunk: bytes of a slice; id 0 is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "named like a slice record's fields")]
pub struct SlicePart {
    pub chunk_index: u32,
    pub id: u64,
    pub size: u32,
    pub off: u32,
    pub len: u32,
}

/// A part of an object that a file shows; an empty key is a hole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "named like a slice record's fields")]
pub struct ObjectPart {
    pub chunk_index: u32,
    /// With the volume's name.
    pub key: String,
    /// Plain bytes of the block.
    pub size: u32,
    pub off: u32,
    pub len: u32,
}

/// A POSIX lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "named like the stored lock")]
pub struct PlockInfo {
    pub sid: u64,
    pub owner: u64,
    /// 0 shared, 1 exclusive.
    pub r#type: u32,
    pub pid: u32,
    pub start: u64,
    pub end: u64,
}

/// A BSD lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[expect(missing_docs, reason = "named like the stored lock")]
pub struct FlockInfo {
    pub sid: u64,
    pub owner: u64,
    /// `R` or `W`.
    pub r#type: char,
}

/// A storage tier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct TierInfo {
    /// 0 to 3.
    #[serde(rename = "ID")]
    pub id: u8,
    /// The store's name for the class.
    pub storage_class: String,
    /// Empty, or one `key=value`.
    pub tag: String,
}

/// Gathers what there is to say of an inode.
pub async fn info(meta: &Meta, ino: Ino, options: &InfoOptions, watch: Watch<'_>) -> Result<Info> {
    let attr = meta.getattr(ino).await?;
    let format = meta.format();
    let mut info = Info {
        ino: ino.0,
        summary: summarize(meta, ino, options.recursive, options.strict, watch).await?,
        tier: tier(&format, attr.tier),
        ..Info::default()
    };
    for path in meta.view(PathsOf { ino, limit: PATHS_MAX }).await? {
        info.paths.push(String::from_utf8_lossy(&path).into_owned());
    }
    if attr.is_file() {
        add_content(meta, ino, attr.length, options.raw, &format, &mut info).await?;
    }
    add_locks(meta, ino, &mut info).await?;
    Ok(info)
}

fn tier(format: &Format, id: u8) -> TierInfo {
    let known = format.tiers.as_ref().and_then(|tiers| tiers.get(&id.to_string()));
    match known {
        Some(tier) => TierInfo { id, storage_class: tier.storage_class.clone(), tag: tier.tag.clone() },
        None if id == 0 => TierInfo { id, storage_class: format.storage_class.clone(), tag: String::new() },
        None => TierInfo { id, ..TierInfo::default() },
    }
}

async fn add_content(meta: &Meta, ino: Ino, length: u64, raw: bool, format: &Format, info: &mut Info) -> Result<()> {
    let mut from = ChunkIndex(0);
    loop {
        let page = meta.view(ChunksOf { ino, from, limit: PAGE }).await?;
        for (index, list) in &page {
            match list {
                _ if layout::chunk_start(*index) >= length => {}
                Ok(records) => add_chunk(*index, records, raw, format, info),
                Err(reason) => {
                    info.failed = true;
                    info.reason = format!("chunk {index}: {reason}");
                }
            }
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE && last.0 < u32::MAX => from = ChunkIndex(last.0 + 1),
            _ => return Ok(()),
        }
    }
}

fn add_chunk(index: ChunkIndex, records: &[SliceRecord], raw: bool, format: &Format, info: &mut Info) {
    for segment in cairn_meta::overlay::view(records) {
        if raw {
            let SliceRecord { id, size, off, len, .. } = segment;
            info.chunks.push(SlicePart { chunk_index: index.0, id: id.0, size, off, len });
        } else {
            add_objects(index, &segment, format, info);
        }
    }
}

fn add_objects(index: ChunkIndex, segment: &SliceRecord, format: &Format, info: &mut Info) {
    let Some(slice) = segment.slice() else {
        let SliceRecord { size, off, len, .. } = *segment;
        return info.objects.push(ObjectPart { chunk_index: index.0, key: String::new(), size, off, len });
    };
    for span in cairn_types::block_spans(slice, segment.off, segment.len, format.block_bytes()) {
        let key = BlockKey { id: slice.id, index: span.index, len: span.block_len }.object_key(format.key_layout());
        info.objects.push(ObjectPart {
            chunk_index: index.0,
            key: format!("{}/{key}", format.name),
            size: span.block_len,
            off: span.pos,
            len: span.len,
        });
    }
}

async fn add_locks(meta: &Meta, ino: Ino, info: &mut Info) -> Result<()> {
    let (flocks, plocks) = meta.view(LocksOf(ino)).await?;
    for (owner, kind) in flocks {
        info.flocks.push(FlockInfo { sid: owner.sid.0, owner: owner.owner, r#type: char::from(kind.letter()) });
    }
    for (owner, ranges) in plocks {
        info.plocks.extend(ranges.iter().map(|r| PlockInfo {
            sid: owner.sid.0,
            owner: owner.owner,
            r#type: u32::from(r.kind == FlockKind::Write),
            pid: r.pid,
            start: r.start,
            end: r.end,
        }));
    }
    Ok(())
}

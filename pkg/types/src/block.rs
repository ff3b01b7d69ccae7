//! Names of blocks in the object store (volume format 2.2).

use std::fmt;

use crate::SliceId;

/// One block of a slice; its name is its object key and its cache key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey {
    /// The slice.
    pub id: SliceId,
    /// Which block of it, from 0.
    pub index: u32,
    /// Plain bytes of the block.
    pub len: u32,
}

/// How a volume lays out object keys: fixed at format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KeyLayout {
    /// `chunks/<id/1000000>/<id/1000>/<name>`
    #[default]
    Plain,
    /// `chunks/<id mod 256 in hex>/<id/1000000>/<name>`
    HashPrefix,
}

impl BlockKey {
    /// The object key, without the volume's prefix.
    pub fn object_key(&self, layout: KeyLayout) -> String {
        let id = self.id.0;
        match layout {
            KeyLayout::Plain => format!("chunks/{}/{}/{self}", id / 1_000_000, id / 1000),
            KeyLayout::HashPrefix => format!("chunks/{:02X}/{}/{self}", id % 256, id / 1_000_000),
        }
    }

    /// Reads an object key of either layout; `None` for anything that is not a block's name.
    ///
    /// The rule is that of the volume format, 11.5: three components below `chunks/`, the last of
    /// three `_`-separated numbers.
    pub fn parse_object_key(key: &str) -> Option<BlockKey> {
        let mut parts = key.strip_prefix("chunks/")?.split('/');
        let (_, _, name, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
            return None;
        };
        let mut fields = name.split('_');
        let (id, index, len, None) = (fields.next()?, fields.next()?, fields.next()?, fields.next()) else {
            return None;
        };
        Some(BlockKey { id: SliceId(number(id)?), index: number(index)?, len: number(len)? })
    }
}

/// Decimal digits only: `parse` alone would take a sign.
fn number<T: std::str::FromStr>(s: &str) -> Option<T> {
    s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse().ok()).flatten()
}

/// `<id>_<index>_<len>`
impl fmt::Display for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}_{}", self.id, self.index, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_equal_the_documented_examples() {
        let k = BlockKey { id: SliceId(1_234_567), index: 1, len: 4_194_304 };
        assert_eq!(k.object_key(KeyLayout::Plain), "chunks/1/1234/1234567_1_4194304");
        assert_eq!(k.object_key(KeyLayout::HashPrefix), "chunks/87/1/1234567_1_4194304");
        assert_eq!(BlockKey::parse_object_key("chunks/87/1/1234567_1_4194304"), Some(k));
    }

    #[test]
    fn other_objects_are_not_blocks() {
        for key in [
            "chunks/0/0/readme.txt",
            "chunks/0/0/1_2",
            "chunks/stray",
            "juicefs_uuid",
            "chunks/0/0/1_-2_3",
            "chunks/0/0/0/1_2_3",
        ] {
            assert_eq!(BlockKey::parse_object_key(key), None, "{key}");
        }
    }
}

//! Records of the metadata, names of objects, messages to a mount.

use cairn_meta::record::{DelayedSlices, PlockRange};
use cairn_meta::{invariants, ops, overlay};
use cairn_types::{AclRule, Attr, BlockKey, CHUNK_BYTES, ClientVersion, KeyLayout, SliceId, SliceRecord};
use cairn_vfs::ControlRequest;

pub(crate) fn attr(bytes: &[u8]) {
    let Some(attr) = Attr::decode(bytes) else { return };
    assert_eq!(Attr::decode(&attr.encode()), Some(attr));
    _ = (attr.space(), format!("{attr:?}"));
}

/// A list without a fault resolves into a view without gaps, inside the chunk.
pub(crate) fn slices(bytes: &[u8]) {
    if let Ok(records) = SliceRecord::decode_list(bytes) {
        assert_eq!(SliceRecord::encode_list(&records), bytes);
    }
    let (records, fault) = invariants::decode_chunk(bytes);
    if fault.is_some() {
        return;
    }
    let view = overlay::view(&records);
    let mut here = 0;
    for segment in &view {
        assert!(segment.pos == here && segment.len > 0, "{view:?}");
        here = segment.end();
    }
    assert_eq!(u64::from(here), records.iter().filter(|r| r.len > 0).map(|r| u64::from(r.end())).max().unwrap_or(0));
    assert!(u64::from(here) <= CHUNK_BYTES);
    let (start, end) = (here / 3, here / 2 + 5);
    let window = overlay::window(&view, start, end);
    assert_eq!(window.iter().map(|s| s.len).sum::<u32>(), end - start, "{window:?}");
}

pub(crate) fn acl(bytes: &[u8]) {
    if let Some(rule) = AclRule::decode(bytes) {
        assert_eq!(AclRule::decode(&rule.encode()).as_ref(), Some(&rule));
        _ = (rule.mode_bits(), rule.is_minimal());
    }
    if let Ok(rule) = AclRule::from_xattr(bytes)
        && !rule.is_empty()
        && [rule.owner, rule.group, rule.other].iter().all(|p| *p != AclRule::UNSET)
    {
        assert_eq!(AclRule::from_xattr(&rule.to_xattr()), Ok(rule));
    }
}

pub(crate) fn records(bytes: &[u8]) {
    if let Some(slices) = DelayedSlices::decode_slices(bytes) {
        let delayed = DelayedSlices { id: SliceId(1), deleted_secs: 0, slices };
        assert_eq!(delayed.encode_slices(), bytes);
    }
    if let Some(locks) = PlockRange::decode_list(bytes) {
        assert_eq!(PlockRange::encode_list(&locks), bytes);
    }
}

/// Names: of objects, of hours in the trash, of versions.
pub(crate) fn names(bytes: &[u8]) {
    _ = ops::trash::parse_hour(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(key) = BlockKey::parse_object_key(text) {
        for layout in [KeyLayout::Plain, KeyLayout::HashPrefix] {
            assert_eq!(BlockKey::parse_object_key(&key.object_key(layout)), Some(key));
        }
    }
    if let Some(version) = ClientVersion::parse(text) {
        let shown = version.to_string();
        assert_eq!(ClientVersion::parse(&shown), Some(version), "{shown}");
    }
    if cairn_types::is_valid_volume_name(text) {
        assert!((3..=63).contains(&text.len()));
    }
}

/// The first four bytes are the kind of the message.
pub(crate) fn control(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first_chunk::<4>() else { return };
    match ControlRequest::parse(u32::from_be_bytes(*kind), body) {
        Ok(ControlRequest::Remove { name, threads, .. }) => assert!(name.len() < 256 && threads > 0),
        Ok(ControlRequest::Compact { workers, .. }) => assert!(workers > 0),
        Ok(_) => {}
        Err(errno) => assert_ne!(errno, 0, "an error is not success"),
    }
}

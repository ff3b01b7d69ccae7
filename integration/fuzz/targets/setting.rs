//! The setting of a volume, its secrets, and where its objects are.

use cairn_env::Env;
use cairn_meta::secret;
use cairn_object::Location;
use cairn_types::{ClientVersion, Format};

pub(crate) fn setting(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(format) = Format::from_json(text) else { return };
    let again = Format::from_json(&format.to_json()).expect("what we write can be read");
    assert!(again == format, "{text}");
    _ = (format.check_version(&ClientVersion::implemented()), format.compression());
    let shown = format!("{format:?}{}", format.to_masked_json());
    for secret in [&format.secret_key, &format.session_token, &format.encrypt_key] {
        // Shorter ones, and words of JSON, are found in anything.
        let telling = secret.len() > 16 && !text.replacen(secret.as_str(), "", 1).contains(secret.as_str());
        assert!(!telling || !shown.contains(secret.as_str()), "a secret is shown");
    }
    if let Ok(open) = secret::revealed(&format) {
        let closed = secret::hidden(&Env::real(), &open).expect("what was revealed can be hidden");
        assert!(secret::revealed(&closed).expect("and revealed again") == open);
    }
}

/// `storage \n bucket \n shards`
pub(crate) fn place(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    _ = cairn_meta::engine::sqlite::check_url(text);
    let mut lines = text.splitn(3, '\n');
    let (Some(storage), Some(bucket)) = (lines.next(), lines.next()) else { return };
    let shards = lines.next().and_then(|n| n.parse().ok()).filter(|n| *n < 4).unwrap_or(0);
    let location = Location { shards, prefix: "vol/".into(), ..Location::new(storage, bucket) };
    _ = (location.local_folders(), format!("{location:?}"));
    if let Ok(store) = cairn_object::open(&Env::real(), &location) {
        _ = store.describe();
    }
}

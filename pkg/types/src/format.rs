//! The volume setting: what `format` fixed and `config` may change (volume format 1).

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::KeyLayout;

/// Block compression, fixed at format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    /// Blocks are stored as they are.
    #[default]
    None,
    /// One raw LZ4 block each.
    Lz4,
    /// One Zstandard frame each.
    Zstd,
}

impl std::str::FromStr for Compression {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s.to_ascii_lowercase().as_str() {
            "" | "none" => Ok(Compression::None),
            "lz4" => Ok(Compression::Lz4),
            "zstd" => Ok(Compression::Zstd),
            _ => Err(format!("unknown compression {s:?}: expected none, lz4 or zstd")),
        }
    }
}

/// A storage tier: how objects of an inode are put.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Tier {
    /// 0 to 3.
    #[serde(rename = "ID")]
    pub id: u8,
    /// The store's name for the class; empty for its default.
    pub storage_class: String,
    /// Empty, or one `key=value`.
    pub tag: String,
}

/// The setting as stored. Members this client does not know are kept in `other`.
///
/// Secrets (`secret_key`, `session_token`, `encrypt_key`) are here as stored: encrypted when
/// `key_encrypted` says so. `Debug` masks them.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[expect(missing_docs, reason = "the members are those of the volume format, section 1.2")]
pub struct Format {
    pub name: String,
    #[serde(rename = "UUID")]
    pub uuid: String,
    pub storage: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub storage_class: String,
    pub tiers: Option<BTreeMap<String, Tier>>,
    pub bucket: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub access_key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub secret_key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub session_token: String,
    /// KiB.
    pub block_size: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub compression: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub shards: u32,
    #[serde(skip_serializing_if = "is_false")]
    pub hash_prefix: bool,
    /// Bytes; 0 = unlimited.
    #[serde(skip_serializing_if = "is_zero64")]
    pub capacity: u64,
    /// 0 = unlimited.
    #[serde(skip_serializing_if = "is_zero64")]
    pub inodes: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub encrypt_key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub encrypt_algo: String,
    #[serde(skip_serializing_if = "is_false")]
    pub key_encrypted: bool,
    /// Mbit/s; 0 = unlimited.
    #[serde(skip_serializing_if = "is_zero64")]
    pub upload_limit: u64,
    #[serde(skip_serializing_if = "is_zero64")]
    pub download_limit: u64,
    pub trash_days: u32,
    #[serde(skip_serializing_if = "is_zero")]
    pub meta_version: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub min_client_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub max_client_version: String,
    #[serde(skip_serializing_if = "is_false")]
    pub dir_stats: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub user_group_quota: bool,
    #[serde(rename = "EnableACL")]
    pub enable_acl: bool,
    #[serde(skip_serializing_if = "is_false")]
    pub change_log: bool,
    /// Seconds.
    #[serde(skip_serializing_if = "is_zero64")]
    pub change_log_max_age: u64,
    #[serde(skip_serializing_if = "is_zero64")]
    pub change_log_max_lines: u64,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Default for Format {
    /// What a member is worth when a stored setting lacks it.
    fn default() -> Self {
        Format {
            name: String::new(),
            uuid: String::new(),
            storage: "file".into(),
            storage_class: String::new(),
            tiers: None,
            bucket: String::new(),
            access_key: String::new(),
            secret_key: String::new(),
            session_token: String::new(),
            block_size: 4096,
            compression: String::new(),
            shards: 0,
            hash_prefix: false,
            capacity: 0,
            inodes: 0,
            encrypt_key: String::new(),
            encrypt_algo: String::new(),
            key_encrypted: false,
            upload_limit: 0,
            download_limit: 0,
            trash_days: 0,
            meta_version: 0,
            min_client_version: String::new(),
            max_client_version: String::new(),
            dir_stats: false,
            user_group_quota: false,
            enable_acl: false,
            change_log: false,
            change_log_max_age: 0,
            change_log_max_lines: 0,
            other: Map::new(),
        }
    }
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}
fn is_zero64(n: &u64) -> bool {
    *n == 0
}
fn is_false(b: &bool) -> bool {
    !b
}

impl Format {
    /// The metadata version this client writes and the highest it reads.
    pub const META_VERSION: u32 = 1;

    /// Reads a stored setting.
    pub fn from_json(text: &str) -> Result<Format, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The text to store: one member a line, no indentation, as JuiceFS writes it.
    pub fn to_json(&self) -> String {
        let mut out = Vec::new();
        let style = serde_json::ser::PrettyFormatter::with_indent(b"");
        let mut ser = serde_json::Serializer::with_formatter(&mut out, style);
        self.serialize(&mut ser).expect("a setting has only string keys");
        String::from_utf8(out).expect("serde_json writes UTF-8")
    }

    /// Indented JSON with every secret replaced by `removed`: what a person or a log may see.
    pub fn to_masked_json(&self) -> String {
        serde_json::to_string_pretty(&self.masked()).expect("a setting has only string keys")
    }

    /// A copy whose secrets are `removed`.
    pub fn masked(&self) -> Format {
        let mut f = self.clone();
        for secret in [&mut f.secret_key, &mut f.session_token, &mut f.encrypt_key] {
            if !secret.is_empty() {
                *secret = "removed".into();
            }
        }
        f
    }

    /// Bytes of a full block.
    pub fn block_bytes(&self) -> u32 {
        self.block_size * 1024
    }

    /// The codec, or a sentence if the stored name is unknown.
    pub fn compression(&self) -> Result<Compression, String> {
        self.compression.parse()
    }

    /// Object key layout.
    pub fn key_layout(&self) -> KeyLayout {
        if self.hash_prefix { KeyLayout::HashPrefix } else { KeyLayout::Plain }
    }

    /// Refuses a volume whose format is newer than this client, or that asks for another one.
    pub fn check_version(&self, own: &ClientVersion) -> Result<(), VersionError> {
        if self.meta_version > Self::META_VERSION {
            return Err(VersionError::MetaVersion { found: self.meta_version });
        }
        let parsed =
            |text: &str| ClientVersion::parse(text).ok_or_else(|| VersionError::Unreadable { text: text.into() });
        if !self.min_client_version.is_empty() && *own < parsed(&self.min_client_version)? {
            return Err(VersionError::TooOld { own: own.to_string(), min: self.min_client_version.clone() });
        }
        if !self.max_client_version.is_empty() && *own > parsed(&self.max_client_version)? {
            return Err(VersionError::TooNew { own: own.to_string(), max: self.max_client_version.clone() });
        }
        Ok(())
    }

    /// Raises `min_client_version` to at least `needed`; never lowers it.
    pub fn require_client(&mut self, needed: &str) {
        let needs = ClientVersion::parse(needed).expect("a version of ours parses");
        if ClientVersion::parse(&self.min_client_version).is_none_or(|have| have < needs) {
            self.min_client_version = needed.into();
        }
    }
}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_masked_json())
    }
}

/// 3 to 63 characters: lower-case letters, digits and inner hyphens.
pub fn is_valid_volume_name(name: &str) -> bool {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let b = name.as_bytes();
    (3..=63).contains(&b.len()) && ok(b[0]) && ok(b[b.len() - 1]) && b.iter().all(|&c| ok(c) || c == b'-')
}

/// Why a volume's version gates keep this client out.
#[derive(Debug, PartialEq, Eq, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum VersionError {
    #[error("the volume has metadata version {found}, this client reads up to 1: use a newer client")]
    MetaVersion { found: u32 },
    #[error("the volume asks for client version {min} or newer, this client implements {own}")]
    TooOld { own: String, min: String },
    #[error("the volume allows client versions up to {max}, this client implements {own}")]
    TooNew { own: String, max: String },
    #[error("the volume's client version limit {text:?} is not a version")]
    Unreadable { text: String },
}

/// A version as the gates compare it: an empty pre-release is greater than any other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientVersion {
    numbers: [u64; 3],
    pre: String,
}

impl ClientVersion {
    /// The JuiceFS version whose features this client implements.
    pub const IMPLEMENTED: &str = "1.4.1";

    /// Reads `major[.minor[.patch]][-pre][+build]`; the build is ignored.
    pub fn parse(text: &str) -> Option<ClientVersion> {
        let text = text.split('+').next()?;
        let (core, pre) = text.split_once('-').unwrap_or((text, ""));
        let mut numbers = [0; 3];
        for (i, part) in core.split('.').enumerate() {
            *numbers.get_mut(i)? = part.parse().ok()?;
        }
        Some(ClientVersion { numbers, pre: pre.into() })
    }

    /// The version this client presents.
    pub fn implemented() -> ClientVersion {
        ClientVersion::parse(Self::IMPLEMENTED).expect("a literal version")
    }
}

impl std::fmt::Display for ClientVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c] = self.numbers;
        write!(f, "{a}.{b}.{c}")?;
        if self.pre.is_empty() { Ok(()) } else { write!(f, "-{}", self.pre) }
    }
}

impl PartialOrd for ClientVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ClientVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => self.pre.cmp(&other.pre),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_the_gates_do() {
        let v = |s| ClientVersion::parse(s).unwrap();
        assert!(v("1.1.0-A") < v("1.1.0-beta1"));
        assert!(v("1.1.0-beta1") < v("1.1.0"));
        assert!(v("1.4.1+unknown") == v("1.4.1"));
        assert!(v("1.4") < v("1.4.1"));
    }

    #[test]
    fn unknown_members_survive_a_rewrite() {
        let text = r#"{"Name":"vol","UUID":"u","Storage":"file","Tiers":null,"Bucket":"/b/","BlockSize":4096,"TrashDays":1,"EnableACL":false,"KerbConf":"x","FutureThing":{"a":1}}"#;
        let again = Format::from_json(&Format::from_json(text).unwrap().to_json()).unwrap();
        assert_eq!(again.other["FutureThing"]["a"], 1);
        assert_eq!(again.other["KerbConf"], "x");
    }

    #[test]
    fn secrets_never_show_in_debug() {
        let f = Format { secret_key: "hunter2".into(), encrypt_key: "PEM".into(), ..Format::default() };
        let shown = format!("{f:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("PEM"), "{shown}");
    }

    #[test]
    fn names_follow_the_rule() {
        assert!(is_valid_volume_name("my-vol1"));
        for bad in ["", "ab", "-abc", "abc-", "ABC", "a_b", &"a".repeat(64)] {
            assert!(!is_valid_volume_name(bad), "{bad}");
        }
    }
}

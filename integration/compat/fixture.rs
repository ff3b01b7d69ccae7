//! A copy of a fixture, ready to be mounted.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Engine, Kind, Volume, cairn};

/// A volume of another writer in a folder of its own, on an engine of its own.
pub(super) struct Fixture {
    source: PathBuf,
    pub(super) volume: Volume,
    pub(super) manifest: Value,
    pub(super) engine: Engine,
}

/// Copies the database and unpacks the store.
pub(super) fn fixture(name: &str) -> Fixture {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/fixtures").join(name);
    let manifest = fs::read(source.join("manifest.json")).unwrap_or_else(|e| panic!("{name}: {e}"));
    let manifest: Value = serde_json::from_slice(&manifest).expect("a manifest is JSON");
    let (kind, dump) = match name.split('-').next() {
        Some("sqlite") => (Kind::Sqlite, "meta.db"),
        Some("redis") => (Kind::Redis, "dump.rdb"),
        Some("postgres") => (Kind::Postgres, "meta.sql"),
        Some("mysql") => (Kind::Mysql, "meta.sql"),
        _ => panic!("{name} is no fixture of an engine"),
    };
    let engine = Engine::load(kind, source.join(dump));
    let volume = Volume::unformatted();
    let store = volume.store();
    let sharded = manifest["format"]["Shards"].as_u64().unwrap_or(0) > 0;
    let bucket = format!("{}/{}", store.display(), if sharded { "%d/" } else { "" });
    let prefix = if name == "sqlite-table-prefix" { "?table_prefix=team1" } else { "" };
    let url = format!("{}{prefix}", engine.url());
    let fixture = Fixture { source, volume: volume.existing(url, bucket), manifest, engine };
    fixture.unpack("store.tar.zst", &store);
    fixture
}

impl Fixture {
    /// Writes where the store is into the setting: `fsck` and `gc` take no `--bucket`.
    pub(super) fn settle(&self) {
        let bucket = self.volume.bucket().expect("a fixture has one");
        cairn(["config", self.volume.url(), "--bucket", bucket, "--force", "--yes"]).ok();
    }

    /// Unpacks one of the fixture's archives, times included.
    pub(super) fn unpack(&self, archive: &str, to: &Path) {
        let packed = File::open(self.source.join(archive)).expect("the fixture has it");
        let plain = zstd::Decoder::new(packed).expect("zstd");
        let mut tar = tar::Archive::new(plain);
        tar.set_preserve_mtime(true);
        tar.unpack(to).expect("the folder is ours");
    }

    /// Keys in the (unsharded) store, below the volume's prefix.
    pub(super) fn objects(&self) -> BTreeSet<String> {
        let root = self.volume.store().join(self.manifest["volume"].as_str().expect("a name"));
        let mut keys = BTreeSet::new();
        let mut todo = vec![root.clone()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    todo.push(path);
                } else {
                    keys.insert(path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned());
                }
            }
        }
        keys
    }
}

//! Cached files: any bytes under a block's name are the block, or absent.

use std::fs;
use std::sync::Arc;

use cairn_cache::{BlockCache, ChecksumLevel, Config, Eviction};
use cairn_env::Env;
use cairn_types::{BlockKey, KeyLayout, SliceId};

use super::sealed::cipher;

/// The block whose file is made up: a little more than one piece.
pub(crate) const KEY: BlockKey = BlockKey { id: SliceId(1), index: 0, len: 33_000 };

/// First byte: sealed or not, checksum level, which part is read. Then the file.
pub(crate) fn cached(bytes: &[u8]) {
    let Some((how, file)) = bytes.split_first() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("raw").join(KEY.object_key(KeyLayout::Plain));
    fs::create_dir_all(path.parent().expect("it has a folder")).expect("it is ours");
    fs::write(&path, file).expect("it is ours");
    let levels = [ChecksumLevel::None, ChecksumLevel::Full, ChecksumLevel::Shrink, ChecksumLevel::Extend];
    let config = Config {
        dirs: vec![dir.path().into()],
        memory_bytes: 0,
        disk_bytes: 1 << 30,
        disk_items: 0,
        free_space_ratio: 0.0,
        checksum: levels[usize::from(how >> 1 & 3)],
        eviction: Eviction::None,
        file_mode: 0o600,
        key_layout: KeyLayout::Plain,
    };
    let sealed = how & 1 == 1;
    let range = [0..KEY.len, 0..100, 32_700..32_900, KEY.len - 1..KEY.len][usize::from(how >> 3 & 3)].clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let env = Env::simulated(1);
        let cache = BlockCache::with_cipher(env, config, sealed.then(|| Arc::clone(cipher()))).expect("sound settings");
        if let Some(found) = cache.get(KEY, range.clone()).await {
            assert_eq!(found.len(), range.len());
            if sealed {
                assert!(found.iter().all(|byte| *byte == 5), "a forged piece opened");
            }
        }
        cache.close().await;
    });
}

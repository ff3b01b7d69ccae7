//! Segments of the journal: any bytes in one are blocks and intents, or a torn or damaged end.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_cache::journal::{Intent, IntentSlice, Journal, OpenError, RealDoor, Recovered, Settings};
use cairn_env::Env;
use cairn_types::{BlockKey, ChunkIndex, Ino, SliceId, SliceRecord, Timestamp};

const VOLUME: &str = "55f8bf95-7e0b-4e3c-93df-0cfcca3bac87";
const SEGMENT_BYTES: u64 = 16 * 1024;
const KEY: BlockKey = BlockKey { id: SliceId(7), index: 0, len: 3000 };
/// No more blocks fit a segment.
const BLOCKS_MAX: usize = SEGMENT_BYTES as usize / 32;

/// The bytes are the one segment there is.
pub(crate) fn journal(bytes: &[u8]) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    fs::write(dir.path().join(&seed().0), bytes).expect("it is ours");
    in_a_world(async |env| {
        let Ok((journal, found)) = open(&env, dir.path()).await else { return };
        assert!(found.blocks <= BLOCKS_MAX, "{}", found.blocks);
        let mut after = 0;
        while let Some(staged) = journal.next_staged(after) {
            if let Some(Ok(block)) = journal.read(staged.key).await {
                assert_eq!(block.len(), staged.stored_len as usize);
            }
            after = staged.number;
        }
        journal.close().await;
    });
}

/// The name and the content of a segment that holds a block and what it was staged for.
pub(crate) fn seed() -> &'static (String, Vec<u8>) {
    static SEED: std::sync::OnceLock<(String, Vec<u8>)> = std::sync::OnceLock::new();
    SEED.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        in_a_world(async |env| {
            let (journal, _) = open(&env, dir.path()).await.expect("a new journal");
            journal.stage(KEY, vec![vec![5; KEY.len as usize].into()]).await.expect("there is room");
            let slice = SliceRecord { pos: 0, id: KEY.id, size: KEY.len, off: 0, len: KEY.len };
            let slices = vec![IntentSlice { index: ChunkIndex(0), record: slice, mtime: Timestamp::default() }];
            let intent = Intent { ino: Ino(2), base: (Timestamp::default(), 0), set_mtime: None, slices };
            journal.note(&intent).await.expect("there is room");
            journal.sync().await.expect("the disk is sound");
            journal.close().await;
        });
        let segment = segments(dir.path()).pop().expect("something was written");
        let name = segment.file_name().expect("it has a name").to_string_lossy().into_owned();
        (name, fs::read(segment).expect("it was written just now"))
    })
}

async fn open(env: &Env, folder: &Path) -> Result<(Arc<Journal>, Recovered), OpenError> {
    let settings =
        Settings { volume: VOLUME.into(), segment_bytes: SEGMENT_BYTES, staged_bytes_max: 0, keep_free: 0.0 };
    Journal::open(env, Arc::new(RealDoor::new(folder.into(), 0o600)), settings).await
}

/// Files that hold something; the lock is empty.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder).expect("it is ours").map(|entry| entry.expect("it is ours"));
    files.filter(|f| f.metadata().is_ok_and(|m| m.is_file() && m.len() > 0)).map(|f| f.path()).collect()
}

fn in_a_world<F: Future<Output = ()>>(work: impl FnOnce(Env) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async { work(Env::simulated(1)).await });
}

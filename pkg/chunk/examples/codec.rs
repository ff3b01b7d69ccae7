//! How fast blocks are encoded and decoded, by CPU time of one thread: `cargo run --release -p cairn-chunk --example codec`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_chunk::Codec;
use cairn_crypt::{Algorithm, Cipher, Passphrase, PrivateKey};
use cairn_env::Env;
use cairn_types::Compression;

const BLOCK_BYTES: usize = 4 << 20;
const BLOCKS: usize = 64;
const PIECE_BYTES: usize = 64 * 1024;

fn main() {
    let env = Env::real();
    let block: Vec<u8> = (0..BLOCK_BYTES / 8).flat_map(|_| env.random().to_le_bytes()).collect();
    let pieces: Vec<Bytes> = block.chunks(PIECE_BYTES).map(Bytes::copy_from_slice).collect();
    println!("{:<24} {:>12} {:>12}", "4 MiB blocks", "encode GB/s", "decode GB/s");
    for cipher in [None, Some(Algorithm::Aes256Gcm), Some(Algorithm::ChaCha20)] {
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
            let name = format!("{compression:?} {}", cipher.map_or(String::new(), |c| c.to_string()));
            let codec = Codec::new(compression, cipher.map(|c| self::cipher(&env, c)));
            let (mut encode, mut decode) = (Duration::ZERO, Duration::ZERO);
            for _ in 0..BLOCKS {
                let start = cpu_time();
                let object = codec.encode(&pieces);
                let between = cpu_time();
                let decoded = codec.decode(object, BLOCK_BYTES).expect("it was encoded just now");
                decode += cpu_time() - between;
                encode += between - start;
                assert_eq!(decoded.len(), BLOCK_BYTES);
            }
            println!("{name:<24} {:>12.2} {:>12.2}", rate(encode), rate(decode));
        }
    }
}

/// GB of plain bytes in a second of the CPU.
fn rate(spent: Duration) -> f64 {
    (BLOCKS * BLOCK_BYTES) as f64 / 1e9 / spent.as_secs_f64()
}

/// What this thread has used of the CPU: a busy machine does not change it.
fn cpu_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}

fn cipher(env: &Env, algorithm: Algorithm) -> Arc<Cipher> {
    let pem = include_str!("../../crypt/tests/keys/pkcs1.pem");
    let key = PrivateKey::from_pem(pem, &Passphrase::default()).expect("a sound key");
    let chance = env.clone();
    Arc::new(Cipher::new(key, algorithm, Arc::new(move |bytes| chance.fill_secret(bytes))).expect("large enough"))
}

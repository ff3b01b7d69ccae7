//! What encryption costs: the same file written to and read from an encrypted volume and one that is not.
//!
//! The floor is our own client without encryption. Nothing is cached, so that every read opens what it gets.

use crate::daemon::Daemon;
use crate::read::{open_direct, read_through};
use crate::report::{Row, Target};
use crate::turns::{Side, seconds, take_turns};
use crate::world::World;
use crate::write::{mb_per_sec, write_file};

/// Made for tests only; it needs no passphrase.
const KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/pkg/crypt/tests/keys/pkcs1.pem");

/// MB/s of one file written, then read, from start to end.
pub(crate) fn measure(world: &World) -> anyhow::Result<Vec<Row>> {
    let bytes = world.settings.write_bytes;
    let mounted = |name: &str, flags: &[&str]| {
        let url = world.format(name, flags)?;
        let (root, cache) = (world.path(&format!("mnt-{name}")), world.path(&format!("cache-{name}")));
        Daemon::cairn(&world.env, &url, &root, &cache, &["--cache-size", "0"])
    };
    let sealed = mounted("sealed", &["--encrypt-rsa-key", KEY])?;
    let clear = mounted("clear", &[])?;
    let turn = |daemon: &Daemon| {
        let root = daemon.root().to_owned();
        move |turn: usize| {
            let file = root.join(format!("written-{turn}"));
            let written = seconds(&world.env, || write_file(&file, bytes))?;
            let open = open_direct(&file)?;
            let read = seconds(&world.env, || read_through(&open, bytes))?;
            std::fs::remove_file(&file)?;
            Ok([mb_per_sec(bytes, written), mb_per_sec(bytes, read)])
        }
    };
    let sides = [Side::new(Some(&sealed), turn(&sealed)), Side::new(Some(&clear), turn(&clear))];
    let [ours, floor] = take_turns(world.settings.turns, sides)?;
    let per_gib = |cpu: f64| cpu * (1u64 << 30) as f64 / bytes as f64;
    let cpu =
        format!("daemon CPU-s/GiB, both ways: {:.2}, plain {:.2}", per_gib(ours.cpu_secs), per_gib(floor.cpu_secs));
    sealed.stop()?;
    clear.stop()?;
    let ([written, read], [written_plain, read_plain]) = (ours.of, floor.of);
    let target = Target::Share(0.7);
    Ok(vec![
        Row { name: "encrypted write 1 MiB, MB/s", ours: written, floor: written_plain, target, notes: vec![cpu] },
        Row { name: "encrypted read 1 MiB, MB/s", ours: read, floor: read_plain, target, notes: vec![] },
    ])
}

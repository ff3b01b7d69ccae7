//! Two mounts of one volume: who opens, or locks, after another closed sees what was written.

use std::fs;
use std::os::unix::fs::FileExt;

use crate::support::Volume;

#[test]
fn an_open_after_a_close_elsewhere_sees_all_of_it() {
    let volume = Volume::new(&[]);
    let (here, there) = (volume.mount(&[]), volume.mount(&[]));
    for (round, len) in [10, 5000, 200_000, 3, 70_000].into_iter().cycle().take(40).enumerate() {
        let name = format!("f{}", round % 3);
        let content = vec![round as u8; len];
        let (writer, reader) = if round % 2 == 0 { (&here, &there) } else { (&there, &here) };
        // The reader's kernel has just been told the old length.
        let _ = fs::metadata(reader.path(&name));
        fs::write(writer.path(&name), &content).unwrap();
        let read = fs::read(reader.path(&name)).unwrap();
        assert_eq!((read.len(), read == content), (len, true), "round {round}");
    }
}

#[test]
fn a_lock_shows_what_its_last_holder_wrote() {
    let volume = Volume::new(&[]);
    let mounts = [volume.mount(&[]), volume.mount(&[])];
    fs::write(mounts[0].path("counter"), 0u64.to_le_bytes()).unwrap();
    std::thread::scope(|scope| {
        for mounted in &mounts {
            scope.spawn(|| {
                let file = fs::File::options().read(true).write(true).open(mounted.path("counter")).unwrap();
                for _ in 0..50 {
                    file.lock().unwrap();
                    let mut n = [0; 8];
                    file.read_exact_at(&mut n, 0).unwrap();
                    file.write_all_at(&(u64::from_le_bytes(n) + 1).to_le_bytes(), 0).unwrap();
                    file.sync_all().unwrap();
                    file.unlock().unwrap();
                }
            });
        }
    });
    let n = fs::read(mounts[1].path("counter")).unwrap();
    assert_eq!(u64::from_le_bytes(n.try_into().unwrap()), 100);
}

//! From the start of `cairn mount -d` to the first answer of the mount.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Stdio;

use anyhow::ensure;

use crate::daemon::{Daemon, cairn, until_mounted};
use crate::report::{Row, Spread, Target};
use crate::turns::{Side, seconds, take_turns};
use crate::world::World;

/// Milliseconds.
pub(crate) fn measure(world: &World) -> anyhow::Result<Vec<Row>> {
    let url = world.format("young", &[])?;
    let root = world.path("young-mnt");
    fs::create_dir_all(&root)?;
    let before = fs::metadata(&root)?.dev();
    let mount = |_| {
        let mut command = cairn();
        command.args(["mount", "-d", &url]).arg(&root).arg("--cache-dir").arg(world.path("young-cache"));
        command.arg("--log").arg(world.path("young.log")).args(["--metrics", ""]).stdout(Stdio::null());
        let start = world.env.instant();
        let mut child = command.spawn()?;
        until_mounted(&world.env, &root, before)?;
        let stat = world.env.instant().duration_since(start).as_secs_f64();
        ensure!(child.wait()?.success(), "cairn mount -d failed");
        let returned = world.env.instant().duration_since(start).as_secs_f64();
        ensure!(cairn().arg("umount").arg(&root).status()?.success(), "cairn umount failed");
        Ok([stat * 1e3, returned * 1e3])
    };
    let null = |_| {
        let mut daemon = None;
        let secs = seconds(&world.env, || {
            daemon = Some(Daemon::null(&world.env, &world.path("young-null"), None)?);
            Ok(())
        })?;
        daemon.map_or(Ok(()), Daemon::stop)?;
        Ok([secs * 1e3, secs * 1e3])
    };
    let [ours, floor] = take_turns(world.settings.turns, [Side::new(None, mount), Side::new(None, null)])?;
    let ([ours, returned], [floor, _]) = (ours.of, floor.of);
    let notes = vec![format!("the command returns after {}", Spread(&returned))];
    Ok(vec![Row { name: "mount to first stat, ms", ours, floor, target: Target::Below(40.0), notes }])
}

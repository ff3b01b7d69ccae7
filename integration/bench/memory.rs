//! What the daemon keeps once the run is over.

use crate::report::{Row, Target};
use crate::turns::rest;
use crate::world::World;

/// Resident MiB after a rest.
pub(crate) fn measure(world: &World) -> anyhow::Result<Vec<Row>> {
    let before = world.ours.memory_mib("VmRSS")?;
    rest(world.settings.rest);
    let (ours, floor) = (world.ours.memory_mib("VmRSS")?, world.null.memory_mib("VmRSS")?);
    let (peak, own) = (world.ours.memory_mib("VmHWM")?, world.ours.memory_mib("RssAnon")?);
    let notes = vec![format!(
        "of it anonymous {own:.0}; {before:.0} before a rest of {} s; at the most {peak:.0}",
        world.settings.rest.as_secs()
    )];
    let (ours, floor) = (vec![ours], vec![floor]);
    Ok(vec![Row { name: "resident memory after the run, MiB", ours, floor, target: Target::Below(120.0), notes }])
}

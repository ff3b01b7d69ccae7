//! Which of several directories holds a block (volume format 9.1). Pure.
//!
//! The placement is JuiceFS's, point for point, so that both clients find each other's files in a
//! shared set of directories.

const POINTS: u32 = 100;
const BALANCE_ROUNDS: usize = 5;
const FULL_TURN: u64 = 1 << 32;

/// Points on a circle of 2^32, each belonging to a directory.
#[derive(Debug)]
pub(crate) struct Ring {
    /// Sorted by point.
    points: Vec<(u32, usize)>,
}

impl Ring {
    /// A ring over the directories with these `.lock` texts; there must be one at least.
    pub(crate) fn new<S: AsRef<str>>(locks: &[S]) -> Ring {
        assert!(!locks.is_empty(), "a ring needs a directory");
        let mut weights = vec![POINTS; locks.len()];
        let mut ring = Ring::with_weights(locks, &weights);
        if locks.len() > 1 {
            for _ in 0..BALANCE_ROUNDS {
                ring.rebalance(&mut weights);
                ring = Ring::with_weights(locks, &weights);
            }
        }
        ring
    }

    fn with_weights<S: AsRef<str>>(locks: &[S], weights: &[u32]) -> Ring {
        let of_one = |(dir, (lock, weight)): (usize, (&S, &u32))| {
            let lock = lock.as_ref().to_owned();
            (0..*weight).map(move |i| (hash(format!("{i}{lock}").as_bytes()), dir))
        };
        let mut points: Vec<_> = locks.iter().zip(weights).enumerate().flat_map(of_one).collect();
        points.sort_unstable();
        Ring { points }
    }

    /// Gives points to directories whose share is too small, and takes from the others.
    fn rebalance(&self, weights: &mut [u32]) {
        let expected = 1.0 / weights.len() as f64;
        let shares = self.shares(weights.len());
        for (weight, share) in weights.iter_mut().zip(shares) {
            let add = (f64::from(*weight) * (expected - share) / expected * 0.75).trunc() as i64;
            if add != 1 {
                *weight = u32::try_from(i64::from(*weight) + add).unwrap_or(1).max(1);
            }
        }
    }

    /// The part of the circle that belongs to each directory.
    fn shares(&self, dirs: usize) -> Vec<f64> {
        let mut shares = vec![0.0; dirs];
        let last = self.points.last().map_or(0, |p| u64::from(p.0));
        let mut previous = None;
        for &(point, dir) in &self.points {
            let arc = match previous {
                None => u64::from(point) + FULL_TURN - last,
                Some(previous) => u64::from(point - previous),
            };
            shares[dir] += arc as f64 / FULL_TURN as f64;
            previous = Some(point);
        }
        shares
    }

    /// The directory (by its place in the list given) that holds the block with this object key.
    pub(crate) fn owner(&self, object_key: &str) -> usize {
        let at = hash(object_key.as_bytes());
        let next = self.points.partition_point(|&(point, _)| point < at);
        self.points.get(next).unwrap_or(&self.points[0]).1
    }
}

/// Where clients before the ring put the block, of `dirs` directories sorted by path.
pub(crate) fn older_owner(object_key: &str, dirs: usize) -> usize {
    let fnv1 = object_key.bytes().fold(0x811c_9dc5_u32, |h, b| h.wrapping_mul(0x0100_0193) ^ u32::from(b));
    fnv1 as usize % dirs
}

fn hash(mut bytes: &[u8]) -> u32 {
    murmur3::murmur3_32(&mut bytes, 0).expect("reading from memory cannot fail")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_block_lies_where_juicefs_put_it() {
        let vectors: Value = serde_json::from_str(include_str!("../tests/cache-placement.json")).unwrap();
        for case in vectors["cases"].as_array().unwrap() {
            let dirs = case["directories"].as_array().unwrap();
            let locks: Vec<_> = dirs.iter().map(|dir| dir["lock"].as_str().unwrap()).collect();
            let ring = Ring::new(&locks);
            for (at, dir) in dirs.iter().enumerate() {
                for key in dir["keys"].as_array().unwrap() {
                    assert_eq!(ring.owner(key.as_str().unwrap()), at, "{key} of {} directories", dirs.len());
                }
            }
        }
    }

    #[test]
    fn the_older_placement_is_fnv1() {
        // FNV-1 of "a" is 0x050c5d7e.
        assert_eq!(older_owner("a", 1 << 31), 0x050c_5d7e);
    }
}

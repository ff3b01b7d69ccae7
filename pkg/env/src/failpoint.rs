//! Faults that a test asks for, by name. They belong to a world, not to the process.

use std::collections::HashMap;

use parking_lot::Mutex;

/// Named faults, each to be taken a number of times.
#[derive(Default)]
pub struct Failpoints {
    armed: Mutex<HashMap<&'static str, u64>>,
}

impl Failpoints {
    /// Makes the next `times` passages of `name` fail.
    pub fn arm(&self, name: &'static str, times: u64) {
        self.armed.lock().insert(name, times);
    }

    /// Should this passage fail?
    pub fn hit(&self, name: &'static str) -> bool {
        let mut armed = self.armed.lock();
        match armed.get_mut(name) {
            Some(left) if *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }
}

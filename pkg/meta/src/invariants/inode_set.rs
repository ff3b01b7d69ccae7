//! Which inodes were seen, in a bit each.

use std::collections::HashMap;

use cairn_types::Ino;

/// A set of inodes: ids are handed out in runs, so a bit each is nearly all it takes.
#[derive(Default)]
pub(super) struct InoSet(HashMap<u64, [u64; 16]>);

impl InoSet {
    fn place(ino: Ino) -> (u64, usize, u64) {
        (ino.0 >> 10, (ino.0 >> 6 & 15) as usize, 1 << (ino.0 & 63))
    }

    /// True if it was not there.
    pub(super) fn insert(&mut self, ino: Ino) -> bool {
        let (page, word, bit) = InoSet::place(ino);
        let word = &mut self.0.entry(page).or_default()[word];
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    pub(super) fn contains(&self, ino: Ino) -> bool {
        let (page, word, bit) = InoSet::place(ino);
        self.0.get(&page).is_some_and(|words| words[word] & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_inodes_holds_trash_numbers_too() {
        let mut set = InoSet::default();
        assert!(set.insert(Ino(1)) && set.insert(Ino::TRASH) && !set.insert(Ino(1)));
        assert!(set.contains(Ino::TRASH) && !set.contains(Ino(2)));
    }
}

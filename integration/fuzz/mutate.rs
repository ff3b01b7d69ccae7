//! Mutation by chance: no coverage, no special build, the same inputs for the same seed.

use crate::{Target, seeds};

/// Numbers at which decoders trip.
const EDGES: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 0x7fff_ffff_ffff_ffff, u64::MAX];
/// Changes piled up on one seed before it starts afresh.
const CHANGES_MAX: u64 = 6;

/// Runs `target` on `inputs` mutated seeds. The panic of a broken rule goes through, with the input that broke
/// it on standard error.
pub fn run(target: &Target, seed: u64, inputs: u64) {
    let all = seeds(target.name);
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for seed in &all {
        told(target, seed);
    }
    for _ in 0..inputs {
        let mut input = all[chance.below(all.len() as u64) as usize].clone();
        for _ in 0..=chance.below(CHANGES_MAX) {
            change(&mut input, &all, &mut chance);
        }
        told(target, &input);
    }
}

/// Runs one input; names it if it breaks a rule.
fn told(target: &Target, input: &[u8]) {
    struct Named<'a>(&'a str, &'a [u8]);
    impl Drop for Named<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let shown: String = self.1.iter().take(4096).map(|b| format!("{b:02x}")).collect();
                eprintln!("target {} fails on {} bytes: {shown}", self.0, self.1.len());
            }
        }
    }
    let _named = Named(target.name, input);
    (target.run)(input);
}

fn change(input: &mut Vec<u8>, all: &[Vec<u8>], chance: &mut Chance) {
    let len = input.len() as u64;
    let at = chance.below(len + 1) as usize;
    match chance.below(8) {
        0 if at < input.len() => input[at] ^= 1 << chance.below(8),
        1 if at < input.len() => input[at] = chance.next() as u8,
        2 => input.truncate(at),
        3 => {
            let added: Vec<u8> = (0..1 + chance.below(16)).map(|_| chance.next() as u8).collect();
            input.splice(at..at, added);
        }
        4 => {
            let end = (at + chance.below(16) as usize).min(input.len());
            input.drain(at..end);
        }
        5 => {
            let bytes = EDGES[chance.below(EDGES.len() as u64) as usize].to_be_bytes();
            let width = 1 << chance.below(4);
            let place = at..(at + width).min(input.len());
            let edge = &bytes[8 - width..8 - width + place.len()];
            input[place].copy_from_slice(edge);
        }
        6 => {
            let part: Vec<u8> = input[at..].iter().copied().take(chance.below(64) as usize).collect();
            let to = chance.below(len + 1) as usize;
            input.splice(to..to, part);
        }
        7 => {
            let other = &all[chance.below(all.len() as u64) as usize];
            let from = chance.below(other.len() as u64 + 1) as usize;
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => {}
    }
}

/// xorshift: chance enough to mutate with.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

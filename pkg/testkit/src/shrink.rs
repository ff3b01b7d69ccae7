//! Makes a failing sequence short: leaves steps out as long as what is left still fails.

use crate::Step;

/// The shortest failing sequence found within `tries` runs, and how it fails.
///
/// `run` says how a sequence fails, if it does. Halves are left out first, then ever smaller parts,
/// at last single steps.
pub fn shrink(
    steps: Vec<Step>,
    complaint: String,
    tries: usize,
    mut run: impl FnMut(&[Step]) -> Option<String>,
) -> (Vec<Step>, String) {
    let mut best = (steps, complaint);
    let mut part = best.0.len().div_ceil(2).max(1);
    let mut left = tries;
    loop {
        let before = best.0.len();
        let mut at = 0;
        while at < best.0.len() && left > 0 {
            let end = (at + part).min(best.0.len());
            let shorter = [&best.0[..at], &best.0[end..]].concat();
            left -= 1;
            match run(&shorter) {
                Some(complaint) => best = (shorter, complaint),
                None => at = end,
            }
        }
        if left == 0 || (part == 1 && best.0.len() == before) {
            return best;
        }
        part = (part / 2).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_steps_that_matter_are_left() {
        let steps: Vec<Step> = (0..100).map(|millis| Step::Wait { millis }).collect();
        let fails = |steps: &[Step]| {
            let has = |n| steps.contains(&Step::Wait { millis: n });
            (has(13) && has(77)).then(|| "both".to_owned())
        };
        let (short, _) = shrink(steps, "both".into(), 1000, fails);
        assert_eq!(short, [Step::Wait { millis: 13 }, Step::Wait { millis: 77 }]);
    }
}

//! Sides that take turns, and what many turns say.

use std::time::Duration;

use cairn_env::Env;

use crate::daemon::Daemon;

/// One side: what a turn does, and who works for it. A turn gives K figures.
pub(crate) struct Side<'a, const K: usize> {
    /// Whose CPU time is counted.
    pub(crate) daemon: Option<&'a Daemon>,
    /// One turn; it is told the number of the turn.
    pub(crate) turn: Box<dyn FnMut(usize) -> anyhow::Result<[f64; K]> + 'a>,
}

impl<'a, const K: usize> Side<'a, K> {
    /// A side whose work `daemon` does.
    pub(crate) fn new(
        daemon: Option<&'a Daemon>,
        turn: impl FnMut(usize) -> anyhow::Result<[f64; K]> + 'a,
    ) -> Side<'a, K> {
        Side { daemon, turn: Box::new(turn) }
    }
}

/// What the turns of a side gave.
pub(crate) struct Figures<const K: usize> {
    /// The figures, by kind, one for each turn.
    pub(crate) of: [Vec<f64>; K],
    /// CPU seconds of the daemon in one turn, on average.
    pub(crate) cpu_secs: f64,
}

/// Lets the sides take turns: A B, B A, A B … The first turn of each warms up and is not counted.
pub(crate) fn take_turns<const S: usize, const K: usize>(
    turns: usize,
    mut sides: [Side<'_, K>; S],
) -> anyhow::Result<[Figures<K>; S]> {
    let mut figures: [Figures<K>; S] = std::array::from_fn(|_| Figures { of: [const { vec![] }; K], cpu_secs: 0.0 });
    for turn in 0..=turns {
        for place in 0..S {
            let side = if turn % 2 == 0 { place } else { S - 1 - place };
            let before = cpu(&sides[side]);
            let values = (sides[side].turn)(turn)?;
            if turn == 0 {
                continue;
            }
            figures[side].cpu_secs += (cpu(&sides[side]) - before) / turns as f64;
            for (kind, value) in figures[side].of.iter_mut().zip(values) {
                kind.push(value);
            }
        }
    }
    Ok(figures)
}

fn cpu<const K: usize>(side: &Side<'_, K>) -> f64 {
    side.daemon.map_or(0.0, |d| d.cpu_secs())
}

/// How long `work` takes, in seconds.
pub(crate) fn seconds(env: &Env, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let start = env.instant();
    work()?;
    Ok(env.instant().duration_since(start).as_secs_f64())
}

/// Lets time pass: for the kernel to forget, or a daemon to settle.
#[expect(clippy::disallowed_methods, reason = "time itself is what is waited for")]
pub(crate) fn rest(duration: Duration) {
    std::thread::sleep(duration);
}

/// The middle value.
pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which a share of all lies.
pub(crate) fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n => {
            let at = share * (n - 1) as f64;
            let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
            low + (high - low) * at.fract()
        }
    }
}

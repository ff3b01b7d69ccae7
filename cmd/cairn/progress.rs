//! Bars for what takes longer than a second, on a terminal only.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use cairn_env::Env;
use cairn_jobs::{Phase, Progress};
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use crate::Global;

/// Nothing is shown of what is over sooner.
const PATIENCE: Duration = Duration::from_secs(1);

/// Shows where a job is.
pub(crate) struct Bars {
    env: Env,
    shown: bool,
    state: Mutex<Option<Current>>,
}

struct Current {
    phase: Phase,
    begun: Instant,
    bar: Option<ProgressBar>,
}

impl Bars {
    pub(crate) fn new(env: &Env, global: &Global, json: bool) -> Bars {
        let wanted = std::env::var("DISPLAY_PROGRESSBAR").as_deref() != Ok("false");
        let terminal = std::io::stdout().is_terminal() && std::io::stderr().is_terminal();
        Bars { env: env.clone(), shown: wanted && terminal && !global.quiet && !json, state: Mutex::new(None) }
    }

    /// Told by a job, often.
    pub(crate) fn watch(&self, step: Progress) {
        if !self.shown {
            return;
        }
        let mut state = self.state.lock();
        if state.as_ref().is_none_or(|c| c.phase != step.phase) {
            finish(state.take());
            *state = Some(Current { phase: step.phase, begun: self.env.instant(), bar: None });
        }
        let current = state.as_mut().expect("set above");
        if current.bar.is_none() && self.env.instant().duration_since(current.begun) >= PATIENCE {
            current.bar = Some(bar(step));
        }
        if let Some(bar) = &current.bar {
            bar.set_position(step.done);
            if let Some(total) = step.total {
                bar.set_length(total);
            }
        }
    }

    /// Nothing more comes.
    pub(crate) fn done(&self) {
        finish(self.state.lock().take());
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.done();
    }
}

fn finish(current: Option<Current>) {
    if let Some(bar) = current.and_then(|c| c.bar) {
        bar.abandon();
    }
}

fn bar(step: Progress) -> ProgressBar {
    let bar = match step.total {
        Some(total) => ProgressBar::new(total)
            .with_style(style("{msg}: {pos}/{len} [{bar:40}] {per_sec} eta {eta}").progress_chars("=>-")),
        None => ProgressBar::no_length().with_style(style("{spinner} {msg}: {pos}  {per_sec}")),
    };
    bar.with_message(step.phase.label())
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("a literal template")
}

//! Runs a sequence against world and model, and makes a failure small and repeatable.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::run::Runner;
use crate::shrink::shrink;
use crate::step::{Mix, Step, generate};
use crate::world::{Options, World};

/// Sequences tried when a failing one is shrunk.
const SHRINK_TRIES: usize = 300;

/// A sequence that went well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Everything that was answered, and when, in one number.
    pub digest: u64,
    /// One line a step: what it answered.
    pub log: Vec<String>,
}

/// A sequence that went wrong, made short.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Makes the same sequence and the same world again.
    pub seed: u64,
    /// What was wrong after the last of `steps`.
    pub complaint: String,
    /// The steps that matter.
    pub steps: Vec<Step>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.complaint)?;
        writeln!(f, "run again with CAIRN_SEED={}; the steps that matter:", self.seed)?;
        self.steps.iter().enumerate().try_for_each(|(n, step)| writeln!(f, "  {n:3} {step:?}"))
    }
}

impl std::error::Error for Failure {}

/// Runs the sequence of `seed`; a failure is shrunk before it is told.
pub fn check(seed: u64, mix: Mix, options: &Options) -> Result<Run, Failure> {
    let steps = generate(seed, mix);
    let complaint = match run_once(seed, &steps, options) {
        Ok(run) => return Ok(run),
        Err(complaint) => complaint,
    };
    let again = |steps: &[Step]| run_once(seed, steps, options).err();
    let (steps, complaint) = shrink(steps, complaint, SHRINK_TRIES, again);
    Err(Failure { seed, complaint, steps })
}

/// Runs these steps in a fresh world of `seed`. A panic is a complaint like any other.
pub fn run_once(seed: u64, steps: &[Step], options: &Options) -> Result<Run, String> {
    catch_unwind(AssertUnwindSafe(|| run(seed, steps, options))).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no words");
        Err(format!("panicked: {words}"))
    })
}

fn run(seed: u64, steps: &[Step], options: &Options) -> Result<Run, String> {
    let mut world = World::new(seed, options.clone())?;
    let may_fail = options.faults || steps.iter().any(|s| matches!(s, Step::StoreDown | Step::PowerCut));
    let mut runner = Runner::new(may_fail);
    let mut digest = DefaultHasher::new();
    let mut log = Vec::with_capacity(steps.len());
    for (n, step) in steps.iter().enumerate() {
        let line = one(&mut world, &mut runner, step).map_err(|e| format!("step {n}, {step:?}: {e}"))?;
        (world.now_millis(), &line).hash(&mut digest);
        log.push(line);
    }
    Ok(Run { digest: digest.finish(), log })
}

fn one(world: &mut World, runner: &mut Runner, step: &Step) -> Result<String, String> {
    match step {
        Step::Wait { millis } => {
            world.wait(*millis);
            Ok("waited".into())
        }
        Step::StoreDown => {
            world.store().down();
            Ok("down".into())
        }
        Step::StoreUp => {
            world.store().up();
            Ok("up".into())
        }
        Step::Compare => world.on(async |vfs| runner.compare(vfs).await),
        Step::Reopen => {
            world.store().up();
            world.on(async |vfs| runner.close_all(vfs).await)?;
            world.reopen()?;
            runner.closed();
            world.check_invariants()?;
            world.on(async |vfs| runner.compare(vfs).await)
        }
        Step::PowerCut => {
            let power_went = world.cut_power()?;
            world.check_invariants()?;
            world.on(async |vfs| runner.after_crash(vfs, power_went).await)
        }
        _ => world.on(async |vfs| runner.step(vfs, step).await),
    }
}

//! The doorway between kernel threads and the runtime.
//!
//! An operation runs on the thread that took the request until it would wait; then it moves to the
//! runtime and whoever finishes it replies. So what memory can answer never pays for a task, and no
//! kernel thread ever sleeps on a network.
//!
//! Rules kept here: every request is answered exactly once, also after a panic (EIO) and also when
//! its caller is told to stop (EINTR: a change itself runs to its end, because half of one is worse
//! than a late one; a read is dropped). An error is logged here, where it stops travelling.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cairn_env::{Budget, Env, Permit, TaskSet};
use fuser::Errno;
use futures::FutureExt;
use tokio::runtime::Handle;
use tracing::Instrument;

use crate::caller::{self, Ends};
use crate::errno::{self, errno_of};

/// A request, for logs and for watching its caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    /// The operation.
    pub(crate) name: &'static str,
    /// The kernel's number of the request.
    pub(crate) req: u64,
    /// The inode.
    pub(crate) ino: u64,
    /// The thread that asks; 0: nobody waits for the answer.
    pub(crate) tid: u32,
    /// Nothing is lost if it never ends: it may be dropped on the way.
    pub(crate) is_read: bool,
}

impl Call {
    /// The same, for an operation that may be dropped on the way.
    pub(crate) fn read(self) -> Call {
        Call { is_read: true, ..self }
    }

    /// The same, but the caller is not watched.
    pub(crate) fn unwatched(self) -> Call {
        Call { tid: 0, ..self }
    }

    fn span(&self) -> tracing::Span {
        tracing::debug_span!("op", name = self.name, req = self.req, ino = self.ino)
    }

    fn verdict<T>(&self, out: Outcome<T>) -> Result<T, Errno> {
        match out {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(err)) => {
                let errno = errno_of(&err);
                errno::log(self, &err, errno);
                Err(errno)
            }
            Err(panic) => {
                tracing::error!(op = self.name, ino = self.ino, "panicked: {}", words_of(&*panic));
                Err(Errno::EIO)
            }
        }
    }
}

/// What a call of the vfs came to; outside, a panic.
type Outcome<T> = Result<cairn_vfs::Result<T>, Box<dyn Any + Send>>;
type Op<T> = Pin<Box<dyn Future<Output = Outcome<T>> + Send>>;

/// The doorway.
pub(crate) struct Door {
    rt: Handle,
    env: Env,
    tasks: TaskSet,
    closing: Arc<AtomicBool>,
}

impl Door {
    pub(crate) fn new(rt: Handle) -> Door {
        let env = Env::real();
        Door { rt, tasks: TaskSet::new(env.clone()), env, closing: Arc::default() }
    }

    /// Answers a request with what `op` comes to.
    pub(crate) fn serve<T: Send + 'static>(
        &self,
        call: Call,
        op: impl Future<Output = cairn_vfs::Result<T>> + Send + 'static,
        reply: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        self.serve_or(call, op, reply, |_| std::future::ready(()));
    }

    /// The same; `late` takes a result whose caller has been told EINTR meanwhile.
    pub(crate) fn serve_or<T: Send + 'static, L: Future<Output = ()> + Send + 'static>(
        &self,
        call: Call,
        op: impl Future<Output = cairn_vfs::Result<T>> + Send + 'static,
        reply: impl FnOnce(Result<T, Errno>) + Send + 'static,
        late: impl FnOnce(T) -> L + Send + 'static,
    ) {
        let _entered = self.rt.enter();
        let mut op: Op<T> = Box::pin(AssertUnwindSafe(op.instrument(call.span())).catch_unwind());
        match (&mut op).now_or_never() {
            Some(out) => reply(call.verdict(out)),
            None => self.tasks.spawn(wait(self.env.clone(), self.tasks.clone(), call, op, reply, late)),
        }
    }

    /// Runs `op` here and now, turning a panic into EIO. For what borrows from the request.
    pub(crate) fn inline<T>(
        &self,
        call: Call,
        op: impl FnOnce() -> Option<cairn_vfs::Result<T>>,
    ) -> Option<Result<T, Errno>> {
        let _entered = self.rt.enter();
        match catch_unwind(AssertUnwindSafe(op)) {
            Ok(out) => out.map(|out| call.verdict(Ok(out))),
            Err(panic) => Some(call.verdict(Err(panic))),
        }
    }

    /// Takes `units` of `budget`, stopping this kernel thread until they are free.
    pub(crate) fn acquire(&self, budget: &Budget, units: u64) -> Permit {
        budget.try_acquire(units).unwrap_or_else(|| self.rt.block_on(budget.acquire(units)))
    }

    /// Has the caller of a lock that waits been told to stop, or is the mount going away?
    pub(crate) fn interrupted(&self, tid: u32) -> impl Fn() -> bool + Send + 'static {
        let closing = self.closing.clone();
        move || closing.load(Ordering::Acquire) || caller::has_signal(tid, Ends::Any)
    }

    /// Ends what waits for locks, waits for what is under way, then runs `last`. Blocks the calling thread.
    pub(crate) fn close(&self, last: impl Future<Output = ()>) {
        self.closing.store(true, Ordering::Release);
        self.rt.block_on(async {
            self.tasks.stop().await;
            last.await;
        });
    }
}

async fn wait<T: Send, L: Future<Output = ()> + Send>(
    env: Env,
    tasks: TaskSet,
    call: Call,
    mut op: Op<T>,
    reply: impl FnOnce(Result<T, Errno>) + Send,
    late: impl FnOnce(T) -> L + Send,
) {
    tokio::select! {
        biased;
        out = &mut op => reply(call.verdict(out)),
        () = caller::told_to_stop(env, call.tid) => {
            reply(Err(Errno::EINTR));
            if !call.is_read
                && let Ok(value) = call.verdict(op.await) {
                late(value).await;
            }
        }
        () = tasks.stopping(), if call.is_read => reply(Err(Errno::ENODEV)),
    }
}

fn words_of(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("")
}

#[cfg(test)]
mod tests;

//! How a mount's process tells `cairn umount` what it still has to save, and how that ended.
//!
//! Once unmounted, a process shows no files any more, and the end of one that is no child tells no exit
//! code. So it listens, as long as it lives, at a socket named after its number, in the abstract name
//! space: nothing is left on disk. Who connects hears a line whenever something changes and the outcome
//! last. Numbers of bytes and files are told to anybody on this machine, and the words of the error.

use std::io::{BufRead, BufReader};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use anyhow::Context;
use cairn_env::{Budget, TaskSet};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

/// Listeners served at a time; more wait in the kernel's queue.
const CLIENTS_MAX: u64 = 8;

/// Where a mount's process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its mount works.
    #[default]
    Serving,
    /// Unmounted; this much is not committed yet.
    Saving { bytes: u64, files: u64 },
    /// Everything is safe.
    Saved,
    /// Something is not, and will not be.
    Lost(String),
}

impl Stage {
    fn line(&self) -> String {
        match self {
            Stage::Serving => "serving\n".into(),
            Stage::Saving { bytes, files } => format!("saving {bytes} {files}\n"),
            Stage::Saved => "saved\n".into(),
            Stage::Lost(reason) => format!("lost {}\n", reason.replace('\n', " ")),
        }
    }

    fn parse(line: &str) -> Option<Stage> {
        let line = line.trim_end();
        match line.split_once(' ').unwrap_or((line, "")) {
            ("serving", _) => Some(Stage::Serving),
            ("saved", _) => Some(Stage::Saved),
            ("lost", reason) => Some(Stage::Lost(reason.into())),
            ("saving", rest) => {
                let (bytes, files) = rest.split_once(' ')?;
                Some(Stage::Saving { bytes: bytes.parse().ok()?, files: files.parse().ok()? })
            }
            _ => None,
        }
    }
}

fn address(pid: u32) -> std::io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("cairn-farewell-{pid}"))
}

/// Listens as this process; `stage` is told to whoever asks until it is an outcome.
pub(crate) fn listen(tasks: &TaskSet, stage: &watch::Receiver<Stage>) -> anyhow::Result<()> {
    let listener = UnixListener::bind_addr(&address(std::process::id())?).context("listen for `cairn umount`")?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let (all, stage) = (tasks.clone(), stage.clone());
    tasks.spawn(async move {
        let clients = Budget::new(CLIENTS_MAX);
        loop {
            let place = clients.acquire(1).await;
            let accepted = tokio::select! {
                () = all.stopping() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                if !all.rest(Duration::from_secs(1)).await {
                    return;
                }
                continue;
            };
            let (stage, stopping) = (stage.clone(), all.clone());
            all.spawn(async move {
                let _place = place;
                tokio::select! {
                    // The outcome comes before the end.
                    biased;
                    () = tell(stream, stage) => {}
                    () = stopping.stopping() => {}
                }
            });
        }
    });
    Ok(())
}

/// Tells one client of each change until the outcome, or until it leaves.
async fn tell(mut stream: tokio::net::UnixStream, mut stage: watch::Receiver<Stage>) {
    loop {
        let now = stage.borrow_and_update().clone();
        let told = stream.write_all(now.line().as_bytes()).await;
        if told.is_err() || matches!(now, Stage::Saved | Stage::Lost(_)) || stage.changed().await.is_err() {
            return;
        }
    }
}

/// The process of a mount, listened to.
pub(crate) struct Process(BufReader<UnixStream>);

impl Process {
    /// Connects to process `pid`; `None` if it cannot be heard from here.
    pub(crate) fn hear(pid: u32) -> Option<Process> {
        Some(Process(BufReader::new(UnixStream::connect_addr(&address(pid).ok()?).ok()?)))
    }

    /// The next thing it says; `None` if it ended without a word.
    pub(crate) fn next(&mut self) -> std::io::Result<Option<Stage>> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(Stage::parse(&line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_understood() {
        let lost = Stage::Lost("a reason\nof two lines".into());
        assert_eq!(Stage::parse(&lost.line()), Some(Stage::Lost("a reason of two lines".into())));
        for stage in [Stage::Serving, Stage::Saved, Stage::Saving { bytes: 17, files: 2 }] {
            assert_eq!(Stage::parse(&stage.line()), Some(stage));
        }
        assert_eq!(Stage::parse(""), None);
    }
}

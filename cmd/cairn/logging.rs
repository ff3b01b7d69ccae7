//! Where log lines go: stderr, or the log file of a mount in the background.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::Global;

/// Starts logging for this process; once.
pub(crate) fn start(global: &Global, file: Option<&Path>) -> anyhow::Result<()> {
    let sink = match file {
        None => Sink::Stderr,
        Some(path) => {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir)
                    .with_context(|| format!("make the folder of the log {}", path.display()))?;
            }
            let open = OpenOptions::new().create(true).append(true).open(path);
            Sink::File(Arc::new(open.with_context(|| format!("open the log {}", path.display()))?))
        }
    };
    let colours = file.is_none() && !global.no_color && std::io::stderr().is_terminal();
    let lines = Lines { sink, id: log_id(global) };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(global)?)
        .with_ansi(colours)
        .with_target(true)
        .with_writer(lines)
        .finish();
    tracing::subscriber::set_global_default(subscriber).context("start logging")
}

fn filter(global: &Global) -> anyhow::Result<EnvFilter> {
    let level = match global.log_level.as_deref() {
        Some("fatal" | "panic") => "error",
        Some("warning") => "warn",
        Some(level @ ("trace" | "debug" | "info" | "warn" | "error")) => level,
        Some(other) => anyhow::bail!("unknown log level {other:?}: expected trace, debug, info, warn or error"),
        None if global.trace => "trace",
        None if global.verbose => "debug",
        None if global.quiet => "warn",
        None => "info",
    };
    // Other people's crates speak up only when something is odd.
    let ours =
        ["cairn", "cairn_meta", "cairn_chunk", "cairn_cache", "cairn_object", "cairn_vfs", "cairn_fuse", "cairn_jobs"];
    let text = ours.iter().fold("warn".to_owned(), |all, name| format!("{all},{name}={level}"));
    Ok(EnvFilter::new(text))
}

fn log_id(global: &Global) -> Arc<str> {
    match global.log_id.as_deref() {
        None => "".into(),
        Some("random") => format!("[{}] ", uuid::Uuid::new_v4()).into(),
        Some(id) => format!("[{id}] ").into(),
    }
}

#[derive(Clone)]
enum Sink {
    Stderr,
    File(Arc<std::fs::File>),
}

#[derive(Clone)]
struct Lines {
    sink: Sink,
    id: Arc<str>,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;
    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}

/// One call is one line: the subscriber formats it whole.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let whole = [self.id.as_bytes(), line].concat();
        let whole = if self.id.is_empty() { line } else { &whole };
        match &self.sink {
            Sink::Stderr => std::io::stderr().write_all(whole)?,
            Sink::File(file) => (&**file).write_all(whole)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

//! `cairn version`.

use std::process::ExitCode;

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    println!("cairn version {} (volumes of JuiceFS {})", cairn::VERSION, cairn_types::ClientVersion::IMPLEMENTED);
    Ok(ExitCode::SUCCESS)
}

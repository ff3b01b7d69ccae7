//! `cairn version`.

use std::process::ExitCode;

pub(crate) fn run() -> anyhow::Result<ExitCode> {
    crate::show(&format!(
        "cairn version {} (volumes of JuiceFS {})\n",
        cairn::VERSION,
        cairn_types::ClientVersion::IMPLEMENTED
    ))?;
    Ok(ExitCode::SUCCESS)
}

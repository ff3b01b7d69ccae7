//! Running programs and keeping what they said.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ran {
    /// Exit code; -N after signal N.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Ran {
    /// Panics unless the program succeeded; its standard output.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "failed\n--- stdout\n{}\n--- stderr\n{}", self.out, self.err);
        self.out
    }

    /// Panics if the program succeeded; everything it said.
    #[track_caller]
    pub(crate) fn refused(self) -> String {
        assert!(self.code > 0, "should have been refused (code {})\n{}\n{}", self.code, self.out, self.err);
        format!("{}\n{}", self.out, self.err)
    }
}

/// The binary under test, with nothing of our environment that could change what it does.
pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    for name in ["META_PASSWORD", "ACCESS_KEY", "SECRET_KEY", "SESSION_TOKEN", "RUST_LOG"] {
        command.env_remove(name);
    }
    // What the private keys of all encrypted volumes in these tests are locked with.
    command.env("JFS_RSA_PASSPHRASE", "cairn-fixture");
    command
}

/// Runs `cairn` with these arguments.
pub(crate) fn cairn<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Ran {
    finish(binary().args(args))
}

/// Runs a program in a folder. Panics if it does not exist.
#[track_caller]
pub(crate) fn run<S: AsRef<OsStr>>(dir: &Path, program: &str, args: impl IntoIterator<Item = S>) -> Ran {
    finish(Command::new(program).args(args).current_dir(dir))
}

/// Runs a prepared command to its end.
#[track_caller]
pub(crate) fn finish(command: &mut Command) -> Ran {
    use std::os::unix::process::ExitStatusExt;
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| {
        panic!("cannot run {:?}: {e}. `make test` installs what the tests need", command.get_program())
    });
    let code = output.status.code().or(output.status.signal().map(|s| -s)).unwrap_or(-1);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code, out: text(output.stdout), err: text(output.stderr) }
}

//! The text of change-log entries (volume format, appendix A).

use std::fmt::{Display, Write};

use crate::Result;
use crate::txn::{Context, Txn};

/// Leaves a record of `op(args):result` if the volume keeps a change log.
pub fn log(
    cx: &Context,
    tx: &mut dyn Txn,
    op: &str,
    args: &[&dyn Display],
    result: Option<&dyn Display>,
) -> Result<()> {
    if !cx.policy.change_log {
        return Ok(());
    }
    let mut line = format!("{}.{:09}|{op}(", cx.now.secs, cx.now.nanos);
    for (i, arg) in args.iter().enumerate() {
        write!(line, "{}{arg}", if i == 0 { "" } else { "," }).expect("a String takes all text");
    }
    line.push(')');
    if let Some(result) = result {
        write!(line, ":{result}").expect("a String takes all text");
    }
    let sid = cx.sid.map_or(0, |s| s.0);
    write!(line, "|({sid},{})", cx.sequence).expect("a String takes all text");
    tx.log_change(&line)
}

/// Bytes as a change log writes them.
pub(crate) struct Escaped<'a>(pub(crate) &'a [u8]);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for &b in self.0 {
            if !(32..127).contains(&b) || b",%()\"\\".contains(&b) {
                write!(f, "%{b:02X}")?;
            } else {
                f.write_char(b as char)?;
            }
        }
        Ok(())
    }
}

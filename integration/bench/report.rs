//! Rows as text.

use std::fmt;

use crate::turns::{median, quantile};

/// What a row should reach.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// At least this share of the floor.
    Share(f64),
    /// At least this much, or this share of the floor if that is less.
    AtLeast(f64, f64),
    /// Less than this.
    Below(f64),
}

/// One measured thing beside its floor: values of the same turn stand in the same place.
pub(crate) struct Row {
    /// What was done, with the unit of the values.
    pub(crate) name: &'static str,
    /// Ours.
    pub(crate) ours: Vec<f64>,
    /// The floor's.
    pub(crate) floor: Vec<f64>,
    /// What to reach.
    pub(crate) target: Target,
    /// Further facts: what the floor is made of, CPU time.
    pub(crate) notes: Vec<String>,
}

impl Row {
    /// Does the median reach the target?
    pub(crate) fn passes(&self) -> bool {
        let ours = median(&self.ours);
        match self.target {
            Target::Share(share) => median(&self.ratios()) >= share,
            Target::AtLeast(most, share) => ours >= most || median(&self.ratios()) >= share,
            Target::Below(limit) => ours < limit,
        }
    }

    fn ratios(&self) -> Vec<f64> {
        self.ours.iter().zip(&self.floor).map(|(ours, floor)| ours / floor).collect()
    }

    fn verdict(&self) -> &'static str {
        if self.passes() { "PASS" } else { "MISS" }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ratios = self.ratios();
        writeln!(f, "{}   {}   target {}", self.name, self.verdict(), self.target)?;
        writeln!(f, "    cairn  {}", Spread(&self.ours))?;
        writeln!(f, "    floor  {}", Spread(&self.floor))?;
        let (low, high) = (quantile(&ratios, 0.25), quantile(&ratios, 0.75));
        writeln!(f, "    cairn / floor of the same turn  {:.2} [25-75 %: {low:.2} - {high:.2}]", median(&ratios))?;
        self.notes.iter().try_for_each(|note| writeln!(f, "    {note}"))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Share(share) => write!(f, ">= {share:.2} of the floor"),
            Target::AtLeast(most, share) => write!(f, ">= {}, or {share:.2} of the floor if less", Number(*most)),
            Target::Below(limit) => write!(f, "< {}", Number(*limit)),
        }
    }
}

/// Median and range.
pub(crate) struct Spread<'a>(pub(crate) &'a [f64]);

impl fmt::Display for Spread<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (least, most) = (Number(quantile(self.0, 0.0)), Number(quantile(self.0, 1.0)));
        write!(f, "{} [{least} - {most}]", Number(median(self.0)))
    }
}

/// A value with as many digits as it deserves.
pub(crate) struct Number(pub(crate) f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            v if v.abs() < 10.0 => write!(f, "{v:.3}"),
            v if v.abs() < 100.0 => write!(f, "{v:.1}"),
            v => write!(f, "{v:.0}"),
        }
    }
}

/// All rows as a table for a document.
pub(crate) fn summary(rows: &[Row]) -> String {
    let mut out = String::from("| row | cairn | floor | ratio | target | |\n|---|---|---|---|---|---|\n");
    for row in rows {
        let (ours, floor, ratio) = (Spread(&row.ours), Spread(&row.floor), median(&row.ratios()));
        let (name, target, verdict) = (row.name, row.target, row.verdict());
        out += &format!("| {name} | {ours} | {floor} | {ratio:.2} | {target} | {verdict} |\n");
    }
    let passed = rows.iter().filter(|row| row.passes()).count();
    out + &format!("\n{passed} of {} rows reach their target", rows.len())
}

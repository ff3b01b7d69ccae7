//! Tables of `+---+` lines, as the reference prints them.

/// A table with a head; the first column is aligned left, the others right.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |i: usize| {
        let cells = rows.iter().map(|r| r[i].chars().count());
        cells.chain([head[i].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let rule: String = widths.iter().map(|w| format!("+{}", "-".repeat(w + 2))).collect::<String>() + "+\n";
    let line = |cells: &[String]| {
        let cell = |(i, c): (usize, &String)| {
            let w = widths[i];
            if i == 0 { format!("| {c:<w$} ") } else { format!("| {c:>w$} ") }
        };
        cells.iter().enumerate().map(cell).collect::<String>() + "|\n"
    };
    let head: Vec<String> = head.iter().map(|h| (*h).to_owned()).collect();
    let body: String = rows.iter().map(|r| line(r)).collect();
    format!("{rule}{}{rule}{body}{rule}", line(&head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let shown = table(&["a", "size"], &[vec!["long".into(), "1".into()]]);
        assert_eq!(shown, "+------+------+\n| a    | size |\n+------+------+\n| long |    1 |\n+------+------+\n");
    }
}

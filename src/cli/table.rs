//! Tables of plain columns, as they are printed and cut by other programs.

use unicode_width::UnicodeWidthStr;

use cuttle::units::is_invisible;

/// One column: its title, and whether its values are numbers.
#[derive(Debug, Clone, Copy)]
pub enum Column {
    Text(&'static str),
    Number(&'static str),
}

/// Lays rows out under their titles; two spaces between columns, none at the end of a line.
pub fn table(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let titles = columns.iter().map(|column| match column {
        Column::Text(title) | Column::Number(title) => (*title).to_owned(),
    });
    let mut lines = vec![titles.collect::<Vec<_>>()];
    lines.extend(rows.into_iter().map(|row| row.iter().map(|cell| printable(cell)).collect()));
    let width =
        |at: usize| lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.width()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let shown = lines.iter().map(|line| {
        let mut text = String::new();
        for ((cell, column), width) in line.iter().zip(columns).zip(&widths) {
            let blank = " ".repeat(width - cell.width());
            match column {
                Column::Text(_) => text.extend([cell, blank.as_str(), "  "]),
                Column::Number(_) => text.extend([blank.as_str(), cell, "  "]),
            }
        }
        text.truncate(text.trim_end().len());
        text
    });
    shown.collect::<Vec<_>>().join("\n")
}

/// Names come from clusters and repositories: what would move the terminal's cursor, hide, or turn what is read around is
/// shown escaped.
pub fn printable(text: &str) -> String {
    match text.chars().any(|c| c.is_control() || is_invisible(c)) {
        true => text
            .chars()
            .map(|c| match is_invisible(c) {
                true => c.escape_unicode().to_string(),
                false => c.escape_debug().to_string(),
            })
            .collect(),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Column, printable, table};

    #[test]
    fn what_turns_text_around_is_escaped() {
        assert_eq!(printable("vms/été \"db\""), "vms/été \"db\"");
        assert_eq!(printable("a\u{202e}gpj.exe\u{2066}"), "a\\u{202e}gpj.exe\\u{2066}");
        assert_eq!(printable("a\u{200b}b\n"), "a\\u{200b}b\\n");
    }

    #[test]
    fn columns_line_up() {
        let columns = [Column::Text("NAME"), Column::Number("SIZE"), Column::Text("NOTE")];
        let rows = [["a", "1 B", "x"], ["long name", "12 GiB", ""], ["\x1b[2J", "0 B", "z"]];
        let shown = table(&columns, rows.map(|row| row.map(str::to_owned).to_vec()));
        let expected =
            "NAME         SIZE  NOTE\na             1 B  x\nlong name  12 GiB\n\\u{1b}[2J     0 B  z";
        assert_eq!(shown, expected);
    }
}

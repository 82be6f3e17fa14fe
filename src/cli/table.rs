//! Tables of plain columns, as they are printed and cut by other programs.

use comfy_table::{Cell, CellAlignment, Table, presets};

use cuttle::units::is_invisible;

/// One column: its title, and whether its values are numbers.
#[derive(Debug, Clone, Copy)]
pub enum Column {
    Text(&'static str),
    Number(&'static str),
}

/// Lays rows out under their titles; two spaces between columns, none at the end of a line.
pub fn table(columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let title = |column: &Column| match column {
        Column::Text(title) => Cell::new(title),
        Column::Number(title) => Cell::new(title).set_alignment(CellAlignment::Right),
    };
    table.set_header(columns.iter().map(title));
    for row in rows {
        let cell = |(value, column): (String, &Column)| match column {
            Column::Text(_) => Cell::new(printable(&value)),
            Column::Number(_) => Cell::new(value).set_alignment(CellAlignment::Right),
        };
        table.add_row(row.into_iter().zip(columns).map(cell));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
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

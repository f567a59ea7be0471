//! Columns that line up.

use std::fmt;

/// A column's title, and whether its cells are numbers, which end at the same place.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// What stands above.
    pub title: &'static str,
    /// Whether cells are set to the right.
    pub right: bool,
}

impl Column {
    /// A column of words.
    pub const fn left(title: &'static str) -> Self {
        Self {
            title,
            right: false,
        }
    }

    /// A column of numbers.
    pub const fn right(title: &'static str) -> Self {
        Self { title, right: true }
    }
}

/// Rows under titles.
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Without rows yet.
    pub fn new(columns: &[Column]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// One more row; empty cells become `-`.
    pub fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    fn width(&self, index: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(index));
        let widest = cells
            .map(|cell| cell.chars().count().max(1))
            .max()
            .unwrap_or(0);
        widest.max(
            self.columns
                .get(index)
                .map_or(0, |column| column.title.len()),
        )
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|index| self.width(index))
            .collect();
        let titles: Vec<String> = self.columns.iter().map(|c| c.title.to_owned()).collect();
        let mut lines = Vec::with_capacity(self.rows.len() + 1);
        for row in std::iter::once(&titles).chain(&self.rows) {
            let cells = row.iter().zip(self.columns.iter().zip(&widths));
            let cells = cells.map(|(cell, (column, width))| pad(cell, *width, column.right));
            lines.push(cells.collect::<Vec<_>>().join("  ").trim_end().to_owned());
        }
        f.write_str(&lines.join("\n"))
    }
}

/// A cell of this width.
pub fn pad(cell: &str, width: usize, right: bool) -> String {
    let cell = if cell.is_empty() { "-" } else { cell };
    if right {
        format!("{cell:>width$}")
    } else {
        format!("{cell:<width$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_tail() {
        let mut table = Table::new(&[
            Column::left("NAME"),
            Column::right("SIZE"),
            Column::left("AGE"),
        ]);
        table.push(vec!["v1".into(), "100 GiB".into(), String::new()]);
        table.push(vec!["volume-2".into(), "1 MiB".into(), "3m".into()]);
        let told = "NAME         SIZE  AGE\n\
                    v1        100 GiB  -\n\
                    volume-2    1 MiB  3m";
        assert_eq!(table.to_string(), told);
    }
}

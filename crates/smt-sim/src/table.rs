//! Tables of results: aligned text for people, Markdown for documents, JSON for programs.

use std::fmt::Write;

use serde_json::{Map, Value};

/// Named columns, and rows with a cell for each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Cell>>,
}

/// One entry of a table.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Words, aligned left.
    Text(String),
    /// A count, aligned right; thousands apart in text, plain in JSON.
    Count(u64),
    /// A number, aligned right, shown with this many digits after the point; whole in JSON.
    Number(f64, usize),
    /// Nothing was measured: a dash, or null.
    None,
}

impl Table {
    /// A table with these columns and no rows yet.
    pub fn new<C: Into<String>>(columns: impl IntoIterator<Item = C>) -> Self {
        Table { columns: columns.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    /// Adds a row. It is cut, or filled with empty cells, to the number of columns.
    pub fn row<C: Into<Cell>>(&mut self, cells: impl IntoIterator<Item = C>) {
        let mut row: Vec<Cell> = cells.into_iter().map(Into::into).collect();
        row.resize(self.columns.len(), Cell::None);
        self.rows.push(row);
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table with rows and columns exchanged: its first column becomes the head.
    pub fn transposed(&self) -> Table {
        let mut head = self.columns.iter().take(1).cloned().collect::<Vec<String>>();
        head.extend(self.rows.iter().map(|row| row.first().map(Cell::show).unwrap_or_default()));
        let mut table = Table::new(head);
        for (i, name) in self.columns.iter().enumerate().skip(1) {
            let cells = self.rows.iter().map(|row| row.get(i).cloned().unwrap_or(Cell::None));
            table.row([Cell::from(name.as_str())].into_iter().chain(cells));
        }
        table
    }

    /// The table with only the columns whose names are `wanted`.
    pub fn only(&self, wanted: impl Fn(&str) -> bool) -> Table {
        let kept: Vec<usize> =
            (0..).zip(&self.columns).filter(|(_, name)| wanted(name)).map(|(i, _)| i).collect();
        let pick = |row: &Vec<Cell>| kept.iter().filter_map(|&i| row.get(i).cloned()).collect();
        Table {
            columns: kept.iter().filter_map(|&i| self.columns.get(i).cloned()).collect(),
            rows: self.rows.iter().map(pick).collect(),
        }
    }

    /// Lines of text in which the columns stand one below the other, with a head.
    pub fn text(&self) -> String {
        let widths = self.widths(3);
        let mut out = String::new();
        self.line(&mut out, &widths, "  ", |i| self.columns.get(i).cloned().unwrap_or_default());
        let rules: Vec<String> = widths.iter().map(|&width| "-".repeat(width)).collect();
        out.push_str(&rules.join("  "));
        out.push('\n');
        for row in &self.rows {
            self.line(&mut out, &widths, "  ", |i| row.get(i).map(Cell::show).unwrap_or_default());
        }
        out
    }

    /// A table in Markdown, whose source is aligned too.
    pub fn markdown(&self) -> String {
        let widths = self.widths(3);
        let mut out = String::new();
        let framed = |out: &mut String, cell: &dyn Fn(usize) -> String| {
            out.push_str("| ");
            let mut line = String::new();
            self.line(&mut line, &widths, " | ", cell);
            let used = line.trim_end().chars().count();
            let whole = widths.iter().sum::<usize>() + 3 * widths.len().saturating_sub(1);
            let _ = writeln!(out, "{}{} |", line.trim_end(), " ".repeat(whole - used.min(whole)));
        };
        framed(&mut out, &|i| self.columns.get(i).map(|c| escape(c)).unwrap_or_default());
        for (i, &width) in widths.iter().enumerate() {
            let right = self.is_numeric(i);
            let _ = write!(out, "| {}{} ", "-".repeat(width - 1), if right { ':' } else { '-' });
        }
        out.push_str("|\n");
        for row in &self.rows {
            framed(&mut out, &|i| row.get(i).map(|c| escape(&c.show())).unwrap_or_default());
        }
        out
    }

    /// An array with an object for each row, keyed by the names of the columns.
    pub fn json(&self) -> Value {
        let object = |row: &Vec<Cell>| {
            let cells = self.columns.iter().cloned().zip(row.iter().map(Cell::json));
            Value::Object(cells.collect::<Map<String, Value>>())
        };
        Value::Array(self.rows.iter().map(object).collect())
    }

    /// The characters each column needs, and at least `least`.
    fn widths(&self, least: usize) -> Vec<usize> {
        let mut widths: Vec<usize> =
            self.columns.iter().map(|c| escape(c).chars().count().max(least)).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(escape(&cell.show()).chars().count());
            }
        }
        widths
    }

    /// One line: each column's cell, filled up to its width on the proper side.
    fn line(
        &self,
        out: &mut String,
        widths: &[usize],
        between: &str,
        cell: impl Fn(usize) -> String,
    ) {
        let mut line = String::new();
        for (i, &width) in widths.iter().enumerate() {
            let shown = cell(i);
            let gap = " ".repeat(width.saturating_sub(shown.chars().count()));
            let (left, right) =
                if self.is_numeric(i) { (gap, String::new()) } else { (String::new(), gap) };
            let _ = write!(line, "{}{left}{shown}{right}", if i == 0 { "" } else { between });
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }

    /// Whether a column holds numbers, which are aligned right.
    fn is_numeric(&self, column: usize) -> bool {
        let mut cells = self.rows.iter().filter_map(|row| row.get(column));
        !self.rows.is_empty() && cells.all(|cell| !matches!(cell, Cell::Text(_)))
    }
}

impl Cell {
    fn show(&self) -> String {
        match self {
            Cell::Text(text) => text.clone(),
            Cell::Count(count) => thousands(*count),
            Cell::Number(number, digits) if number.is_finite() => format!("{number:.digits$}"),
            Cell::Number(..) | Cell::None => "-".to_owned(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Cell::Text(text) => Value::from(text.as_str()),
            Cell::Count(count) => Value::from(*count),
            Cell::Number(number, _) => Value::from(*number),
            Cell::None => Value::Null,
        }
    }
}

/// 1234567 as "1,234,567".
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A bar would end the cell of a Markdown table.
fn escape(text: &str) -> String {
    text.replace('|', "\\|")
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Cell::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Cell::Text(text)
    }
}

impl From<u64> for Cell {
    fn from(count: u64) -> Self {
        Cell::Count(count)
    }
}

impl From<u32> for Cell {
    fn from(count: u32) -> Self {
        Cell::Count(count.into())
    }
}

/// Shown with two digits after the point.
impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        Cell::Number(number, 2)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(cell: Option<T>) -> Self {
        cell.map_or(Cell::None, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(["who", "packets", "slowdown"]);
        table.row([Cell::from("smt"), 1_234_567u64.into(), 2.345.into()]);
        table.row([Cell::from("a|b"), 12u64.into(), Cell::None]);
        table.row([Cell::from("cut short")]);
        table
    }

    #[test]
    fn text_is_aligned() {
        let expected = "\
who          packets  slowdown
---------  ---------  --------
smt        1,234,567      2.35
a|b               12         -
cut short          -         -
";
        assert_eq!(table().text(), expected.replace("2.35", &format!("{:.2}", 2.345)));
    }

    #[test]
    fn markdown_is_aligned_and_escaped() {
        let markdown = table().markdown();
        let lines: Vec<&str> = markdown.lines().collect();
        assert_eq!(lines[0], "| who       |   packets | slowdown |");
        assert_eq!(lines[1], "| --------- | --------: | -------: |");
        assert_eq!(lines[3], "| a\\|b      |        12 |        - |");
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{markdown}");
    }

    #[test]
    fn json_keeps_numbers_whole() {
        let json = table().json();
        assert_eq!(json[0]["packets"], 1_234_567);
        assert_eq!(json[0]["slowdown"], 2.345);
        assert!(json[1]["slowdown"].is_null());
        assert_eq!(json[1]["who"], "a|b");
    }

    #[test]
    fn columns_become_rows_or_are_left_out() {
        let mut table = table();
        table.rows[0][2] = 1.5.into();
        let turned = table.transposed();
        assert_eq!(turned.columns, ["who", "smt", "a|b", "cut short"]);
        assert_eq!(turned.json()[0]["who"], "packets");
        assert_eq!(turned.json()[1]["smt"], 1.5);
        assert!(turned.json()[0]["cut short"].is_null());
        assert_eq!(table.only(|name| name != "packets").json()[0]["slowdown"], 1.5);
        assert_eq!(table.only(|name| name == "who").columns, ["who"]);
    }

    #[test]
    fn an_empty_table_is_a_head() {
        let table = Table::new(["a", "b"]);
        assert!(table.is_empty());
        assert_eq!(table.markdown(), "| a   | b   |\n| --- | --- |\n");
        assert_eq!(table.text(), "a    b\n---  ---\n");
        assert_eq!(table.json(), Value::Array(Vec::new()));
    }
}

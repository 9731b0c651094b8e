//! A document as a list of blocks, written as Markdown or as one HTML page.

use std::fmt::Write as _;

/// A part of a document.
#[derive(Debug, Clone)]
pub enum Block {
    /// A heading, 1 the highest.
    Heading(u8, String),
    /// A paragraph, in which `code` is marked as in Markdown.
    Text(String),
    /// Items.
    List(Vec<String>),
    /// A command or its like.
    Code(String),
    /// A table.
    Table(Table),
    /// A drawing: what it shows, the name of its file without the end, the drawing.
    Plot(String, String, String),
}

/// A table with a heading for each column.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// The headings.
    pub columns: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<Cell>>,
}

/// A cell of a table.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    /// What is read.
    pub text: String,
    /// What programs read, by name.
    pub data: Vec<(&'static str, String)>,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Cell {
        Cell { text: text.to_owned(), data: Vec::new() }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Cell {
        Cell { text, data: Vec::new() }
    }
}

/// Columns of running text in Markdown.
const WIDTH: usize = 120;

/// As Markdown, with drawings in files of `plots`, a path as seen from the document.
pub fn markdown(blocks: &[Block], plots: &str) -> String {
    let mut text = String::new();
    for block in blocks {
        match block {
            Block::Heading(level, heading) => {
                let _ = writeln!(text, "{} {heading}", "#".repeat(usize::from(*level)));
            }
            Block::Text(paragraph) => text.push_str(&wrapped(paragraph, "", "")),
            Block::List(items) => {
                items.iter().for_each(|item| text.push_str(&wrapped(item, "- ", "  ")));
            }
            Block::Code(code) => {
                let _ = writeln!(text, "```\n{code}\n```");
            }
            Block::Table(table) => {
                let _ = writeln!(text, "| {} |", table.columns.join(" | "));
                let _ = writeln!(text, "|{}", "---|".repeat(table.columns.len()));
                for row in &table.rows {
                    let cells: Vec<&str> = row.iter().map(|cell| cell.text.as_str()).collect();
                    let _ = writeln!(text, "| {} |", cells.join(" | "));
                }
            }
            Block::Plot(shows, name, _) => {
                let _ = writeln!(text, "![{shows}]({plots}/{name}.svg)");
            }
        }
        text.push('\n');
    }
    let end = text.trim_end().len();
    text.truncate(end);
    text.push('\n');
    text
}

/// Text in lines of at most [`WIDTH`] columns, the first behind `first`, others behind `other`.
fn wrapped(text: &str, first: &str, other: &str) -> String {
    let mut lines = String::new();
    let mut line = first.to_owned();
    let mut is_empty = true;
    for word in text.split_whitespace() {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            line = other.to_owned();
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    lines + &line + "\n"
}

const STYLE: &str = "\
body{font:16px/1.5 sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;color:#222}\
table{border-collapse:collapse;display:block;overflow-x:auto;margin:1rem 0}\
th,td{border:1px solid #ccc;padding:.2rem .6rem;text-align:right;white-space:nowrap}\
th:first-child,td:first-child{text-align:left}\
tr:nth-child(even){background:#f6f6f6}\
pre{background:#f2f2f2;padding:.6rem;overflow-x:auto}\
figure{margin:1rem 0}svg{max-width:100%;height:auto}";

/// As one HTML page that needs nothing else.
pub fn html(title: &str, blocks: &[Block]) -> String {
    let title = escaped(title);
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<style>{STYLE}</style>\n</head>\n<body>\n"
    );
    for block in blocks {
        match block {
            Block::Heading(level, heading) => {
                let _ = writeln!(text, "<h{level}>{}</h{level}>", inline(heading));
            }
            Block::Text(paragraph) => {
                let _ = writeln!(text, "<p>{}</p>", inline(paragraph));
            }
            Block::List(items) => {
                text.push_str("<ul>\n");
                for item in items {
                    let _ = writeln!(text, "<li>{}</li>", inline(item));
                }
                text.push_str("</ul>\n");
            }
            Block::Code(code) => {
                let _ = writeln!(text, "<pre>{}</pre>", escaped(code));
            }
            Block::Table(table) => html_table(table, &mut text),
            Block::Plot(shows, name, svg) => {
                let shows = inline(shows);
                let _ = writeln!(
                    text,
                    "<figure id=\"{name}\">\n{svg}<figcaption>{shows}</figcaption>\n</figure>"
                );
            }
        }
    }
    text.push_str("</body>\n</html>\n");
    text
}

fn html_table(table: &Table, text: &mut String) {
    text.push_str("<table>\n<tr>");
    for column in &table.columns {
        let _ = write!(text, "<th>{}</th>", inline(column));
    }
    text.push_str("</tr>\n");
    for row in &table.rows {
        text.push_str("<tr>");
        for cell in row {
            text.push_str("<td");
            for (name, value) in &cell.data {
                let _ = write!(text, " data-{name}=\"{}\"", escaped(value));
            }
            let _ = write!(text, ">{}</td>", inline(&cell.text));
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</table>\n");
}

/// Text with what stands between back quotes as code.
fn inline(text: &str) -> String {
    let parts = text.split('`').enumerate().map(|(index, part)| match index % 2 {
        0 => escaped(part),
        _ => format!("<code>{}</code>", escaped(part)),
    });
    parts.collect()
}

/// Text with what HTML and SVG read as marks written as characters.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks() -> Vec<Block> {
        let cell = Cell { text: "5.4 `us`".to_owned(), data: vec![("value", "5400".to_owned())] };
        vec![
            Block::Heading(1, "A <b>".to_owned()),
            Block::Text("word ".repeat(50)),
            Block::List(vec!["one".to_owned()]),
            Block::Code("a < b".to_owned()),
            Block::Table(Table { columns: vec!["x".to_owned()], rows: vec![vec![cell]] }),
            Block::Plot("shows".to_owned(), "name".to_owned(), "<svg></svg>\n".to_owned()),
        ]
    }

    #[test]
    fn markdown_is_wrapped_and_leads_to_plots() {
        let text = markdown(&blocks(), "plots");
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert!(text.contains("| 5.4 `us` |") && text.ends_with("![shows](plots/name.svg)\n"));
    }

    #[test]
    fn html_is_escaped_and_has_the_plots() {
        let text = html("t", &blocks());
        assert!(text.contains("<h1>A &lt;b&gt;</h1>") && text.contains("<pre>a &lt; b</pre>"));
        assert!(text.contains("<td data-value=\"5400\">5.4 <code>us</code></td>"));
        assert!(text.contains("<figure id=\"name\">\n<svg></svg>"));
    }
}

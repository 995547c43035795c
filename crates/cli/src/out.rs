//! Output: tables, colours where a terminal shows them, and no complaint when the reader is gone.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Prints text; a closed pipe ends the program quietly.
pub fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

/// Prints a value as JSON.
pub fn json<T: Serialize>(value: &T) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// A colour or a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As it is.
    Plain,
    /// Headings.
    Bold,
    /// What matters less.
    Dim,
    /// As it should be.
    Good,
    /// As it should not be.
    Bad,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "\x1b[1m",
            Self::Dim => "\x1b[2m",
            Self::Good => "\x1b[32m",
            Self::Bad => "\x1b[1;31m",
        }
    }
}

/// A number for people: `64,000`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Whether standard output shows colours: a terminal, and nobody said no (<https://no-color.org>).
pub fn colours() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Text in a style, if colours are shown.
pub fn paint(style: Style, text: &str, colours: bool) -> String {
    if colours && style != Style::Plain { format!("{}{text}\x1b[0m", style.code()) } else { text.to_owned() }
}

/// A table: columns as wide as they must be, two spaces between them.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: Vec<Vec<(Style, String)>>,
}

impl Table {
    /// A table with headings.
    pub fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|heading| (Style::Bold, (*heading).to_owned())).collect()] }
    }

    /// A table without headings.
    pub fn bare() -> Self {
        Self::default()
    }

    /// Adds a row.
    pub fn row(&mut self, cells: impl IntoIterator<Item = (Style, String)>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table as text.
    pub fn render(&self, indent: usize, colours: bool) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|(_, text)| text.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            text.push_str(&" ".repeat(indent));
            for (column, (style, cell)) in row.iter().enumerate() {
                text.push_str(&paint(*style, cell, colours));
                if column + 1 < row.len() {
                    let width = widths.get(column).copied().unwrap_or(0);
                    text.push_str(&" ".repeat(width - cell.chars().count() + 2));
                }
            }
            let end = text.trim_end_matches(' ').len();
            text.truncate(end);
            text.push('\n');
        }
        text
    }
}

/// A plain cell.
pub fn cell(text: impl Into<String>) -> (Style, String) {
    (Style::Plain, text.into())
}

#[cfg(test)]
mod tests {
    //! Must catch: columns that do not line up, or escape codes where nobody asked for them.

    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 64_000, 1_048_576].map(count), ["0", "999", "1,000", "64,000", "1,048,576"]);
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["A", "LONG"]);
        table.row([cell("wide"), (Style::Good, "ok".to_owned())]);
        assert_eq!(table.render(1, false), " A     LONG\n wide  ok\n");
        assert_eq!(table.render(0, true), "\x1b[1mA\x1b[0m     \x1b[1mLONG\x1b[0m\nwide  \x1b[32mok\x1b[0m\n");
    }
}

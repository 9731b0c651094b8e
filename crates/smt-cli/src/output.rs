//! What the program says: to people as text, to programs as one JSON object per line.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use serde_json::Value;

/// Standard output, for people or for programs.
#[derive(Clone, Copy, Debug)]
pub struct Printer {
    json: bool,
    colour: bool,
}

impl Printer {
    /// JSON lines if `json`, otherwise text; with colours on a terminal, unless `NO_COLOR` is set.
    pub fn new(json: bool) -> Printer {
        Printer { json, colour: !json && has_colours(&io::stdout()) }
    }

    /// Whether programs read it.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Says one thing, in the form that is read; `text` may be empty for what only programs want.
    ///
    /// # Errors
    /// Nobody reads any more, or the disk is full.
    pub fn say(&self, text: impl Display, object: &Value) -> io::Result<()> {
        if self.json { self.object(object) } else { self.text(text) }
    }

    /// A line for people alone; an empty text says nothing.
    ///
    /// # Errors
    /// As [`say`](Self::say).
    pub fn text(&self, text: impl Display) -> io::Result<()> {
        let text = text.to_string();
        if self.json || text.is_empty() {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()
    }

    /// A line for programs alone.
    ///
    /// # Errors
    /// As [`say`](Self::say).
    pub fn object(&self, object: &Value) -> io::Result<()> {
        if !self.json {
            return Ok(());
        }
        let mut out = io::stdout().lock();
        writeln!(out, "{object}")?;
        out.flush()
    }

    /// `text` as something that went well.
    pub fn good(&self, text: impl Display) -> String {
        self.paint("32", text)
    }

    /// `text` as something that went wrong.
    pub fn bad(&self, text: impl Display) -> String {
        self.paint("31", text)
    }

    /// `text` as a heading.
    pub fn bold(&self, text: impl Display) -> String {
        self.paint("1", text)
    }

    /// `text` as a remark.
    pub fn dim(&self, text: impl Display) -> String {
        self.paint("2", text)
    }

    fn paint(&self, code: &str, text: impl Display) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// Whether `stream` is a terminal, and `NO_COLOR` is not set.
pub fn has_colours(stream: &impl IsTerminal) -> bool {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    wanted && stream.is_terminal()
}

/// A time in nanoseconds, to three digits or so, in the unit that suits it.
pub fn time(ns: u64) -> String {
    let ns = ns as f64;
    if ns < 1e3 {
        format!("{ns:.0} ns")
    } else if ns < 1e6 {
        format!("{:.1} us", ns / 1e3)
    } else if ns < 1e9 {
        format!("{:.2} ms", ns / 1e6)
    } else {
        format!("{:.2} s", ns / 1e9)
    }
}

/// A duration as [`time`] writes it.
pub fn duration(duration: Duration) -> String {
    time(nanoseconds(duration))
}

/// A duration in nanoseconds, for JSON.
pub fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A number of bytes in decimal units, as networks count.
pub fn bytes(bytes: u64) -> String {
    let amount = bytes as f64;
    if amount < 1e3 {
        format!("{bytes} B")
    } else if amount < 1e6 {
        format!("{:.1} KB", amount / 1e3)
    } else if amount < 1e9 {
        format!("{:.1} MB", amount / 1e6)
    } else {
        format!("{:.1} GB", amount / 1e9)
    }
}

/// A number with its thousands set apart: 10,000.
pub fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things: 1 session, 2 sessions.
pub fn counted(count: u64, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", number(count))
}

/// Bytes in hexadecimal, without blanks.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_suit_their_amounts() {
        assert_eq!(
            [7, 1_500, 2_340_000, 12_000_000_000].map(time),
            ["7 ns", "1.5 us", "2.34 ms", "12.00 s"]
        );
        assert_eq!([12, 1_500, 50_000_000].map(bytes), ["12 B", "1.5 KB", "50.0 MB"]);
        assert_eq!([0, 999, 1_000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1, 2000].map(|n| counted(n, "RPC")), ["0 RPCs", "1 RPC", "2,000 RPCs"]);
        assert_eq!(hex(&[0, 255]), "00ff");
    }

    #[test]
    fn nothing_is_painted_for_programs() {
        assert_eq!(Printer::new(true).good("ok"), "ok");
    }
}

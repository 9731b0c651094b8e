//! What commands write: results to standard output, remarks to standard error.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};

/// Characters of a line that every terminal shows.
pub const WIDTH: usize = 80;

/// Writes to standard output. That nobody reads any more is no error: whoever did has seen enough,
/// and the exit status still says what came of the run.
///
/// # Errors
/// Standard output cannot be written, say because a disk is full.
pub fn print(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let written = write!(out, "{text}").and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(io::Error::new(error.kind(), format!("standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Writes a line to standard error; if that fails there is nobody left to tell.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A sentence as lines that every terminal shows, all but the first indented.
pub fn wrapped(sentence: &str) -> String {
    let mut out = String::new();
    let mut used = 0;
    for word in sentence.split(' ') {
        let len = word.chars().count();
        if used > 0 && used + 1 + len > WIDTH {
            out.push_str("\n ");
            used = 1;
        }
        if used > 0 {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += len;
    }
    out + "\n"
}

/// A name and its value as a line of a list.
pub fn line(name: &str, value: impl Display) -> String {
    format!("{name:<28}{:>16}\n", value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_wrapped_between_words() {
        assert_eq!(wrapped("short"), "short\n");
        let long = wrapped(&"seven77 ".repeat(30));
        assert!(long.lines().all(|line| line.chars().count() <= WIDTH), "{long}");
        assert!(long.lines().skip(1).all(|line| line.starts_with("  seven77")), "{long}");
    }
}

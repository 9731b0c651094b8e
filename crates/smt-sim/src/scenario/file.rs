//! Scenarios as TOML files.

use std::fmt;

use toml::de::{DeTable, DeValue};

use super::{Invalid, Scenario};

/// Why a file holds no scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileError {
    /// It is no TOML, or a field is unknown, missing or out of bounds. Says line, column and field.
    Syntax(String),
    /// Its fields contradict each other, or a value makes no sense.
    Invalid {
        /// The line in which the field, or what it belongs to, begins; counted from 1.
        line: usize,
        /// The field.
        what: Invalid,
    },
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileError::Syntax(what) => f.write_str(what.trim_end()),
            FileError::Invalid { line, what } => write!(f, "line {line}: {what}"),
        }
    }
}

impl std::error::Error for FileError {}

impl Scenario {
    /// Reads a scenario from the text of a file.
    ///
    /// # Errors
    /// [`FileError`], which tells the place and the field.
    pub fn from_toml(text: &str) -> Result<Scenario, FileError> {
        let scenario: Scenario =
            toml::from_str(text).map_err(|error| FileError::Syntax(error.to_string()))?;
        match scenario.validate() {
            Ok(()) => Ok(scenario),
            Err(what) => Err(FileError::Invalid { line: line_of(text, &what.field), what }),
        }
    }

    /// The text of a file that holds this scenario.
    ///
    /// # Errors
    /// What TOML cannot hold: numbers of 2^63 and more.
    pub fn to_toml(&self) -> Result<String, String> {
        toml::to_string(self).map_err(|error| error.to_string())
    }
}

/// The line of a field by its path, as `hosts` or `faults[2].fault.p`; if the file lacks it, that of
/// what it would belong to. The text is known to be TOML.
fn line_of(text: &str, path: &str) -> usize {
    let Ok(table) = DeTable::parse(text) else { return 1 };
    let mut table = table.get_ref();
    let mut start = 0;
    for step in path.split('.') {
        let (name, index) = match step.split_once('[') {
            Some((name, index)) => (name, index.trim_end_matches(']').parse::<usize>().ok()),
            None => (step, None),
        };
        let Some((key, mut value)) = table.iter().find(|(key, _)| key.get_ref() == name) else {
            break;
        };
        start = key.span().start;
        if let (Some(index), DeValue::Array(array)) = (index, value.get_ref())
            && let Some(item) = array.get(index)
        {
            start = item.span().start;
            value = item;
        }
        let DeValue::Table(inner) = value.get_ref() else { break };
        table = inner;
    }
    text.bytes().take(start).filter(|&byte| byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::fault::Fault;

    fn text() -> String {
        Scenario::draw(1).to_toml().unwrap()
    }

    fn error(text: &str) -> String {
        Scenario::from_toml(text).unwrap_err().to_string()
    }

    /// The line of the first line that begins so, from 1.
    fn line_of(text: &str, start: &str) -> usize {
        text.lines().position(|line| line.starts_with(start)).unwrap() + 1
    }

    /// The text with the value of the first field of this name replaced.
    fn with(text: &str, field: &str, value: &str) -> String {
        let line = line_of(text, &format!("{field} = "));
        let lines = text.lines().enumerate().map(|(n, old)| match n + 1 == line {
            true => format!("{field} = {value}\n"),
            false => format!("{old}\n"),
        });
        lines.collect()
    }

    #[test]
    fn what_a_seed_draws_survives_a_file() {
        for seed in 0..300 {
            let scenario = Scenario::draw(seed);
            let text = scenario.to_toml().unwrap();
            assert_eq!(Scenario::from_toml(&text).unwrap(), scenario, "seed {seed}");
        }
    }

    #[test]
    fn values_out_of_bounds_are_told_with_line_and_field() {
        for (field, value, bounds) in [
            ("room", "9001", "200..=9000"),
            ("id_bits", "39", "40..=56"),
            ("burst", "0", "1..=10000"),
            ("shards", "3", "1, 2, 4, 8, 16, 32, 64"),
            ("lanes", "128", "1, 2, 4, 8, 16, 32, 64"),
        ] {
            let text = with(&text(), field, value);
            let line = line_of(&text, &format!("{field} = "));
            let error = error(&text);
            assert!(error.contains(&format!("line {line},")), "{error}");
            assert!(error.contains(&format!("{field} = {value}")), "{error}");
            assert!(error.contains(&format!("{value} is not one of {bounds}")), "{error}");
        }
        for value in ["-1", "\"many\"", "1.5"] {
            let error = error(&with(&text(), "room", value));
            assert!(error.contains(&format!("room = {value}")), "{error}");
        }
    }

    #[test]
    fn unknown_fields_and_broken_syntax_are_told_with_their_line() {
        let text = text();
        let line = line_of(&text, "[workload]");
        let unknown = text.replace("[workload]\n", "[workload]\nhaste = 1\n");
        let message = error(&unknown);
        assert!(message.contains(&format!("line {},", line + 1)), "{message}");
        assert!(message.contains("haste"), "{message}");
        let broken = text.replace("[workload]\n", "[workload\n");
        assert!(error(&broken).contains(&format!("line {line},")));
        assert!(error("seed = 1").contains("missing field"));
    }

    #[test]
    fn fields_that_contradict_each_other_are_named() {
        let mut scenario = Scenario::draw(1);
        scenario.workload.medium_share = 1.5;
        let text = scenario.to_toml().unwrap();
        let line = line_of(&text, "medium_share = ");
        let expected = format!("line {line}: workload.medium_share: 1.5 is not one of 0..=1");
        assert_eq!(error(&text), expected);
        let mut scenario = Scenario::draw(1);
        scenario.hosts.truncate(1);
        let text = scenario.to_toml().unwrap();
        let line = line_of(&text, "[[hosts]]");
        assert_eq!(error(&text), format!("line {line}: hosts: 1 hosts; at least 2 are needed"));
    }

    #[test]
    fn networks_and_faults_that_cannot_be_are_told_with_their_line() {
        for (field, value) in [
            ("link_gbps", "0.0"),
            ("link_gbps", "nan"),
            ("priorities", "9"),
            ("hosts", "4294967295"),
        ] {
            let text = with(&text(), field, value);
            let message = error(&text);
            assert!(message.starts_with("line ") && message.contains("net."), "{message}");
        }
        let mut scenario = Scenario::draw(1);
        scenario.faults = vec![Fault::Loss { p: 0.1 }.into(), Fault::Loss { p: 7.0 }.into()];
        let text = scenario.to_toml().unwrap();
        let message = error(&text);
        let second = text.match_indices("[[faults]]").nth(1).unwrap().0;
        let line = text[..second].lines().count() + 1;
        assert!(message.contains("faults[1].fault: 7 is no probability"), "{message}");
        let told: usize = message[5..message.find(':').unwrap()].parse().unwrap();
        assert!(told >= line && told <= line + 6, "{message}, {line}");
    }
}

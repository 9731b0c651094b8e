//! The datapaths as the command line names them: the one list that every option goes by.

use clap::ValueEnum;
use smt::DatapathKind;

/// A datapath on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
#[allow(missing_docs, reason = "the option's help says it")]
pub enum DatapathChoice {
    #[default]
    Raw,
    Packet,
    Xdp,
    Udp,
    Auto,
}

impl DatapathChoice {
    /// All but the one that chooses among them.
    pub const NAMED: [DatapathChoice; 4] =
        [DatapathChoice::Raw, DatapathChoice::Packet, DatapathChoice::Xdp, DatapathChoice::Udp];

    /// The datapath.
    pub fn kind(self) -> DatapathKind {
        match self {
            DatapathChoice::Raw => DatapathKind::Raw,
            DatapathChoice::Packet => DatapathKind::Packet,
            DatapathChoice::Xdp => DatapathKind::Xdp,
            DatapathChoice::Udp => DatapathKind::Udp,
            DatapathChoice::Auto => DatapathKind::Auto { allow_xdp: false },
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

//! What the demonstration and the processes on its two hosts tell each other: JSON lines on standard input and
//! output.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a process on a host is: the first line it reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) part: Part,
    /// The server's address and port, for SMT and TCP alike.
    pub(super) server: SocketAddr,
    /// The authority's certificate and key, in PEM: each process issues itself a certificate in memory.
    pub(super) authority: [String; 2],
    /// Busy-polls if true, else sleeps.
    pub(super) spin: bool,
    /// Stays on this core once the session is there.
    pub(super) core: Option<usize>,
    /// The part of its own packets that it drops.
    pub(super) loss: f64,
    /// Where to write its packets.
    pub(super) capture: Option<PathBuf>,
}

/// What a process is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Part {
    /// Takes the session; answers, and calls when told to.
    Server,
    /// Makes the session; answers, and calls when told to.
    Client,
    /// Does nothing but echo, as fast as it can.
    EchoServer(Transport),
    /// Measures round trips.
    EchoClient(Transport),
    /// Makes one session after the other, each for one RPC.
    FirstRpcs,
}

/// How a session begins whose first RPC is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Beginning {
    /// With a full handshake.
    Full,
    /// TLS resumes the session before.
    Resumed,
    /// The RPC leaves with the first packet, on a ticket.
    Early,
}

impl Beginning {
    pub(super) const ALL: [Beginning; 3] = [Beginning::Full, Beginning::Resumed, Beginning::Early];

    /// Its name in JSON.
    pub(super) fn tag(self) -> &'static str {
        match self {
            Beginning::Full => "full",
            Beginning::Resumed => "resumed",
            Beginning::Early => "early",
        }
    }
}

/// What is measured side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Transport {
    Smt,
    Tcp,
    Tls,
}

impl Transport {
    pub(super) const ALL: [Transport; 3] = [Transport::Smt, Transport::Tcp, Transport::Tls];

    /// Its name in JSON.
    pub(super) fn tag(self) -> &'static str {
        match self {
            Transport::Smt => "smt",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
        }
    }
}

/// What a process is to do next.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Task {
    /// Make so many calls with random bodies, and compare every response; update the keys whenever so many
    /// are done.
    Rpcs { count: u64, seed: u64, update_after: Option<u64> },
    /// Send one message of so many random bytes; the answer is its SHA-256.
    Bulk { bytes: usize, seed: u64 },
    /// Send this text.
    Say { text: String },
    /// Tell the counters.
    Count,
    /// Measure so many round trips, after others that are not measured.
    Measure { size: usize, warmup: usize, count: usize },
    /// Measure so many first RPCs of each kind of session, taking turns.
    FirstRpcs { count: usize },
}

/// What a process says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Report {
    /// The server can be reached.
    Ready,
    /// The session works.
    Connected { handshake_ns: u64, suite: String },
    /// So many calls, or bytes, are done.
    Progress { done: u64 },
    /// The calls are done, and every response was right.
    Rpcs { count: u64, bytes: u64, ns: u64 },
    /// The message arrived whole.
    Bulk { sha256: String, ns: u64 },
    /// The text's echo was right.
    Said,
    /// Counters of packets, those dropped on purpose included among the sent ones.
    Counters { sent: u64, received: u64, again: u64, key_updates: u64 },
    /// Round trips in nanoseconds.
    Times { ns: Vec<u64> },
    /// The time from the begin of a session to its first response, in nanoseconds.
    FirstRpc { beginning: Beginning, ns: u64 },
    /// It cannot go on.
    Failed { why: String },
}

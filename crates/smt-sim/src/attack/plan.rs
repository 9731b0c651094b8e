//! Which attackers a run has.

use serde::{Deserialize, Serialize};

use super::{Change, OffPath, OnPath, Tally, What};
use crate::packet::HostId;
use crate::rng::Rng;
use crate::tap::Tap;

/// The attackers of a run. The default has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// When all of them stop, in microseconds: nothing of theirs is sent after it.
    pub until_us: u64,
    /// The port servers listen at.
    pub server_port: u16,
    /// The first port of clients; they count up from it.
    pub client_port: u16,
    /// Those between the hosts; the first sees packets first.
    pub on_path: Vec<OnPathPlan>,
    /// Those with a host of their own.
    pub off_path: Vec<OffPathPlan>,
}

/// An attacker between the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OnPathPlan {
    /// Tells its randomness from that of the others, whichever of them there are.
    pub salt: u32,
    /// The most packets it adds.
    pub max_packets: u32,
    /// What it does.
    pub act: Act,
}

/// An attacker with a host of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OffPathPlan {
    /// Tells its randomness from that of the others, whichever of them there are.
    pub salt: u32,
    /// The most packets it sends.
    pub max_packets: u32,
    /// How many it sends per millisecond on average; answers to what it receives come on top.
    pub per_ms: u32,
    /// What it sends.
    pub spoof: Spoof,
}

/// What an attacker between the hosts does to genuine packets as they pass. `permille` is how many
/// of a thousand packets it strikes, of those that are `what` it looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// Drops packets for a while.
    Drop {
        /// Which.
        what: What,
        /// How many of a thousand.
        permille: u32,
        /// From when on, in microseconds.
        from_us: u64,
        /// Until when, in microseconds.
        to_us: u64,
    },
    /// Holds packets back, each for a time of its own, so that others overtake them.
    Hold {
        /// Which.
        what: What,
        /// How many of a thousand.
        permille: u32,
        /// The longest time, in microseconds.
        up_to_us: u64,
    },
    /// Cuts the whole payload off DATA packets, as any switch may.
    Trim {
        /// How many of a thousand.
        permille: u32,
    },
    /// Rewrites the bytes that belong to NICs (flags and checksum), which endpoints must ignore.
    Rewrite {
        /// How many of a thousand.
        permille: u32,
    },
    /// Sends packets again, soon.
    Repeat {
        /// Which.
        what: What,
        /// How many of a thousand.
        permille: u32,
        /// How often each.
        copies: u32,
        /// The longest time until a copy follows, in microseconds; 0 for at once.
        up_to_us: u64,
    },
    /// Remembers packets, a fair sample of all there were, and sends them again much later, one
    /// each such time on average (microseconds), whether there is other traffic or not.
    Recall {
        /// Which.
        what: What,
        /// Mean time between two, in microseconds.
        every_us: u64,
    },
    /// Remembers first flights with the early data behind them, and sends them again, one whole flight
    /// each such time on average (microseconds): under their token or another, to their server or
    /// another.
    ReplayFirst {
        /// Mean time between two, in microseconds.
        every_us: u64,
    },
    /// Changes what first flights offer and what is answered to it: bytes of it, or that it is there.
    AlterOffer {
        /// How many of a thousand such packets.
        permille: u32,
    },
    /// Remembers DATA and flights, and pours some of them upon both ends of each new handshake.
    Haunt {
        /// How many for each handshake.
        burst: u32,
    },
    /// Changes packets.
    Alter {
        /// Which.
        what: What,
        /// How many of a thousand.
        permille: u32,
        /// How.
        change: Change,
        /// Where the changed packet goes.
        place: Place,
    },
    /// Makes control packets of all types about the messages it sees, with random tags and numbers
    /// and with such as it saw.
    ForgeControl {
        /// How many of a thousand packets provoke one.
        permille: u32,
    },
    /// Makes DATA packets about the messages it sees and their neighbours.
    ForgeData {
        /// How many of a thousand packets provoke one.
        permille: u32,
    },
    /// Makes flights of the handshakes it sees, with their token: alerts, garbage, wrong numbers.
    ForgeFlight {
        /// How many of a thousand packets of handshakes provoke one.
        permille: u32,
    },
    /// Sends clients whose handshakes it sees a RETRY: with their token or another, and with a token
    /// of its own or one that it has seen.
    ForgeRetry {
        /// How many of a thousand packets of handshakes provoke one.
        permille: u32,
    },
    /// Tells ends of live sessions that there is no session.
    ForgeNoSession {
        /// How many of a thousand packets provoke one.
        permille: u32,
    },
    /// Sends packets back to their sender, with ports turned round or as they are.
    Reflect {
        /// How many of a thousand.
        permille: u32,
    },
    /// Sends packets as if they belonged to another session: other addresses, other ports, or both.
    Cross {
        /// How many of a thousand.
        permille: u32,
    },
}

/// Where a changed packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// In the place of the genuine one, which is gone.
    Instead,
    /// Before the genuine one, which is held back a little.
    Ahead,
    /// After the genuine one.
    Behind,
}

/// What an attacker with a host of its own sends, mostly under the names of honest hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spoof {
    /// Well-formed packets of every type, with guessed ports, IDs and tags.
    Packets,
    /// Bytes of any length up to 1500, from mere noise to packets that are wrong in one place.
    Garbage,
    /// UNKNOWN packets that say there is no session.
    NoSession,
    /// First flights that servers take for real, never finished.
    Hellos,
    /// First packets of first flights, as fast as it can, each under another name and token.
    Flood,
    /// First flights like these from its own address; the answers are answered with garbage.
    Visits,
}

/// Where servers listen, unless a plan says otherwise.
const SERVER_PORT: u16 = 4433;
/// The first port of clients, unless a plan says otherwise.
const CLIENT_PORT: u16 = 40_000;

impl Default for Plan {
    fn default() -> Self {
        Plan {
            until_us: 0,
            server_port: SERVER_PORT,
            client_port: CLIENT_PORT,
            on_path: Vec::new(),
            off_path: Vec::new(),
        }
    }
}

impl Plan {
    /// Attackers for a run with this many honest hosts, active until `until_us` microseconds:
    /// each kind is there or not, with strengths of its own; in some runs there is none.
    pub fn draw(rng: &mut Rng, honest_hosts: u32, until_us: u64) -> Plan {
        super::draw::draw(rng, honest_hosts, until_us)
    }

    /// Whether there are no attackers.
    pub fn is_none(&self) -> bool {
        self.parts() == 0
    }

    /// How many attackers there are.
    pub fn parts(&self) -> usize {
        self.on_path.len() + self.off_path.len()
    }

    /// The same without one attacker, by its number below [`parts`](Self::parts); the others do
    /// what they would have done beside it.
    #[must_use]
    pub fn without(&self, part: usize) -> Plan {
        let mut plan = self.clone();
        match part.checked_sub(plan.on_path.len()) {
            None => _ = plan.on_path.remove(part),
            Some(part) if part < plan.off_path.len() => _ = plan.off_path.remove(part),
            Some(_) => {}
        }
        plan
    }

    /// The attackers between the hosts. Hosts numbered from `honest_hosts` on are not theirs to
    /// attack. What they do is counted in `tally`.
    pub fn taps(&self, honest_hosts: u32, seed: u64, tally: &Tally) -> Vec<Box<dyn Tap>> {
        let tap = |plan: &OnPathPlan| -> Box<dyn Tap> {
            let rng = Rng::new(seed).fork(plan.salt.into());
            Box::new(OnPath::new(*plan, self.until_us, honest_hosts, rng, tally.clone()))
        };
        self.on_path.iter().map(tap).collect()
    }

    /// How many hosts the attackers off the path take, numbered from the last honest one on.
    pub fn off_path_hosts(&self) -> u32 {
        u32::try_from(self.off_path.len()).unwrap_or(u32::MAX)
    }

    /// The attacker number `index`, below [`off_path_hosts`](Self::off_path_hosts), as the host
    /// `me`. Beyond that number: one that does nothing. What it does is counted in `tally`.
    pub fn off_path(
        &self,
        index: u32,
        me: HostId,
        honest_hosts: u32,
        seed: u64,
        tally: &Tally,
    ) -> OffPath {
        let idle = OffPathPlan { salt: 0, max_packets: 0, per_ms: 0, spoof: Spoof::NoSession };
        let plan = self.off_path.get(index as usize).copied().unwrap_or(idle);
        let rng = Rng::new(seed).fork(plan.salt.into());
        OffPath::new(plan, self, me, honest_hosts, rng, tally.clone())
    }
}

impl Act {
    /// The name under which it is counted.
    pub fn name(&self) -> &'static str {
        match self {
            Act::Drop { .. } => "drop",
            Act::Hold { .. } => "hold",
            Act::Trim { .. } => "trim",
            Act::Rewrite { .. } => "rewrite",
            Act::Repeat { .. } => "repeat",
            Act::Recall { .. } => "recall",
            Act::ReplayFirst { .. } => "replay first flights",
            Act::AlterOffer { .. } => "alter offers",
            Act::Haunt { .. } => "haunt",
            Act::Alter { change, .. } => change.name(),
            Act::ForgeControl { .. } => "forge control",
            Act::ForgeData { .. } => "forge data",
            Act::ForgeFlight { .. } => "forge flight",
            Act::ForgeRetry { .. } => "forge retry",
            Act::ForgeNoSession { .. } => "forge no session",
            Act::Reflect { .. } => "reflect",
            Act::Cross { .. } => "cross",
        }
    }
}

impl Spoof {
    /// The name under which it is counted.
    pub fn name(&self) -> &'static str {
        match self {
            Spoof::Packets => "spoof packets",
            Spoof::Garbage => "spoof garbage",
            Spoof::NoSession => "spoof no session",
            Spoof::Hellos => "spoof hellos",
            Spoof::Flood => "flood",
            Spoof::Visits => "visits",
        }
    }
}

//! What one run is: hosts, network, work, faults and attackers, as plain data. A seed draws one, a
//! file can hold one, and the same scenario always gives the same run.

mod draw;
mod file;
mod host;
mod memory;
mod workload;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use smt_proto::Updates;
use smt_proto::crypto::SuiteId;
use smt_proto::record::record_size_for;
use smt_proto::wire::{DATA_LEN, PREAMBLE_LEN, Params};

use crate::attack::{Act, Plan};
use crate::check::nonces;
use crate::fault::{Fault, Rule};
use crate::net::{ConfigError, NetConfig};
use crate::packet::HostId;
use crate::tls::Ticket;

pub use file::FileError;
pub use host::{HostConfig, Padding};
pub use workload::{CallPlan, Workload};

/// Hosts of a network, those without anybody at them included.
const MOST_HOSTS: u32 = 1000;
/// Packets that an attacker on the path sends at the same time.
const MOST_COPIES: u32 = 10_000;
/// The longest delay that a network can have, in nanoseconds.
const LONGEST_DELAY: u64 = 1_000_000_000;

/// One run, wholly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Decides everything that is drawn while it runs.
    pub seed: u64,
    /// When faults and attackers cease, in microseconds.
    #[serde(deserialize_with = "host::bounded::<_, _, 0, 60_000_000>")]
    pub faults_stop_us: u64,
    /// Which TLS suite sessions use.
    pub suite: Suite,
    /// How the first session of each pair of hosts comes to be; later ones are always handshakes.
    pub sessions: Sessions,
    /// Whether the later secrets of sessions negotiated elsewhere are registered, rather than derived.
    #[serde(default)]
    pub registered_updates: bool,
    /// Whether clients call before their server has answered the last flight.
    pub early_calls: bool,
    /// What the hosts do.
    pub workload: Workload,
    /// The network.
    pub net: NetConfig,
    /// The hosts, from number 0 on.
    pub hosts: Vec<HostConfig>,
    /// What goes wrong in the network.
    #[serde(default)]
    pub faults: Vec<Rule>,
    /// What goes wrong at hosts.
    #[serde(default)]
    pub host_faults: Vec<HostFault>,
    /// Whether there are tickets and early data, and how.
    #[serde(default)]
    pub early: Option<EarlyData>,
    /// Who attacks, if anybody.
    #[serde(default)]
    pub attack: Option<Plan>,
}

/// Tickets and early data of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyData {
    /// Share of calls that go early if they can.
    pub share: f64,
    /// Whether all have the tickets of all from the start, or get them in sessions.
    pub known: bool,
    /// Whether tickets stay good when their server crashes.
    pub lasting: bool,
    /// Whether hosts 0 and 1 are one service, with the same tickets and one register.
    pub shared: bool,
    /// How far clocks may be apart, in microseconds.
    #[serde(deserialize_with = "host::bounded::<_, _, 0, 60_000_000>")]
    pub window_us: u64,
    /// Offers that a register remembers.
    #[serde(deserialize_with = "host::bounded::<_, _, 0, 1_000_000>")]
    pub entries: u32,
    /// Bytes of requests that may go early in a session.
    #[serde(deserialize_with = "host::bounded::<_, _, 0, 16_777_216>")]
    pub max_early: u32,
    /// Post-handshake messages that servers send beside a ticket.
    #[serde(deserialize_with = "host::bounded::<_, _, 0, 100>")]
    pub posts: u32,
}

/// How first sessions come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Sessions {
    /// By a handshake, when somebody wants to call.
    Handshake,
    /// Their secrets are negotiated elsewhere before the run; each end draws its first ID.
    External,
    /// The same, and both ends count their IDs from this one, so that IDs of both directions lie
    /// side by side.
    ExternalFrom {
        /// First ID; the low two bits are those of the role.
        #[serde(deserialize_with = "host::bounded::<_, _, 4, 0x7f_ffff_0000>")]
        first_id: u64,
    },
}

/// The cipher suite of all sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Suite {
    /// TLS_AES_128_GCM_SHA256
    Aes128,
    /// TLS_AES_256_GCM_SHA384
    Aes256,
    /// TLS_CHACHA20_POLY1305_SHA256
    Chacha20,
}

/// Something that happens to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostFault {
    /// Which host.
    pub host: HostId,
    /// When, in microseconds.
    pub at_us: u64,
    /// What.
    pub kind: HostFaultKind,
}

/// What can happen to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum HostFaultKind {
    /// It stands still: packets wait in its ring, timers are late.
    Pause {
        /// How long, in microseconds.
        #[serde(deserialize_with = "host::bounded::<_, _, 1, 5_000_000>")]
        us: u64,
    },
    /// One of its cores stands still: packets for its shard wait in a ring of their own, and what the
    /// other shards say in its inbox.
    Stall {
        /// Which, counted round if there are fewer.
        #[serde(deserialize_with = "host::bounded::<_, _, 0, 63>")]
        shard: u8,
        /// How long, in microseconds.
        #[serde(deserialize_with = "host::bounded::<_, _, 1, 5_000_000>")]
        us: u64,
    },
    /// Its packets come to any of its shards, whichever they are for.
    Misdirect {
        /// How long, in microseconds.
        #[serde(deserialize_with = "host::bounded::<_, _, 1, 5_000_000>")]
        us: u64,
    },
    /// It loses all it had in memory and comes back under the same address.
    Crash {
        /// How long it is away, in microseconds.
        #[serde(deserialize_with = "host::bounded::<_, _, 0, 5_000_000>")]
        us: u64,
    },
    /// It closes all its sessions with a host.
    Close {
        /// With whom.
        peer: HostId,
    },
    /// The largest packet of its paths changes.
    Room {
        /// To this, in bytes.
        #[serde(deserialize_with = "host::bounded::<_, _, 200, 9000>")]
        bytes: u32,
    },
    /// The largest segment that its card takes changes, if it has one that takes any.
    Segments {
        /// To this, in bytes; 0: none.
        #[serde(deserialize_with = "host::bounded::<_, _, 0, 65_515>")]
        bytes: u32,
    },
    /// It wants the next epoch of all its sessions.
    UpdateKeys,
    /// It asks the peers of all its sessions for the next epoch.
    AskUpdate,
    /// It gives out other tickets from now on.
    RotateTickets,
    /// Its datapath tells of an overrun of the receive buffer.
    Overrun,
}

/// A value of a scenario that makes no sense together with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Where: the path of the field.
    pub field: String,
    /// What is wrong with it.
    pub why: String,
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.why)
    }
}

/// All probabilities of a fault.
fn probabilities(fault: &Fault) -> Vec<f64> {
    match *fault {
        Fault::Loss { p }
        | Fault::Reorder { p, .. }
        | Fault::Duplicate { p, .. }
        | Fault::Corrupt { p, .. } => vec![p],
        Fault::GilbertElliott { p_enter, p_leave, loss_bad, loss_good } => {
            vec![p_enter, p_leave, loss_bad, loss_good]
        }
        Fault::DelaySpike { .. } | Fault::Partition { .. } | Fault::Clog { .. } => Vec::new(),
    }
}

impl Suite {
    /// The suite itself, which remembers for the checker of nonces.
    pub fn recording(self) -> &'static dyn smt_proto::crypto::Suite {
        nonces::suite(match self {
            Suite::Aes128 => SuiteId::Aes128GcmSha256,
            Suite::Aes256 => SuiteId::Aes256GcmSha384,
            Suite::Chacha20 => SuiteId::ChaCha20Poly1305Sha256,
        })
    }
}

impl Scenario {
    /// Where the later secrets of sessions negotiated elsewhere come from.
    pub fn updates(&self) -> Updates {
        if self.registered_updates { Updates::Registered } else { Updates::Derived }
    }

    /// How many lanes sessions of two hosts have (spec 3.5).
    pub fn lanes(&self, a: HostId, b: HostId) -> u8 {
        let wanted = |host: HostId| self.hosts.get(host as usize).map(HostConfig::wanted_lanes);
        wanted(a).max(wanted(b)).unwrap_or(1)
    }

    /// Number of honest hosts.
    pub fn honest(&self) -> u32 {
        u32::try_from(self.hosts.len()).unwrap_or(u32::MAX)
    }

    /// Hosts of the network that belong to attackers.
    pub fn intruders(&self) -> u32 {
        self.attack.as_ref().map_or(0, Plan::off_path_hosts)
    }

    /// Whether keys may fail to open so much that they open nothing more.
    pub fn keys_may_fail(&self) -> bool {
        self.hosts.iter().any(|host| host.failed_opens.is_some())
    }

    /// Hosts whose sending keys wear out so soon that a message may outlive them, or fill one. Updates
    /// that are merely wanted wait for messages.
    pub fn hosts_with_short_keys(&self) -> BTreeSet<HostId> {
        let limited = (0..).zip(&self.hosts).filter(|(_, host)| host.aead_records.is_some());
        limited.map(|(host, _)| host).collect()
    }

    /// The service that each host belongs to, by the number of its first host.
    pub fn services(&self) -> Vec<HostId> {
        let shared = self.early.as_ref().is_some_and(|early| early.shared);
        let alike = match self.hosts.as_slice() {
            // Responses that come early are opened as the ticket has it.
            [first, second, _, ..] => {
                first.id_bits == second.id_bits && first.wanted_lanes() == second.wanted_lanes()
            }
            _ => false,
        };
        (0..self.honest()).map(|host| if shared && alike && host == 1 { 0 } else { host }).collect()
    }

    /// The first ticket of each service.
    pub fn tickets(&self) -> BTreeMap<HostId, Ticket> {
        let mut tickets: BTreeMap<HostId, Ticket> = BTreeMap::new();
        let Some(early) = &self.early else { return tickets };
        for (service, host) in self.services().into_iter().zip(&self.hosts) {
            let own = Params {
                id_bits: host.id_bits,
                first_id: 6,
                max_rpcs: host.max_rpcs,
                max_message: host.max_message,
                unscheduled: host.unscheduled,
                wake_delay_us: host.wake_delay_us,
                max_id_bits: 56,
                wants: 0,
                lanes: host.wanted_lanes(),
            };
            let max_early = early.max_early;
            let ticket = Ticket { service, generation: 0, max_early, params: own };
            let params = &mut tickets.entry(service).or_insert(ticket).params;
            params.max_rpcs = params.max_rpcs.min(own.max_rpcs);
            params.max_message = params.max_message.min(own.max_message);
            params.unscheduled = params.unscheduled.min(own.unscheduled);
            params.wake_delay_us = params.wake_delay_us.max(own.wake_delay_us);
        }
        tickets
    }

    /// The largest body that surely fits a message from one host to another, in bytes: as far as the
    /// receiver's limit and the record numbers that the sender's ID bits leave go; the last is bundles' (spec 3.2).
    pub fn surely_fits(&self, from: HostId, to: HostId) -> u32 {
        let (Some(from_host), Some(to_host)) =
            (self.hosts.get(from as usize), self.hosts.get(to as usize))
        else {
            return 0;
        };
        let rooms = self.host_faults.iter().filter(|fault| fault.host == from);
        let rooms = rooms.filter_map(|fault| match fault.kind {
            HostFaultKind::Room { bytes } => Some(bytes),
            _ => None,
        });
        let room = rooms.chain([from_host.room]).min().unwrap_or(from_host.room) as usize;
        let record = record_size_for(room.saturating_sub(DATA_LEN));
        let plain = ((1u64 << (64 - from_host.id_bits)) - 1) * u64::from(record);
        // Padding may double it.
        let plain = if from_host.padding == Padding::None { plain } else { plain / 2 };
        let body = plain.saturating_sub(PREAMBLE_LEN as u64).min(u64::from(to_host.max_message));
        u32::try_from(body).unwrap_or(u32::MAX)
    }

    /// Checks what no single field can tell.
    ///
    /// # Errors
    /// [`Invalid`], the first field found to contradict others.
    pub fn validate(&self) -> Result<(), Invalid> {
        let invalid = |field: String, why: String| Err(Invalid { field, why });
        let honest = self.honest();
        if honest < 2 {
            return invalid("hosts".into(), format!("{honest} hosts; at least 2 are needed"));
        }
        self.net.check().or_else(|why| {
            let field = match why {
                ConfigError::Hosts | ConfigError::Switches => "net.topology",
                ConfigError::Rate if (0.001..=100_000.0).contains(&self.net.link_gbps) => {
                    "net.topology"
                }
                ConfigError::Rate => "net.link_gbps",
                ConfigError::Priorities => "net.priorities",
                ConfigError::Delay if self.net.host_delay_ns > LONGEST_DELAY => "net.host_delay_ns",
                ConfigError::Delay if self.net.switch_delay_ns > LONGEST_DELAY => {
                    "net.switch_delay_ns"
                }
                ConfigError::Delay => "net.propagation_ns",
            };
            invalid(field.into(), why.to_string())
        })?;
        let (have, need) = (self.net.hosts(), honest.saturating_add(self.intruders()));
        if have < need {
            let why = format!("the network has room for {have} hosts, {need} are needed");
            return invalid("net.topology".into(), why);
        }
        if have > MOST_HOSTS {
            let why = format!("{have} hosts; at most {MOST_HOSTS} can be");
            return invalid("net.topology".into(), why);
        }
        for (n, rule) in self.faults.iter().enumerate() {
            if let Some(p) =
                probabilities(&rule.fault).into_iter().find(|p| !(0.0..=1.0).contains(p))
            {
                let why = format!("{p} is no probability: not one of 0..=1");
                return invalid(format!("faults[{n}].fault"), why);
            }
        }
        for (n, fault) in self.host_faults.iter().enumerate() {
            let peer = match fault.kind {
                HostFaultKind::Close { peer } => peer,
                _ => 0,
            };
            if fault.host >= honest || peer >= honest {
                let why = format!("there are only hosts 0..{honest}");
                return invalid(format!("host_faults[{n}]"), why);
            }
        }
        let on_path = self.attack.iter().flat_map(|plan| &plan.on_path);
        for (n, attacker) in on_path.enumerate() {
            let (name, count) = match attacker.act {
                Act::Repeat { copies, .. } => ("copies", copies),
                Act::Haunt { burst, .. } => ("burst", burst),
                _ => continue,
            };
            if count > MOST_COPIES {
                let why = format!("{count} {name}; at most {MOST_COPIES} at a time");
                return invalid(format!("attack.on_path[{n}].act"), why);
            }
        }
        if let Some(early) = self.early.as_ref().filter(|early| !(0.0..=1.0).contains(&early.share))
        {
            return invalid("early.share".into(), format!("{} is not one of 0..=1", early.share));
        }
        self.workload.validate().or_else(|(name, why)| invalid(format!("workload.{name}"), why))
    }
}

//! One host of a scenario: the configuration of its core, its clock, its packets.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use smt_proto::wire::MAX_LANES;
use smt_proto::{AeadLimits, Config, Limits};

use crate::nic::Nic;

/// A number that must lie in `LOW..=HIGH`; the error names the bounds.
pub(super) fn bounded<'de, D, T, const LOW: u64, const HIGH: u64>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<u64>,
{
    let value = u64::deserialize(from)?;
    let fits = (LOW..=HIGH).contains(&value).then(|| T::try_from(value).ok()).flatten();
    fits.ok_or_else(|| D::Error::custom(format!("{value} is not one of {LOW}..={HIGH}")))
}

/// The same for a number that may be absent.
pub(super) fn bounded_option<'de, D, const LOW: u64, const HIGH: u64>(
    from: D,
) -> Result<Option<u64>, D::Error>
where
    D: Deserializer<'de>,
{
    bounded::<D, u64, LOW, HIGH>(from).map(Some)
}

/// A number of lanes, or of cores that share them.
pub(super) fn power_of_two<'de, D: Deserializer<'de>>(from: D) -> Result<u8, D::Error> {
    let value = u64::deserialize(from)?;
    let fits = u8::try_from(value).ok().filter(|n| n.is_power_of_two() && *n <= MAX_LANES);
    fits.ok_or_else(|| D::Error::custom(format!("{value} is not one of 1, 2, 4, 8, 16, 32, 64")))
}

/// How a host hides lengths.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Padding {
    /// Not at all.
    None,
    /// Messages are padded to powers of two.
    PowerOfTwo,
    /// Messages are padded to these lengths, in bytes.
    Buckets {
        /// The lengths.
        sizes: Vec<u32>,
    },
}

/// One host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HostConfig {
    /// RPCs that it starts.
    #[serde(deserialize_with = "bounded::<_, _, 0, 1_000_000>")]
    pub calls: u32,
    /// Cores, each of which runs one shard of its endpoint.
    #[serde(deserialize_with = "power_of_two")]
    pub shards: u8,
    /// How many lanes it wants its sessions to have, if more than it has cores.
    #[serde(deserialize_with = "power_of_two")]
    pub lanes: u8,
    /// How long a shard takes at most to hear what another tells it, in microseconds.
    #[serde(deserialize_with = "bounded::<_, _, 0, 100_000>")]
    pub inbox_delay_us: u32,
    /// Largest SMT packet it sends, in bytes.
    #[serde(deserialize_with = "bounded::<_, _, 200, 9000>")]
    pub room: u32,
    /// Its network card, if that takes segments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nic: Option<Nic>,
    /// The largest segment that the card takes, in bytes.
    #[serde(deserialize_with = "bounded::<_, _, 0, 65_515>")]
    pub segment_bytes: u32,
    /// Bits of message ID it sends under.
    #[serde(deserialize_with = "bounded::<_, _, 40, 56>")]
    pub id_bits: u8,
    /// Padding of its messages.
    pub padding: Padding,
    /// What it tells peers about its wake-up delay, in microseconds.
    #[serde(deserialize_with = "bounded::<_, _, 0, 100_000>")]
    pub wake_delay_us: u32,
    /// Bytes its receiving datapath is said to hold.
    #[serde(deserialize_with = "bounded::<_, _, 16_384, 1_073_741_824>")]
    pub receive_credit: u32,
    /// [`Limits::max_rpcs`].
    #[serde(deserialize_with = "bounded::<_, _, 1, 65_536>")]
    pub max_rpcs: u32,
    /// [`Limits::max_message`], in bytes.
    #[serde(deserialize_with = "bounded::<_, _, 64, 67_108_864>")]
    pub max_message: u32,
    /// [`Limits::unscheduled`], in bytes.
    #[serde(deserialize_with = "bounded::<_, _, 0, 67_108_864>")]
    pub unscheduled: u32,
    /// [`Limits::max_incoming_bytes`].
    #[serde(deserialize_with = "bounded::<_, _, 1024, 1_073_741_824>")]
    pub max_incoming_bytes: u64,
    /// [`Limits::max_incoming_bytes_total`].
    #[serde(deserialize_with = "bounded::<_, _, 1024, 1_073_741_824>")]
    pub max_incoming_bytes_total: u64,
    /// [`Limits::max_outgoing_bytes`].
    #[serde(deserialize_with = "bounded::<_, _, 1024, 1_073_741_824>")]
    pub max_outgoing_bytes: u64,
    /// [`Limits::max_gaps`].
    #[serde(deserialize_with = "bounded::<_, _, 1, 65_536>")]
    pub max_gaps: u32,
    /// [`Limits::max_control_queue`], in packets.
    #[serde(deserialize_with = "bounded::<_, _, 4, 65_536>")]
    pub max_control_queue: u32,
    /// [`Limits::max_resend_ranges`].
    #[serde(deserialize_with = "bounded::<_, _, 1, 65_536>")]
    pub max_resend_ranges: u32,
    /// [`Limits::max_early_packets`].
    #[serde(deserialize_with = "bounded::<_, _, 0, 65_536>")]
    pub max_early_packets: u32,
    /// [`Limits::max_sessions`].
    #[serde(deserialize_with = "bounded::<_, _, 1, 65_536>")]
    pub max_sessions: u32,
    /// [`Limits::max_half_open`].
    #[serde(deserialize_with = "bounded::<_, _, 1, 65_536>")]
    pub max_half_open: u32,
    /// [`Limits::retry_threshold`].
    #[serde(deserialize_with = "bounded::<_, _, 0, 65_536>")]
    pub retry_threshold: u32,
    /// [`Limits::handshake_timeout`], in milliseconds.
    #[serde(deserialize_with = "bounded::<_, _, 100, 60_000>")]
    pub handshake_timeout_ms: u64,
    /// [`Limits::idle_probe`], in milliseconds.
    #[serde(deserialize_with = "bounded::<_, _, 100, 3_600_000>")]
    pub idle_probe_ms: u64,
    /// Records that one key may seal, if fewer than the suite allows.
    #[serde(deserialize_with = "bounded_option::<_, 1, 1_000_000_000>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aead_records: Option<u64>,
    /// Records of one key that it lets fail to open, if fewer than the suite allows.
    #[serde(deserialize_with = "bounded_option::<_, 1, 1_000_000_000>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_opens: Option<u64>,
    /// How much faster its clock runs than the right one, in parts per million.
    pub clock_ppm: i16,
    /// What its clock shows at the start, in microseconds.
    #[serde(deserialize_with = "bounded::<_, _, 0, 1_000_000_000_000>")]
    pub clock_offset_us: u64,
    /// How far its clock that tells the date is ahead, in microseconds.
    #[serde(deserialize_with = "bounded::<_, _, 0, 60_000_000>")]
    pub skew_us: u64,
    /// Packets that wait for it while it stands still; further ones are lost.
    #[serde(deserialize_with = "bounded::<_, _, 0, 65_536>")]
    pub ring_packets: u32,
}

impl Default for HostConfig {
    fn default() -> Self {
        let limits = Limits::default();
        HostConfig {
            calls: 20,
            shards: 1,
            lanes: 1,
            inbox_delay_us: 100,
            room: 1480,
            nic: None,
            segment_bytes: 65_515,
            id_bits: 48,
            padding: Padding::None,
            wake_delay_us: 100,
            receive_credit: 256 << 10,
            max_rpcs: limits.max_rpcs,
            max_message: limits.max_message,
            unscheduled: limits.unscheduled,
            max_incoming_bytes: limits.max_incoming_bytes,
            max_incoming_bytes_total: limits.max_incoming_bytes_total,
            max_outgoing_bytes: limits.max_outgoing_bytes,
            max_gaps: 256,
            max_control_queue: 4096,
            max_resend_ranges: 64,
            max_early_packets: 64,
            max_sessions: 1024,
            max_half_open: 256,
            retry_threshold: 256,
            handshake_timeout_ms: 1000,
            idle_probe_ms: 60_000,
            aead_records: None,
            failed_opens: None,
            clock_ppm: 0,
            clock_offset_us: 0,
            skew_us: 0,
            ring_packets: 512,
        }
    }
}

impl HostConfig {
    /// How many lanes it asks for.
    pub fn wanted_lanes(&self) -> u8 {
        self.lanes.max(self.shards)
    }

    /// The configuration of its cores, but for which shard each is.
    pub fn core(&self) -> Config {
        let limits = Limits {
            max_half_open: self.max_half_open as usize,
            retry_threshold: self.retry_threshold as usize,
            max_sessions: self.max_sessions as usize,
            max_rpcs: self.max_rpcs,
            max_message: self.max_message,
            unscheduled: self.unscheduled,
            max_incoming_bytes: self.max_incoming_bytes,
            max_incoming_bytes_total: self.max_incoming_bytes_total,
            max_outgoing_bytes: self.max_outgoing_bytes,
            max_gaps: self.max_gaps as usize,
            max_early_packets: self.max_early_packets as usize,
            max_control_queue: self.max_control_queue as usize,
            max_resend_ranges: self.max_resend_ranges as usize,
            handshake_timeout: Duration::from_millis(self.handshake_timeout_ms),
            idle_probe: Duration::from_millis(self.idle_probe_ms),
            ..Limits::default()
        };
        Config {
            limits,
            id_bits: self.id_bits,
            padding: match &self.padding {
                Padding::None => smt_proto::padding::Padding::None,
                Padding::PowerOfTwo => smt_proto::padding::Padding::PowerOfTwo,
                Padding::Buckets { sizes } => smt_proto::padding::Padding::Buckets(sizes.clone()),
            },
            wake_delay: Duration::from_micros(u64::from(self.wake_delay_us)),
            receive_credit: self.receive_credit,
            default_room: self.room as usize,
            lanes: self.lanes,
            aead_limits: self.aead_records.or(self.failed_opens).map(|_| AeadLimits {
                records: self.aead_records.unwrap_or(u64::MAX),
                blocks: u64::MAX,
                failed_opens: self.failed_opens.unwrap_or(u64::MAX),
            }),
            ..Config::default()
        }
    }
}

//! Every bound on what a peer, or the application, can make an endpoint hold.

use core::time::Duration;

/// The limits of an endpoint, each with its default. A metric of [`crate::stats::Stats`] counts
/// how often each was hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Handshakes not finished yet, over all peers. Further first flights are dropped.
    pub max_half_open: usize,
    /// Half-open handshakes from which on a client has to prove its address first, by a RETRY (spec
    /// 5.8). 0: every client.
    pub retry_threshold: usize,
    /// RETRYs sent per second. Further first flights are dropped.
    pub max_retries_per_second: u32,
    /// RETRYs waiting to be sent. Further first flights are dropped.
    pub max_retries_waiting: usize,
    /// Sessions, half-open ones included. Further ones are refused.
    pub max_sessions: usize,
    /// RPCs a peer may have between its oldest unfinished one and its newest, per session
    /// (declared to the peer; spec 3.4). Also how many we start at once in one session.
    pub max_rpcs: u32,
    /// Largest application message we take, in bytes (declared to the peer).
    pub max_message: u32,
    /// Bytes of a message that a peer may send without a grant, with what records add to the application's
    /// (declared to the peer).
    pub unscheduled: u32,
    /// Bytes of messages being received or worked on, per session. Requests beyond it are
    /// answered with BUSY, responses wait for their grants.
    pub max_incoming_bytes: u64,
    /// The same over all sessions of the endpoint.
    pub max_incoming_bytes_total: u64,
    /// Bytes of requests and responses that wait to be sent or acknowledged, per session. Starting
    /// a call beyond it fails with backpressure; requests arriving beyond it are answered BUSY.
    pub max_outgoing_bytes: u64,
    /// Holes in one message being received, and records of it that are here in pieces. A packet that
    /// would make one more is dropped.
    pub max_gaps: usize,
    /// Packets that came before the handshake was finished, kept per half-open handshake.
    pub max_early_packets: usize,
    /// Bytes of those packets; also bytes of responses that may wait before the handshake is over, when no
    /// further early request is taken.
    pub max_early_bytes: usize,
    /// Bytes of one post-handshake message (spec 5.9).
    pub max_post: u32,
    /// Post-handshake messages of one session that a client looks at: each may cost it a signature's
    /// verification, and more than one of each type is not to be expected.
    pub max_posts: u32,
    /// Bytes of one TLS flight, parameters included.
    pub max_flight: u32,
    /// Handshakes and sessions sharing one 5-tuple.
    pub max_per_path: usize,
    /// Control packets waiting to be sent, over the endpoint. Further ones are dropped; timers
    /// make up for them.
    pub max_control_queue: usize,
    /// Byte ranges of one message that wait to be sent again. Further RESENDs are dropped.
    pub max_resend_ranges: usize,
    /// Hosts of which it is kept in mind whether segments arrive there; with one more, the one is forgotten
    /// that had none for the longest.
    pub max_segment_hosts: usize,
    /// Short messages that leave together in one packet (spec 4.5). Below 2 each has a packet of its own.
    pub max_bundled: u16,
    /// UNKNOWN answers to packets without a session, per second.
    pub max_no_session_answers: u32,
    /// How long a server keeps a handshake that makes no progress, and both ends the keys of early data
    /// once there are others.
    pub handshake_timeout: Duration,
    /// Unanswered RESENDs after which a partly received request is dropped.
    pub max_silence: u32,
    /// A session silent for this long is probed.
    pub idle_probe: Duration,
    /// Unanswered probes after which a session is dead.
    pub max_probes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_half_open: 1024,
            retry_threshold: 256,
            max_retries_per_second: 100_000,
            max_retries_waiting: 256,
            max_sessions: 65_536,
            max_rpcs: 4096,
            max_message: 64 << 20,
            // 64 KB of an application's, in records as short as those of the IPv6 minimum MTU.
            unscheduled: 68 << 10,
            max_incoming_bytes: 256 << 20,
            max_incoming_bytes_total: 1 << 30,
            max_outgoing_bytes: 256 << 20,
            max_gaps: 256,
            max_early_packets: 64,
            max_early_bytes: 128 << 10,
            max_post: 64 << 10,
            max_posts: 8,
            max_flight: 64 << 10,
            max_per_path: 4,
            max_control_queue: 4096,
            max_resend_ranges: 64,
            max_segment_hosts: 1024,
            max_bundled: 256,
            max_no_session_answers: 1000,
            handshake_timeout: Duration::from_secs(10),
            max_silence: 30,
            idle_probe: Duration::from_secs(60),
            max_probes: 5,
        }
    }
}

//! Counters of an endpoint.

/// A structure of counters, which can be added up.
macro_rules! counters {
    ($(#[$meta:meta])* pub struct $name:ident { $(pub $field:ident: u64,)* }) => {
        $(#[$meta])*
        pub struct $name {
            $(pub $field: u64,)*
        }

        impl core::ops::AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

counters! {
/// What an endpoint has done and refused since it was made. All counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it; groups are commented")]
pub struct Stats {
    // Traffic.
    pub packets_received: u64,
    pub packets_sent: u64,
    pub requests_sent: u64,
    pub requests_received: u64,
    pub responses_sent: u64,
    pub responses_received: u64,
    pub records_sealed: u64,
    pub records_opened: u64,
    pub bundles_sent: u64,
    pub bundled_sent: u64,
    pub bundles_received: u64,
    pub bundled_received: u64,
    // Loss and its repair.
    pub packets_retransmitted: u64,
    pub resends_sent: u64,
    pub resends_received: u64,
    pub duplicates: u64,
    pub trimmed: u64,
    pub grants_sent: u64,
    pub grants_fifo: u64,
    pub cutoffs_sent: u64,
    pub pacing_stalls: u64,
    pub senders_stalled: u64,
    pub tso_segments_sent: u64,
    pub tso_segments_lost: u64,
    pub tso_segments_spurious: u64,
    pub tso_confirmed: u64,
    pub tso_given_up: u64,
    pub busy_sent: u64,
    // Dropped, by cause.
    pub dropped_malformed: u64,
    pub dropped_no_session: u64,
    pub dropped_bad_tag: u64,
    pub dropped_bad_token: u64,
    pub dropped_replayed_control: u64,
    pub dropped_replayed_request: u64,
    pub dropped_unexpected: u64,
    pub dropped_wrong_lane: u64,
    pub records_not_authentic: u64,
    pub violations: u64,
    // Limits hit, by name.
    pub limit_half_open: u64,
    pub limit_retries: u64,
    pub limit_sessions: u64,
    pub limit_rpcs: u64,
    pub limit_message: u64,
    pub limit_incoming_bytes: u64,
    pub limit_outgoing_bytes: u64,
    pub limit_gaps: u64,
    pub limit_early_packets: u64,
    pub limit_early_data: u64,
    pub limit_post: u64,
    pub limit_posts: u64,
    pub limit_flight: u64,
    pub limit_per_path: u64,
    pub limit_control_queue: u64,
    pub limit_resend_ranges: u64,
    pub limit_no_session_answers: u64,
    pub limit_amplification: u64,
    pub limit_segment_hosts: u64,
    pub limit_aead: u64,
    pub limit_failed_opens: u64,
    // Sessions.
    pub handshakes_started: u64,
    pub handshakes_completed: u64,
    pub handshakes_failed: u64,
    pub retries_sent: u64,
    pub retries_received: u64,
    pub early_requests_sent: u64,
    pub early_requests_received: u64,
    pub early_accepted: u64,
    pub early_refused: u64,
    pub posts_sent: u64,
    pub posts_received: u64,
    pub sessions_dead: u64,
    pub lanes_opened: u64,
    pub key_updates: u64,
    pub key_updates_asked: u64,
    pub probes_sent: u64,
}
}

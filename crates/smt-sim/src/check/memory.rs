//! What an endpoint holds stays within its limits (spec 11.2), after every step.

use smt_proto::{Endpoint, Limits, SessionId};

/// The least a message may have outstanding although all credit is promised (spec 6.2).
const RESERVE: u64 = 16 << 10;
/// A packet that begins below a grant is sent whole: the longest one.
const OVERRUN: u64 = 9000;

/// Which limit an endpoint does not keep; `None` if it keeps all.
pub fn excess(endpoint: &Endpoint) -> Option<String> {
    let config = endpoint.config();
    let limits = &config.limits;
    let (incoming, sessions) = (endpoint.incoming_bytes(), endpoint.session_count());
    if incoming > limits.max_incoming_bytes_total {
        let most = limits.max_incoming_bytes_total;
        return Some(format!("{incoming} incoming bytes, {most} allowed"));
    }
    if sessions > limits.max_sessions {
        return Some(format!("{sessions} sessions, {} allowed", limits.max_sessions));
    }
    let mut messages = 0;
    for session in endpoint.sessions() {
        // Those we started, and of the peer's those in its window and those it has not acked yet,
        // which are less than a window behind.
        let most = 3 * limits.max_rpcs as usize;
        let rpcs = endpoint.in_flight(session);
        if rpcs > most {
            return Some(format!("{rpcs} RPCs in a session, {most} possible"));
        }
        messages += rpcs as u64;
    }
    let promised = endpoint.promised_bytes();
    let unscheduled = messages * (u64::from(limits.unscheduled) + OVERRUN);
    // What senders owe that fell silent is promised to others, and counts again when they speak.
    let back = endpoint.stats().senders_stalled.min(messages);
    let most = (1 + back) * (u64::from(config.receive_credit) + RESERVE) + unscheduled;
    if promised > most {
        return Some(format!("{promised} bytes promised, {most} allowed for {messages} messages"));
    }
    if promised > 0 && incoming == 0 {
        return Some(format!("{promised} bytes promised, and no message is being received"));
    }
    None
}

/// Which limit on a session it does not keep with all its lanes together, at all shards that have some of
/// them: given those and their names for it.
pub fn excess_of_session<'a>(
    parts: impl Iterator<Item = (&'a Endpoint, SessionId)>,
    limits: &Limits,
) -> Option<String> {
    let (mut incoming, mut rpcs) = (0, 0);
    for (endpoint, session) in parts {
        incoming += endpoint.incoming_of(session);
        rpcs += endpoint.in_flight(session);
    }
    if incoming > limits.max_incoming_bytes {
        let most = limits.max_incoming_bytes;
        return Some(format!(
            "{incoming} incoming bytes in all lanes of a session, {most} allowed"
        ));
    }
    let most = 3 * limits.max_rpcs as usize;
    (rpcs > most).then(|| format!("{rpcs} RPCs in all lanes of a session, {most} possible"))
}

//! Nothing stays behind: when all calls are over and acknowledged nothing is in flight, and when all
//! sessions are closed an endpoint is as empty as a new one.

use smt_proto::Endpoint;

use super::sessions::SessionKey;

/// What is in flight in sessions that both ends still have, given how much in each; `None` if nothing is.
pub fn in_flight(mut live: impl Iterator<Item = (SessionKey, usize)>) -> Option<String> {
    let (key, rpcs) = live.find(|(_, rpcs)| *rpcs > 0)?;
    Some(format!("{rpcs} RPCs of {key:?} are in flight, and all calls are over and acknowledged"))
}

/// What an endpoint without sessions still holds; `None` if nothing.
pub fn held(endpoint: &Endpoint) -> Option<String> {
    let (incoming, promised) = (endpoint.incoming_bytes(), endpoint.promised_bytes());
    let (sessions, timer) = (endpoint.session_count(), endpoint.poll_timeout());
    let clean = sessions == 0
        && incoming == 0
        && promised == 0
        && timer.is_none()
        && !endpoint.wants_transmit();
    (!clean).then(|| {
        format!(
            "after all sessions were closed: {sessions} sessions, {incoming} incoming bytes, \
             {promised} promised bytes, next timer {timer:?}, packets to send: {}",
            endpoint.wants_transmit()
        )
    })
}

//! Bugs planted on purpose, so that the simulator can show that it would find them. None is there
//! unless the feature `mutations` is on and [`Config::mutation`] names one.

use crate::config::Config;

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// The bits of the message ID that tell request from response, and whose they are, are left out
    /// of the nonce (spec 3.2).
    NonceWithoutRole,
    /// A request's number is marked as seen when its first packet comes, not when a record of it has
    /// opened (spec 5.3).
    ReplayMarkedBeforeOpen,
    /// A response is forgotten once it is sent, not once it is acknowledged (spec 6.6).
    ResponseForgottenBeforeAck,
    /// A GRANT counts whatever its tag says (spec 5.4).
    UnauthenticatedGrant,
    /// A message is taken for whole when one record is still missing (spec 4.4).
    ReassemblyOffByOne,
    /// A sender enters the next epoch although its peer has not told that it opened the current one
    /// (spec 5.2).
    UpdateWithoutEvidence,
    /// A client begins again for a RETRY whatever token it echoes (spec 5.8).
    RetryForAnyToken,
    /// A session is confirmed by what comes under the keys of early data (spec 5.7).
    EarlyConfirms,
    /// A server takes offers of early data without asking its register (spec 5.7). Planted in the
    /// simulator's stand-in for TLS.
    StrikeRegisterIgnored,
    /// A register that has lost its memory takes offers at once (spec 5.7). Planted there, too.
    RestartForgotten,
    /// All lanes of a session have the keys of lane 0 (spec 3.5).
    LaneKeysAlike,
    /// When a session is over, its other lanes than the first stay (spec 3.5).
    LanesOutliveSession,
    /// A shard keeps to itself that a session is over. Planted in the simulator's stand-in for engines.
    ShardsNotTold,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 13] = [
        Mutation::NonceWithoutRole,
        Mutation::ReplayMarkedBeforeOpen,
        Mutation::ResponseForgottenBeforeAck,
        Mutation::UnauthenticatedGrant,
        Mutation::ReassemblyOffByOne,
        Mutation::UpdateWithoutEvidence,
        Mutation::RetryForAnyToken,
        Mutation::EarlyConfirms,
        Mutation::StrikeRegisterIgnored,
        Mutation::RestartForgotten,
        Mutation::LaneKeysAlike,
        Mutation::LanesOutliveSession,
        Mutation::ShardsNotTold,
    ];
}

impl Config {
    /// Whether this bug is planted.
    #[inline]
    pub(crate) fn has(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}

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
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 5] = [
        Mutation::NonceWithoutRole,
        Mutation::ReplayMarkedBeforeOpen,
        Mutation::ResponseForgottenBeforeAck,
        Mutation::UnauthenticatedGrant,
        Mutation::ReassemblyOffByOne,
    ];
}

impl Config {
    /// Whether this bug is planted.
    #[inline]
    pub(crate) fn has(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }
}

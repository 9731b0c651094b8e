//! Sessions whose later secrets come from outside, as from another TLS stack (spec 5.2): each end
//! registers those it receives under ahead, and those it sends under when the core wants them.

use smt_proto::error::UpdateError;
use smt_proto::{Direction, Role, SessionId};

use super::Host;

/// The epoch that secrets are registered from.
const FIRST: u32 = 4;

/// How far the secrets of a session were registered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registered {
    /// The next epoch to send under.
    send: u32,
    /// The next epoch to receive under.
    receive: u32,
}

impl Registered {
    pub(super) fn new() -> Registered {
        Registered { send: FIRST, receive: FIRST }
    }
}

impl Host {
    /// The core wants the secret of a session's next sending epoch.
    pub(super) fn register_next(&mut self, session: SessionId) {
        if self.register(session, Direction::Send) == Ok(()) {
            self.stock_up(session);
        }
    }

    /// Registers secrets to receive under, as many as the core takes.
    pub(super) fn stock_up(&mut self, session: SessionId) {
        while self.register(session, Direction::Receive) == Ok(()) {}
    }

    /// All sessions take what they can of secrets to receive under.
    pub(super) fn stock_up_all(&mut self) {
        let sessions: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, known)| known.registered.is_some())
            .map(|(id, _)| *id)
            .collect();
        sessions.into_iter().for_each(|session| self.stock_up(session));
    }

    fn register(&mut self, session: SessionId, direction: Direction) -> Result<(), UpdateError> {
        let Some(known) = self.sessions.get_mut(&session) else {
            return Err(UpdateError::NoSession);
        };
        let role = known.role;
        let Some(registered) = &mut known.registered else { return Err(UpdateError::Derived) };
        let (epoch, sender) = match (direction, role) {
            (Direction::Send, role) => (&mut registered.send, role),
            (Direction::Receive, Role::Client) => (&mut registered.receive, Role::Server),
            (Direction::Receive, Role::Server) => (&mut registered.receive, Role::Client),
        };
        let (client, server) = (known.key.client, known.key.server);
        let secrets = self.trust.registered(self.suite, (client, server), *epoch);
        let secret = if sender == Role::Client { secrets.client } else { secrets.server };
        self.shards[0].endpoint.register_update(session, direction, secret)?;
        *epoch += 1;
        Ok(())
    }
}

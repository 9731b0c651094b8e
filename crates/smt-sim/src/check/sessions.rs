//! Sessions end only for a reason: loss, corruption and attackers' packets are none.

use smt_proto::Role;
use smt_proto::error::CloseReason;

use super::{Rule, Watch};
use crate::packet::HostId;

/// A session as both its ends know it. Clients never use a port twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionKey {
    /// Host of the client.
    pub client: HostId,
    /// Its port.
    pub port: u16,
    /// Host of the server.
    pub server: HostId,
}

/// What is known of a session.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// The application of either end has closed it.
    pub closed: bool,
    /// An end has it no more: of the client, of the server.
    pub gone: [bool; 2],
}

impl Facts {
    /// Whether the end of this role may have said that the session is over: its application has closed it,
    /// or one lane was lost, which closes the others.
    pub fn was_closed_by(&self, role: Role, lanes: usize) -> bool {
        self.closed || (lanes > 1 && self.gone.get(index(role)).copied().unwrap_or(false))
    }
}

/// What an end has seen of a session that it declares dead.
#[derive(Clone, Copy, Debug)]
pub struct Death {
    /// Something has told it, rightly or not, that the peer is gone.
    pub suspected: bool,
    /// Probes that it sent since it last heard the peer.
    pub unanswered: u32,
    /// How many probes it takes.
    pub max_probes: u32,
    /// How many lanes the session has.
    pub lanes: usize,
}

/// The place of a role in [`Facts::gone`].
pub fn index(role: Role) -> usize {
    usize::from(role == Role::Server)
}

impl Watch {
    /// What is known of a session.
    pub fn facts(&self, key: SessionKey) -> Facts {
        self.sessions.get(&key).copied().unwrap_or_default()
    }

    /// An application closes a session.
    pub fn closing(&mut self, key: SessionKey) {
        self.sessions.entry(key).or_default().closed = true;
    }

    /// An end has a session no more.
    pub fn gone(&mut self, key: SessionKey, role: Role) {
        if let Some(gone) = self.sessions.entry(key).or_default().gone.get_mut(index(role)) {
            *gone = true;
        }
    }

    /// A host has lost its memory.
    pub fn crashed(&mut self, host: HostId) {
        for (key, facts) in &mut self.sessions {
            let [client, server] = &mut facts.gone;
            *client |= key.client == host;
            *server |= key.server == host;
        }
        if let Some(incarnation) = self.incarnations.get_mut(host as usize) {
            *incarnation += 1;
        }
    }

    /// Checks the reason that an end gives for the end of a session.
    pub fn ended(
        &mut self,
        host: HostId,
        key: SessionKey,
        role: Role,
        reason: CloseReason,
        death: Death,
    ) {
        let facts = self.facts(key);
        let other_gone = facts.gone.get(index(role.other())).copied().unwrap_or(false);
        let why = match reason {
            CloseReason::Violation => {
                Some("its peer, an honest one, is said to break the protocol")
            }
            CloseReason::Local if !facts.closed => Some("no application has closed it"),
            CloseReason::Peer if !facts.was_closed_by(role.other(), death.lanes) => {
                Some("neither has an application closed it, nor has a lane of it died")
            }
            CloseReason::Dead if !other_gone && !death.suspected => {
                Some("it is declared dead, and nothing has raised a suspicion")
            }
            CloseReason::Dead if !other_gone && death.unanswered < death.max_probes => {
                Some("it is declared dead although its peer has answered")
            }
            _ => None,
        };
        if let Some(why) = why {
            let detail = format!("{key:?} ends by {reason:?}: {why} ({death:?})");
            self.violated(Rule::Sessions, host, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Shared;
    use crate::scenario::Scenario;

    const KEY: SessionKey = SessionKey { client: 0, port: 40_000, server: 1 };

    fn verdict(
        reason: CloseReason,
        (suspected, unanswered): (bool, u32),
        before: impl Fn(&mut Watch),
    ) -> bool {
        let shared = Shared::new(&Scenario::draw(0));
        let mut watch = shared.report();
        before(&mut watch);
        let death = Death { suspected, unanswered, max_probes: 5, lanes: 1 };
        watch.ended(0, KEY, Role::Client, reason, death);
        watch.violation.is_none()
    }

    #[test]
    fn an_end_needs_a_reason() {
        let nothing = |_: &mut Watch| {};
        assert!(!verdict(CloseReason::Violation, (true, 5), nothing));
        assert!(!verdict(CloseReason::Peer, (true, 5), nothing));
        assert!(verdict(CloseReason::Peer, (false, 0), |watch| watch.closing(KEY)));
        assert!(!verdict(CloseReason::Dead, (false, 5), nothing));
        assert!(!verdict(CloseReason::Dead, (true, 4), nothing));
        assert!(verdict(CloseReason::Dead, (true, 5), nothing));
        assert!(verdict(CloseReason::Dead, (false, 0), |watch| {
            watch.closing(KEY);
            watch.crashed(1);
        }));
        assert!(!verdict(CloseReason::Dead, (false, 0), |watch| {
            watch.sessions.insert(KEY, Facts::default());
            watch.crashed(0);
        }));
    }
}

//! Sessions on secrets that another TLS 1.3 stack has negotiated (spec 5.1, last rule).

use std::net::SocketAddr;
use std::sync::Arc;

use smt_proto::crypto::{Suite, SuiteId, aws_lc};
use smt_proto::keys::{key_context, secret_from_traffic_secret};
use smt_proto::wire::Params;
use smt_proto::{Direction, External, Path, Role, SessionId, Updates};

use super::{Engine, SessionInfo};
use crate::error::{ConnectError, UpdateError};
use crate::tls::PeerIdentity;

/// What one end tells the other, over the TLS connection whose secrets are to be used, before both
/// make the session.
#[derive(Clone, Debug)]
pub struct ExternalOffer {
    role: Role,
    port: u16,
    udp_port: Option<u16>,
    block: Vec<u8>,
    params: Params,
    updates: Updates,
}

impl ExternalOffer {
    /// Our SMT port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Our UDP port, if the datapath is UDP: the peer needs it where it is not the SMT port, which
    /// it is at servers alone.
    pub fn udp_port(&self) -> Option<u16> {
        self.udp_port
    }

    /// Where the secrets of later epochs come from: each from the one before it, which is the default, or
    /// from [`Engine::register_update`]. Both ends must choose the same.
    #[must_use]
    pub fn updates(mut self, updates: Updates) -> Self {
        self.updates = updates;
        self
    }

    /// Our parameter block.
    pub fn block(&self) -> &[u8] {
        &self.block
    }
}

/// Application traffic secrets of a TLS 1.3 connection (RFC 8446, 7.1). From here on they belong to
/// the session: the TLS connection must not protect another byte with them, but for its KeyUpdates where
/// later secrets are registered.
pub struct TrafficSecrets<'a> {
    /// The negotiated cipher suite.
    pub suite: SuiteId,
    /// The negotiated application protocol.
    pub alpn: &'a [u8],
    /// `client_application_traffic_secret_0`.
    pub client: &'a [u8],
    /// `server_application_traffic_secret_0`.
    pub server: &'a [u8],
}

/// What the secrets of a session are bound to.
pub(super) struct Binding {
    suite: &'static dyn Suite,
    context: Vec<u8>,
}

impl Engine {
    /// Begins a session on secrets negotiated elsewhere: our port and parameters, to be told to the
    /// peer. `role` is this end's role in the TLS connection. Of several shards, the first does this.
    ///
    /// # Errors
    /// [`ConnectError::NotAClient`] if there is no port for the role; [`ConnectError::Limit`] at other
    /// shards than the first, or if one is gone.
    pub fn offer_external(&mut self, role: Role) -> Result<ExternalOffer, ConnectError> {
        if !self.makes_sessions() {
            return Err(ConnectError::Limit(
                "sessions are made at the first shard, while all are there",
            ));
        }
        let port = match role {
            Role::Server => self.listen.map(|listen| listen.port()),
            Role::Client => self.client_port(|_, _| true),
        };
        let port = port.ok_or(ConnectError::NotAClient)?;
        let params = self.core.parameters(role);
        let udp_port = self.udp_port();
        Ok(ExternalOffer {
            role,
            port,
            udp_port,
            block: params.emit(0),
            params,
            updates: Updates::Derived,
        })
    }

    /// The UDP port of our datapath, if it is UDP.
    fn udp_port(&self) -> Option<u16> {
        let address = rustix::net::getsockname(self.datapath.fd()).ok()?;
        let address = SocketAddr::try_from(address).ok()?;
        (self.caps.name == "udp").then(|| address.port())
    }

    /// Makes the session: `remote` is the peer's address and SMT port, `peer_block` its parameter
    /// block. It works at once; no event announces it, but for [`Joined`](crate::Event::Joined) at the
    /// other shards if there are several. Over UDP the peer's UDP port is taken to be its SMT port, as
    /// that of a server is. With several lanes, as either end with shards wants them, no later secrets
    /// can be registered.
    ///
    /// # Errors
    /// [`ConnectError::BadParameters`], [`ConnectError::Unreachable`], [`ConnectError::Limit`].
    pub fn add_external(
        &mut self,
        offer: &ExternalOffer,
        remote: SocketAddr,
        peer_block: &[u8],
        secrets: &TrafficSecrets<'_>,
    ) -> Result<SessionId, ConnectError> {
        self.add_external_at(offer, remote, remote.port(), peer_block, secrets)
    }

    /// [`add_external`](Self::add_external) with a peer whose UDP port (its
    /// [`ExternalOffer::udp_port`]) may differ from its SMT port. Without UDP, `udp_port` means
    /// nothing.
    ///
    /// # Errors
    /// Those of [`add_external`](Self::add_external).
    pub fn add_external_at(
        &mut self,
        offer: &ExternalOffer,
        remote: SocketAddr,
        udp_port: u16,
        peer_block: &[u8],
        secrets: &TrafficSecrets<'_>,
    ) -> Result<SessionId, ConnectError> {
        let (peer, len) = Params::parse(peer_block).map_err(|_| ConnectError::BadParameters)?;
        if len != peer_block.len() {
            return Err(ConnectError::BadParameters);
        }
        let suite = aws_lc::suite(secrets.suite);
        let ours = (offer.port, offer.block.as_slice());
        let theirs = (remote.port(), peer_block);
        let (client, server) = match offer.role {
            Role::Client => (ours, theirs),
            Role::Server => (theirs, ours),
        };
        let context = key_context(suite, secrets.alpn, client.0, server.0, client.1, server.1);
        let path = Path {
            remote: self.outer(SocketAddr::new(remote.ip(), udp_port)),
            remote_port: remote.port(),
            local_port: offer.port,
            local: Some(self.local).filter(|local| !local.is_unspecified()),
        };
        let room = self.room(remote).ok_or(ConnectError::Unreachable)?;
        let external = External {
            path,
            role: offer.role,
            suite,
            client_secret: secret_from_traffic_secret(suite, secrets.client, &context),
            server_secret: secret_from_traffic_secret(suite, secrets.server, &context),
            local: offer.params,
            peer,
            room,
            updates: offer.updates,
        };
        let now = self.now();
        let added = self.core.add_session(now, external).map_err(|error| match error {
            smt_proto::error::HandshakeError::TooManySessions => {
                ConnectError::Limit("max_sessions")
            }
            _ => ConnectError::BadParameters,
        });
        let session = added?;
        self.share_external(session, remote, secrets);
        if offer.updates == Updates::Registered {
            self.registered.insert(session, Binding { suite, context });
        }
        Ok(session)
    }

    /// The other shards get their lanes of a session and may use it, before anything of it is sent.
    fn share_external(
        &mut self,
        session: SessionId,
        remote: SocketAddr,
        secrets: &TrafficSecrets<'_>,
    ) {
        if self.shard().1 == 1 {
            return;
        }
        let info = SessionInfo {
            remote,
            peer: PeerIdentity::default(),
            suite: secrets.suite,
            alpn: secrets.alpn.to_vec(),
            resumed: false,
            early: false,
            forward_secret: true,
        };
        self.share(session);
        self.share_confirmed(session, &Arc::new(info));
    }

    /// Gives a session that was offered with [`Updates::Registered`] the next traffic secret of a
    /// direction: `application_traffic_secret_N+1` (RFC 8446, 7.2) after the TLS connection updated the
    /// keys of that direction. Each secret is given once, in order, at both ends, the receiver's first if
    /// possible: what comes under a key that was not registered is dropped, and repeated. The direction
    /// moves to it when an update is wanted: by [`update_keys`](Self::update_keys), by the peer, or at half
    /// of a limit.
    ///
    /// # Errors
    /// [`UpdateError`]; nothing has changed.
    pub fn register_update(
        &mut self,
        session: SessionId,
        direction: Direction,
        traffic_secret: &[u8],
    ) -> Result<(), UpdateError> {
        let Some(binding) = self.registered.get(&session) else {
            let lives = self.core.path(session).is_some();
            return Err(if lives { UpdateError::Derived } else { UpdateError::NoSession });
        };
        if traffic_secret.len() != binding.suite.hash_len() {
            return Err(UpdateError::WrongLength);
        }
        let secret = secret_from_traffic_secret(binding.suite, traffic_secret, &binding.context);
        self.core.register_update(session, direction, secret)
    }
}

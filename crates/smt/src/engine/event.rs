//! What an engine tells its user.

use std::net::SocketAddr;
use std::sync::Arc;

use smt_proto::crypto::SuiteId;
use smt_proto::{Body, RpcId, SessionId};

use crate::error::{CallError, CloseReason, ConnectError};
use crate::ticket::VerifiedTicket;
use crate::tls::{PeerIdentity, TlsError};

/// Names an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectId(pub(crate) u64);

/// What a handshake established about a session.
#[derive(Clone, Debug)]
pub struct SessionInfo {
    /// The peer's address and SMT port.
    pub remote: SocketAddr,
    /// Who the peer is, by its verified certificate; anonymous if it showed none.
    pub peer: PeerIdentity,
    /// The negotiated cipher suite.
    pub suite: SuiteId,
    /// The negotiated application protocol: `smt/1` or `smt/1+<yours>`.
    pub alpn: Vec<u8>,
    /// Whether TLS resumed an earlier session, so that no certificate was shown; the peer is who it was
    /// then.
    pub resumed: bool,
    /// Whether the server took early data (spec 5.7).
    pub early: bool,
    /// Whether what is said from now on stays secret if long-term keys are learned later. False only in
    /// a session without TLS, and in one that was accepted on a ticket until it is confirmed.
    pub forward_secret: bool,
}

/// Something happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A session that this end asked for works.
    Connected {
        /// Which attempt.
        connect: ConnectId,
        /// The session.
        session: SessionId,
        /// What was established about it.
        info: Arc<SessionInfo>,
    },
    /// An attempt to connect has failed for good.
    ConnectFailed {
        /// Which attempt.
        connect: ConnectId,
        /// Why.
        error: ConnectError,
    },
    /// A client's session works. With `info.early`, on the word of a ticket: the client is anonymous so
    /// far and its requests may be replays (those that [say so](Event::Request)); `Confirmed` or `Closed`
    /// follows.
    Accepted {
        /// The session.
        session: SessionId,
        /// What was established about it.
        info: Arc<SessionInfo>,
    },
    /// The handshake of a session that was accepted on a ticket is complete, and its client has been heard
    /// under the keys of it. The early requests of the session are still anybody's (spec 5.7.2).
    Confirmed {
        /// The session.
        session: SessionId,
        /// What was established about it, the client's identity included.
        info: Arc<SessionInfo>,
    },
    /// The server of a session has issued a ticket; it was verified and is in the store of the client's
    /// TLS configuration. For those who keep tickets elsewhere too.
    NewTicket {
        /// The session it came in.
        session: SessionId,
        /// The ticket.
        ticket: VerifiedTicket,
    },
    /// A session made at the first shard of this endpoint works here, too: its requests come at all
    /// shards, and calls may be made at all. Only at the other shards; `Accepted` or `Connected` is told
    /// at the first.
    Joined {
        /// Its name at this shard.
        session: SessionId,
        /// Its name at all shards.
        shared: super::SharedId,
        /// What was established about it.
        info: Arc<SessionInfo>,
    },
    /// Another engine of this endpoint was dropped. All sessions end, and no more are made: make the
    /// endpoint anew.
    ShardGone {
        /// Which.
        shard: usize,
    },
    /// A client's handshake has failed, on its side or ours. For logs.
    HandshakeFailed {
        /// The client's address and SMT port.
        remote: SocketAddr,
        /// Why.
        error: TlsError,
    },
    /// A request of the peer's. Answer it with [`Engine::reply`](crate::Engine::reply) or
    /// [`Engine::refuse`](crate::Engine::refuse).
    Request {
        /// Names it.
        rpc: RpcId,
        /// Its bytes.
        body: Body,
        /// It came under the keys of a ticket, before the handshake was complete: somebody may have
        /// replayed it to another server that takes the ticket, and nobody is known to have sent it.
        early: bool,
    },
    /// The peer no longer waits for the answer to a request.
    RequestCancelled {
        /// Which.
        rpc: RpcId,
    },
    /// A call of ours is over.
    Response {
        /// Which.
        rpc: RpcId,
        /// The caller's own name for it.
        user: u64,
        /// The response, or why there is none.
        result: Result<Body, CallError>,
    },
    /// A call made before its session was there has failed without having been started, or without an
    /// answer in any attempt.
    EarlyCallFailed {
        /// The caller's own name for it.
        user: u64,
        /// Why.
        error: CallError,
    },
    /// A session whose later secrets are registered
    /// ([`ExternalOffer::updates`](crate::engine::ExternalOffer::updates)) is to leave its sending key,
    /// and the next secret is not here. Said once: let the TLS stacks update theirs, and give both ends
    /// the new one with [`Engine::register_update`](crate::Engine::register_update).
    KeyUpdateWanted {
        /// Which.
        session: SessionId,
    },
    /// A session is over.
    Closed {
        /// Which.
        session: SessionId,
        /// Why.
        reason: CloseReason,
    },
}

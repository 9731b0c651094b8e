//! What an endpoint tells its user.

use alloc::vec::Vec;

use crate::error::{CallError, CloseReason, HandshakeError};
use crate::message::Body;
use crate::session::{RpcId, SessionId};

/// Something happened. Events of one session come in the order they happened.
#[derive(Debug)]
pub enum Event {
    /// A TLS flight of the peer is complete: hand it to the TLS stack and answer with
    /// `send_flight`, `install_keys` or `fail_handshake`. `number` 0 is a new client.
    Flight {
        /// Whose.
        session: SessionId,
        /// Flight number (spec 5.1).
        number: u32,
        /// TLS bytes, parameters taken off.
        bytes: Vec<u8>,
        /// With flight 0: the client's offer of early data, if it makes one (spec 5.7). To take it, call
        /// `install_early` before `send_flight`.
        offer: Option<Vec<u8>>,
    },
    /// A client's early data is refused. Its early calls go again by themselves when the handshake is
    /// complete. What has come of their responses, from a server that lost its memory since, is dropped.
    EarlyRefused {
        /// Which session.
        session: SessionId,
    },
    /// A server's post-handshake message (spec 5.9).
    Post {
        /// Which session.
        session: SessionId,
        /// Its type (8 bits) and what belongs to it.
        body: Body,
    },
    /// The session works in both directions: a client has seen an authentic packet of its server,
    /// a server has installed its keys and, if it took early data, has seen an authentic packet under
    /// them: only that shows that early data is the client's who has authenticated.
    Established {
        /// Which.
        session: SessionId,
    },
    /// No session came of a handshake.
    HandshakeFailed {
        /// Which; it is gone.
        session: SessionId,
        /// Why.
        error: HandshakeError,
    },
    /// Segments to a session's peer get lost on the way (spec 4.3.1): packets go instead, for as long as
    /// said, in all sessions to its host. Said once until segments arrive again.
    SegmentsLost {
        /// The session that noticed.
        session: SessionId,
        /// For how long at first.
        off_for: core::time::Duration,
    },
    /// A request of the peer's is complete. Answer it with `reply` or `refuse`.
    Request {
        /// Which RPC.
        rpc: RpcId,
        /// The request.
        body: Body,
        /// Whether it came before the handshake was over, under the keys of early data: it may be
        /// replayed from another session, and its sender is nobody in particular.
        early: bool,
    },
    /// The peer no longer wants an RPC whose `Request` was given out. A reply is discarded.
    RequestCancelled {
        /// Which RPC.
        rpc: RpcId,
    },
    /// A call is over.
    Response {
        /// Which RPC.
        rpc: RpcId,
        /// What the application gave to `start_call`.
        user: u64,
        /// The response, or why there is none.
        result: Result<Body, CallError>,
    },
    /// A session with registered updates is to leave its sending epoch, and the secret of the next one
    /// is not registered. Said once; give it to `register_update`. The peer needs it, too.
    KeyUpdateWanted {
        /// Which.
        session: SessionId,
    },
    /// A session is over; its calls have been answered before this.
    Closed {
        /// Which; it is gone.
        session: SessionId,
        /// Why.
        reason: CloseReason,
    },
}

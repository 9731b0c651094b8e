//! One session: two endpoints, a 5-tuple, keys, and the RPCs of both.

mod acks;
mod answer;
pub(crate) mod bundle;
mod calls;
mod control;
mod crypt;
pub(crate) mod data;
mod distrust;
pub(crate) mod early;
pub(crate) mod epochs;
mod feed;
pub(crate) mod handshake;
pub(crate) mod lanes;
mod lifecycle;
mod numbered;
mod post;
pub(crate) mod telling;
mod timeout;
pub(crate) mod transmit;
mod tso;
mod unbundle;
pub(crate) mod update;

use alloc::boxed::Box;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;

pub(crate) use crypt::SessionKeys;
pub use epochs::{AeadLimits, Updates};
pub use handshake::{EarlyBinding, KeyContext};
pub use lanes::Lanes;
pub use update::Direction;

use crate::cutoffs::Told;
use crate::limits::Limits;
use crate::message::send::OutMessage;
use crate::replay::IdSet;
use crate::rpc::{InRpc, InState, OutRpc};
use crate::rtt::Rtt;
use crate::tag::ControlWindow;
use crate::time::Time;
use crate::timer::Timer;
use crate::wire::{EARLY_EPOCH, Header, Params, epoch_to_wire};
use bundle::Waiting;
use calls::Cut;
use early::EarlyKeys;
use handshake::Handshake;
use lanes::{Family, Incoming, Lane};
use numbered::Numbered;
use telling::Telling;
use tso::Tso;

/// Names a session of an endpoint; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl SessionId {
    /// This name as a number, for programs in other languages.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The name that [`to_bits`](Self::to_bits) gave the number of. Any other number names no
    /// session, or another one.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        SessionId { index: bits as u32, generation: (bits >> 32) as u32 }
    }

    #[cfg(test)]
    pub(crate) fn for_tests(index: u32) -> Self {
        SessionId { index, generation: 0 }
    }
}

/// Names an RPC of an endpoint: its session, who started it, and its number among those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RpcId {
    /// The session it belongs to.
    pub session: SessionId,
    /// Whether we started it.
    pub ours: bool,
    /// RPC number (spec 1); in a session of L lanes, that in its lane times L, and the lane.
    pub number: u64,
}

/// The TLS role of this end in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It sent the ClientHello.
    Client,
    /// It answered it.
    Server,
}

impl Role {
    /// Bit 1 of the IDs of RPCs that this role starts (spec 3.1).
    pub(crate) fn id_bit(self) -> u64 {
        match self {
            Role::Client => 0,
            Role::Server => 2,
        }
    }

    /// The other role.
    pub fn other(self) -> Role {
        match self {
            Role::Client => Role::Server,
            Role::Server => Role::Client,
        }
    }
}

/// The 5-tuple of a session, protocol number aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// The peer's address; its port is 0, or the peer's UDP port under UDP.
    pub remote: SocketAddr,
    /// The peer's SMT port.
    pub remote_port: u16,
    /// Our SMT port.
    pub local_port: u16,
    /// Our address, if known.
    pub local: Option<IpAddr>,
}

/// How far a session has come.
#[derive(Debug)]
pub(crate) enum State {
    /// No keys yet.
    Handshaking,
    /// Keys, but the client has not heard an authentic packet yet.
    Unconfirmed,
    /// Works.
    Established,
    /// We said CANCEL for the session and repeat it until confirmed.
    Closing {
        /// CANCELs sent.
        tries: u32,
    },
    /// The handshake failed here; its alert is repeated to a peer that repeats itself.
    Failed,
}

/// RPCs by number.
type Rpcs<T> = Numbered<T>;

/// One session.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) path: Path,
    pub(crate) role: Role,
    pub(crate) state: State,
    /// Largest SMT packet the path takes, in bytes.
    pub(crate) room: usize,
    cut: Cut,
    /// Segments for a device that cuts them, if there is one.
    tso: Option<Box<Tso>>,
    /// Handshake token (spec 5.1).
    pub(crate) token: u64,
    pub(crate) handshake: Option<Box<Handshake>>,
    pub(crate) local: Params,
    pub(crate) peer: Params,
    pub(crate) keys: Option<Box<SessionKeys>>,
    /// Keys of epoch 1, while early data may go or come.
    pub(crate) early: Option<Box<EarlyKeys>>,
    /// At a server: the client offered early data, so that calls may have ended of which nothing came.
    pub(crate) offered: bool,
    /// Numbers of our control packets, under whichever epoch, and of the peer's, but for those of epoch 1.
    pub(crate) control_out: u64,
    pub(crate) control_in: ControlWindow,
    /// An older session on the same 5-tuple.
    pub(crate) older: Option<SessionId>,
    /// Which of the session's lanes this is (spec 3.5).
    pub(crate) lane: Lane,
    /// The first lane here, by which the application knows the session.
    pub(crate) head: SessionId,
    /// Of the first lane: all that are here, if there are several in all.
    pub(crate) family: Option<Box<Family>>,

    // RPCs that we start.
    next_number: u64,
    finished: IdSet,
    out: Rpcs<OutRpc>,
    /// New messages, requests and responses, that may leave together.
    waiting: Waiting,
    /// How many of them are post-handshake messages.
    posts: usize,

    // RPCs that the peer starts.
    seen: IdSet,
    inc: Rpcs<InRpc>,
    /// The peer's ack floor and bitmap as last told, in RPC numbers.
    acked: (u64, u64),

    pub(crate) incoming: Incoming,
    outgoing_bytes: u64,
    /// How the peer wants to be sent to.
    told: Told,
    /// How we want to be sent to.
    telling: Telling,
    rtt: Rtt,
    /// Packets past a hole that make it a loss; grows when a RESEND proves spurious.
    reorder_window: u32,
    last_heard: Time,
    /// At a server that took early data: it works, and nobody was told yet.
    untold: bool,
    /// Post-handshake messages of the peer's that were handed out.
    posts_in: u32,
    /// When a repeated last flight of the client's may be answered again.
    next_flight_answer: Time,
    probes: u32,
    probe_at: Option<Time>,
    timer: Timer,
}

impl Session {
    pub(crate) fn new(
        id: SessionId,
        (path, role): (Path, Role),
        local: Params,
        limits: &Limits,
        now: Time,
    ) -> Self {
        Session {
            id,
            path,
            role,
            state: State::Handshaking,
            room: 0,
            cut: Cut::of(0, local.id_bits),
            tso: None,
            token: 0,
            handshake: None,
            local,
            peer: local,
            keys: None,
            early: None,
            offered: false,
            control_out: 0,
            control_in: ControlWindow::default(),
            older: None,
            lane: Lane::ONLY,
            head: id,
            family: None,
            next_number: 0,
            finished: IdSet::default(),
            out: Numbered::default(),
            waiting: Waiting::default(),
            posts: 0,
            seen: IdSet::default(),
            inc: Numbered::default(),
            acked: (0, 0),
            incoming: Incoming::new(limits),
            outgoing_bytes: 0,
            told: Told::nothing(local.unscheduled),
            telling: Telling::nothing(local.unscheduled),
            rtt: Rtt::default(),
            reorder_window: data::MIN_REORDER_WINDOW,
            last_heard: now,
            untold: false,
            posts_in: 0,
            next_flight_answer: now,
            probes: 0,
            probe_at: None,
            timer: Timer::default(),
        }
    }

    /// Learns the peer's parameters, and with them how many lanes there are: of the two ends' wishes the
    /// larger.
    pub(crate) fn set_peer(&mut self, peer: Params) {
        self.peer = peer;
        self.lane = Lane::new(self.lane.index(), self.local.lanes.max(peer.lanes));
        self.told = Told::nothing(peer.unscheduled);
    }

    /// Which RPC a message ID means; `None` if it cannot be one of this session (spec 3.1).
    pub(crate) fn rpc_of(&self, message_id: u64) -> Option<Which> {
        let response = message_id & 1 == 1;
        let request_id = message_id & !1;
        let ours = request_id & 2 == self.role.id_bit();
        let number = self.lane.number_of(self.first_id(ours), request_id)?;
        Some(Which { ours, response, number })
    }

    /// Message ID of the request of RPC `number`; add 1 for the response.
    pub(crate) fn request_id(&self, ours: bool, number: u64) -> u64 {
        self.lane.request_id(self.first_id(ours), number)
    }

    fn first_id(&self, ours: bool) -> u64 {
        if ours { self.local.first_id } else { self.peer.first_id }
    }

    /// How far above its floor this lane takes RPC numbers of the peer's (spec 3.4, 3.5).
    pub(crate) fn window(&self) -> u64 {
        self.lane.share(self.local.max_rpcs.into())
    }

    pub(crate) fn rpc_id(&self, ours: bool, number: u64) -> RpcId {
        RpcId { session: self.head, ours, number: self.lane.global(number) }
    }

    /// Header of a packet to the peer about `message_id`, in the current epoch.
    pub(crate) fn header(&self, message_id: u64) -> Header {
        let early = if self.early.is_some() { epoch_to_wire(EARLY_EPOCH) } else { 0 };
        Header {
            src_port: self.path.local_port,
            dst_port: self.path.remote_port,
            epoch: self.keys.as_ref().map_or(early, |keys| keys.tx_epoch_byte()),
            message_id,
        }
    }

    /// The SMT ports of client and server.
    pub(crate) fn tls_ports(&self) -> (u16, u16) {
        match self.role {
            Role::Client => (self.path.local_port, self.path.remote_port),
            Role::Server => (self.path.remote_port, self.path.local_port),
        }
    }

    pub(crate) fn is_working(&self) -> bool {
        matches!(self.state, State::Established | State::Unconfirmed)
    }

    pub(crate) fn silence(&self, backoff: u32) -> Duration {
        let wake = Duration::from_micros(u64::from(self.peer.wake_delay_us));
        self.rtt.silence(wake, backoff)
    }

    /// How much waits in this lane: bytes of messages, and then calls.
    pub(crate) fn load(&self) -> (u64, usize) {
        (self.outgoing_bytes + self.incoming.held(), self.out.len())
    }

    /// Whether it counts against the limit of half-open handshakes.
    pub(crate) fn counts_as_half_open(&self) -> bool {
        self.role == Role::Server && matches!(self.state, State::Handshaking)
    }

    /// RPCs of both directions that are not over.
    pub(crate) fn in_flight(&self) -> usize {
        self.out.len() + self.inc.len()
    }

    /// Requests of the peer's that were handed out and are not answered.
    pub(crate) fn working_on(&self) -> usize {
        self.inc.iter().filter(|(_, rpc)| matches!(rpc.state, InState::Executing)).count()
    }

    /// Calls of ours that are not over.
    pub(crate) fn outstanding(&self) -> usize {
        self.out.len() - self.posts
    }
}

/// An ID taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Which {
    /// We started the RPC.
    pub(crate) ours: bool,
    /// The ID is that of its response.
    pub(crate) response: bool,
    pub(crate) number: u64,
}

/// The message of ours that an ID means, if it is being sent or kept.
fn outgoing<'a>(
    out: &'a mut Rpcs<OutRpc>,
    inc: &'a mut Rpcs<InRpc>,
    which: Which,
) -> Option<&'a mut OutMessage> {
    match which {
        Which { ours: true, response: false, number } => {
            out.get_mut(number).filter(|rpc| !rpc.cancelling).map(|rpc| &mut rpc.request)
        }
        Which { ours: false, response: true, number } => match &mut inc.get_mut(number)?.state {
            InState::Responding(response) => Some(response),
            _ => None,
        },
        _ => None,
    }
}

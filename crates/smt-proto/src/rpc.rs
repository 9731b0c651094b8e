//! RPCs: ours (a request being sent, a response being received) and the peer's (the reverse).

use alloc::boxed::Box;

use crate::message::recv::InMessage;
use crate::message::send::OutMessage;
use crate::rate::Mark;
use crate::time::Time;
use crate::timer::Timer;

/// What an RPC of ours is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    /// A call of the application's.
    Call,
    /// One that was started before there were keys of epoch 3.
    Early,
    /// A post-handshake message, of which the application knows nothing.
    Post,
}

/// An RPC that we started.
#[derive(Debug)]
pub(crate) struct OutRpc {
    pub(crate) sort: Sort,
    /// The application's own name for it.
    pub(crate) user: u64,
    pub(crate) request: OutMessage,
    pub(crate) response: Option<Box<InMessage>>,
    pub(crate) deadline: Time,
    /// When silence becomes suspicious.
    pub(crate) silent_at: Time,
    /// Since when it is silent.
    pub(crate) mark: Mark,
    /// Silent intervals in a row.
    pub(crate) silences: u32,
    /// BUSY answers in a row: polling backs off.
    pub(crate) busy: u32,
    /// When the request's last byte first went out; `None` if it was ever repeated.
    pub(crate) sent_at: Option<Time>,
    /// Something of it was sent as early data that its server refused: another copy of the offer may have
    /// been taken, and the request have run.
    pub(crate) sent_early: bool,
    /// The application no longer wants it; CANCEL is repeated until confirmed.
    pub(crate) cancelling: bool,
    pub(crate) timer: Timer,
}

impl OutRpc {
    /// Whether anything of its request was ever sent: then it may have run.
    pub(crate) fn was_sent(&self) -> bool {
        self.sent_early || self.request.sent() > 0
    }

    /// An RPC of which nothing was sent.
    #[inline]
    pub(crate) fn new(sort: Sort, user: u64, request: OutMessage, deadline: Time) -> Self {
        OutRpc {
            sort,
            user,
            request,
            response: None,
            deadline,
            silent_at: deadline,
            mark: Mark::default(),
            silences: 0,
            busy: 0,
            sent_at: None,
            sent_early: false,
            cancelling: false,
            timer: Timer::default(),
        }
    }
}

/// An RPC that the peer started.
#[derive(Debug)]
pub(crate) struct InRpc {
    pub(crate) state: InState,
    /// Bytes it counts against the incoming limits.
    pub(crate) charge: u64,
    /// Bytes of the response that may go without grants; 0: as usual.
    pub(crate) response_limit: u32,
    /// Whether its request came under epoch 1.
    pub(crate) early: bool,
    /// Since when it is silent.
    pub(crate) mark: Mark,
    /// RESENDs unanswered (receiving), NEED_ACKs unanswered (responding).
    pub(crate) silences: u32,
    pub(crate) timer: Timer,
}

impl InRpc {
    /// An RPC in `state` that counts `charge` bytes.
    #[inline]
    pub(crate) fn new(state: InState, charge: u64) -> Self {
        InRpc {
            state,
            charge,
            response_limit: 0,
            early: false,
            mark: Mark::default(),
            silences: 0,
            timer: Timer::default(),
        }
    }
}

/// How far an RPC of the peer's has come.
#[derive(Debug)]
pub(crate) enum InState {
    /// Its request is arriving.
    Receiving(Box<InMessage>),
    /// The application has it.
    Executing,
    /// Its response is being sent, or kept until acknowledged.
    Responding(OutMessage),
}

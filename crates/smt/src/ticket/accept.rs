//! The server's end: whether an offer of early data is taken.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use smt_proto::crypto::{Suite, SuiteId};

use super::error::EarlyRefusal;
use super::issue::TicketIssuer;
use super::offer::Offer;
use super::register::{Claim, STRIKE_LEN, Strike, StrikeRegister};
use super::secrets::{Agreed, EarlySecrets, StaticSecrets, info};
use super::{unix_ms, unix_seconds};

/// Default of how far a client's clock, and the way of its first packet, may put its time off.
pub const DEFAULT_WINDOW: Duration = Duration::from_secs(10);
/// Largest window: what a register must remember grows with it.
pub const MAX_WINDOW: Duration = Duration::from_secs(60);
/// Default of how many offers may wait for a decision: some 50 ms of work for one thread, by which
/// they hold up the handshakes behind them.
pub const DEFAULT_MAX_WAITING: usize = 128;

/// A server's early data: whose tickets it takes, and how it refuses replays. Cheap to clone;
/// clones share everything.
#[derive(Clone, Debug)]
pub struct EarlyData {
    issuer: Arc<TicketIssuer>,
    register: Arc<dyn StrikeRegister>,
    counters: Arc<Counters>,
    anonymous_ok: bool,
    static_ok: bool,
    window: Duration,
    max_waiting: usize,
}

#[derive(Debug, Default)]
struct Counters {
    /// Offers that wait for a decision at present.
    waiting: AtomicUsize,
    /// The latest time seen, in milliseconds since 1970: a clock that is set back must not make
    /// claims good again that the register has forgotten.
    latest_ms: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    replayed: AtomicU64,
    register_full: AtomicU64,
    register_unavailable: AtomicU64,
    busy: AtomicU64,
}

/// How a server's offers of early data fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EarlyStats {
    /// Offers accepted.
    pub accepted: u64,
    /// Offers refused, for whatever reason.
    pub refused: u64,
    /// Offers refused because they had been made before.
    pub replayed: u64,
    /// Offers refused because the register was full.
    pub register_full: u64,
    /// Offers refused because the register did not answer.
    pub register_unavailable: u64,
    /// Offers refused because too many waited for a decision.
    pub busy: u64,
}

/// An offer's place among those that wait for a decision; free again when this is dropped.
#[derive(Debug)]
pub struct Admission {
    counters: Arc<Counters>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.counters.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl EarlyData {
    /// Early data for the tickets of `issuer`, each offer once by `register`.
    #[must_use]
    pub fn new(issuer: TicketIssuer, register: Arc<dyn StrikeRegister>) -> Self {
        Self {
            issuer: Arc::new(issuer),
            register,
            counters: Arc::default(),
            anonymous_ok: false,
            static_ok: false,
            window: DEFAULT_WINDOW,
            max_waiting: DEFAULT_MAX_WAITING,
        }
    }

    /// Whether early requests are taken where clients must authenticate or be authorised. Nobody
    /// knows who sent an early request; the application must treat it as a stranger's. Default:
    /// no.
    #[must_use]
    pub fn anonymous_ok(mut self, ok: bool) -> Self {
        self.anonymous_ok = ok;
        self
    }

    /// Whether sessions without TLS are taken: clients stay anonymous, and whoever gets the
    /// ticket's key while it lives can read everything. Where clients must authenticate or be
    /// authorised none is taken in any case: nobody would ever know who they are. Default: no.
    #[must_use]
    pub fn static_ok(mut self, ok: bool) -> Self {
        self.static_ok = ok;
        self
    }

    /// By how much a client's time may differ from the server's, at most [`MAX_WINDOW`] (a larger
    /// one means that). Default: [`DEFAULT_WINDOW`].
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window.min(MAX_WINDOW);
        self
    }

    /// How many offers may [wait](Self::admit) for a decision. Default: [`DEFAULT_MAX_WAITING`].
    #[must_use]
    pub fn max_waiting(mut self, offers: usize) -> Self {
        self.max_waiting = offers;
        self
    }

    /// Another register in the place of the first, for the same tickets.
    #[must_use]
    pub fn with_register(mut self, register: Arc<dyn StrikeRegister>) -> Self {
        self.register = register;
        self
    }

    /// The issuer, which has the tickets to hand out.
    #[must_use]
    pub fn issuer(&self) -> &TicketIssuer {
        &self.issuer
    }

    /// What came of the offers so far.
    #[must_use]
    pub fn stats(&self) -> EarlyStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        EarlyStats {
            accepted: read(&counters.accepted),
            refused: read(&counters.refused),
            replayed: read(&counters.replayed),
            register_full: read(&counters.register_full),
            register_unavailable: read(&counters.register_unavailable),
            busy: read(&counters.busy),
        }
    }

    /// Whether [`accept`](Self::accept) may block: whether its register does.
    #[must_use]
    pub fn may_block(&self) -> bool {
        self.register.may_block()
    }

    /// A place for one more offer among those that wait for [`accept`](Self::accept), to be taken
    /// before the offer is queued: decisions are dear, and a flood of offers must not hold up the
    /// handshakes of others.
    ///
    /// # Errors
    /// [`EarlyRefusal::Busy`]; the handshake goes on without early data.
    pub fn admit(&self) -> Result<Admission, EarlyRefusal> {
        let (counters, limit) = (&self.counters, self.max_waiting);
        let one_more = |waiting| (waiting < limit).then_some(waiting + 1);
        if counters.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
            counters.busy.fetch_add(1, Ordering::Relaxed);
            counters.refused.fetch_add(1, Ordering::Relaxed);
            return Err(EarlyRefusal::Busy { limit });
        }
        Ok(Admission { counters: Arc::clone(counters) })
    }

    /// Decides on the client's `offer`, which claims it for good: the same offer is never accepted
    /// twice. `identity_required`: whether clients must authenticate, or be authorised, here.
    /// `context` makes the early context of suite, ticket and application protocol
    /// ([`smt_proto::keys::early_context`]). Takes up to some 400 microseconds of CPU, and may
    /// block for as long as the register does.
    ///
    /// # Errors
    /// [`EarlyRefusal`] with the reason; the handshake goes on without early data.
    pub fn accept(
        &self,
        offer: &[u8],
        identity_required: bool,
        now: SystemTime,
        context: impl FnOnce(&dyn Suite, &[u8], &[u8]) -> Vec<u8>,
    ) -> Result<AcceptedEarly, EarlyRefusal> {
        let result = self.decide(offer, identity_required, now, context);
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        let counters = &self.counters;
        match &result {
            Ok(_) => count(&counters.accepted),
            Err(refusal) => {
                match refusal {
                    EarlyRefusal::Replayed => count(&counters.replayed),
                    EarlyRefusal::RegisterFull => count(&counters.register_full),
                    EarlyRefusal::RegisterUnavailable { .. } => {
                        count(&counters.register_unavailable)
                    }
                    _ => 0,
                };
                count(&counters.refused)
            }
        };
        result
    }

    /// The claim comes last: whatever is refused for another reason must not take up the register.
    fn decide(
        &self,
        offer: &[u8],
        identity_required: bool,
        now: SystemTime,
        context: impl FnOnce(&dyn Suite, &[u8], &[u8]) -> Vec<u8>,
    ) -> Result<AcceptedEarly, EarlyRefusal> {
        let began = Instant::now();
        let offer = Offer::parse(offer).ok_or(EarlyRefusal::Malformed)?;
        if offer.static_session && !self.static_ok {
            return Err(EarlyRefusal::PolicyStatic);
        }
        // Leave for early requests of strangers is none for whole sessions of theirs.
        if identity_required && (offer.static_session || !self.anonymous_ok) {
            return Err(EarlyRefusal::PolicyClientAuth);
        }
        let live = self.issuer.find(&offer.ticket_id).ok_or(EarlyRefusal::UnknownTicket)?;
        if unix_seconds(now) > live.ticket.validity().1 {
            return Err(EarlyRefusal::Expired);
        }
        let window_ms = self.window.as_millis() as u64;
        let clock_ms = unix_ms(now);
        let now_ms = self.latest(clock_ms);
        // By the clock as it is, too: while one that was set back catches up, the latest time stands
        // still, and a register that goes by another clock forgets meanwhile.
        for now_ms in [now_ms, clock_ms] {
            if offer.time_ms.abs_diff(now_ms) > window_ms {
                let difference_ms = offer.time_ms.wrapping_sub(now_ms) as i64;
                return Err(EarlyRefusal::ClockSkew { difference_ms });
            }
        }
        let exporter = live
            .key
            .decapsulate(offer.key, &info(live.ticket.bytes()))
            .ok_or(EarlyRefusal::BadKey)?;
        let strike =
            Strike { key: strike_key(offer.key), time_ms: offer.time_ms, now_ms, window_ms };
        if self.register.claim(&strike)? == Claim::Seen {
            return Err(EarlyRefusal::Replayed);
        }
        // A process that was stopped in between may have asked after the register had forgotten.
        if began.elapsed() > self.window {
            return Err(EarlyRefusal::TooLate);
        }
        Ok(AcceptedEarly {
            suite: live.ticket.suite(),
            max_early: live.ticket.max_early(),
            alpn: live.ticket.alpn().to_vec(),
            static_session: offer.static_session,
            agreed: Agreed::new(exporter, &live.ticket, context),
        })
    }

    fn latest(&self, now_ms: u64) -> u64 {
        self.counters.latest_ms.fetch_max(now_ms, Ordering::Relaxed).max(now_ms)
    }
}

/// By what a register knows an offer: nobody finds another key of the same.
fn strike_key(encapsulated: &[u8]) -> [u8; STRIKE_LEN] {
    let mut key = [0; STRIKE_LEN];
    for (to, from) in key.iter_mut().zip(digest(&SHA256, encapsulated).as_ref()) {
        *to = *from;
    }
    key
}

/// An offer that was accepted.
pub struct AcceptedEarly {
    /// The cipher suite of early data.
    pub suite: SuiteId,
    /// How many bytes of early requests the client may send, counted on the wire.
    pub max_early: u32,
    /// The application protocol of early data.
    pub alpn: Vec<u8>,
    /// Whether no TLS follows: the session is to live on [`static_secrets`](Self::static_secrets).
    pub static_session: bool,
    agreed: Agreed,
}

impl AcceptedEarly {
    /// The secrets of early data.
    #[must_use]
    pub fn secrets(&self) -> EarlySecrets {
        self.agreed.early()
    }

    /// The secrets of a session without TLS, once both parameter blocks are known. `key_context`
    /// is that of [`smt_proto::keys::key_context`].
    #[must_use]
    pub fn static_secrets(&self, key_context: &[u8]) -> StaticSecrets {
        self.agreed.static_secrets(key_context)
    }
}

impl fmt::Debug for AcceptedEarly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcceptedEarly")
            .field("suite", &self.suite)
            .field("max_early", &self.max_early)
            .field("alpn", &String::from_utf8_lossy(&self.alpn))
            .field("static_session", &self.static_session)
            .finish_non_exhaustive()
    }
}

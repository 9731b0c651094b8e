//! The server's tickets and their keys.

use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use smt_proto::crypto::Random;
use smt_proto::crypto::SuiteId;
use smt_proto::crypto::aws_lc::OsRandom;
use smt_proto::wire::Params;

use super::error::IssueError;
use super::format::{
    Content, MAX_CERTIFICATES, MAX_TICKET_LEN, MAX_VALIDITY, TICKET_ID_LEN, Ticket,
    append_signature, signature_input,
};
use super::hpke::{Kem, PrivateKey};
use super::unix_seconds;
use crate::tls::{DEFAULT_ALPN, Identity, TlsError, is_smt_alpn};

/// Shortest lifetime of a ticket.
pub const MIN_LIFETIME: Duration = Duration::from_secs(10);
/// Default of how many bytes of early requests a server takes per session.
pub const DEFAULT_MAX_EARLY: u32 = 64 * 1024;

/// How often the thread of an issuer looks whether a key is to be replaced or wiped.
const ROTATION_CHECK: Duration = Duration::from_secs(1);

/// What a server says of itself unless told otherwise: the protocol's default limits.
const DEFAULT_PARAMS: Params = Params {
    id_bits: 48,
    first_id: 6,
    max_rpcs: 4096,
    max_message: 64 << 20,
    unscheduled: 64 << 10,
    wake_delay_us: 0,
    max_id_bits: 56,
    wants: 0,
};

/// Builds a [`TicketIssuer`].
#[derive(Clone, Debug)]
#[must_use]
pub struct TicketIssuerBuilder {
    identity: Identity,
    options: Options,
}

#[derive(Clone, Debug)]
struct Options {
    kem: Kem,
    suite: SuiteId,
    alpn: String,
    max_early: u32,
    lifetime: Duration,
    params: Params,
}

impl TicketIssuerBuilder {
    /// For which KEM keys are made. Default: [`Kem::XWing`].
    pub fn kem(mut self, kem: Kem) -> Self {
        self.options.kem = kem;
        self
    }

    /// The cipher suite of early data. Default: AES-128-GCM.
    pub fn suite(mut self, suite: SuiteId) -> Self {
        self.options.suite = suite;
        self
    }

    /// The application protocol of early data. Default: `smt/1`.
    pub fn application_protocol(mut self, alpn: impl Into<String>) -> Self {
        self.options.alpn = alpn.into();
        self
    }

    /// How many bytes of early requests are taken per session, counted on the wire. Default:
    /// [`DEFAULT_MAX_EARLY`].
    pub fn max_early(mut self, bytes: u32) -> Self {
        self.options.max_early = bytes;
        self
    }

    /// For how long a ticket is valid, [`MIN_LIFETIME`] to [`MAX_VALIDITY`], in whole seconds. Its
    /// key is replaced after half of it. Default: [`MAX_VALIDITY`].
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.options.lifetime = lifetime;
        self
    }

    /// What the server declares of itself; see [`TicketIssuer::set_params`].
    pub fn params(mut self, params: Params) -> Self {
        self.options.params = params;
        self
    }

    /// Builds the issuer and starts the thread that replaces and wipes its keys; it ends with the
    /// issuer.
    ///
    /// # Errors
    /// [`IssueError`] for a lifetime or application protocol that cannot be.
    pub fn build(self) -> Result<TicketIssuer, IssueError> {
        let Options { lifetime, alpn, .. } = &self.options;
        if !(MIN_LIFETIME..=MAX_VALIDITY).contains(lifetime) {
            return Err(IssueError::Lifetime { least: MIN_LIFETIME, most: MAX_VALIDITY });
        }
        if !is_smt_alpn(alpn) {
            return Err(IssueError::BadAlpn { alpn: alpn.clone() });
        }
        let state =
            State { identity: self.identity, options: self.options, current: None, previous: None };
        let state = Arc::new(Mutex::new(state));
        let stop = start_rotation(Arc::downgrade(&state))?;
        Ok(TicketIssuer { state, _stop: stop })
    }
}

/// Makes a server's tickets and keeps their keys: the current one, and the one before it for as
/// long as its ticket is valid. Keys live in memory only and are wiped when they expire; servers
/// that share a name have each their own, and refuse the early data of each other's tickets.
pub struct TicketIssuer {
    state: Arc<Mutex<State>>,
    /// Its end stops the thread.
    _stop: Sender<()>,
}

struct State {
    identity: Identity,
    options: Options,
    current: Option<Arc<LiveTicket>>,
    previous: Option<Arc<LiveTicket>>,
}

/// A ticket and its key.
pub(super) struct LiveTicket {
    pub(super) ticket: Ticket,
    pub(super) key: PrivateKey,
    /// By a clock that nobody sets.
    issued: Instant,
}

impl LiveTicket {
    /// Whether its time is over, whatever was done to the clock meanwhile.
    pub(super) fn is_over(&self, now: u64, at: Instant) -> bool {
        let (not_before, not_after) = self.ticket.validity();
        let lifetime = Duration::from_secs(not_after.saturating_sub(not_before));
        now > not_after || at.saturating_duration_since(self.issued) > lifetime + ROTATION_CHECK
    }
}

impl TicketIssuer {
    /// An issuer of tickets that `identity`'s certificate vouches for.
    pub fn builder(identity: Identity) -> TicketIssuerBuilder {
        TicketIssuerBuilder {
            identity,
            options: Options {
                kem: Kem::default(),
                suite: SuiteId::Aes128GcmSha256,
                alpn: DEFAULT_ALPN.to_owned(),
                max_early: DEFAULT_MAX_EARLY,
                lifetime: MAX_VALIDITY,
                params: DEFAULT_PARAMS,
            },
        }
    }

    /// The ticket to hand out at `now`. A new one is made, with a new key, when there is none or
    /// half the lifetime of the last has passed.
    ///
    /// # Errors
    /// [`IssueError`] if the certificate cannot vouch for a ticket now.
    pub fn ticket(&self, now: SystemTime) -> Result<Ticket, IssueError> {
        let mut state = self.state();
        state.rotate(unix_seconds(now))?;
        // Rotation has just made one if there was none.
        let current = state.current.as_ref().ok_or(IssueError::CertificateNotValid)?;
        Ok(current.ticket.clone())
    }

    /// Replaces what the server declares of itself. Early data is sent by what the ticket says,
    /// so the next one, with a new key, tells the new parameters; the last one stays accepted.
    pub fn set_params(&self, params: Params) {
        let mut state = self.state();
        if state.options.params != params {
            state.options.params = params;
            state.retire();
        }
    }

    /// Replaces the certificate and its key: the next ticket is signed by the new one. The last
    /// ticket stays accepted until it expires. The same certificates again change nothing.
    pub fn replace_identity(&self, identity: Identity) {
        let mut state = self.state();
        if state.identity.certificates() != identity.certificates() {
            state.identity = identity;
            state.retire();
        }
    }

    /// Wipes all keys at once: no ticket handed out so far is accepted any more.
    pub fn forget_all(&self) {
        let mut state = self.state();
        state.current = None;
        state.previous = None;
    }

    /// How many tickets are accepted at present: 0, 1 or 2.
    #[must_use]
    pub fn live_tickets(&self) -> usize {
        let state = self.state();
        usize::from(state.current.is_some()) + usize::from(state.previous.is_some())
    }

    /// The application protocol of early data.
    #[must_use]
    pub fn application_protocol(&self) -> String {
        self.state().options.alpn.clone()
    }

    /// The ticket of this ID, whether still valid or not.
    pub(super) fn find(&self, id: &[u8; TICKET_ID_LEN]) -> Option<Arc<LiveTicket>> {
        let state = self.state();
        let live = [&state.current, &state.previous];
        live.into_iter().flatten().find(|live| live.ticket.id() == id).cloned()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for TicketIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketIssuer")
            .field("options", &self.state().options)
            .finish_non_exhaustive()
    }
}

impl State {
    /// Wipes what has expired, and makes a new ticket if it is time.
    fn rotate(&mut self, now: u64) -> Result<(), IssueError> {
        self.wipe_expired(now, Instant::now());
        let half = self.options.lifetime.as_secs() / 2;
        let fresh = self.current.as_ref().is_some_and(|live| {
            let (not_before, not_after) = live.ticket.validity();
            now >= not_before && now < (not_before + half).min(not_after)
        });
        if !fresh {
            let live = self.issue(now)?;
            self.retire();
            self.current = Some(Arc::new(live));
        }
        Ok(())
    }

    fn wipe_expired(&mut self, now: u64, at: Instant) {
        for live in [&mut self.current, &mut self.previous] {
            if live.as_ref().is_some_and(|live| live.is_over(now, at)) {
                *live = None;
            }
        }
    }

    /// The current ticket becomes the previous one, whose key goes.
    fn retire(&mut self) {
        if let Some(current) = self.current.take() {
            self.previous = Some(current);
        }
    }

    fn issue(&self, now: u64) -> Result<LiveTicket, IssueError> {
        let certificates = self.identity.certificates();
        let (from, until) = self.identity.validity().map_err(IssueError::Sign)?;
        if now < from || now >= until {
            return Err(IssueError::CertificateNotValid);
        }
        let (key, public_key) = self.options.kem.generate();
        let mut id = [0; TICKET_ID_LEN];
        OsRandom.fill(&mut id);
        let content = Content {
            id,
            not_before: now,
            not_after: (now + self.options.lifetime.as_secs()).min(until),
            kem: self.options.kem,
            suite: self.options.suite,
            max_early: self.options.max_early,
            alpn: self.options.alpn.as_bytes(),
            params: self.options.params,
            public_key: &public_key,
            certificates: &certificates,
        };
        let mut bytes = content.emit();
        if certificates.len() > MAX_CERTIFICATES || bytes.len() > MAX_TICKET_LEN {
            return Err(IssueError::TooLong { len: bytes.len() });
        }
        let (scheme, signature) =
            self.identity.sign(&signature_input(&bytes)).map_err(IssueError::Sign)?;
        append_signature(&mut bytes, scheme, &signature);
        let ticket = Ticket::parse(&bytes)
            .map_err(|e| IssueError::Sign(TlsError::Internal { detail: e.to_string() }))?;
        Ok(LiveTicket { ticket, key, issued: Instant::now() })
    }
}

/// Keys must go when their time is over even if nobody asks for a ticket any more.
fn start_rotation(state: Weak<Mutex<State>>) -> Result<Sender<()>, IssueError> {
    let (stop, stopped) = mpsc::channel::<()>();
    let rotate = move || {
        while stopped.recv_timeout(ROTATION_CHECK) == Err(RecvTimeoutError::Timeout) {
            let Some(state) = state.upgrade() else { return };
            lock(&state).wipe_expired(unix_seconds(SystemTime::now()), Instant::now());
        }
    };
    thread::Builder::new()
        .name("smt-tickets".to_owned())
        .spawn(rotate)
        .map_err(|e| IssueError::Thread { detail: e.to_string() })?;
    Ok(stop)
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The server's tickets and their keys.

use std::fmt;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, SystemTime};

use smt_proto::crypto::Random;
use smt_proto::crypto::SuiteId;
use smt_proto::crypto::aws_lc::OsRandom;
use smt_proto::wire::Params;

use super::error::IssueError;
use super::format::{
    Content, MAX_CERTIFICATES, MAX_TICKET_LEN, MAX_VALIDITY, TICKET_ID_LEN, Ticket,
    append_signature, signature_input,
};
use super::hpke::Kem;
use super::live::{LiveTicket, LiveTickets};
use super::shared::{self, Follower, KeyEntry, KeyFile, KeyFileError};
use super::unix_seconds;
use super::verify::MAX_SKEW;
use crate::tls::{DEFAULT_ALPN, Identity, TlsError, is_smt_alpn};
use zeroize::Zeroizing;

/// Shortest lifetime of a ticket.
pub const MIN_LIFETIME: Duration = Duration::from_secs(10);
/// Default of how many bytes of early requests a server takes per session.
pub const DEFAULT_MAX_EARLY: u32 = 64 * 1024;

/// How often the thread of an issuer looks whether a key is to be replaced or wiped.
pub(super) const ROTATION_CHECK: Duration = Duration::from_secs(1);

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
    lanes: 1,
};

/// Builds a [`TicketIssuer`].
#[derive(Clone, Debug)]
#[must_use]
pub struct TicketIssuerBuilder {
    identity: Identity,
    options: Options,
    key_file: Option<KeyFile>,
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

    /// Shares tickets and their keys with the other instances of the server that have this file.
    /// All must be configured alike, and share a register as well; see [`shared`]. Default: keys
    /// are in memory only.
    pub fn key_file(mut self, file: KeyFile) -> Self {
        self.key_file = Some(file);
        self
    }

    /// Builds the issuer and starts the thread that replaces and wipes its keys; it ends with the
    /// issuer.
    ///
    /// # Errors
    /// [`IssueError`] for a lifetime or application protocol that cannot be, or a key file that
    /// cannot be used.
    pub fn build(self) -> Result<TicketIssuer, IssueError> {
        let Options { lifetime, alpn, .. } = &self.options;
        if !(MIN_LIFETIME..=MAX_VALIDITY).contains(lifetime) {
            return Err(IssueError::Lifetime { least: MIN_LIFETIME, most: MAX_VALIDITY });
        }
        if !is_smt_alpn(alpn) {
            return Err(IssueError::BadAlpn { alpn: alpn.clone() });
        }
        let state = State {
            identity: self.identity,
            options: self.options,
            live: LiveTickets::default(),
            asked: false,
        };
        let issuer =
            Arc::new(Inner { state: Mutex::new(state), file: self.key_file.map(Follower::new) });
        issuer.look(unix_seconds(SystemTime::now())).map_err(IssueError::KeyFile)?;
        let stop = start_rotation(Arc::downgrade(&issuer))?;
        Ok(TicketIssuer { inner: issuer, _stop: stop })
    }
}

/// Makes a server's tickets and keeps their keys: the current one, and the one before it for as
/// long as its ticket is valid; beside them those of other instances of the server, if they are
/// [shared]. Keys are wiped when they expire. Without sharing they live in memory only, and servers
/// of one name refuse the early data of each other's tickets.
pub struct TicketIssuer {
    inner: Arc<Inner>,
    /// Its end stops the thread.
    _stop: Sender<()>,
}

struct Inner {
    state: Mutex<State>,
    file: Option<Follower>,
}

pub(super) struct State {
    identity: Identity,
    options: Options,
    live: LiveTickets,
    /// Whether a ticket was ever asked for; before, none is made for others.
    asked: bool,
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
            key_file: None,
        }
    }

    /// The ticket to hand out at `now`. A new one is made, with a new key, when there is none or
    /// half the lifetime of the last has passed. With a [`KeyFile`] that is looked at first, which
    /// may take as long as [`LOCK_PATIENCE`](shared::LOCK_PATIENCE); the issuer's own thread has
    /// mostly done it before.
    ///
    /// # Errors
    /// [`IssueError`] if the certificate cannot vouch for a ticket now. A key file that cannot be
    /// used is none: the ticket is this instance's own then, see
    /// [`key_file_error`](Self::key_file_error).
    pub fn ticket(&self, now: SystemTime) -> Result<Ticket, IssueError> {
        let now = unix_seconds(now);
        let fresh = {
            let mut state = self.state();
            state.asked = true;
            state.live.wipe_expired(now);
            state.has_fresh(now)
        };
        if !fresh {
            // Kept, and told to the log, by what looks.
            let _ = self.inner.look(now);
        }
        let mut state = self.state();
        state.rotate(now)?;
        // Rotation has just made one if there was none.
        let current = state.live.current().ok_or(IssueError::CertificateNotValid)?;
        Ok(current.ticket.clone())
    }

    /// Replaces what the server declares of itself. Early data is sent by what the ticket says,
    /// so the next one, with a new key, tells the new parameters; the last one stays accepted.
    pub fn set_params(&self, params: Params) {
        let mut state = self.state();
        if state.options.params != params {
            state.options.params = params;
            state.live.retire();
        }
    }

    /// Replaces the certificate and its key: the next ticket is signed by the new one. The last
    /// ticket stays accepted until it expires if the new certificate has the same names; otherwise
    /// handshakes would contradict it, and all tickets are forgotten here. The same certificates
    /// again change nothing.
    pub fn replace_identity(&self, identity: Identity) {
        let mut state = self.state();
        if state.identity.certificates() == identity.certificates() {
            return;
        }
        if state.identity.has_names_of(&identity) {
            state.live.retire();
        } else {
            state.live = LiveTickets::default();
        }
        state.identity = identity;
    }

    /// Wipes all keys at once: no ticket handed out so far is accepted any more. A [`KeyFile`] is
    /// emptied, so that the other instances do the same within a second or two.
    ///
    /// # Errors
    /// The key file cannot be written: what it still holds comes back with the next look at it.
    pub fn forget_all(&self) -> Result<(), KeyFileError> {
        match &self.inner.file {
            Some(file) => file.forget_all(&self.inner.state),
            None => {
                self.state().live = LiveTickets::default();
                Ok(())
            }
        }
    }

    /// How many tickets are accepted at present: without sharing 0, 1 or 2.
    #[must_use]
    pub fn live_tickets(&self) -> usize {
        self.state().live.iter().count()
    }

    /// All live tickets with their private keys, in the format of [`shared`], for other instances
    /// of the server. Whoever reads it reads all early data of these tickets: it must go nowhere
    /// but to them, and be wiped when they have it.
    #[must_use]
    pub fn export(&self) -> Zeroizing<Vec<u8>> {
        let entries: Vec<_> = self.state().live.iter().map(|live| live.entry()).collect();
        shared::emit(&entries)
    }

    /// Takes tickets that another instance of the server has [exported](Self::export), to accept
    /// them at once, and to hand out the newest. Those that are known, not valid at `now` (by one
    /// minute more or less before their time), or of another certificate chain or application
    /// protocol than this instance's are left out. Returns how many were taken.
    ///
    /// # Errors
    /// [`KeyFileError`] if the bytes are damaged, a ticket was not signed by this instance's
    /// certificate that says so, or there would be more than
    /// [`MAX_SHARED_TICKETS`](shared::MAX_SHARED_TICKETS). Nothing was taken then.
    pub fn import(&self, keys: &[u8], now: SystemTime) -> Result<usize, KeyFileError> {
        let entries = shared::parse(keys)?;
        let now = unix_seconds(now);
        let mut state = self.state();
        state.live.wipe_expired(now);
        let taken = state.take(&entries, now, false)?;
        state.adopt(now);
        Ok(taken)
    }

    /// Why the last look at the [`KeyFile`] failed; `None` if it did not, or there is none. While
    /// it fails, this instance goes on with the keys that it has, and with its own.
    #[must_use]
    pub fn key_file_error(&self) -> Option<KeyFileError> {
        self.inner.file.as_ref().and_then(Follower::last_error)
    }

    /// The application protocol of early data.
    #[must_use]
    pub fn application_protocol(&self) -> String {
        self.state().options.alpn.clone()
    }

    /// The ticket of this ID, whether still valid or not, unless it promises clients more than
    /// this instance keeps (spec 5.7).
    pub(super) fn find(&self, id: &[u8; TICKET_ID_LEN]) -> Option<Arc<LiveTicket>> {
        let state = self.state();
        let found = state.live.find(id).cloned();
        found.filter(|live| state.options.params.cover(&live.ticket.params()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.inner.state)
    }
}

impl Inner {
    /// Brings this instance and the key file together, if there is one.
    fn look(&self, now: u64) -> Result<(), KeyFileError> {
        self.file.as_ref().map_or(Ok(()), |file| file.look(&self.state, now))
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
        self.live.wipe_expired(now);
        if !self.has_fresh(now) {
            let live = self.issue(now)?;
            self.live.replace_current(live);
        }
        Ok(())
    }

    /// Whether the current ticket is in the first half of its life.
    fn has_fresh(&self, now: u64) -> bool {
        self.live.current().is_some_and(|live| self.is_fresh(&live.ticket, now))
    }

    fn is_fresh(&self, ticket: &Ticket, now: u64) -> bool {
        let (not_before, not_after) = ticket.validity();
        let half = self.options.lifetime.as_secs() / 2;
        not_before <= now.saturating_add(MAX_SKEW.as_secs())
            && now < not_before.saturating_add(half).min(not_after)
    }

    /// Whether the certificate that a ticket is of is this server's.
    fn is_own(&self, ticket: &Ticket) -> bool {
        let own = self.identity.certificates();
        ticket.certificates().eq(own.iter().map(Vec::as_slice))
    }

    /// Whether a ticket is one that this instance would make itself.
    fn suits(&self, ticket: &Ticket) -> bool {
        let Options { kem, suite, alpn, max_early, params, .. } = &self.options;
        let said = ticket.params();
        (ticket.kem(), ticket.suite(), ticket.max_early()) == (*kem, *suite, *max_early)
            && ticket.alpn() == alpn.as_bytes()
            && said == Params { first_id: said.first_id, ..*params }
            && self.is_own(ticket)
    }

    /// Takes what is of use among the tickets of others; returns how many are new.
    pub(super) fn take(
        &mut self,
        entries: &[KeyEntry],
        now: u64,
        in_file: bool,
    ) -> Result<usize, KeyFileError> {
        let mut new: Vec<Arc<LiveTicket>> = Vec::new();
        for entry in entries {
            let KeyEntry { ticket, .. } = entry;
            if let Some(known) = self.live.find(ticket.id()) {
                known.is_in_file(in_file);
                continue;
            }
            let (not_before, not_after) = ticket.validity();
            let valid = not_before <= now.saturating_add(MAX_SKEW.as_secs()) && now <= not_after;
            let speaks = ticket.alpn() == self.options.alpn.as_bytes();
            let ended = self.live.has_ended(ticket.id());
            let twice = new.iter().any(|live| live.ticket.id() == ticket.id());
            if valid && speaks && !twice && !ended && self.is_own(ticket) {
                let live = LiveTicket::from_entry(entry, &self.identity, now)?;
                live.is_in_file(in_file);
                new.push(Arc::new(live));
            }
        }
        let taken = new.len();
        self.live.add(new)?;
        Ok(taken)
    }

    /// Makes the newest ticket the current one, so that all who have the same hand out the same.
    pub(super) fn adopt(&mut self, now: u64) {
        let newest = self
            .live
            .others()
            .filter(|live| self.is_fresh(&live.ticket, now) && self.suits(&live.ticket))
            .max_by_key(|live| age(live))
            .cloned();
        let Some(newest) = newest else { return };
        let newer = |current: &Arc<LiveTicket>| {
            !self.is_fresh(&current.ticket, now) || age(&newest) > age(current)
        };
        if self.live.current().is_none_or(newer) {
            self.live.make_current(&newest);
        }
    }

    /// Makes the ticket that is to be handed out, if it is wanted and there is none.
    pub(super) fn make_wanted(&mut self, now: u64) {
        if self.asked
            && let Err(error) = self.rotate(now)
        {
            // Whoever asks for a ticket is told as well.
            tracing::debug!(%error, "no ticket for the key file");
        }
    }

    /// Whether a ticket is wanted and there is none to hand out.
    pub(super) fn wants_ticket(&self, now: u64) -> bool {
        self.asked && !self.has_fresh(now)
    }

    pub(super) fn live(&mut self) -> &mut LiveTickets {
        &mut self.live
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
        Ok(LiveTicket::new(ticket, key))
    }
}

/// What orders tickets by age, in the same way at all instances.
fn age(live: &LiveTicket) -> (u64, [u8; TICKET_ID_LEN]) {
    (live.ticket.validity().0, *live.ticket.id())
}

/// Keys must go when their time is over even if nobody asks for a ticket any more, and a key file
/// must be looked at.
fn start_rotation(issuer: Weak<Inner>) -> Result<Sender<()>, IssueError> {
    let (stop, stopped) = mpsc::channel::<()>();
    let rotate = move || {
        while stopped.recv_timeout(ROTATION_CHECK) == Err(RecvTimeoutError::Timeout) {
            let Some(issuer) = issuer.upgrade() else { return };
            let now = unix_seconds(SystemTime::now());
            lock(&issuer.state).live.wipe_expired(now);
            // Kept, and told to the log, by what looks.
            let _ = issuer.look(now);
        }
    };
    thread::Builder::new()
        .name("smt-tickets".to_owned())
        .spawn(rotate)
        .map_err(|e| IssueError::Thread { detail: e.to_string() })?;
    Ok(stop)
}

pub(super) fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

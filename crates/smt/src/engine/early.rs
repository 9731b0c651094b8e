//! Early data (spec 5.7): what a client sends under a ticket with its first packet, and whether a
//! server takes it; and sessions that live on a ticket alone.

use std::time::{Duration, SystemTime};

use smt_proto::crypto::aws_lc;
use smt_proto::{EarlyBinding, EarlyData, Role, SessionId, Time};

use super::calls::Takes;
use super::handshakes::{Done, Tls};
use super::{ConnectOptions, Engine, Event, SessionInfo};
use crate::ticket::{
    AcceptedEarly, ClientEarly, EarlyRefusal, EarlySecrets, Encapsulation, VerifiedTicket,
};
use crate::tls::{
    Alert, ClientHandshake, ClientTls, Established, PeerIdentity, ServerTls, TlsError,
};

/// Encapsulations kept ready per ticket that is in use, so that the next first packet waits for none.
const READY_ENCAPSULATIONS: usize = 4;

/// Offers that are decided on the thread that moves packets come at least this far apart: at some
/// 40 us each they take 4 % of it.
const DECISION_PACE: Duration = Duration::from_millis(1);
/// How long TLS waits for the responses to early requests.
const TLS_WAITS: Duration = Duration::from_micros(500);

/// How a handshake's early data fares.
pub(super) enum EarlyState {
    /// None is offered, or it was refused.
    None,
    /// A server looks at an offer; TLS waits.
    Undecided,
    /// A client has made an offer.
    Offered(Box<Offered>),
    /// A server has taken an offer.
    Accepted(Box<AcceptedEarly>),
}

/// A client's offer.
pub(super) struct Offered {
    ticket: VerifiedTicket,
    early: ClientEarly,
    /// There is no TLS handshake; refused, the session has failed.
    is_static: bool,
}

/// A client's first flight, with an offer.
pub(super) struct FirstFlight {
    tls: Option<Box<ClientHandshake>>,
    flight: Vec<u8>,
    encapsulation: Encapsulation,
    is_static: bool,
}

/// What a server makes of an offer.
pub(super) struct Decision {
    result: Result<(AcceptedEarly, EarlySecrets), EarlyRefusal>,
    is_static: bool,
}

impl EarlyState {
    pub(super) fn is_undecided(&self) -> bool {
        matches!(self, EarlyState::Undecided)
    }

    /// Whether the server takes early data, as far as this end knows once the handshake is complete.
    pub(super) fn is_accepted(&self) -> bool {
        matches!(self, EarlyState::Offered(_) | EarlyState::Accepted(_))
    }

    /// Whether no TLS is to be done.
    pub(super) fn is_static(&self) -> bool {
        match self {
            EarlyState::None | EarlyState::Undecided => false,
            EarlyState::Offered(offered) => offered.is_static,
            EarlyState::Accepted(accepted) => accepted.static_session,
        }
    }

    /// Who the handshake shows, to a client, in the place of the server that the ticket is of by which early
    /// data was accepted (spec 5.7.1).
    pub(super) fn contradiction(&self, established: &Established) -> Option<TlsError> {
        let EarlyState::Offered(offered) = self else { return None };
        let (ticket, found) = (offered.ticket.peer(), &established.peer);
        (!found.has_names_of(ticket))
            .then(|| TlsError::UnlikeTicket { ticket: names(ticket), found: names(found) })
    }
}

/// All names that a certificate gives its owner.
fn names(peer: &PeerIdentity) -> String {
    let ips = peer.ips().iter().map(ToString::to_string);
    let names: Vec<_> = peer.dns_names().iter().chain(peer.uris()).cloned().chain(ips).collect();
    names.join(", ")
}

impl FirstFlight {
    fn make(
        tls: &ClientTls,
        options: &ConnectOptions,
        ticket: &VerifiedTicket,
    ) -> Result<Box<FirstFlight>, TlsError> {
        let name = &options.server_name;
        let encapsulation = ticket
            .encapsulate()
            .map_err(|error| TlsError::Internal { detail: error.to_string() })?;
        let is_static = !options.forward_secrecy;
        let (tls, flight) = if is_static {
            let name = name.as_bytes();
            let len = u8::try_from(name.len()).unwrap_or(u8::MAX);
            let name = name.get(..usize::from(len)).unwrap_or_default();
            (None, [&[len], name].concat())
        } else {
            let (handshake, flight) = ClientHandshake::start(tls, name)?;
            (Some(Box::new(handshake)), flight)
        };
        Ok(Box::new(FirstFlight { tls, flight, encapsulation, is_static }))
    }
}

/// The context that the secrets of early data are bound to, as tickets ask for it.
fn context_of(
    binding: &EarlyBinding,
) -> impl FnOnce(&dyn smt_proto::crypto::Suite, &[u8], &[u8]) -> Vec<u8> {
    |suite, ticket, alpn| binding.context(suite, ticket, alpn)
}

impl Engine {
    /// Has the server's tickets say what its parameter blocks will say, and makes the first ticket now
    /// rather than in a handshake.
    pub(super) fn declare_in_tickets(&mut self) {
        let early = self.handshakes.server.as_ref().and_then(ServerTls::early_data);
        let Some(early) = early else { return };
        early.issuer().set_params(self.core.parameters(Role::Server));
        if let Err(error) = early.issuer().ticket(SystemTime::now()) {
            tracing::warn!(%error, "no tickets for early data");
        }
    }

    /// Begins a client's handshake with early data. False if there is no ticket, or no room in the pool.
    pub(super) fn begin_early(
        &mut self,
        session: SessionId,
        tls: &ClientTls,
        options: &ConnectOptions,
    ) -> bool {
        let now = SystemTime::now();
        let port = self.core.path(session).map_or(0, |path| path.remote_port);
        let stored = || tls.tickets().get(&options.server_name, port, now);
        let given = options.ticket.as_ref();
        let given = given.and_then(|ticket| ticket.trusted_by(tls, &options.server_name, now));
        let Some(ticket) = given.or_else(stored) else { return false };
        // The first packet's latency is what it is all about: what needs no key generation is done here.
        let ready = ticket.stocked() > 0 && (!options.forward_secrecy || tls.has_key_share());
        if ready {
            let first = FirstFlight::make(tls, options, &ticket);
            self.on_first_flight(session, first);
            return true;
        }
        let (tls, options) = (tls.clone(), options.clone());
        let job = Box::new(move || Done::FirstFlight(FirstFlight::make(&tls, &options, &ticket)));
        self.handshakes.submit(session, job)
    }

    /// Sends a client's first flight with its offer; early calls may leave from now on.
    pub(super) fn on_first_flight(
        &mut self,
        session: SessionId,
        first: Result<Box<FirstFlight>, TlsError>,
    ) {
        let first = match first {
            Ok(first) => *first,
            Err(error) => return self.on_tls_failure(session, error, None),
        };
        let now = self.now();
        let Some(running) = self.handshakes.running.get_mut(&session) else { return };
        let FirstFlight { tls, flight, encapsulation, is_static } = first;
        running.tls = tls.map(Tls::Client);
        let offer = encapsulation.offer(SystemTime::now(), is_static);
        self.core.send_first_flight(now, session, &flight, Some(&offer));
        let Some(binding) = self.core.early_binding(session) else { return };
        let ticket = encapsulation.ticket().clone();
        let early = encapsulation.agree(context_of(&binding));
        let EarlySecrets { suite, client, server } = early.secrets();
        let data = EarlyData {
            suite: aws_lc::suite(suite),
            client_secret: client,
            server_secret: server,
            peer: Some(ticket.params()),
            max_early: ticket.max_early(),
            alone: is_static,
        };
        self.core.install_early(now, session, data);
        running.early = EarlyState::Offered(Box::new(Offered { ticket, early, is_static }));
        if let Some(connect) = running.connect {
            self.start_waiting_calls(connect, Takes::Early);
        }
    }

    /// The server does not take our early data: it goes again by itself once TLS has given keys. Without
    /// TLS there will be none: the next attempt has it.
    pub(super) fn on_early_refused(&mut self, session: SessionId) {
        let Some(running) = self.handshakes.running.get_mut(&session) else { return };
        let EarlyState::Offered(offered) = std::mem::replace(&mut running.early, EarlyState::None)
        else {
            return;
        };
        let Some(id) = running.connect else { return };
        tracing::debug!(server = offered.ticket.server_name(), "early data refused");
        if let Some(connect) = self.connects.get_mut(id) {
            connect.refused = true;
            connect.takes = Takes::Nothing;
        }
        self.forget_ticket(session, &offered.ticket);
        if offered.is_static {
            let now = self.now();
            self.handshakes.running.remove(&session);
            self.core.fail_handshake(now, session, None);
            self.try_with_tls(id);
        }
    }

    /// A ticket is of no use with its server.
    fn forget_ticket(&self, session: SessionId, ticket: &VerifiedTicket) {
        let (Some(client), Some(path)) = (&self.handshakes.client, self.core.path(session)) else {
            return;
        };
        let (name, port) = (ticket.server_name(), path.remote_port);
        let held = client.tickets().get(name, port, SystemTime::now());
        if held.is_some_and(|held| held.ticket() == ticket.ticket()) {
            client.tickets().remove(name, port);
        }
    }

    /// Whether early data, if there was any, was of the application protocol that TLS has negotiated. If
    /// not, requests were understood as another protocol's: the session must end, and a client's next
    /// attempt goes without.
    pub(super) fn fits_early_protocol(&mut self, session: SessionId, alpn: &[u8]) -> bool {
        let Some(running) = self.handshakes.running.get_mut(&session) else { return true };
        let ticket = match &running.early {
            EarlyState::Offered(offered) if offered.ticket.alpn() != alpn => offered.ticket.clone(),
            EarlyState::Accepted(accepted) => return accepted.alpn == alpn,
            _ => return true,
        };
        if let Some(connect) = running.connect.and_then(|id| self.connects.get_mut(id)) {
            connect.refused = true;
        }
        self.forget_ticket(session, &ticket);
        false
    }

    /// The handshake is complete and contradicts the ticket by which early data was accepted: the
    /// session ends.
    pub(super) fn on_contradiction(&mut self, session: SessionId, error: TlsError) {
        let Some(running) = self.handshakes.running.get(&session) else { return };
        if let EarlyState::Offered(offered) = &running.early {
            self.forget_ticket(session, &offered.ticket);
        }
        let alert = Alert::ILLEGAL_PARAMETER.plaintext_record();
        self.on_tls_failure(session, error, Some(&alert));
    }

    /// Makes encapsulations for the next time, beside the packets.
    pub(super) fn refill(&mut self, session: SessionId, early: &EarlyState) {
        if let EarlyState::Offered(offered) = early {
            let ticket = offered.ticket.clone();
            let job = Box::new(move || {
                ticket.fill_stock(READY_ENCAPSULATIONS);
                Done::Post(None)
            });
            self.handshakes.submit(session, job);
        }
    }

    /// Has the pool decide on a client's offer before TLS has its turn. False if there is nothing to
    /// decide: the offer is refused by not being mentioned.
    pub(super) fn decide_early(&mut self, session: SessionId, offer: Vec<u8>) -> bool {
        let Some(tls) = &self.handshakes.server else { return false };
        let Some(early) = tls.early_data() else { return false };
        let Some(binding) = self.core.early_binding(session) else { return false };
        let identity_required = tls.requires_identity();
        // Byte 16 of an offer holds its flags, and bit 0 asks for a session without TLS (spec 5.7).
        let is_static = offer.get(16).is_some_and(|flags| flags & 1 == 1);
        let admission = match early.admit() {
            Ok(admission) => admission,
            Err(refusal) => {
                self.refuse_offer(session, &refusal, is_static);
                return true;
            }
        };
        let at_once = !early.may_block() && self.may_decide_now();
        let decide = move || {
            let _admission = admission;
            let now = SystemTime::now();
            let accepted = early.accept(&offer, identity_required, now, context_of(&binding));
            let result = accepted.map(|accepted| {
                let secrets = accepted.secrets();
                (accepted, secrets)
            });
            Decision { result, is_static }
        };
        if let Some(running) = self.handshakes.running.get_mut(&session) {
            running.early = EarlyState::Undecided;
        }
        if at_once {
            self.on_decision(session, decide());
            return true;
        }
        let job = Box::new(move || Done::Decision(Box::new(decide())));
        if !self.handshakes.submit(session, job) {
            let error = TlsError::Internal { detail: "too many handshake steps wait".into() };
            self.on_tls_failure(session, error, None);
        }
        true
    }

    /// Whether an offer may be decided on this thread: it costs less than to wake another, which is what
    /// the first RPC would wait for, but established sessions wait for it too.
    fn may_decide_now(&mut self) -> bool {
        let now = self.now();
        let due = now >= self.handshakes.next_decision;
        if due {
            self.handshakes.next_decision = now + DECISION_PACE;
        }
        due
    }

    /// A server has decided: early requests are answered at once, and TLS goes on.
    pub(super) fn on_decision(&mut self, session: SessionId, decision: Decision) {
        let Decision { result, is_static } = decision;
        match result {
            Ok((accepted, secrets)) => {
                self.accept_early(session, accepted, secrets);
                if is_static {
                    return self.answer_static(session);
                }
                let due = self.now() + TLS_WAITS;
                self.handshakes.later.push((due, session));
            }
            Err(refusal) => self.refuse_offer(session, &refusal, is_static),
        }
    }

    /// Has TLS begun in sessions whose early requests are answered, if nothing else is to be done, or
    /// have waited long enough: a handshake's arithmetic would take the core that the responses wait for.
    pub(super) fn begin_tls(&mut self, now: Time, idle: bool) {
        let working = |session| self.core.working_on(session) > 0;
        let ready =
            |(due, session): &(Time, SessionId)| *due <= now || (idle && !working(*session));
        let mut later = std::mem::take(&mut self.handshakes.later);
        let (begin, wait): (Vec<_>, Vec<_>) = later.drain(..).partition(ready);
        self.handshakes.later = wait;
        for (_, session) in begin {
            self.next_step(session);
        }
    }

    /// A server does not take an offer: TLS has its turn.
    fn refuse_offer(&mut self, session: SessionId, refusal: &EarlyRefusal, is_static: bool) {
        tracing::debug!(%refusal, "early data refused");
        let Some(running) = self.handshakes.running.get_mut(&session) else { return };
        running.early = EarlyState::None;
        if is_static {
            // The client comes again, with TLS.
            self.handshakes.running.remove(&session);
            let alert = Alert::HANDSHAKE_FAILURE.plaintext_record();
            let now = self.now();
            return self.core.fail_handshake(now, session, Some(&alert));
        }
        self.next_step(session);
    }

    fn accept_early(&mut self, session: SessionId, accepted: AcceptedEarly, secrets: EarlySecrets) {
        let now = self.now();
        let Some(remote) = self.remote_of(session) else { return };
        let Some(running) = self.handshakes.running.get_mut(&session) else { return };
        let info = anonymous(remote, &accepted);
        self.sessions.insert(session, info.clone());
        self.events.push_back(Event::Accepted { session, info });
        let EarlySecrets { suite, client, server } = secrets;
        let data = EarlyData {
            suite: aws_lc::suite(suite),
            client_secret: client,
            server_secret: server,
            peer: None,
            max_early: accepted.max_early,
            alone: accepted.static_session,
        };
        running.early = EarlyState::Accepted(Box::new(accepted));
        self.core.install_early(now, session, data);
    }

    /// A server's flight 1 in a session without TLS: its parameters, and nothing else.
    fn answer_static(&mut self, session: SessionId) {
        let now = self.now();
        if let Some(running) = self.handshakes.running.get_mut(&session) {
            running.tls = None;
            running.waiting.clear();
        }
        self.core.send_flight(now, session, &[]);
    }

    /// The peer's last flight in a session without TLS: of a server, its parameters; of a client, the
    /// proof that it has the secrets.
    pub(super) fn on_static_flight(&mut self, session: SessionId, flight: &[u8]) {
        let now = self.now();
        let Some(remote) = self.remote_of(session) else { return };
        let Some(context) = self.core.key_context(session) else { return };
        let Some(running) = self.handshakes.running.get_mut(&session) else { return };
        if running.done {
            // A client that hears of the server now is refused; what else comes is a repetition.
            if running.connect.is_some() && !flight.is_empty() {
                let error =
                    TlsError::corrupt("the server refuses the proof of the ticket's secrets");
                self.on_tls_failure(session, error, None);
            }
            return;
        }
        let (secrets, alpn, peer) = match &running.early {
            EarlyState::Offered(offered) => {
                let ticket = &offered.ticket;
                let context = context.compute(aws_lc::suite(ticket.suite()), ticket.alpn());
                let peer = ticket.peer().clone();
                (offered.early.static_secrets(&context), ticket.alpn().to_vec(), peer)
            }
            EarlyState::Accepted(accepted) => {
                let context = context.compute(aws_lc::suite(accepted.suite), &accepted.alpn);
                let peer = PeerIdentity::default();
                (accepted.static_secrets(&context), accepted.alpn.clone(), peer)
            }
            EarlyState::None | EarlyState::Undecided => return,
        };
        let is_client = running.connect.is_some();
        let fits = if is_client { flight.is_empty() } else { secrets.is_finished(flight) };
        if !fits {
            let alert = Alert::DECRYPT_ERROR.plaintext_record();
            let error = TlsError::corrupt("a wrong flight in a session without TLS");
            return self.on_tls_failure(session, error, Some(&alert));
        }
        if is_client {
            self.core.send_flight(now, session, secrets.finished());
        }
        let info = SessionInfo {
            remote,
            peer,
            suite: secrets.suite,
            alpn,
            resumed: false,
            early: true,
            forward_secret: false,
        };
        self.install(session, info, secrets.client.clone(), secrets.server.clone());
    }
}

/// What is known of a session on the word of a ticket.
fn anonymous(
    remote: std::net::SocketAddr,
    accepted: &AcceptedEarly,
) -> std::sync::Arc<SessionInfo> {
    std::sync::Arc::new(SessionInfo {
        remote,
        peer: PeerIdentity::default(),
        suite: accepted.suite,
        alpn: accepted.alpn.clone(),
        resumed: false,
        early: true,
        forward_secret: false,
    })
}

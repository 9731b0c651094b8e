//! TLS configuration of the two ends. A built configuration is complete and checked; it is cheap
//! to clone and shared by all handshakes. What it holds can be replaced while it is in use.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::{ClientSessionMemoryCache, Resumption, Tls12Resumption, WebPkiServerVerifier};
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, ServerConfig};
use smt_proto::crypto::SuiteId;

use super::credentials::{ConfigError, Identity, Roots};
use super::key_log::KeyLogFile;
use super::key_shares;
use super::options::{KeyExchange, Options};
use super::peer::PeerIdentity;
use super::sessions::ClientSessions;
use super::ticket_keys::{SealOnly, TicketKeys};
use super::verify::{Authorise, ClientVerifier, ServerVerifier};
use crate::ticket::{EarlyData, TicketStore};

/// Default of [`ServerTlsBuilder::tickets`]: one to resume with, and one for a second attempt.
pub const DEFAULT_TICKETS: usize = 2;
/// Most tickets a server sends per session: what a client keeps per server.
pub const MAX_TICKETS: usize = 8;

/// Whether a server asks its clients for certificates.
#[derive(Clone, Debug, Default)]
pub enum ClientAuth {
    /// Clients stay anonymous.
    #[default]
    None,
    /// Clients may show a certificate; one that these roots do not vouch for is refused.
    Optional(Roots),
    /// Clients must show a certificate that these roots vouch for.
    Required(Roots),
}

impl ClientAuth {
    /// Whether the same clients are asked the same way, revocation lists aside.
    fn is_like(&self, other: &ClientAuth) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Optional(one), Self::Optional(two))
            | (Self::Required(one), Self::Required(two)) => one.same_authorities(two),
            _ => false,
        }
    }
}

/// What certificates and tickets have made of work since a configuration was built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsStats {
    /// Certificate chains that were checked in full.
    pub chains_checked: u64,
    /// Certificate chains that were known from an earlier check (at most
    /// [`MAX_VERIFIED_CHAINS`](super::MAX_VERIFIED_CHAINS) are, for at most
    /// [`MAX_VERIFIED_AGE_SECS`](super::MAX_VERIFIED_AGE_SECS)).
    pub chains_known: u64,
    /// A client's: how often tickets were longer than
    /// [`MAX_TLS_TICKETS_LEN`](super::MAX_TLS_TICKETS_LEN), so that it kept none of them.
    pub tickets_too_long: u64,
}

impl TlsStats {
    fn new((chains_checked, chains_known): (u64, u64), tickets_too_long: u64) -> Self {
        Self { chains_checked, chains_known, tickets_too_long }
    }
}

/// The TLS configuration of a client. Clones are handles of the same configuration.
#[derive(Clone, Debug)]
pub struct ClientTls {
    current: Arc<RwLock<Arc<ClientState>>>,
}

/// One configuration of a client; handshakes end with the one they began with.
#[derive(Debug)]
pub(super) struct ClientState {
    pub(super) config: Arc<ClientConfig>,
    pub(super) verifier: Arc<ServerVerifier>,
    /// `None` where nothing is to be resumed.
    pub(super) sessions: Option<ClientSessions>,
    /// SMT-tickets that were verified by this configuration.
    pub(super) early_tickets: Arc<TicketStore>,
    pub(super) key_log: Option<Arc<KeyLogFile>>,
}

impl ClientTls {
    /// A configuration that trusts servers whose certificate one of `roots` vouches for.
    pub fn builder(roots: Roots) -> ClientTlsBuilder {
        ClientTlsBuilder {
            roots,
            identity: None,
            resumption: true,
            rule: None,
            options: Options::default(),
        }
    }

    /// Handshakes that begin from now on, through this and every other handle, use what `new`
    /// holds. Those that run end as they began; sessions are not touched. Nothing learned under
    /// the old configuration outlives it: neither tickets for resumption nor checked chains.
    pub fn replace(&self, new: &ClientTls) {
        let state = new.state();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = state;
    }

    /// Whether sessions are resumed, so that a server's tickets are wanted (spec 5.9).
    #[must_use]
    pub fn wants_tickets(&self) -> bool {
        self.state().sessions.is_some()
    }

    /// Whether a ClientHello can be made without generating a key.
    pub(crate) fn has_key_share(&self) -> bool {
        let state = self.state();
        let group = state.config.crypto_provider().kx_groups.first();
        group.is_some_and(|group| key_shares::is_stocked(group.name()))
    }

    /// What has been done since this configuration was built, or [replaced](Self::replace).
    #[must_use]
    pub fn stats(&self) -> TlsStats {
        let state = self.state();
        let too_long = state.sessions.as_ref().map_or(0, ClientSessions::too_long);
        TlsStats::new(state.verifier.checks(), too_long)
    }

    /// What new handshakes use.
    pub(super) fn state(&self) -> Arc<ClientState> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn of(state: ClientState) -> Self {
        Self { current: Arc::new(RwLock::new(Arc::new(state))) }
    }
}

/// The TLS configuration of a server. Clones are handles of the same configuration.
#[derive(Clone, Debug)]
pub struct ServerTls {
    current: Arc<RwLock<Arc<ServerState>>>,
}

/// One configuration of a server; handshakes end with the one they began with.
#[derive(Clone, Debug)]
pub(super) struct ServerState {
    pub(super) config: Arc<ServerConfig>,
    /// The same, for handshakes that must not resume.
    pub(super) full: Arc<ServerConfig>,
    pub(super) verifier: Arc<ClientVerifier>,
    ticket_keys: Option<Arc<TicketKeys>>,
    /// Whom client certificates are taken from; tickets live as long as it stays the same.
    client_auth: ClientAuth,
    /// Early data, and the certificate that its tickets are to be signed by.
    early: Option<(EarlyData, Identity)>,
    pub(super) key_log: Option<Arc<KeyLogFile>>,
}

impl ServerState {
    /// Gives both configurations these ticket keys.
    fn set_ticket_keys(&mut self, keys: &Arc<TicketKeys>) {
        let with = |ticketer: Arc<dyn ProducesTickets>| {
            let mut config = ServerConfig::clone(&self.config);
            config.ticketer = ticketer;
            Arc::new(config)
        };
        let (config, full) =
            (with(Arc::<TicketKeys>::clone(keys)), with(Arc::new(SealOnly(Arc::clone(keys)))));
        (self.config, self.full, self.ticket_keys) = (config, full, Some(Arc::clone(keys)));
    }
}

impl ServerTls {
    /// A configuration of a server that shows `identity`'s certificate.
    pub fn builder(identity: Identity) -> ServerTlsBuilder {
        ServerTlsBuilder {
            identity,
            client_auth: ClientAuth::None,
            tickets: DEFAULT_TICKETS,
            early: None,
            rule: None,
            options: Options::default(),
        }
    }

    /// Handshakes that begin from now on, through this and every other handle, use what `new`
    /// holds. Those that run end as they began; sessions are not touched. Tickets issued before
    /// go on being taken, unless `new` trusts other authorities for clients or asks otherwise for
    /// certificates; whoever shows one is checked by the new roots, revocation lists and rule.
    /// If `new` takes early data, its issuer signs with `new`'s certificate from now on.
    pub fn replace(&self, new: &ServerTls) {
        let mut state = ServerState::clone(&new.state());
        if let Some((early, identity)) = &state.early {
            early.issuer().replace_identity(identity.clone());
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if let (Some(keys), Some(_)) = (&current.ticket_keys, &state.ticket_keys)
            && current.client_auth.is_like(&state.client_auth)
        {
            state.set_ticket_keys(keys);
        }
        *current = Arc::new(state);
    }

    /// Which offers of early data are taken (spec 5.7); `None`: none.
    #[must_use]
    pub fn early_data(&self) -> Option<EarlyData> {
        self.state().early.as_ref().map(|(early, _)| early.clone())
    }

    /// Whether clients must show who they are, or the application decides on them: early data is
    /// a stranger's then, and is refused unless [`EarlyData::anonymous_ok`] says otherwise.
    #[must_use]
    pub fn requires_identity(&self) -> bool {
        let state = self.state();
        matches!(state.client_auth, ClientAuth::Required(_)) || state.verifier.has_rule()
    }

    /// Seals tickets with a new key from now on. The key before still opens those it sealed; doing
    /// this twice makes all tickets issued so far worthless. By themselves keys change every
    /// [`TICKET_KEY_ROTATION`](super::TICKET_KEY_ROTATION).
    ///
    /// # Errors
    /// [`ConfigError::Refused`] if there are no random numbers.
    pub fn rotate_ticket_keys(&self) -> Result<(), ConfigError> {
        self.state().ticket_keys.as_ref().map_or(Ok(()), |keys| keys.rotate())
    }

    /// What has been done since this configuration was built, or [replaced](Self::replace).
    #[must_use]
    pub fn stats(&self) -> TlsStats {
        TlsStats::new(self.state().verifier.checks(), 0)
    }

    /// What new handshakes use.
    pub(super) fn state(&self) -> Arc<ServerState> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn of(state: ServerState) -> Self {
        Self { current: Arc::new(RwLock::new(Arc::new(state))) }
    }
}

/// Builds a [`ClientTls`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientTlsBuilder {
    roots: Roots,
    identity: Option<Identity>,
    resumption: bool,
    rule: Option<Authorise>,
    options: Options,
}

/// Builds a [`ServerTls`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ServerTlsBuilder {
    identity: Identity,
    client_auth: ClientAuth,
    tickets: usize,
    early: Option<EarlyData>,
    rule: Option<Authorise>,
    options: Options,
}

/// The setters that both builders have.
macro_rules! common_setters {
    () => {
        /// The cipher suites that may be used, in order of preference. Default: AES-128-GCM,
        /// AES-256-GCM, ChaCha20-Poly1305. A server prefers by its own order.
        pub fn cipher_suites(mut self, suites: &[SuiteId]) -> Self {
            self.options.suites = suites.to_vec();
            self
        }

        /// How a secret is agreed on. Default: [`KeyExchange::HybridPostQuantum`].
        pub fn key_exchange(mut self, key_exchange: KeyExchange) -> Self {
            self.options.key_exchange = key_exchange;
            self
        }

        /// The application protocols (ALPN), in order of preference, each `smt/1` or
        /// `smt/1+<application>`. Default: `smt/1` alone. Both ends must have one in common.
        pub fn application_protocols<S: Into<String>>(
            mut self,
            protocols: impl IntoIterator<Item = S>,
        ) -> Self {
            self.options.alpn = protocols.into_iter().map(Into::into).collect();
            self
        }

        /// Appends secrets to the file that the environment variable `SSLKEYLOGFILE` names when
        /// the configuration is built, if it names one. Whoever reads the file can read the
        /// traffic. Beside TLS's own lines there are those of SMT's first secrets:
        /// `SMT_CLIENT_SECRET_3` and `SMT_SERVER_SECRET_3`.
        pub fn key_log_from_env(mut self) -> Self {
            self.options.key_log_from_env = true;
            self
        }

        /// Asks `rule` about every peer whose certificate was found valid, and about anonymous
        /// clients, in every handshake, resumed ones included. Those it refuses get the alert
        /// `access_denied` (anonymous ones, where certificates are optional,
        /// `certificate_required`) and this end reports [`TlsError::NotAuthorised`] with the
        /// rule's words. The rule runs on handshake workers and should not block. Default: every
        /// peer with a valid certificate is let in.
        ///
        /// [`TlsError::NotAuthorised`]: super::TlsError::NotAuthorised
        pub fn authorise(
            mut self,
            rule: impl Fn(&PeerIdentity) -> Result<(), String> + Send + Sync + 'static,
        ) -> Self {
            self.rule = Some(Authorise(Arc::new(rule)));
            self
        }
    };
}

impl ClientTlsBuilder {
    common_setters!();

    /// The certificate shown to servers that ask for one. Default: none.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Whether servers' tickets are kept, in memory alone, and used to resume sessions: that
    /// saves both ends the certificates and their signatures, and keeps forward secrecy (only
    /// psk_dhe_ke is offered). Default: true.
    pub fn resumption(mut self, resumption: bool) -> Self {
        self.resumption = resumption;
        self
    }

    /// Checks and builds the configuration.
    ///
    /// # Errors
    /// [`ConfigError`] for an empty list, a wrong application protocol, or a key log that cannot
    /// be opened.
    pub fn build(self) -> Result<ClientTls, ConfigError> {
        let provider = self.options.provider()?;
        let versions = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| refused(&e))?;
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots.store, provider)
            .with_crls(self.roots.crls)
            .build()
            .map_err(|e| ConfigError::Refused { detail: e.to_string() })?;
        let verifier = Arc::new(ServerVerifier::new(verifier, self.rule));
        // "Dangerous" is what TLS calls any verifier not its own; ours adds to what its own does.
        let trusting = versions
            .dangerous()
            .with_custom_certificate_verifier(Arc::<ServerVerifier>::clone(&verifier));
        let mut config = match self.identity {
            Some(identity) => trusting.with_client_cert_resolver(identity.key),
            None => trusting.with_no_client_auth(),
        };
        config.alpn_protocols = self.options.alpn_protocols()?;
        config.enable_sni = true;
        let sessions = self.resumption.then(ClientSessions::new);
        config.resumption = match &sessions {
            None => Resumption::disabled(),
            Some(sessions) => {
                Resumption::store(Arc::<ClientSessionMemoryCache>::clone(&sessions.store))
                    .tls12_resumption(Tls12Resumption::Disabled)
            }
        };
        let key_log = open_key_log(&self.options)?;
        if let Some(log) = &key_log {
            config.key_log = Arc::<KeyLogFile>::clone(log);
        }
        Ok(ClientTls::of(ClientState {
            config: Arc::new(config),
            verifier,
            sessions,
            early_tickets: Arc::default(),
            key_log,
        }))
    }
}

impl ServerTlsBuilder {
    common_setters!();

    /// Whether clients are asked for certificates. Default: [`ClientAuth::None`].
    pub fn client_auth(mut self, client_auth: ClientAuth) -> Self {
        self.client_auth = client_auth;
        self
    }

    /// Takes early data of clients with a ticket of its issuer (spec 5.7), whose identity should be
    /// this configuration's. Default: none.
    pub fn early_data(mut self, early: EarlyData) -> Self {
        self.early = Some(early);
        self
    }

    /// How many tickets a client that wants them is sent after a handshake, to resume sessions
    /// with: 0 for no resumption, at most [`MAX_TICKETS`]. Default: [`DEFAULT_TICKETS`].
    pub fn tickets(mut self, tickets: usize) -> Self {
        self.tickets = tickets.min(MAX_TICKETS);
        self
    }

    /// Checks and builds the configuration.
    ///
    /// # Errors
    /// [`ConfigError`] for an empty list, a wrong application protocol, or a key log that cannot
    /// be opened.
    pub fn build(self) -> Result<ServerTls, ConfigError> {
        let provider = self.options.provider()?;
        let versions = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| refused(&e))?;
        let client_auth = self.client_auth;
        let verifier = |roots: &Roots| {
            let store = Arc::clone(&roots.store);
            WebPkiClientVerifier::builder_with_provider(store, Arc::clone(&provider))
                .with_crls(roots.crls.clone())
        };
        let verifier = match &client_auth {
            ClientAuth::None => Ok(WebPkiClientVerifier::no_client_auth()),
            ClientAuth::Optional(roots) => verifier(roots).allow_unauthenticated().build(),
            ClientAuth::Required(roots) => verifier(roots).build(),
        }
        .map_err(|e| ConfigError::Refused { detail: e.to_string() })?;
        let verifier = Arc::new(ClientVerifier::new(verifier, self.rule));
        let early = self.early.map(|early| (early, self.identity.clone()));
        let mut config = versions
            .with_client_cert_verifier(Arc::<ClientVerifier>::clone(&verifier))
            .with_cert_resolver(self.identity.key);
        config.alpn_protocols = self.options.alpn_protocols()?;
        config.ignore_client_order = true;
        config.send_tls13_tickets = self.tickets;
        config.max_early_data_size = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let key_log = open_key_log(&self.options)?;
        if let Some(log) = &key_log {
            config.key_log = Arc::<KeyLogFile>::clone(log);
        }
        let config = Arc::new(config);
        let mut state = ServerState {
            full: Arc::clone(&config),
            config,
            verifier,
            ticket_keys: None,
            client_auth,
            early,
            key_log,
        };
        if self.tickets > 0 {
            state.set_ticket_keys(&TicketKeys::new()?);
        }
        Ok(ServerTls::of(state))
    }
}

fn open_key_log(options: &Options) -> Result<Option<Arc<KeyLogFile>>, ConfigError> {
    if options.key_log_from_env { KeyLogFile::from_env() } else { Ok(None) }
}

fn refused(error: &Error) -> ConfigError {
    ConfigError::Refused { detail: error.to_string() }
}

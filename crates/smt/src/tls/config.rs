//! TLS configuration of the two ends. A built configuration is complete and checked; it is cheap
//! to clone and shared by all handshakes.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, ServerConfig};
use smt_proto::crypto::SuiteId;

use super::credentials::{ConfigError, Identity, Roots};
use super::key_log::KeyLogFile;
use super::options::{KeyExchange, Options};

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

/// The TLS configuration of a client.
#[derive(Clone, Debug)]
pub struct ClientTls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) key_log: Option<Arc<KeyLogFile>>,
}

impl ClientTls {
    /// A configuration that trusts servers whose certificate one of `roots` vouches for.
    pub fn builder(roots: Roots) -> ClientTlsBuilder {
        ClientTlsBuilder { roots, identity: None, options: Options::default() }
    }
}

/// The TLS configuration of a server.
#[derive(Clone, Debug)]
pub struct ServerTls {
    pub(super) config: Arc<ServerConfig>,
    pub(super) key_log: Option<Arc<KeyLogFile>>,
}

impl ServerTls {
    /// A configuration of a server that shows `identity`'s certificate.
    pub fn builder(identity: Identity) -> ServerTlsBuilder {
        ServerTlsBuilder { identity, client_auth: ClientAuth::None, options: Options::default() }
    }
}

/// Builds a [`ClientTls`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ClientTlsBuilder {
    roots: Roots,
    identity: Option<Identity>,
    options: Options,
}

/// Builds a [`ServerTls`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ServerTlsBuilder {
    identity: Identity,
    client_auth: ClientAuth,
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
    };
}

impl ClientTlsBuilder {
    common_setters!();

    /// The certificate shown to servers that ask for one. Default: none.
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Checks and builds the configuration.
    ///
    /// # Errors
    /// [`ConfigError`] for an empty list, a wrong application protocol, or a key log that cannot
    /// be opened.
    pub fn build(self) -> Result<ClientTls, ConfigError> {
        let versions = ClientConfig::builder_with_provider(self.options.provider()?)
            .with_protocol_versions(&[&TLS13])
            .map_err(|e| refused(&e))?;
        let trusting = versions.with_root_certificates(Arc::clone(&self.roots.0));
        let mut config = match self.identity {
            Some(identity) => trusting.with_client_cert_resolver(identity.key),
            None => trusting.with_no_client_auth(),
        };
        config.alpn_protocols = self.options.alpn_protocols()?;
        config.enable_sni = true;
        config.resumption = Resumption::disabled();
        let key_log = open_key_log(&self.options)?;
        if let Some(log) = &key_log {
            config.key_log = Arc::<KeyLogFile>::clone(log);
        }
        Ok(ClientTls { config: Arc::new(config), key_log })
    }
}

impl ServerTlsBuilder {
    common_setters!();

    /// Whether clients are asked for certificates. Default: [`ClientAuth::None`].
    pub fn client_auth(mut self, client_auth: ClientAuth) -> Self {
        self.client_auth = client_auth;
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
        let verifier = |roots: Roots| {
            WebPkiClientVerifier::builder_with_provider(roots.0, Arc::clone(&provider))
        };
        let verifier = match self.client_auth {
            ClientAuth::None => Ok(WebPkiClientVerifier::no_client_auth()),
            ClientAuth::Optional(roots) => verifier(roots).allow_unauthenticated().build(),
            ClientAuth::Required(roots) => verifier(roots).build(),
        }
        .map_err(|e| ConfigError::Refused { detail: e.to_string() })?;
        let mut config =
            versions.with_client_cert_verifier(verifier).with_cert_resolver(self.identity.key);
        config.alpn_protocols = self.options.alpn_protocols()?;
        config.ignore_client_order = true;
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        let key_log = open_key_log(&self.options)?;
        if let Some(log) = &key_log {
            config.key_log = Arc::<KeyLogFile>::clone(log);
        }
        Ok(ServerTls { config: Arc::new(config), key_log })
    }
}

fn open_key_log(options: &Options) -> Result<Option<Arc<KeyLogFile>>, ConfigError> {
    if options.key_log_from_env { KeyLogFile::from_env() } else { Ok(None) }
}

fn refused(error: &Error) -> ConfigError {
    ConfigError::Refused { detail: error.to_string() }
}

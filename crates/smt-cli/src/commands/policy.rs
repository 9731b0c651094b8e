//! Who a server is and whom it lets in, and the files that say so, watched while it serves.

use std::path::PathBuf;

use clap::Args;
use smt::proto::crypto::SuiteId;
use smt::tls::{
    ClientAuth, ConfigError, Identity, KeyExchange, Roots, ServerTls, ServerTlsBuilder, Watch,
};

use crate::allow::{self, Pattern};

/// The server's credentials and its policy.
#[derive(Debug, Clone, Args)]
pub struct Policy {
    /// This server's certificate, with those between it and the authority's, if any (PEM)
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    cert: PathBuf,
    /// The private key of --cert (PEM)
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    key: PathBuf,
    /// Ask clients for a certificate that these authorities vouch for, and refuse those without (PEM)
    #[arg(long, value_name = "FILE", help_heading = "Identity")]
    client_ca: Option<PathBuf>,
    /// Let clients without any certificate in all the same
    #[arg(long, requires = "client_ca", help_heading = "Identity")]
    allow_anonymous: bool,
    /// Refuse clients whose certificate this list revokes, as `smt pki revoke` writes it (PEM; repeatable). With one,
    /// every authority in a client's chain needs one
    #[arg(long, value_name = "FILE", requires = "client_ca", help_heading = "Identity")]
    crl: Vec<PathBuf>,
    /// Of the clients with a valid certificate, let in only those that it names so (repeatable; one must fit): a URI
    /// such as spiffe://example.org/billing or spiffe://example.org/ns/prod/*, or a DNS name such as billing or
    /// *.example.org. With --allow-anonymous, those without certificate stay welcome
    #[arg(long, value_name = "URI|DNS", requires = "client_ca", help_heading = "Identity")]
    allow: Vec<Pattern>,
    /// Do not look at these files again. Otherwise they are looked at every second, and handshakes go on with what
    /// they say then; files that cannot be used are told on standard error and change nothing
    #[arg(long, overrides_with = "watch", help_heading = "Identity")]
    no_watch: bool,
    /// Look at these files every second (the default)
    #[arg(long, overrides_with = "no_watch", help_heading = "Identity")]
    watch: bool,
}

/// How handshakes are made, beside who may make them.
#[derive(Debug, Clone)]
pub struct Algorithms {
    /// The cipher suites to allow; `None` for the default.
    pub suites: Option<Vec<SuiteId>>,
    /// How a secret is agreed on.
    pub key_exchange: KeyExchange,
}

impl Policy {
    /// The server's identity as its files have it now.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn identity(&self) -> Result<Identity, ConfigError> {
        Identity::from_pem_files(&self.cert, &self.key)
    }

    /// A configuration that follows the files, as long as the watch is kept; `finish` adds what else
    /// belongs to it, each time it is made.
    ///
    /// # Errors
    /// The files cannot be used, or not be watched.
    pub fn tls(
        &self,
        algorithms: Algorithms,
        finish: impl Fn(ServerTlsBuilder) -> ServerTlsBuilder + Send + 'static,
    ) -> Result<(ServerTls, Option<Watch>), ConfigError> {
        let policy = self.clone();
        let load = move || finish(policy.builder(&algorithms)?).build();
        if self.no_watch {
            return Ok((load()?, None));
        }
        let files = [&self.cert, &self.key].into_iter().chain(&self.client_ca).chain(&self.crl);
        let (tls, watch) = Watch::server(files.cloned().collect(), load)?;
        Ok((tls, Some(watch)))
    }

    fn builder(&self, algorithms: &Algorithms) -> Result<ServerTlsBuilder, ConfigError> {
        let mut tls = ServerTls::builder(self.identity()?)
            .client_auth(self.client_auth()?)
            .key_exchange(algorithms.key_exchange)
            .key_log_from_env();
        if let Some(suites) = &algorithms.suites {
            tls = tls.cipher_suites(suites);
        }
        if !self.allow.is_empty() {
            let (patterns, anonymous_too) = (self.allow.clone(), self.allow_anonymous);
            tls = tls.authorise(move |peer| {
                if anonymous_too && peer.is_anonymous() {
                    return Ok(());
                }
                allow::check(&patterns, peer)
            });
        }
        Ok(tls)
    }

    fn client_auth(&self) -> Result<ClientAuth, ConfigError> {
        let Some(file) = &self.client_ca else { return Ok(ClientAuth::None) };
        let roots = self
            .crl
            .iter()
            .try_fold(Roots::from_pem_file(file)?, |roots, crl| roots.with_crl_pem_file(crl))?;
        Ok(if self.allow_anonymous {
            ClientAuth::Optional(roots)
        } else {
            ClientAuth::Required(roots)
        })
    }
}

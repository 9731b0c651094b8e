//! TLS 1.3 on TCP by the host's OpenSSL, if this program was built with the feature `openssl`.
//!
//! Resumption is not measured: the crate offers it to unsafe code alone, of which this one has none.

use super::contender::{Both, What};
use super::ground::Ground;
use crate::commands::Error;

/// Starts a server and makes a client; or says why this OpenSSL is not measured.
#[cfg(not(feature = "openssl"))]
pub(super) fn enter(_: &Ground, _: What, _: u16) -> Result<Result<Both, String>, Error> {
    Ok(Err("built without the feature openssl".to_owned()))
}

/// Starts a server and makes a client; or says why this OpenSSL is not measured.
#[cfg(feature = "openssl")]
pub(super) fn enter(
    ground: &Ground,
    what: What,
    index: u16,
) -> Result<Result<Both, String>, Error> {
    measured::enter(ground, what, index)
}

#[cfg(feature = "openssl")]
mod measured {
    use std::io::{self, ErrorKind, Read, Write};
    use std::net::SocketAddr;
    use std::time::{Duration, Instant};

    use openssl::error::ErrorStack;
    use openssl::pkey::PKey;
    use openssl::ssl::{
        Ssl, SslContext, SslContextBuilder, SslMethod, SslOptions, SslSessionCacheMode, SslStream,
        SslVerifyMode, SslVersion,
    };
    use openssl::x509::X509;
    use openssl::x509::store::X509StoreBuilder;

    use crate::bench::contender::{Both, Client, Exchange, What};
    use crate::bench::ground::{Credentials, Ground, SERVER_NAME};
    use crate::bench::serving::Server;
    use crate::bench::tls::{accept_each, connect};
    use crate::bench::{RPC_BYTES, failed};
    use crate::commands::Error;
    use crate::pki::Identity;

    /// The TCP port of the first contender.
    const FIRST_PORT: u16 = 5500;

    pub(super) fn enter(
        ground: &Ground,
        what: What,
        index: u16,
    ) -> Result<Result<Both, String>, Error> {
        let cannot = failed("OpenSSL refuses the configuration");
        let group = match what.exchange {
            Exchange::X25519 => "X25519",
            Exchange::Hybrid => "X25519MLKEM768",
        };
        let mut builder = builder(&ground.credentials).map_err(&cannot)?;
        if builder.set_groups_list(group).is_err() {
            let why = format!("{} has no {group}", openssl::version::version());
            return Ok(Err(why));
        }
        let address = ground.server_address(FIRST_PORT + index);
        let context = server_context(&ground.credentials, what.mtls, group).map_err(&cannot)?;
        let server = Server::start(ground, move |serving| {
            accept_each(address, serving, |stream| {
                let ssl = Ssl::new(&context).map_err(io::Error::other)?;
                let mut stream = SslStream::new(ssl, stream).map_err(io::Error::other)?;
                stream.accept().map_err(io::Error::other)?;
                let mut request = [0; RPC_BYTES];
                stream.read_exact(&mut request)?;
                stream.write_all(&request)?;
                // Until the client has left.
                stream.read(&mut [0]).map(|_| ())
            })
        })?;
        if what.mtls {
            show(&mut builder, ground.credentials.client()).map_err(&cannot)?;
        }
        builder.set_verify(SslVerifyMode::PEER);
        let client = OpensslClient { context: builder.build(), address };
        Ok(Ok((server, Box::new(client))))
    }

    /// What both ends have in common.
    fn builder(credentials: &Credentials) -> Result<SslContextBuilder, ErrorStack> {
        let mut builder = SslContext::builder(SslMethod::tls())?;
        builder.set_min_proto_version(Some(SslVersion::TLS1_3))?;
        builder.set_ciphersuites("TLS_AES_128_GCM_SHA256")?;
        builder.set_session_cache_mode(SslSessionCacheMode::OFF);
        builder.set_options(SslOptions::NO_TICKET);
        let mut store = X509StoreBuilder::new()?;
        store.add_cert(X509::from_der(&credentials.authority())?)?;
        builder.set_cert_store(store.build());
        Ok(builder)
    }

    fn server_context(
        credentials: &Credentials,
        mtls: bool,
        group: &str,
    ) -> Result<SslContext, ErrorStack> {
        let mut builder = builder(credentials)?;
        builder.set_groups_list(group)?;
        builder.set_num_tickets(0)?;
        show(&mut builder, credentials.server())?;
        if mtls {
            builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        }
        Ok(builder.build())
    }

    fn show(builder: &mut SslContextBuilder, identity: &Identity) -> Result<(), ErrorStack> {
        let certificate = X509::from_der(&identity.certificate())?;
        let key = PKey::private_key_from_pkcs8(identity.key().secret_der())?;
        builder.set_certificate(&certificate)?;
        builder.set_private_key(&key)
    }

    struct OpensslClient {
        context: SslContext,
        address: SocketAddr,
    }

    impl Client for OpensslClient {
        fn first_rpc(&mut self) -> Result<Duration, Error> {
            self.once().map_err(Error::io("TLS on TCP by OpenSSL"))
        }
    }

    impl OpensslClient {
        fn once(&self) -> io::Result<Duration> {
            let request = [7; RPC_BYTES];
            let mut response = [0; RPC_BYTES];
            let start = Instant::now();
            let socket = connect(self.address)?;
            let mut ssl = Ssl::new(&self.context).map_err(io::Error::other)?;
            ssl.set_hostname(SERVER_NAME)
                .and_then(|()| ssl.param_mut().set_host(SERVER_NAME))
                .map_err(io::Error::other)?;
            let mut stream = SslStream::new(ssl, socket).map_err(io::Error::other)?;
            stream.connect().map_err(io::Error::other)?;
            stream.write_all(&request)?;
            stream.read_exact(&mut response)?;
            let elapsed = start.elapsed();
            if response != request {
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    "the response is not the request",
                ));
            }
            // The socket is closed either way.
            let _ = stream.shutdown();
            Ok(elapsed)
        }
    }
}

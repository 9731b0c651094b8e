//! TLS 1.3 on TCP by the host's OpenSSL.

use openssl::error::ErrorStack;

use super::super::failed;
use super::super::ground::SERVER_NAME;
use super::{Peer, Ping, Serve, Shape, Site, client_failed, listen, server_failed};
use crate::baseline::{Pipeline, openssl as tls};
use crate::commands::Error;

/// TLS 1.3 by OpenSSL.
pub(super) struct TlsOpenssl;

impl Peer for TlsOpenssl {
    fn version(&self) -> Option<String> {
        Some(openssl::version::version().to_owned())
    }

    fn serve_one(&self, site: &Site) -> Result<Serve, Error> {
        let (address, wait, credentials) = (site.address(), site.wait, &site.credentials);
        let context = tls::server_context(&credentials.authority(), credentials.server());
        let context = context.map_err(refused())?;
        Ok(Box::new(move |serving| {
            let listener = listen(address, serving)?;
            tls::serve_openssl(&listener, &context, wait, serving.over()).map_err(server_failed)
        }))
    }

    fn serve_many(&self, site: &Site, shape: Shape) -> Result<Serve, Error> {
        let (address, wait, credentials) = (site.address(), site.wait, &site.credentials);
        let context = tls::server_context(&credentials.authority(), credentials.server());
        let context = context.map_err(refused())?;
        Ok(Box::new(move |serving| {
            let listener = listen(address, serving)?;
            tls::serve_fleet(&listener, &context, shape.room(), wait, serving.over())
                .map_err(server_failed)
        }))
    }

    fn pinger(&self, site: &Site) -> Result<Box<Ping>, Error> {
        let credentials = &site.credentials;
        let context = tls::client_context(&credentials.authority(), credentials.client());
        let context = context.map_err(refused())?;
        let ping = tls::pinger_openssl(site.address(), SERVER_NAME, &context, site.wait);
        let mut ping = ping.map_err(client_failed)?;
        Ok(Box::new(move |plan| ping(plan).map_err(client_failed)))
    }

    fn pipeline(&self, site: &Site, shape: Shape) -> Result<Box<dyn Pipeline>, Error> {
        let credentials = &site.credentials;
        let context = tls::client_context(&credentials.authority(), credentials.client());
        let context = context.map_err(refused())?;
        let (count, room) = (shape.connections, shape.room());
        tls::connect_fleet(site.address(), SERVER_NAME, &context, count, room, site.wait)
            .map_err(client_failed)
    }
}

fn refused() -> impl Fn(ErrorStack) -> Error {
    failed("OpenSSL refuses the configuration")
}

//! TLS 1.3 on TCP by rustls, without its buffering interface.

use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};

use super::super::ground::{Credentials, server_name};
use super::{Peer, Ping, Serve, Shape, Site, client_failed, listen, server_failed};
use crate::baseline::{Pipeline, fleet, tls};
use crate::commands::Error;

/// TLS 1.3 by rustls.
pub(super) struct TlsRustls;

impl Peer for TlsRustls {
    fn version(&self) -> Option<String> {
        Some("rustls 0.23".to_owned())
    }

    fn serve_one(&self, site: &Site) -> Result<Serve, Error> {
        let (address, wait) = (site.address(), site.wait);
        let config = server_config(&site.credentials)?;
        Ok(Box::new(move |serving| {
            let listener = listen(address, serving)?;
            tls::serve_tls(&listener, &config, wait, serving.over()).map_err(server_failed)
        }))
    }

    fn serve_many(&self, site: &Site, shape: Shape) -> Result<Serve, Error> {
        let (address, wait) = (site.address(), site.wait);
        let config = server_config(&site.credentials)?;
        Ok(Box::new(move |serving| {
            let listener = listen(address, serving)?;
            fleet::serve_tls(&listener, &config, shape.room(), wait, serving.over())
                .map_err(server_failed)
        }))
    }

    fn pinger(&self, site: &Site) -> Result<Box<Ping>, Error> {
        let config = client_config(&site.credentials)?;
        let ping = tls::pinger_tls(site.address(), server_name()?, &config, site.wait);
        let mut ping = ping.map_err(client_failed)?;
        Ok(Box::new(move |plan| ping(plan).map_err(client_failed)))
    }

    fn pipeline(&self, site: &Site, shape: Shape) -> Result<Box<dyn Pipeline>, Error> {
        let config = client_config(&site.credentials)?;
        let (count, room) = (shape.connections, shape.room());
        fleet::connect_tls(site.address(), &server_name()?, &config, count, room, site.wait)
            .map_err(client_failed)
    }
}

pub(super) fn server_config(credentials: &Credentials) -> Result<Arc<ServerConfig>, Error> {
    tls::server_config(credentials.authority(), credentials.server())
        .map_err(|error| Error::Failed(error.to_string()))
}

pub(super) fn client_config(credentials: &Credentials) -> Result<Arc<ClientConfig>, Error> {
    tls::client_config(credentials.authority(), credentials.client())
        .map_err(|error| Error::Failed(error.to_string()))
}

//! QUIC by quinn and rustls: one connection, a stream for each RPC.

use super::super::ground::SERVER_NAME;
use super::tls_rustls::{client_config, server_config};
use super::{Peer, Ping, Serve, Shape, Site, bind, client_failed, server_failed};
use crate::baseline::{Pipeline, quinn};
use crate::commands::Error;

/// QUIC by quinn.
pub(super) struct Quinn;

impl Quinn {
    fn serve(&self, site: &Site, receipts: bool) -> Result<Serve, Error> {
        let (address, mtu, wait) = (site.address(), site.mtu, site.wait);
        let config = server_config(&site.credentials)?;
        Ok(Box::new(move |serving| {
            let socket = bind(address, serving)?;
            quinn::serve_quinn(socket, &config, mtu, receipts, wait, serving.over())
                .map_err(server_failed)
        }))
    }
}

impl Peer for Quinn {
    fn version(&self) -> Option<String> {
        Some("quinn 0.11, rustls 0.23".to_owned())
    }

    fn serve_one(&self, site: &Site) -> Result<Serve, Error> {
        self.serve(site, false)
    }

    fn serve_many(&self, site: &Site, _shape: Shape) -> Result<Serve, Error> {
        self.serve(site, true)
    }

    fn pinger(&self, site: &Site) -> Result<Box<Ping>, Error> {
        let config = client_config(&site.credentials)?;
        let ping = quinn::pinger_quinn(site.address(), SERVER_NAME, &config, site.mtu, site.wait);
        let mut ping = ping.map_err(client_failed)?;
        Ok(Box::new(move |plan| ping(plan).map_err(client_failed)))
    }

    fn pipeline(&self, site: &Site, _shape: Shape) -> Result<Box<dyn Pipeline>, Error> {
        let config = client_config(&site.credentials)?;
        quinn::connect_quinn(site.address(), SERVER_NAME, &config, site.mtu, site.wait)
            .map_err(client_failed)
    }
}

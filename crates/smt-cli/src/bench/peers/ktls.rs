//! TLS 1.3 on TCP, the handshake by rustls, records by the kernel.

use super::super::ground::server_name;
use super::tls_rustls::{client_config, server_config};
use super::{Peer, Ping, Serve, Shape, Site, client_failed, listen, server_failed};
use crate::baseline::{Pipeline, ktls};
use crate::commands::Error;

/// TLS 1.3 in the kernel.
pub(super) struct Ktls;

impl Peer for Ktls {
    fn available(&self) -> Result<(), String> {
        ktls::available()
    }

    fn serve_one(&self, site: &Site) -> Result<Serve, Error> {
        let (address, wait) = (site.address(), site.wait);
        let config = server_config(&site.credentials)?;
        Ok(Box::new(move |serving| {
            let listener = listen(address, serving)?;
            ktls::serve_ktls(&listener, &config, wait, serving.over()).map_err(server_failed)
        }))
    }

    fn serve_many(&self, site: &Site, shape: Shape) -> Result<Serve, Error> {
        let (address, wait) = (site.address(), site.wait);
        let config = server_config(&site.credentials)?;
        Ok(Box::new(move |serving| {
            let listener = listen(address, serving)?;
            ktls::serve_fleet(&listener, &config, shape.room(), wait, serving.over())
                .map_err(server_failed)
        }))
    }

    fn pinger(&self, site: &Site) -> Result<Box<Ping>, Error> {
        let config = client_config(&site.credentials)?;
        let ping = ktls::pinger_ktls(site.address(), server_name()?, &config, site.wait);
        let mut ping = ping.map_err(client_failed)?;
        Ok(Box::new(move |plan| ping(plan).map_err(client_failed)))
    }

    fn pipeline(&self, site: &Site, shape: Shape) -> Result<Box<dyn Pipeline>, Error> {
        let config = client_config(&site.credentials)?;
        let (count, room) = (shape.connections, shape.room());
        ktls::connect_fleet(site.address(), &server_name()?, &config, count, room, site.wait)
            .map_err(client_failed)
    }
}

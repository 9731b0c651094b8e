//! Plain TCP: by one pipe for one RPC at a time, by a fleet of connections for many.

use super::{Peer, Ping, Serve, Shape, Site, client_failed, listen, server_failed};
use crate::baseline::fleet::{self, Room};
use crate::baseline::{Pipeline, tcp};
use crate::commands::Error;

/// Plain TCP.
pub(super) struct Tcp;

impl Peer for Tcp {
    fn serve_one(&self, site: &Site) -> Result<Serve, Error> {
        let (address, wait) = (site.address(), site.wait);
        Ok(Box::new(move |serving| {
            let listener = listen(address, serving)?;
            tcp::serve_tcp(&listener, wait, serving.over()).map_err(server_failed)
        }))
    }

    fn serve_many(&self, site: &Site, shape: Shape) -> Result<Serve, Error> {
        let (address, wait) = (site.address(), site.wait);
        Ok(Box::new(move |serving| {
            let listener = listen(address, serving)?;
            fleet::serve_tcp(&listener, shape.room(), wait, serving.over()).map_err(server_failed)
        }))
    }

    fn pinger(&self, site: &Site) -> Result<Box<Ping>, Error> {
        let mut ping = tcp::pinger_tcp(site.address(), site.wait).map_err(client_failed)?;
        Ok(Box::new(move |plan| ping(plan).map_err(client_failed)))
    }

    fn pipeline(&self, site: &Site, shape: Shape) -> Result<Box<dyn Pipeline>, Error> {
        fleet::connect_tcp(site.address(), shape.connections, shape.room(), site.wait)
            .map_err(client_failed)
    }
}

impl Shape {
    /// What a connection of a fleet needs.
    pub(super) fn room(self) -> Room {
        Room { message: self.message, read: self.read }
    }
}

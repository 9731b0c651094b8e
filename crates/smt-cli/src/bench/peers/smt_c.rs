//! SMT over raw IP sockets by its C interface, one session for whatever is outstanding.

use super::{Peer, Ping, Serve, Shape, Site, client_failed, listen, server_failed};
use crate::baseline::{Pipeline, smt_c};
use crate::commands::Error;

/// SMT by its C interface.
pub(super) struct SmtC;

impl SmtC {
    fn serve(&self, site: &Site, receipts: bool) -> Result<Serve, Error> {
        let (address, wait) = (site.address(), site.wait);
        Ok(Box::new(move |serving| {
            let listener = listen(address, serving)?;
            smt_c::serve_smt_c(&listener, receipts, wait, serving.over()).map_err(server_failed)
        }))
    }
}

impl Peer for SmtC {
    fn serve_one(&self, site: &Site) -> Result<Serve, Error> {
        self.serve(site, false)
    }

    fn serve_many(&self, site: &Site, _shape: Shape) -> Result<Serve, Error> {
        self.serve(site, true)
    }

    fn pinger(&self, site: &Site) -> Result<Box<Ping>, Error> {
        let ping = smt_c::pinger_smt_c(site.address(), site.client, site.wait);
        let mut ping = ping.map_err(client_failed)?;
        Ok(Box::new(move |plan| ping(plan).map_err(client_failed)))
    }

    fn pipeline(&self, site: &Site, _shape: Shape) -> Result<Box<dyn Pipeline>, Error> {
        smt_c::connect_smt_c(site.address(), site.client, site.wait).map_err(client_failed)
    }
}

//! SMT under tokio over raw IP sockets, one session for whatever is outstanding.

use std::net::SocketAddr;

use super::super::ground::SERVER_NAME;
use super::super::smt::{self as ends, Ends};
use super::smt::{WHAT, engine_wait};
use super::{PORT, Peer, Ping, Serve, Shape, Site, client_failed, server_failed};
use crate::baseline::{Pipeline, smt_tokio};
use crate::commands::Error;
use crate::commands::datapath::DatapathChoice;

/// SMT under tokio.
pub(super) struct SmtTokio;

impl SmtTokio {
    fn serve(&self, site: &Site, receipts: bool) -> Result<Serve, Error> {
        let wait = site.wait;
        let Ends { server, .. } = ends::ends_at(&site.credentials, site.server, WHAT, 0)?;
        let server = server.datapath(DatapathChoice::Raw.kind()).wait(engine_wait(wait));
        let server = server.handshakes_inline();
        Ok(Box::new(move |serving| {
            let ready = || serving.ready();
            smt_tokio::serve_smt_tokio(server, receipts, wait, serving.over(), ready)
                .map_err(server_failed)
        }))
    }

    fn client(&self, site: &Site) -> Result<smt::Builder, Error> {
        let Ends { client, .. } = ends::ends_at(&site.credentials, site.server, WHAT, 0)?;
        Ok(client
            .bind(site.client)
            .datapath(DatapathChoice::Raw.kind())
            .wait(engine_wait(site.wait))
            .smt_tickets(false)
            .handshakes_inline())
    }
}

impl Peer for SmtTokio {
    fn serve_one(&self, site: &Site) -> Result<Serve, Error> {
        self.serve(site, false)
    }

    fn serve_many(&self, site: &Site, _shape: Shape) -> Result<Serve, Error> {
        self.serve(site, true)
    }

    fn pinger(&self, site: &Site) -> Result<Box<Ping>, Error> {
        let (client, server) = (self.client(site)?, SocketAddr::new(site.server, PORT));
        let ping = smt_tokio::pinger_smt_tokio(client, server, SERVER_NAME, site.wait);
        let mut ping = ping.map_err(client_failed)?;
        Ok(Box::new(move |plan| ping(plan).map_err(client_failed)))
    }

    fn pipeline(&self, site: &Site, _shape: Shape) -> Result<Box<dyn Pipeline>, Error> {
        let (client, server) = (self.client(site)?, SocketAddr::new(site.server, PORT));
        smt_tokio::connect_smt_tokio(client, server, SERVER_NAME, site.wait).map_err(client_failed)
    }
}

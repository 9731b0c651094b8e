//! SMT over one of its datapaths: an engine at each end, one session for whatever is outstanding.

use std::net::SocketAddr;

use smt::{Builder, Engine, SessionId};

use super::super::contender::{self, Exchange, Variant, What};
use super::super::smt::{self as ends, Ends};
use super::{PORT, Peer, Ping, Serve, Shape, Site};
use crate::baseline::smt::{self as calls, Calls};
use crate::baseline::{Pipeline, Wait};
use crate::commands::Error;
use crate::commands::datapath::DatapathChoice;

/// SMT over a datapath.
pub(super) struct Smt {
    datapath: DatapathChoice,
    /// Without encryption.
    #[cfg(feature = "null-cipher")]
    null: bool,
}

/// How sessions are made; of no effect on what follows.
pub(super) const WHAT: What = What {
    transport: contender::Transport::Smt,
    variant: Variant::Full,
    exchange: Exchange::X25519,
    mtls: false,
};

impl Smt {
    /// As everybody uses it.
    pub(super) fn over(datapath: DatapathChoice) -> Smt {
        Smt {
            datapath,
            #[cfg(feature = "null-cipher")]
            null: false,
        }
    }

    /// Without encryption.
    #[cfg(feature = "null-cipher")]
    pub(super) fn null(datapath: DatapathChoice) -> Smt {
        Smt { datapath, null: true }
    }

    /// What server and client are made of, but for the datapath.
    fn builders(&self, site: &Site) -> Result<[Builder; 2], Error> {
        let Ends { server, client, .. } = ends::ends_at(&site.credentials, site.server, WHAT, 0)?;
        #[cfg(feature = "null-cipher")]
        if self.null {
            return Ok([server, client].map(Builder::null_cipher));
        }
        Ok([server, client])
    }

    fn session(&self, site: &Site) -> Result<(Engine, SessionId), Error> {
        let [_, client] = self.builders(site)?;
        // A handshake beside the packets would share their core, and is over before anything is measured.
        let client = client
            .bind(site.client)
            .datapath(self.datapath.kind())
            .wait(engine_wait(site.wait))
            .smt_tickets(false)
            .handshakes_inline();
        let mut engine = client.engine()?;
        let session = ends::connect(&mut engine, SocketAddr::new(site.server, PORT))?;
        Ok((engine, session))
    }
}

impl Peer for Smt {
    fn serve_one(&self, site: &Site) -> Result<Serve, Error> {
        let wait = site.wait;
        let [server, _] = self.builders(site)?;
        let server =
            server.datapath(self.datapath.kind()).wait(engine_wait(wait)).handshakes_inline();
        Ok(Box::new(move |serving| {
            let mut engine = server.engine()?;
            serving.ready();
            calls::serve(&mut engine, wait, || serving.is_over())
        }))
    }

    fn serve_many(&self, site: &Site, _shape: Shape) -> Result<Serve, Error> {
        self.serve_one(site)
    }

    fn pinger(&self, site: &Site) -> Result<Box<Ping>, Error> {
        let (mut engine, session) = self.session(site)?;
        let wait = site.wait;
        Ok(Box::new(move |plan| {
            calls::ping(&mut engine, session, &crate::baseline::Plan { wait, ..*plan })
        }))
    }

    fn pipeline(&self, site: &Site, _shape: Shape) -> Result<Box<dyn Pipeline>, Error> {
        let (engine, session) = self.session(site)?;
        Ok(Box::new(Calls::new(engine, session, site.wait)))
    }
}

/// As an engine is told to wait.
pub(super) fn engine_wait(wait: Wait) -> smt::Wait {
    match wait {
        Wait::Spin => smt::Wait::Spin,
        Wait::Adaptive => smt::Wait::Adaptive,
        Wait::Block => smt::Wait::Block,
    }
}

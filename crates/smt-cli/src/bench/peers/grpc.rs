//! gRPC by tonic, with TLS 1.3 by rustls: one HTTP/2 connection, a stream for each RPC.

use super::super::ground::server_name;
use super::tls_rustls::{client_config, server_config};
use super::{Peer, Ping, Serve, Shape, Site, client_failed, listen, server_failed};
use crate::baseline::{Pipeline, grpc};
use crate::commands::Error;

/// gRPC by tonic.
pub(super) struct Grpc;

impl Grpc {
    fn serve(&self, site: &Site, receipts: bool) -> Result<Serve, Error> {
        let (address, wait) = (site.address(), site.wait);
        let config = server_config(&site.credentials)?;
        Ok(Box::new(move |serving| {
            let listener = listen(address, serving)?;
            grpc::serve_grpc(listener, &config, receipts, wait, serving.over())
                .map_err(server_failed)
        }))
    }
}

impl Peer for Grpc {
    fn version(&self) -> Option<String> {
        Some("tonic 0.14, rustls 0.23".to_owned())
    }

    fn serve_one(&self, site: &Site) -> Result<Serve, Error> {
        self.serve(site, false)
    }

    fn serve_many(&self, site: &Site, _shape: Shape) -> Result<Serve, Error> {
        self.serve(site, true)
    }

    fn pinger(&self, site: &Site) -> Result<Box<Ping>, Error> {
        let config = client_config(&site.credentials)?;
        let ping = grpc::pinger_grpc(site.address(), server_name()?, &config, site.wait);
        let mut ping = ping.map_err(client_failed)?;
        Ok(Box::new(move |plan| ping(plan).map_err(client_failed)))
    }

    fn pipeline(&self, site: &Site, _shape: Shape) -> Result<Box<dyn Pipeline>, Error> {
        let config = client_config(&site.credentials)?;
        grpc::connect_grpc(site.address(), server_name()?, &config, site.wait)
            .map_err(client_failed)
    }
}

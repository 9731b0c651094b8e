//! A peer that this program was built without.

use super::{Peer, Ping, Serve, Shape, Site};
use crate::baseline::Pipeline;
use crate::commands::Error;

/// Not available, and what to do about it.
pub(super) struct Missing(pub(super) &'static str);

impl Missing {
    fn error(&self) -> Error {
        Error::Failed(self.0.to_owned())
    }
}

impl Peer for Missing {
    fn available(&self) -> Result<(), String> {
        Err(self.0.to_owned())
    }

    fn serve_one(&self, _: &Site) -> Result<Serve, Error> {
        Err(self.error())
    }

    fn serve_many(&self, _: &Site, _: Shape) -> Result<Serve, Error> {
        Err(self.error())
    }

    fn pinger(&self, _: &Site) -> Result<Box<Ping>, Error> {
        Err(self.error())
    }

    fn pipeline(&self, _: &Site, _: Shape) -> Result<Box<dyn Pipeline>, Error> {
        Err(self.error())
    }
}

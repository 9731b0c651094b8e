//! The client's side of an agent.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::ground::Credentials;
use super::super::peers::{Shape, Transport};
use super::channel::Channel;
use super::{Answer, Request, Token};
use crate::baseline::Wait;
use crate::commands::Error;
use crate::pki::Authority;

/// How long an agent may take to do something.
const PATIENCE: Duration = Duration::from_secs(30);

/// An agent that has let us in.
pub struct Agent {
    channel: Arc<Mutex<Channel>>,
    /// The agent's address and our own, as they see each other.
    pub addresses: [IpAddr; 2],
    /// Certificates of the agent's authority.
    pub credentials: Arc<Credentials>,
}

/// A server of an agent's.
pub struct Service {
    channel: Arc<Mutex<Channel>>,
}

impl Agent {
    /// Connects to the agent at `address`.
    ///
    /// # Errors
    /// There is none, it is not the token's, or it does not take the token.
    pub fn connect(address: SocketAddr, token: &Token) -> Result<Agent, Error> {
        let mut channel = Channel::connect(address, token, PATIENCE)?;
        channel.send(&Request::Secret(token.secret()))?;
        let Some(Answer::Welcome { authority, key }) = channel.receive()? else {
            return Err(Error::Failed(format!("the agent at {address} does not take the token")));
        };
        let authority = Authority::from_pem(&authority, &key)
            .map_err(super::super::failed("the agent has no authority"))?;
        let credentials = Arc::new(Credentials::issued_by(&authority)?);
        let addresses = [address.ip(), channel.local_address()?.ip()];
        Ok(Agent { channel: Arc::new(Mutex::new(channel)), addresses, credentials })
    }

    /// Has it start a server, which takes the place of an earlier one.
    ///
    /// # Errors
    /// What the agent says, or it is gone.
    pub fn serve(
        &self,
        transport: Transport,
        wait: Wait,
        shape: Option<Shape>,
    ) -> Result<Service, Error> {
        let client = self.addresses[1];
        ask(&self.channel, &Request::Serve { transport, wait, client, shape })?;
        Ok(Service { channel: Arc::clone(&self.channel) })
    }
}

impl Service {
    /// Ends it.
    ///
    /// # Errors
    /// What it failed with.
    pub fn stop(self) -> Result<(), Error> {
        ask(&self.channel, &Request::Stop)
    }
}

fn ask(channel: &Mutex<Channel>, request: &Request) -> Result<(), Error> {
    let mut channel = channel.lock().unwrap_or_else(PoisonError::into_inner);
    channel.send(request)?;
    match channel.receive()? {
        Some(Answer::Done) => Ok(()),
        Some(Answer::Failed(why)) => Err(Error::Failed(format!("the agent says: {why}"))),
        Some(Answer::Welcome { .. }) | None => Err(Error::Failed("the agent is gone".to_owned())),
    }
}

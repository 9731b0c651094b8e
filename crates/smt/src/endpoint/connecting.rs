//! A session on its way, and calls that do not wait for it.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use smt_proto::Body;
use tokio::sync::{mpsc, oneshot};

use super::driver::{CallResult, ConnectResult, Made, Request};
use super::session::Target;
use super::{Endpoint, Session};
use crate::engine::{CallOptions, ConnectId, ConnectOptions};
use crate::error::{CallError, ConnectError};

/// A session that is being made. Dropping it gives the session up, and the calls with it.
#[must_use = "dropping it gives the session up"]
pub struct Connecting {
    pending: Pending,
    target: Target,
    requests: mpsc::UnboundedReceiver<Request>,
}

impl Connecting {
    pub(super) fn new(
        endpoint: Endpoint,
        remote: SocketAddr,
        options: ConnectOptions,
    ) -> Connecting {
        let (sender, requests) = mpsc::unbounded_channel();
        let target = Target { remote, options: options.clone(), requests: sender.clone() };
        Connecting { pending: Pending::begin(&endpoint, remote, options, sender), target, requests }
    }

    /// Sends a request now: with the first packet, if there is a ticket and the request fits, else as
    /// soon as the handshake allows. The request must be idempotent: when the server refuses the ticket
    /// or an attempt to connect fails, it is sent again, and it may be executed more than once. Awaiting
    /// gives its one result; dropping the future does not cancel it. Its deadline is the builder's
    /// `call_deadline`.
    pub fn call_early(&self, body: impl Into<Bytes>) -> EarlyCall {
        let body = body.into();
        let result = match (self.pending.connect, &self.pending.failed) {
            (Some(connect), _) => self.pending.endpoint.with(|driven| {
                if driven.closed {
                    return Err(CallError::NotConnected(ConnectError::EndpointClosed));
                }
                let (user, receiver) = driven.reserve_call();
                let options = CallOptions { user, ..CallOptions::default() };
                driven.engine.call_early(connect, body, options);
                // Whatever is wrong is an event already.
                driven.dispatch();
                Ok(receiver)
            }),
            (None, Some(error)) => Err(CallError::NotConnected(error.clone())),
            (None, None) => Err(CallError::SessionClosed),
        };
        match result {
            Ok(receiver) => EarlyCall { receiver },
            Err(error) => {
                let (sender, receiver) = oneshot::channel();
                let _ = sender.send(Err(error));
                EarlyCall { receiver }
            }
        }
    }

    /// Waits for the session.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn session(self) -> Result<Session, ConnectError> {
        let Connecting { pending, target, requests } = self;
        let endpoint = pending.endpoint.clone();
        let connected = pending.await?;
        Ok(Session::connected(endpoint, connected, target, requests))
    }
}

/// The result of a call made by [`Connecting::call_early`].
pub struct EarlyCall {
    receiver: oneshot::Receiver<CallResult>,
}

impl Future for EarlyCall {
    type Output = Result<Body, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let receiver = Pin::new(&mut self.receiver);
        receiver.poll(context).map(|result| result.unwrap_or(Err(CallError::SessionClosed)))
    }
}

/// An attempt to connect; given up when this is dropped.
pub(super) struct Pending {
    endpoint: Endpoint,
    connect: Option<ConnectId>,
    /// Why it failed before it began.
    failed: Option<ConnectError>,
    receiver: oneshot::Receiver<ConnectResult>,
}

impl Pending {
    pub(super) fn begin(
        endpoint: &Endpoint,
        remote: SocketAddr,
        options: ConnectOptions,
        requests: mpsc::UnboundedSender<Request>,
    ) -> Pending {
        let (sender, receiver) = oneshot::channel();
        let begun = endpoint.with(|driven| {
            if driven.closed {
                return Err(ConnectError::EndpointClosed);
            }
            let connect = driven.engine.connect_with(remote, options)?;
            driven.connects.insert(connect, (sender, requests));
            Ok(connect)
        });
        let failed = begun.as_ref().err().cloned();
        Pending { endpoint: endpoint.clone(), connect: begun.ok(), failed, receiver }
    }
}

impl Future for Pending {
    type Output = Result<Made, ConnectError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(error.clone()));
        }
        let result = Pin::new(&mut self.receiver).poll(context);
        result.map(|result| {
            self.connect = None;
            result.unwrap_or(Err(ConnectError::EndpointClosed))
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(connect) = self.connect {
            let made = self.receiver.try_recv();
            self.endpoint.with(|driven| {
                driven.connects.remove(&connect);
                driven.engine.cancel_connect(connect);
                // It was made while nobody looked.
                if let Ok(Ok((route, _))) = made {
                    driven.engine.close(route.head());
                }
            });
        }
    }
}

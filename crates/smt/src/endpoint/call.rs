//! A call as a future.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smt_proto::{Body, RpcId, SessionId};
use tokio::sync::oneshot;

use super::driver::CallResult;
use super::{Endpoint, Session};
use crate::engine::CallOptions;
use crate::error::{CallError, StartError};

/// A call that awaiting starts. Dropping the future cancels the call; the server is told.
#[must_use = "a call starts when it is awaited"]
pub struct Call {
    session: Session,
    body: Bytes,
    deadline: Option<Duration>,
}

impl Call {
    pub(super) fn new(session: Session, body: Bytes) -> Call {
        Call { session, body, deadline: None }
    }

    /// How long the call may take, waiting for room to start included; the default is the builder's
    /// `call_deadline`.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    async fn run(self) -> Result<Body, CallError> {
        let Call { session, body, deadline } = self;
        let endpoint = session.endpoint().clone();
        let deadline = deadline.unwrap_or_else(|| endpoint.lock().engine.call_deadline());
        let until = Instant::now() + deadline;
        loop {
            let route = session.route();
            let mut places = route.places().peekable();
            let Some(&(shard, id)) = places.peek() else { return Err(CallError::SessionClosed) };
            let room = endpoint.lock_at(shard).room(id);
            // Made before the attempt, so that it misses no notification.
            let freed = room.as_ref().map(|room| room.notified());
            let left = until.saturating_duration_since(Instant::now());
            let mut started = Err(StartError::NoSession);
            for place in places {
                started = start(&endpoint, place, &body, left);
                // Where the first has no room another shard may have.
                if !matches!(
                    started,
                    Err(StartError::TooManyOutstanding | StartError::Backpressure)
                ) {
                    break;
                }
            }
            let late = |_| CallError::DeadlineExceeded;
            match started {
                Ok((at, rpc, receiver)) => {
                    let mut guard = CancelOnDrop { endpoint: &endpoint, at, rpc: Some(rpc) };
                    let result = receiver.await;
                    guard.rpc = None;
                    return result.unwrap_or(Err(CallError::SessionClosed));
                }
                Err(StartError::TooManyOutstanding | StartError::Backpressure) => {
                    let Some(freed) = freed else { continue };
                    tokio::time::timeout(left, freed).await.map_err(late)?;
                }
                Err(StartError::NoSession | StartError::Exhausted) => {
                    tokio::time::timeout(left, session.reconnect(route.head()))
                        .await
                        .map_err(late)??;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl IntoFuture for Call {
    type Output = Result<Body, CallError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

/// Starts a call at a shard; which, and where its result will be.
fn start(
    endpoint: &Endpoint,
    (shard, session): (usize, SessionId),
    body: &Bytes,
    deadline: Duration,
) -> Result<(usize, RpcId, oneshot::Receiver<CallResult>), StartError> {
    endpoint.with_at(shard, |driven| {
        if driven.closed {
            return Err(StartError::NoSession);
        }
        let (user, receiver) = driven.reserve_call();
        let options = CallOptions { deadline: Some(deadline), user };
        match driven.engine.call(session, body.clone(), options) {
            Ok(rpc) => {
                driven.tell_waiting(session);
                Ok((shard, rpc, receiver))
            }
            Err(error) => {
                driven.release_call(user);
                Err(error)
            }
        }
    })
}

struct CancelOnDrop<'a> {
    endpoint: &'a Endpoint,
    at: usize,
    rpc: Option<RpcId>,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(rpc) = self.rpc {
            self.endpoint.with_at(self.at, |driven| driven.engine.cancel(rpc));
        }
    }
}

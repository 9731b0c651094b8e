//! Post-handshake messages (spec 5.9): what a server's handshake code tells a client's once the session
//! works, such as tickets. They are RPCs of the server's that neither application sees.

use bytes::Bytes;

use super::calls::NewCall;
use super::{Role, Session, State};
use crate::endpoint::Shared;
use crate::error::StartError;
use crate::event::Event;
use crate::message::Body;
use crate::rpc::Sort;
use crate::time::Time;
use crate::wire::{FIRST_EPOCH, Kind, Preamble};

impl Session {
    /// Sends a post-handshake message. What does not arrive in `handshake_timeout` is given up.
    pub(crate) fn send_post(
        &mut self,
        cx: &mut Shared,
        now: Time,
        body: Bytes,
    ) -> Result<(), StartError> {
        if self.role != Role::Server || !matches!(self.state, State::Established) {
            return Err(StartError::NoSession);
        }
        let limit = cx.config.limits.max_post;
        if body.len() as u64 > u64::from(limit) {
            cx.stats.limit_post += 1;
            return Err(StartError::TooLarge { limit: limit.into() });
        }
        let deadline = now + cx.config.limits.handshake_timeout;
        self.start(cx, NewCall { sort: Sort::Post, body, deadline, user: 0 })?;
        cx.stats.posts_sent += 1;
        Ok(())
    }

    /// Whether a request with this preamble may come from the peer under `epoch`.
    pub(super) fn is_lawful_request(
        &self,
        cx: &mut Shared,
        preamble: &Preamble,
        epoch: u32,
    ) -> bool {
        match preamble.kind {
            Kind::Application => true,
            Kind::Post if self.role == Role::Client && epoch >= FIRST_EPOCH => {
                let fits = preamble.app_len <= cx.config.limits.max_post;
                cx.stats.limit_post += u64::from(!fits);
                fits
            }
            Kind::Post | Kind::Error => false,
        }
    }

    /// Hands out post-handshake message `number`, unless there have been too many, and confirms it.
    pub(super) fn take_post(&mut self, cx: &mut Shared, number: u64, body: Body) {
        cx.stats.posts_received += 1;
        if self.posts_in < cx.config.limits.max_posts {
            self.posts_in += 1;
            cx.events.push_back(Event::Post { session: self.head, body });
        } else {
            cx.stats.limit_posts += 1;
        }
        self.reply(cx, number, Kind::Application, Bytes::new());
    }
}

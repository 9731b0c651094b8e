//! The applications: calls, answers, and what must come of them.

use std::time::Duration;

use bytes::Bytes;
use smt_proto::error::{CallError, reply_code};
use smt_proto::{Body, RpcId, SessionId, Time};

use super::super::input::Input;
use super::World;

const REFUSAL: (u32, &str) = (1000, "no");

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Bytes(usize),
    Refusal,
}

pub struct Call {
    pub caller: usize,
    pub session: SessionId,
    rpc: RpcId,
    len: usize,
    deadline: Time,
    cancelled: bool,
    /// The peer's application has seen it.
    ran: bool,
    answer: Option<Answer>,
    pub ended: bool,
    pub succeeded: bool,
}

/// Bytes that belong to one call; requests and responses differ.
fn bytes(call: usize, response: bool, len: usize) -> Vec<u8> {
    let mut bytes = (call as u32).to_be_bytes().to_vec();
    let salt = call * 7 + usize::from(response) * 3;
    bytes.extend((4..len.max(4)).map(|at| (at / 3 + salt) as u8));
    bytes
}

impl World {
    /// Starts a call; `None` if it may not start now.
    pub(super) fn call(
        &mut self,
        me: usize,
        session: SessionId,
        len: usize,
        patience: Duration,
    ) -> Option<usize> {
        let (index, deadline) = (self.calls.len(), self.now + patience);
        let body = Bytes::from(bytes(index, false, len));
        let endpoint = &mut self.hosts[me].endpoint;
        let rpc = endpoint.start_call(session, body, deadline, index as u64).ok()?;
        self.calls.push(Call {
            caller: me,
            session,
            rpc,
            len,
            deadline,
            cancelled: false,
            ran: false,
            answer: None,
            ended: false,
            succeeded: false,
        });
        Some(index)
    }

    pub(super) fn request(&mut self, me: usize, rpc: RpcId, body: &[u8]) {
        let index = u32::from_be_bytes(*body.first_chunk().unwrap()) as usize;
        let call = &mut self.calls[index];
        assert!(call.caller != me, "a request came back to its caller");
        assert!(body == bytes(index, false, call.len), "a request was altered");
        assert!(!call.ran, "a request ran twice");
        call.ran = true;
        self.hosts[me].requests.push_back((rpc, index));
        if self.prompt {
            self.answer(me, Answer::Bytes(100));
        }
    }

    /// Answers the oldest request of a host as the input says.
    pub(super) fn answer_some(&mut self, me: usize, input: &mut Input<'_>) {
        let choice = input.u8();
        if choice > 200 {
            return self.answer(me, Answer::Refusal);
        }
        let len = (usize::from(choice) * 200).max(4);
        self.answer(me, Answer::Bytes(len));
    }

    pub(super) fn answer_all(&mut self) {
        for me in [0, 1] {
            while !self.hosts[me].requests.is_empty() {
                self.answer(me, Answer::Bytes(100));
            }
        }
    }

    fn answer(&mut self, me: usize, answer: Answer) {
        let Some((rpc, index)) = self.hosts[me].requests.pop_front() else { return };
        self.calls[index].answer = Some(answer);
        let endpoint = &mut self.hosts[me].endpoint;
        match answer {
            Answer::Bytes(len) => endpoint.reply(rpc, Bytes::from(bytes(index, true, len))),
            Answer::Refusal => endpoint.refuse(rpc, REFUSAL.0, REFUSAL.1),
        };
    }

    pub(super) fn cancel(&mut self, choice: u8) {
        let mut waiting = self.calls.iter_mut().filter(|call| !call.ended);
        let Some(call) = waiting.nth(usize::from(choice)) else { return };
        call.cancelled = true;
        let (caller, rpc) = (call.caller, call.rpc);
        self.hosts[caller].endpoint.cancel(self.now, rpc);
        self.events(caller);
    }

    pub(super) fn response(&mut self, me: usize, user: u64, result: Result<Body, CallError>) {
        let index = user as usize;
        let call = &mut self.calls[index];
        assert!(call.caller == me && !call.ended, "a call ended twice");
        call.ended = true;
        match result {
            Ok(body) => {
                let Some(Answer::Bytes(len)) = call.answer else { panic!("nobody answered") };
                assert!(body[..] == bytes(index, true, len), "a response was altered");
                call.succeeded = true;
            }
            // Few sequence numbers and a small MTU leave no room for it (spec 3.2).
            Err(CallError::Refused { code: reply_code::TOO_LARGE, .. }) => {
                assert!(self.few_records && matches!(call.answer, Some(Answer::Bytes(_))));
            }
            Err(CallError::Refused { code, text }) => {
                assert_eq!((code, text.as_str()), REFUSAL);
                assert_eq!(call.answer, Some(Answer::Refusal));
            }
            Err(CallError::DeadlineExceeded) => assert!(self.now >= call.deadline),
            Err(CallError::Cancelled) => assert!(call.cancelled),
            Err(CallError::Exhausted) => assert!(!call.ran, "it ran, and is said not to have"),
            Err(CallError::OutcomeUnknown | CallError::SessionClosed) => {}
            Err(CallError::NotRun) => panic!("no call was early"),
        }
    }
}

//! Key updates.

use smt::{Direction, UpdateError};

use crate::abi::{RECEIVE, SEND, smt_engine};
use crate::border;
use crate::engine::with_engine;
use crate::session::session_named;
use crate::status::{Failure, Status};

/// Moves the sending direction of a session to its next key.
#[unsafe(no_mangle)]
pub extern "C" fn smt_update_keys(engine: *mut smt_engine, session: u64) -> i32 {
    with_engine(engine, |state| lives(state.engine.update_keys(session_named(session)?)))
}

/// Asks the peer to move its sending direction to its next key.
#[unsafe(no_mangle)]
pub extern "C" fn smt_request_update(engine: *mut smt_engine, session: u64) -> i32 {
    with_engine(engine, |state| lives(state.engine.request_update(session_named(session)?)))
}

fn lives(lives: bool) -> Result<(), Failure> {
    if lives { Ok(()) } else { Err(Failure::new(Status::NoSession, "the session is gone")) }
}

/// Gives a session the next traffic secret of a direction.
///
/// # Safety
/// `secret_len` bytes can be read at `secret`, unless it is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smt_register_update(
    engine: *mut smt_engine,
    session: u64,
    direction: u32,
    secret: *const u8,
    secret_len: usize,
) -> i32 {
    with_engine(engine, |state| {
        // SAFETY: the caller's promise.
        let secret = unsafe { border::bytes("secret", secret, secret_len)? };
        let direction = match direction {
            SEND => Direction::Send,
            RECEIVE => Direction::Receive,
            other => {
                let text = format!("direction is {other}, not SMT_SEND or SMT_RECEIVE");
                return Err(Failure::invalid(text));
            }
        };
        state.engine.register_update(session_named(session)?, direction, secret)?;
        Ok(())
    })
}

impl From<UpdateError> for Failure {
    fn from(error: UpdateError) -> Self {
        match error {
            UpdateError::NoSession => Failure::new(Status::NoSession, "the session is gone"),
            UpdateError::Derived => {
                Failure::invalid("the session was opened with SMT_UPDATES_DERIVED")
            }
            UpdateError::WrongLength => Failure::invalid("the secret is not as long as the first"),
            UpdateError::TooMany => {
                let text = "four secrets of this direction wait to be used already";
                Failure::new(Status::Limit, text)
            }
        }
    }
}

//! Calls and answers.

use std::ffi::{c_char, c_void};

use smt::{CallOptions, RpcId};

use crate::abi::{smt_engine, smt_rpc};
use crate::border::{self, Out};
use crate::engine::{deadline, session_id, session_number, with_engine};
use crate::session::session_named;
use crate::status::{Failure, Status};

/// The bit of an RPC's name that says who started it: numbers are shorter (spec 3.1).
const OURS: u64 = 1 << 63;

/// An RPC's name in C.
pub(crate) fn rpc_name(rpc: RpcId) -> smt_rpc {
    let ours = if rpc.ours { OURS } else { 0 };
    smt_rpc { session: session_number(rpc.session), id: rpc.number | ours }
}

/// The RPC that C names, if the name can be one.
fn rpc_id(rpc: smt_rpc) -> Option<RpcId> {
    let session = session_id(rpc.session)?;
    Some(RpcId { session, ours: rpc.id & OURS != 0, number: rpc.id & !OURS })
}

/// Starts a call.
///
/// # Safety
/// `len` bytes can be read at `data`, unless it is null; `rpc` is null or an `smt_rpc`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smt_call(
    engine: *mut smt_engine,
    session: u64,
    data: *const c_void,
    len: usize,
    deadline_us: u64,
    user: u64,
    rpc: *mut smt_rpc,
) -> i32 {
    with_engine(engine, |state| {
        // SAFETY: the caller's promise.
        let body = unsafe { border::bytes("data", data.cast(), len)? };
        let options = CallOptions { deadline: deadline(deadline_us), user };
        let id = state.engine.call(session_named(session)?, body.to_vec(), options)?;
        if !rpc.is_null() {
            // SAFETY: the caller's promise.
            unsafe { Out::new("rpc", rpc)? }.set(rpc_name(id));
        }
        Ok(())
    })
}

/// Gives up a call.
#[unsafe(no_mangle)]
pub extern "C" fn smt_cancel(engine: *mut smt_engine, rpc: smt_rpc) -> i32 {
    with_engine(engine, |state| {
        if let Some(rpc) = rpc_id(rpc) {
            state.engine.cancel(rpc);
        }
        Ok(())
    })
}

/// Answers a request.
///
/// # Safety
/// `len` bytes can be read at `data`, unless it is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smt_reply(
    engine: *mut smt_engine,
    rpc: smt_rpc,
    data: *const c_void,
    len: usize,
) -> i32 {
    with_engine(engine, |state| {
        // SAFETY: the caller's promise.
        let body = unsafe { border::bytes("data", data.cast(), len)? };
        gone_unless(rpc_id(rpc).is_some_and(|rpc| state.engine.reply(rpc, body.to_vec())))
    })
}

/// Answers a request with an error.
///
/// # Safety
/// `text` is null or ends with 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smt_refuse(
    engine: *mut smt_engine,
    rpc: smt_rpc,
    code: u32,
    text: *const c_char,
) -> i32 {
    with_engine(engine, |state| {
        // SAFETY: the caller's promise.
        let text = unsafe { border::text("text", text)? };
        gone_unless(rpc_id(rpc).is_some_and(|rpc| state.engine.refuse(rpc, code, text)))
    })
}

fn gone_unless(answered: bool) -> Result<(), Failure> {
    let text = "nobody waits for the answer: it was given, or the request was cancelled";
    if answered { Ok(()) } else { Err(Failure::new(Status::Gone, text)) }
}

/// Tells how many calls of ours are not over.
///
/// # Safety
/// `calls` is null or a `uint32_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smt_outstanding(
    engine: *mut smt_engine,
    session: u64,
    calls: *mut u32,
) -> i32 {
    with_engine(engine, |state| {
        // SAFETY: the caller's promise.
        let out = unsafe { Out::new("calls", calls)? };
        let calls = session_id(session).map_or(0, |session| state.engine.outstanding(session));
        out.set(u32::try_from(calls).unwrap_or(u32::MAX));
        Ok(())
    })
}

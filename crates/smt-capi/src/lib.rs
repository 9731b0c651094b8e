//! The C interface of SMT, libsmt: sessions on secrets that another TLS 1.3 stack has negotiated.
//!
//! `include/smt.h` is the manual and the truth about every function; `docs/c.md` is the tutorial.
//! Here is what makes them safe to call:
//!
//! - Engines and offers are numbers, looked up in a table (`handles`); pointers of the caller's are
//!   read and written in one place (`border`), and nowhere else is `unsafe` needed for more than
//!   to pass them there.
//! - No panic leaves the library: each function runs inside `border::run`.
//! - Nothing of the caller's is kept after a function has returned.
//!
//! Rust programs use the crate `smt` itself.

mod abi;
mod border;
mod engine;
mod event;
mod handles;
mod keys;
mod message;
#[cfg(feature = "safe")]
pub mod safe;
mod session;
mod status;
#[cfg(test)]
mod tests;

pub use abi::{
    smt_counters, smt_engine, smt_event, smt_offer, smt_options, smt_rpc, smt_session_options,
};
pub use engine::{
    smt_engine_counters, smt_engine_fd, smt_engine_free, smt_engine_new, smt_engines_new,
    smt_version,
};
pub use event::{smt_flush, smt_next_event};
pub use keys::{smt_register_update, smt_request_update, smt_update_keys};
pub use message::{smt_call, smt_cancel, smt_outstanding, smt_refuse, smt_reply};
pub use session::{
    smt_close, smt_close_all, smt_offer_block, smt_offer_free, smt_offer_new, smt_offer_port,
    smt_offer_udp_port, smt_open,
};
pub use status::{smt_last_error, smt_strerror};

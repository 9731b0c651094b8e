//! Structures and numbers of `include/smt.h`; `tests/header.rs` compares the two.

#![allow(non_camel_case_types, reason = "the names are those of the header")]

use std::ffi::c_void;

/// An engine, as C names it.
pub enum smt_engine {}

/// An offer, as C names it.
pub enum smt_offer {}

pub(crate) const CLIENT: u32 = 1;
pub(crate) const SERVER: u32 = 2;

pub(crate) const RAW: u8 = 0;
pub(crate) const UDP: u8 = 1;
pub(crate) const PACKET: u8 = 2;
pub(crate) const XDP: u8 = 3;

pub(crate) const UPDATES_DERIVED: u16 = 0;
pub(crate) const UPDATES_REGISTERED: u16 = 1;

pub(crate) const SEND: u32 = 0;
pub(crate) const RECEIVE: u32 = 1;

pub(crate) const EVENT_NONE: u32 = 0;
pub(crate) const EVENT_REQUEST: u32 = 1;
pub(crate) const EVENT_REQUEST_CANCELLED: u32 = 2;
pub(crate) const EVENT_RESPONSE: u32 = 3;
pub(crate) const EVENT_CLOSED: u32 = 4;
pub(crate) const EVENT_KEY_UPDATE_WANTED: u32 = 5;
pub(crate) const EVENT_JOINED: u32 = 6;
pub(crate) const EVENT_SHARD_GONE: u32 = 7;

pub(crate) const CLOSED_LOCAL: u32 = 0;
pub(crate) const CLOSED_PEER: u32 = 1;
pub(crate) const CLOSED_DEAD: u32 = 2;
pub(crate) const CLOSED_VIOLATION: u32 = 3;

/// A structure of the header that starts with its own size and may grow in later versions.
///
/// # Safety
/// The type is `repr(C)`, its first member is a `usize` that holds the size, any bytes are a value of
/// it (integers and raw pointers alone), and it has no padding.
pub(crate) unsafe trait Versioned: Copy {
    /// The value whose bytes are all 0.
    const ZERO: Self;
    /// Size of the structure in the first version of the library.
    const FIRST: usize;
}

/// How an engine is made.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct smt_options {
    pub(crate) size: usize,
    pub(crate) bind: *const c_void,
    pub(crate) bind_len: usize,
    pub(crate) roles: u32,
    pub(crate) port: u16,
    pub(crate) datapath: u8,
    pub(crate) protocol: u8,
    pub(crate) call_deadline_us: u64,
}

/// What a session is made of.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct smt_session_options {
    pub(crate) size: usize,
    pub(crate) peer: *const c_void,
    pub(crate) peer_len: usize,
    pub(crate) peer_port: u16,
    pub(crate) peer_udp_port: u16,
    pub(crate) suite: u16,
    pub(crate) updates: u16,
    pub(crate) peer_block: *const u8,
    pub(crate) peer_block_len: usize,
    pub(crate) alpn: *const u8,
    pub(crate) alpn_len: usize,
    pub(crate) client_secret: *const u8,
    pub(crate) client_secret_len: usize,
    pub(crate) server_secret: *const u8,
    pub(crate) server_secret_len: usize,
}

/// Names an RPC.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct smt_rpc {
    pub(crate) session: u64,
    pub(crate) id: u64,
}

/// Something happened.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct smt_event {
    pub(crate) size: usize,
    pub(crate) kind: u32,
    pub(crate) status: i32,
    pub(crate) session: u64,
    pub(crate) rpc: smt_rpc,
    pub(crate) user: u64,
    pub(crate) data: *const u8,
    pub(crate) len: usize,
    pub(crate) code: u32,
    pub(crate) reserved: u32,
}

/// Counters of an engine.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct smt_counters {
    pub(crate) size: usize,
    pub(crate) sessions: u64,
    pub(crate) packets_sent: u64,
    pub(crate) packets_received: u64,
    pub(crate) packets_retransmitted: u64,
    pub(crate) requests_sent: u64,
    pub(crate) requests_received: u64,
    pub(crate) responses_sent: u64,
    pub(crate) responses_received: u64,
    pub(crate) records_sealed: u64,
    pub(crate) records_opened: u64,
    pub(crate) records_not_authentic: u64,
    pub(crate) packets_dropped: u64,
    pub(crate) violations: u64,
    pub(crate) sessions_dead: u64,
    pub(crate) key_updates: u64,
}

macro_rules! sized {
    ($name:ident, $first:literal, { $($field:ident: $zero:expr),* $(,)? }) => {
        // SAFETY: `repr(C)` and starts with `size`; its members are integers and raw pointers;
        // their sizes add up to the structure's, as checked below, so there is no padding.
        unsafe impl Versioned for $name {
            const ZERO: Self = $name { $($field: $zero),* };
            const FIRST: usize = $first;
        }
        #[cfg(test)]
        impl $name {
            /// Members and where they are.
            pub(crate) const LAYOUT: &[(&str, usize)] =
                &[$((stringify!($field), std::mem::offset_of!($name, $field))),*];
        }
        const _: () = {
            let zero = <$name as Versioned>::ZERO;
            assert!(0 $(+ size_of_val(&zero.$field))* == size_of::<$name>());
            assert!(size_of::<$name>() >= $first);
        };
    };
}

use std::ptr::null;

sized!(smt_options, 40, {
    size: 0, bind: null(), bind_len: 0, roles: 0, port: 0, datapath: 0, protocol: 0,
    call_deadline_us: 0,
});
sized!(smt_session_options, 96, {
    size: 0, peer: null(), peer_len: 0, peer_port: 0, peer_udp_port: 0, suite: 0, updates: 0,
    peer_block: null(), peer_block_len: 0, alpn: null(), alpn_len: 0,
    client_secret: null(), client_secret_len: 0, server_secret: null(), server_secret_len: 0,
});
sized!(smt_event, 72, {
    size: 0, kind: 0, status: 0, session: 0, rpc: smt_rpc { session: 0, id: 0 }, user: 0,
    data: null(), len: 0, code: 0, reserved: 0,
});
sized!(smt_counters, 128, {
    size: 0, sessions: 0, packets_sent: 0, packets_received: 0, packets_retransmitted: 0,
    requests_sent: 0, requests_received: 0, responses_sent: 0, responses_received: 0,
    records_sealed: 0, records_opened: 0, records_not_authentic: 0, packets_dropped: 0,
    violations: 0, sessions_dead: 0, key_updates: 0,
});

//! The C interface as a C program uses it, for Rust without `unsafe`: what it costs can be measured beside the rest
//! (feature `safe`). Other Rust programs use the crate `smt` itself.

use std::cell::Cell;
use std::ffi::{CStr, c_void};
use std::net::IpAddr;
use std::ptr::null_mut;

use crate::abi::{
    CLIENT, EVENT_CLOSED, EVENT_REQUEST, EVENT_RESPONSE, RAW, SERVER, Versioned, smt_engine,
    smt_event, smt_offer, smt_options, smt_rpc, smt_session_options,
};
use crate::{
    smt_call, smt_engine_free, smt_engine_new, smt_flush, smt_next_event, smt_offer_block,
    smt_offer_free, smt_offer_new, smt_offer_port, smt_open, smt_reply, smt_strerror,
};

/// TLS_AES_128_GCM_SHA256.
const SUITE: u16 = 0x1301;
/// The application protocol that both ends have agreed on.
const ALPN: &[u8] = b"smt/1";

/// A status other than success, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused(pub String);

impl std::fmt::Display for Refused {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// Which end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It calls.
    Client,
    /// It is called, at this SMT port.
    Server(u16),
}

/// What has happened in an engine.
#[derive(Debug)]
pub enum Happening<'a> {
    /// A request.
    Request(smt_rpc, &'a [u8]),
    /// The response to a call with this number of the caller's.
    Response(u64, &'a [u8]),
    /// The session is over, or a call has failed.
    Failed(Refused),
    /// Nothing of interest.
    Other,
}

/// An engine over raw IP sockets with an offer, and one session of it once that is open.
#[derive(Debug)]
pub struct End {
    engine: *mut smt_engine,
    offer: *mut smt_offer,
    session: u64,
    /// An event's bytes are in use.
    lent: Cell<bool>,
}

impl End {
    /// An engine at an address.
    ///
    /// # Errors
    /// [`Refused`], for want of privileges, say.
    pub fn new(bind: IpAddr, role: Role) -> Result<End, Refused> {
        let address = address(bind);
        let (roles, port) = match role {
            Role::Client => (CLIENT, 0),
            Role::Server(port) => (SERVER, port),
        };
        let options = smt_options {
            size: size_of::<smt_options>(),
            bind: address.as_ptr().cast(),
            bind_len: address.len(),
            roles,
            port,
            datapath: RAW,
            ..smt_options::ZERO
        };
        let mut end =
            End { engine: null_mut(), offer: null_mut(), session: 0, lent: Cell::new(false) };
        // SAFETY: both are places of their types; the address is as long as it says.
        checked(unsafe { smt_engine_new(&raw const options, &raw mut end.engine) })?;
        // SAFETY: a place of its type.
        checked(unsafe { smt_offer_new(end.engine, roles, &raw mut end.offer) })?;
        Ok(end)
    }

    /// What the peer has to know: the offer's block, and its port.
    pub fn offer(&self) -> (Vec<u8>, u16) {
        let mut len = 0;
        // SAFETY: a place of its type.
        let block = unsafe { smt_offer_block(self.offer, &raw mut len) };
        if block.is_null() {
            return (Vec::new(), 0);
        }
        // SAFETY: the block is as long as was said, and lives as long as the offer.
        let block = unsafe { std::slice::from_raw_parts(block, len) };
        (block.to_vec(), smt_offer_port(self.offer))
    }

    /// Opens the session with the peer of this offer, on secrets of client and server.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn open(
        &mut self,
        peer: IpAddr,
        (block, port): (&[u8], u16),
        [client, server]: [&[u8; 32]; 2],
    ) -> Result<(), Refused> {
        let address = address(peer);
        let options = smt_session_options {
            size: size_of::<smt_session_options>(),
            peer: address.as_ptr().cast(),
            peer_len: address.len(),
            peer_port: port,
            suite: SUITE,
            peer_block: block.as_ptr(),
            peer_block_len: block.len(),
            alpn: ALPN.as_ptr(),
            alpn_len: ALPN.len(),
            client_secret: client.as_ptr(),
            client_secret_len: client.len(),
            server_secret: server.as_ptr(),
            server_secret_len: server.len(),
            ..smt_session_options::ZERO
        };
        // SAFETY: all pointers are places of their types, and as long as it says beside them.
        checked(unsafe {
            smt_open(self.engine, self.offer, &raw const options, &raw mut self.session)
        })
    }

    /// Begins a call under a number of the caller's.
    ///
    /// # Errors
    /// [`Refused`]: there is no session, or no room in it.
    pub fn call(&self, request: &[u8], user: u64) -> Result<(), Refused> {
        let mut rpc = smt_rpc::default();
        let (data, len) = (request.as_ptr().cast::<c_void>(), request.len());
        // SAFETY: the request is as long as it says; the RPC is a place of its type.
        checked(unsafe { smt_call(self.engine, self.session, data, len, 0, user, &raw mut rpc) })
    }

    /// Answers a request.
    ///
    /// # Errors
    /// [`Refused`]: nobody waits any more.
    pub fn reply(&self, rpc: smt_rpc, response: &[u8]) -> Result<(), Refused> {
        let (data, len) = (response.as_ptr().cast::<c_void>(), response.len());
        // SAFETY: the response is as long as it says.
        checked(unsafe { smt_reply(self.engine, rpc, data, len) })
    }

    /// Sends what waits.
    ///
    /// # Errors
    /// [`Refused`]: the datapath fails.
    pub fn flush(&self) -> Result<(), Refused> {
        checked(smt_flush(self.engine))
    }

    /// Waits for what happens next, up to `timeout_ms` milliseconds, and hands it to `take`; `None` if nothing does.
    ///
    /// # Errors
    /// [`Refused`]: the datapath fails, or `take` asks for the next event itself.
    pub fn next<T>(
        &self,
        timeout_ms: i32,
        take: impl FnOnce(Happening<'_>) -> T,
    ) -> Result<Option<T>, Refused> {
        if self.lent.replace(true) {
            return Err(Refused("an event's bytes are in use".to_owned()));
        }
        let _returned = Returned(&self.lent);
        let mut event = smt_event { size: size_of::<smt_event>(), ..smt_event::ZERO };
        // SAFETY: a place of its type.
        checked(unsafe { smt_next_event(self.engine, &raw mut event, timeout_ms) })?;
        let data = match event.len {
            0 => &[],
            // SAFETY: the engine lends these bytes until its next event, for which nobody asks before `take` returns.
            len => unsafe { std::slice::from_raw_parts(event.data, len) },
        };
        let happening = match event.kind {
            crate::abi::EVENT_NONE => return Ok(None),
            EVENT_REQUEST => Happening::Request(event.rpc, data),
            EVENT_RESPONSE => match checked(event.status) {
                Ok(()) => Happening::Response(event.user, data),
                Err(refused) => Happening::Failed(refused),
            },
            EVENT_CLOSED => Happening::Failed(Refused("the session is over".to_owned())),
            _ => Happening::Other,
        };
        Ok(Some(take(happening)))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        // Null is freed in vain.
        smt_offer_free(self.offer);
        smt_engine_free(self.engine);
    }
}

/// Nobody has an event's bytes any more.
struct Returned<'a>(&'a Cell<bool>);

impl Drop for Returned<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

fn checked(status: i32) -> Result<(), Refused> {
    if status == 0 {
        return Ok(());
    }
    let text = smt_strerror(status);
    if text.is_null() {
        return Err(Refused(format!("status {status}")));
    }
    // SAFETY: a string of the library's, for ever.
    let text = unsafe { CStr::from_ptr(text) };
    Err(Refused(text.to_string_lossy().into_owned()))
}

/// A `sockaddr_in` or `sockaddr_in6` without a port.
fn address(address: IpAddr) -> Vec<u8> {
    const AF_INET: u16 = 2;
    const AF_INET6: u16 = 10;
    match address {
        IpAddr::V4(address) => {
            let mut bytes = vec![0; 16];
            bytes[..2].copy_from_slice(&AF_INET.to_ne_bytes());
            bytes[4..8].copy_from_slice(&address.octets());
            bytes
        }
        IpAddr::V6(address) => {
            let mut bytes = vec![0; 28];
            bytes[..2].copy_from_slice(&AF_INET6.to_ne_bytes());
            bytes[8..24].copy_from_slice(&address.octets());
            bytes
        }
    }
}

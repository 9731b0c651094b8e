//! Offers, and the sessions that come of them.

use std::time::Duration;

use smt::Updates;
use smt::engine::{ExternalOffer, TrafficSecrets};
use smt::proto::Role;
use smt::proto::crypto::SuiteId;

use crate::abi::{
    CLIENT, SERVER, UPDATES_DERIVED, UPDATES_REGISTERED, smt_engine, smt_offer, smt_session_options,
};
use crate::border::{self, Out};
use crate::engine::{session_id, session_number, with_engine};
use crate::handles::Handles;
use crate::status::{Failure, Status};

/// What an offer's handle stands for.
struct Offered {
    offer: ExternalOffer,
    /// The engine that made it.
    engine: usize,
    /// A session was opened with it.
    used: bool,
}

static OFFERS: Handles<Offered> = Handles::new("offer");

/// Makes an offer.
///
/// # Safety
/// `offer` is null or a pointer's place.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smt_offer_new(
    engine: *mut smt_engine,
    role: u32,
    offer: *mut *mut smt_offer,
) -> i32 {
    with_engine(engine, |state| {
        // SAFETY: the caller's promise.
        let out = unsafe { Out::new("offer", offer)? };
        let role = match role {
            CLIENT => Role::Client,
            SERVER => Role::Server,
            other => {
                let text = format!("role is {other}, not SMT_CLIENT or SMT_SERVER");
                return Err(Failure::invalid(text));
            }
        };
        let offer = state.engine.offer_external(role)?;
        let offered = Offered { offer, engine: engine.addr(), used: false };
        out.set(std::ptr::without_provenance_mut(OFFERS.add(offered)));
        Ok(())
    })
}

/// Reads something of an offer; nothing if there is no such offer.
fn of_offer<R: Copy>(offer: *const smt_offer, none: R, get: impl Fn(&ExternalOffer) -> R) -> R {
    let mut value = none;
    border::run(|| {
        value = OFFERS.with(offer.addr(), |offered| Ok(get(&offered.offer)))?;
        Ok(())
    });
    value
}

/// Our SMT port.
#[unsafe(no_mangle)]
pub extern "C" fn smt_offer_port(offer: *const smt_offer) -> u16 {
    of_offer(offer, 0, ExternalOffer::port)
}

/// Our UDP port.
#[unsafe(no_mangle)]
pub extern "C" fn smt_offer_udp_port(offer: *const smt_offer) -> u16 {
    of_offer(offer, 0, |offer| offer.udp_port().unwrap_or(0))
}

/// Our parameter block.
///
/// # Safety
/// `len` is null or a `size_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smt_offer_block(offer: *const smt_offer, len: *mut usize) -> *const u8 {
    // The block lives on the heap, unchanged, until the offer is freed.
    let block = |offer: &ExternalOffer| (offer.block().as_ptr(), offer.block().len());
    let (data, bytes) = of_offer(offer, (std::ptr::null(), 0), block);
    // SAFETY: the caller's promise.
    if let Ok(out) = unsafe { Out::new("len", len) } {
        out.set(bytes);
    }
    data
}

/// Frees an offer.
#[unsafe(no_mangle)]
pub extern "C" fn smt_offer_free(offer: *mut smt_offer) -> i32 {
    border::run(|| if offer.is_null() { Ok(()) } else { OFFERS.free(offer.addr()) })
}

/// Opens a session.
///
/// # Safety
/// `options` is null or as large as its first member says, and as many bytes can be read at each
/// pointer in it as goes with it; `session` is null or a `uint64_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn smt_open(
    engine: *mut smt_engine,
    offer: *const smt_offer,
    options: *const smt_session_options,
    session: *mut u64,
) -> i32 {
    with_engine(engine, |state| {
        // SAFETY: the caller's promise, here and for the pointers below.
        let options = unsafe { border::read("options", options)? };
        // SAFETY: as above.
        let out = unsafe { Out::new("session", session)? };
        let o = &options;
        // SAFETY: as above.
        let (mut remote, block, alpn, client, server) = unsafe {
            (
                border::address("options->peer", o.peer, o.peer_len)?,
                border::bytes("options->peer_block", o.peer_block, o.peer_block_len)?,
                border::bytes("options->alpn", o.alpn, o.alpn_len)?,
                border::bytes("options->client_secret", o.client_secret, o.client_secret_len)?,
                border::bytes("options->server_secret", o.server_secret, o.server_secret_len)?,
            )
        };
        let (suite, hash_len) = suite(options.suite)?;
        for (what, secret) in [("client_secret", client), ("server_secret", server)] {
            check_secret(what, secret, hash_len)?;
        }
        if !(1..=255).contains(&alpn.len()) {
            return Err(Failure::invalid("options->alpn is not 1 to 255 bytes long"));
        }
        if options.peer_port == 0 {
            return Err(Failure::invalid("options->peer_port is 0: it is in the peer's offer"));
        }
        let updates = match options.updates {
            UPDATES_DERIVED => Updates::Derived,
            UPDATES_REGISTERED => Updates::Registered,
            other => {
                let text = format!("options->updates is {other}, not one of SMT_UPDATES_...");
                return Err(Failure::invalid(text));
            }
        };
        remote.set_port(options.peer_port);
        let udp_port = match options.peer_udp_port {
            0 => options.peer_port,
            port => port,
        };
        let secrets = TrafficSecrets { suite, alpn, client, server };
        let id = OFFERS.with(offer.addr(), |offered| {
            if offered.engine != engine.addr() {
                return Err(Failure::invalid("the offer is another engine's"));
            }
            if offered.used {
                return Err(Failure::invalid("the offer was used for another session"));
            }
            let offer = offered.offer.clone().updates(updates);
            let id = state.engine.add_external_at(&offer, remote, udp_port, block, &secrets)?;
            offered.used = true;
            Ok(id)
        })?;
        out.set(session_number(id));
        Ok(())
    })
}

/// The suite of this number in TLS, and how long its secrets are.
fn suite(number: u16) -> Result<(SuiteId, usize), Failure> {
    [
        (SuiteId::Aes128GcmSha256, 32),
        (SuiteId::Aes256GcmSha384, 48),
        (SuiteId::ChaCha20Poly1305Sha256, 32),
    ]
    .into_iter()
    .find(|&(suite, _)| suite as u16 == number)
    .ok_or_else(|| Failure::invalid(format!("options->suite is {number:#06x}, not one of SMT's")))
}

fn check_secret(what: &str, secret: &[u8], hash_len: usize) -> Result<(), Failure> {
    if secret.len() == hash_len {
        return Ok(());
    }
    let len = secret.len();
    Err(Failure::invalid(format!("{what} has {len} bytes; with this suite it has {hash_len}")))
}

/// Closes a session.
#[unsafe(no_mangle)]
pub extern "C" fn smt_close(engine: *mut smt_engine, session: u64) -> i32 {
    with_engine(engine, |state| {
        if let Some(session) = session_id(session) {
            state.engine.close(session);
        }
        Ok(())
    })
}

/// Closes all sessions, and waits for the peers to confirm it.
#[unsafe(no_mangle)]
pub extern "C" fn smt_close_all(engine: *mut smt_engine, timeout_ms: u32) -> i32 {
    with_engine(engine, |state| {
        Ok(state.engine.close_all(Duration::from_millis(timeout_ms.into()))?)
    })
}

/// The session that C names, where there must be one.
pub(crate) fn session_named(number: u64) -> Result<smt::SessionId, Failure> {
    session_id(number).ok_or_else(|| Failure::new(Status::NoSession, "0 is not a session"))
}

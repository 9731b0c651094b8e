//! What a C program may do wrong is told, not done.

use std::ffi::CStr;
use std::ptr::{null, null_mut, without_provenance_mut};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::abi::*;
use crate::status::Status;
use crate::*;

fn last_error() -> String {
    // SAFETY: this thread's text, ends with 0, read before anything else fails.
    unsafe { CStr::from_ptr(smt_last_error()) }.to_str().unwrap().to_owned()
}

/// Options for an engine on the loopback device, as client and server.
pub(super) fn options() -> smt_options {
    smt_options {
        size: size_of::<smt_options>(),
        roles: CLIENT | SERVER,
        datapath: UDP,
        ..smt_options::ZERO
    }
}

pub(super) fn engine() -> *mut smt_engine {
    // 127.0.0.1 as a `sockaddr_in`.
    let mut address = [0u8; 16];
    address[..2].copy_from_slice(&2u16.to_ne_bytes());
    address[4..8].copy_from_slice(&[127, 0, 0, 1]);
    let options = smt_options { bind: address.as_ptr().cast(), bind_len: 16, ..options() };
    let mut engine = null_mut();
    // SAFETY: both are places of their types, and the address is as long as it says.
    let status = unsafe { smt_engine_new(&raw const options, &raw mut engine) };
    assert_eq!(status, Status::Ok as i32, "{}", last_error());
    engine
}

#[test]
fn options_that_cannot_be_are_refused() {
    type Case = (&'static str, fn(&mut smt_options));
    let cases: [Case; 6] = [
        ("size 0", |options| options.size = 0),
        ("size 8192", |options| options.size = 8192),
        ("roles", |options| options.roles = 4),
        ("roles", |options| options.roles = 0),
        ("datapath", |options| options.datapath = 200),
        ("port", |options| (options.roles, options.port) = (CLIENT, 4433)),
    ];
    for (words, change) in cases {
        let mut options = options();
        change(&mut options);
        let mut engine = without_provenance_mut(1);
        // SAFETY: both are places of their types.
        let status = unsafe { smt_engine_new(&raw const options, &raw mut engine) };
        assert_eq!(status, Status::Invalid as i32, "{words}");
        assert!(last_error().contains(words), "{words}: {}", last_error());
        assert_eq!(engine.addr(), 1, "untouched");
    }
    let mut engine = null_mut();
    // SAFETY: null is refused.
    assert_eq!(unsafe { smt_engine_new(null(), &raw mut engine) }, Status::Invalid as i32);
    let options = options();
    // SAFETY: null is refused.
    assert_eq!(unsafe { smt_engine_new(&raw const options, null_mut()) }, 1);
}

/// A structure as a later version may have it.
#[repr(C)]
struct Later {
    options: smt_options,
    more: u64,
}

#[test]
fn members_of_later_versions_must_be_zero() {
    let size = size_of::<Later>();
    let mut later = Later { options: smt_options { size, ..options() }, more: 1 };
    let mut engine = null_mut();
    let from = (&raw const later).cast();
    // SAFETY: as many bytes as the size says; the engine is a place of its type.
    assert_eq!(unsafe { smt_engine_new(from, &raw mut engine) }, Status::Invalid as i32);
    assert!(last_error().contains("does not know"), "{}", last_error());
    later.more = 0;
    let from = (&raw const later).cast();
    // SAFETY: as above.
    assert_eq!(unsafe { smt_engine_new(from, &raw mut engine) }, Status::Ok as i32);
    assert_eq!(smt_engine_free(engine), Status::Ok as i32);
}

#[test]
fn freed_and_made_up_handles_are_found_out() {
    let engine = engine();
    assert_eq!(smt_engine_free(engine), 0);
    assert_eq!(smt_engine_free(null_mut()), 0);
    let rpc = smt_rpc { session: 1, id: 1 };
    for engine in [engine, without_provenance_mut(64), null_mut()] {
        let mut event = smt_event { size: size_of::<smt_event>(), ..smt_event::ZERO };
        let mut fd = -1;
        let mut offer = null_mut();
        // SAFETY: every pointer is a place of its type or null.
        let results = unsafe {
            [
                smt_next_event(engine, &raw mut event, 0),
                smt_engine_fd(engine, &raw mut fd),
                smt_offer_new(engine, CLIENT, &raw mut offer),
                smt_open(engine, null(), null(), null_mut()),
                smt_call(engine, 1, null(), 0, 0, 0, null_mut()),
                smt_reply(engine, rpc, null(), 0),
                smt_refuse(engine, rpc, 256, null()),
                smt_cancel(engine, rpc),
                smt_flush(engine),
                smt_close(engine, 1),
                smt_close_all(engine, 0),
                smt_update_keys(engine, 1),
                smt_request_update(engine, 1),
                smt_register_update(engine, 1, SEND, null(), 0),
            ]
        };
        assert_eq!(results, [Status::Handle as i32; 14]);
    }
    assert_eq!(smt_engine_free(engine), Status::Handle as i32);
    assert_eq!(smt_offer_port(null()), 0);
    let mut len = 7;
    // SAFETY: a place of its type.
    assert!(unsafe { smt_offer_block(null(), &raw mut len) }.is_null());
    assert_eq!(len, 0);
}

#[test]
fn names_of_nothing_are_told() {
    let engine = engine();
    let (gone, none) = (Status::Gone as i32, Status::NoSession as i32);
    for session in [0, 1, u64::MAX] {
        let rpc = smt_rpc { session, id: 2 };
        // SAFETY: null with length 0 is an empty message; nothing else is a pointer.
        unsafe {
            assert_eq!(smt_call(engine, session, null(), 0, 0, 0, null_mut()), none);
            assert_eq!(smt_reply(engine, rpc, null(), 0), gone);
            assert_eq!(smt_refuse(engine, rpc, 256, null()), gone);
        }
        assert_eq!(smt_cancel(engine, rpc), 0);
        assert_eq!(smt_close(engine, session), 0);
    }
    // SAFETY: null with a length, and text that is not UTF-8, are refused.
    unsafe {
        assert_eq!(smt_call(engine, 1, null(), 1, 0, 0, null_mut()), Status::Invalid as i32);
        let rpc = smt_rpc { session: 1, id: 2 };
        assert_eq!(smt_refuse(engine, rpc, 256, c"\xff".as_ptr()), Status::Invalid as i32);
    }
    assert_eq!(smt_engine_free(engine), 0);
}

#[test]
fn two_threads_do_not_use_one_engine() {
    let engine = engine().addr();
    let (busy, over) = (Status::Busy as i32, AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let mut event = smt_event { size: size_of::<smt_event>(), ..smt_event::ZERO };
                // SAFETY: the event is a place of its type.
                let status =
                    unsafe { smt_next_event(without_provenance_mut(engine), &raw mut event, 10) };
                assert!([0, busy].contains(&status), "{status}");
            }
        });
        // Sooner or later this comes while the other thread waits.
        while smt_flush(without_provenance_mut(engine)) != busy {}
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(smt_engine_free(without_provenance_mut(engine)), 0);
}

#[test]
fn panics_become_statuses() {
    let status = border::run(|| panic!("on purpose"));
    assert_eq!(status, Status::Bug as i32);
    assert!(last_error().contains("on purpose"), "{}", last_error());
}

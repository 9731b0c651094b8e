use super::*;
use crate::crypto::aws_lc;
use crate::wire::epoch_to_wire;
use proptest::prelude::*;
use std::vec::Vec;

const LIMITS: AeadLimits = AeadLimits { records: 80, blocks: 8000, failed_opens: 10 };

fn suite() -> &'static dyn Suite {
    aws_lc::suite(SuiteId::Aes128GcmSha256)
}

fn first() -> EpochKeys {
    EpochKeys::new(suite(), Secret::new(&[1; 32]), FIRST_EPOCH)
}

fn send() -> SendEpochs {
    SendEpochs::new(first(), Updates::Derived, LIMITS)
}

fn receive() -> ReceiveEpochs {
    ReceiveEpochs::new(first(), Updates::Derived, LIMITS)
}

fn at(millis: u64) -> Time {
    Time::ZERO + Duration::from_millis(millis)
}

/// Freezes a message of a record in whatever epoch is right.
fn freeze(send: &mut SendEpochs) -> Step {
    let step = send.advance(suite(), Seals::of_message(1, 100));
    assert!(send.may_seal(Seals::of_message(1, 100)));
    send.reserve(Seals::of_message(1, 100));
    step
}

/// Wants an update and makes it happen with a message that stays.
fn update(send: &mut SendEpochs) {
    send.peer_opened(send.current());
    assert_eq!(send.want_update(), Step::Stay);
    assert_eq!(freeze(send), Step::Entered);
}

fn live(send: &SendEpochs) -> Vec<u32> {
    send.epochs.iter().map(|epoch| epoch.keys.epoch()).collect()
}

fn held(receive: &ReceiveEpochs) -> Vec<u32> {
    receive.epochs.iter().chain(&receive.ahead).map(|epoch| epoch.keys.epoch()).collect()
}

/// The peer is seen to send under `epoch`, and a record of it opens.
fn open(receive: &mut ReceiveEpochs, epoch: u32) {
    assert_eq!(receive.of_byte(suite(), epoch_to_wire(epoch)), Some(epoch));
    assert!(!receive.opened(at(0), epoch));
}

#[test]
fn the_limits_are_those_of_the_specification() {
    for id in [SuiteId::Aes128GcmSha256, SuiteId::Aes256GcmSha384] {
        let AeadLimits { records, blocks, failed_opens } = AeadLimits::of(id);
        assert_eq!((records, failed_opens), ((1u64 << 49).isqrt(), 1 << 36));
        assert!(blocks.abs_diff((1u128 << 69).isqrt() as u64) <= 1);
    }
    let limits = AeadLimits::of(SuiteId::ChaCha20Poly1305Sha256);
    assert_eq!((limits.records, limits.failed_opens), (1 << 36, 1 << 36));
}

#[test]
fn an_update_needs_a_wish_and_evidence() {
    let mut send = send();
    send.peer_opened(3);
    assert_eq!(freeze(&mut send), Step::Stay, "nobody wants it");
    update(&mut send);
    assert_eq!(send.current(), 4);
    assert_eq!(send.want_update(), Step::Stay);
    assert_eq!(freeze(&mut send), Step::Stay, "the peer has not opened 4");
    send.peer_opened(4);
    assert_eq!(freeze(&mut send), Step::Entered);
    assert_eq!(freeze(&mut send), Step::Stay, "one wish, one update");
    assert_eq!(send.current(), 5);
}

#[test]
fn half_of_a_limit_is_a_wish() {
    let mut send = send();
    send.peer_opened(3);
    for _ in 0..40 {
        assert_eq!(freeze(&mut send), Step::Stay);
    }
    assert_eq!(freeze(&mut send), Step::Entered);
    assert_eq!((send.records, send.blocks), (1, 8));
    // By blocks: three messages of 20 000 bytes are more than half.
    send.peer_opened(4);
    for _ in 0..4 {
        assert_eq!(send.advance(suite(), Seals::of_message(1, 20_000)), Step::Stay);
        send.reserve(Seals::of_message(1, 20_000));
    }
    assert_eq!(freeze(&mut send), Step::Entered);
}

#[test]
fn a_message_larger_than_what_is_left_moves_to_the_next_epoch() {
    let mut send = send();
    send.reserve(Seals::of_message(30, 100));
    assert_eq!(
        send.advance(suite(), Seals::of_message(51, 100)),
        Step::Stay,
        "the peer has not opened 3"
    );
    assert!(!send.may_seal(Seals::of_message(51, 100)));
    send.peer_opened(3);
    assert_eq!(send.advance(suite(), Seals::of_message(50, 100)), Step::Stay, "it fits");
    assert_eq!(send.advance(suite(), Seals::of_message(51, 100)), Step::Entered);
    assert!(send.may_seal(Seals::of_message(51, 100)));
    // What no key may seal is not sealed.
    assert!(
        !send.may_seal(Seals::of_message(81, 100)) && !send.may_seal(Seals::of_message(1, 200_000))
    );
}

#[test]
fn an_update_waits_for_the_messages_that_it_would_fail() {
    let mut send = send();
    freeze(&mut send);
    for _ in 0..3 {
        update(&mut send);
    }
    assert_eq!(live(&send), [3, 4, 5, 6]);
    send.peer_opened(6);
    send.want_update();
    assert_eq!(freeze(&mut send), Step::Stay, "a message of 3 lives");
    send.release(3);
    assert_eq!(live(&send), [4, 5, 6]);
    assert_eq!(freeze(&mut send), Step::Entered);
    assert_eq!(live(&send), [4, 5, 6, 7]);
}

#[test]
fn near_the_limit_an_update_waits_for_nothing() {
    let mut send = send();
    freeze(&mut send);
    for _ in 0..3 {
        update(&mut send);
    }
    send.peer_opened(6);
    while send.records < 70 {
        assert_eq!(freeze(&mut send), Step::Stay, "{}", send.records);
    }
    assert_eq!(freeze(&mut send), Step::Entered, "7/8 of 80");
    assert_eq!(live(&send), [4, 5, 6, 7], "the straggler's keys are gone");
    send.release(3);
    assert_eq!(live(&send), [4, 5, 6, 7]);
}

#[test]
fn sending_keys_go_with_the_last_message_that_needs_them() {
    let mut send = send();
    freeze(&mut send);
    freeze(&mut send);
    update(&mut send);
    update(&mut send);
    assert_eq!((live(&send), send.oldest()), (Vec::from([3, 4, 5]), 3));
    send.release(3);
    assert_eq!(live(&send), [3, 4, 5], "another message lives in 3");
    send.release(4);
    assert_eq!(live(&send), [3, 5]);
    send.release(3);
    assert_eq!((live(&send), send.oldest()), (Vec::from([5]), 5));
    send.release(5);
    assert_eq!(live(&send), [5], "the current one stays");
    // A session without messages keeps one key, whatever is wanted.
    update(&mut send);
    assert_eq!(live(&send), [6]);
}

#[test]
fn receiving_keys_go_when_the_peer_says_so_or_four_are_newer() {
    let mut receive = receive();
    assert_eq!(receive.highest_opened(), 0);
    for epoch in 3..=6 {
        open(&mut receive, epoch);
    }
    assert_eq!((held(&receive), receive.highest_opened()), (Vec::from([3, 4, 5, 6]), 6));
    open(&mut receive, 7);
    assert_eq!(held(&receive), [4, 5, 6, 7]);
    assert_eq!(receive.of_byte(suite(), epoch_to_wire(3)), None);
    receive.left(6);
    assert_eq!(held(&receive), [6, 7]);
    assert_eq!(receive.of_byte(suite(), epoch_to_wire(5)), None, "in the window, but gone");
    assert!(receive.keys(5).is_none() && !receive.may_open(5));
    receive.left(4);
    assert_eq!(held(&receive), [6, 7], "what is gone stays gone");
    receive.left(u32::MAX);
    assert_eq!(held(&receive), [7], "the current one stays");
}

#[test]
fn a_peer_that_skips_an_epoch_is_not_followed() {
    let mut receive = receive();
    open(&mut receive, 3);
    assert_eq!(receive.of_byte(suite(), epoch_to_wire(5)), None);
    assert_eq!(held(&receive), [3]);
    // Seen, but nothing opened: still not committed, and the one after it is not known.
    assert_eq!(receive.of_byte(suite(), epoch_to_wire(4)), Some(4));
    assert_eq!((held(&receive), receive.highest_opened()), (Vec::from([3, 4]), 3));
    assert_eq!(receive.of_byte(suite(), epoch_to_wire(5)), None);
    // An older one again, then the newer: both are known.
    assert!(!receive.opened(at(0), 3));
    assert_eq!(receive.highest_opened(), 3);
    assert!(!receive.opened(at(0), 4));
    assert!(!receive.opened(at(0), 3));
    assert_eq!(receive.highest_opened(), 4);
}

#[test]
fn failed_opens_are_counted_by_epoch() {
    let mut receive = receive();
    open(&mut receive, 3);
    assert!(!receive.failed(at(0), 3, 4));
    assert!(receive.failed(at(0), 3, 1), "half of 10");
    assert!(!receive.failed(at(99), 3, 1), "asked just now");
    assert!(receive.failed(at(100), 3, 1));
    assert!(receive.may_open(3));
    // A record that opens says that the peer has not left yet.
    assert!(!receive.opened(at(150), 3) && receive.opened(at(200), 3));
    receive.failed(at(201), 3, 3);
    assert!(!receive.may_open(3), "the limit");
    // The next epoch begins anew, and the old one is asked about no more.
    assert_eq!(receive.of_byte(suite(), epoch_to_wire(4)), Some(4));
    assert!(receive.may_open(4));
    assert!(!receive.failed(at(900), 3, 1) && !receive.opened(at(900), 3));
    assert!(receive.failed(at(900), 4, 5), "before a record of it opened, too");
    assert!(!receive.failed(at(900), 9, 5), "not one of ours");
    receive.failed(at(950), 4, u32::MAX);
    assert!(!receive.may_open(4));
    // Nothing of it will ever open, yet the peer may leave it.
    assert_eq!(receive.of_byte(suite(), epoch_to_wire(5)), Some(5));
    assert_eq!(receive.highest_opened(), 3);
}

#[test]
fn registered_epochs_are_those_that_were_registered() {
    let mut send = SendEpochs::new(first(), Updates::Registered, LIMITS);
    let mut receive = ReceiveEpochs::new(first(), Updates::Registered, LIMITS);
    send.peer_opened(3);
    assert_eq!(send.want_update(), Step::Unregistered);
    assert_eq!(send.want_update(), Step::Stay, "said once");
    assert_eq!(freeze(&mut send), Step::Stay);
    open(&mut receive, 3);
    assert_eq!(receive.of_byte(suite(), epoch_to_wire(4)), None, "not registered yet");
    for n in 0..MAX_REGISTERED as u8 {
        assert_eq!(send.register(Secret::new(&[n; 32])), Ok(()));
        assert_eq!(receive.register(Secret::new(&[n; 32])), Ok(()));
    }
    assert_eq!(send.register(Secret::new(&[9; 32])), Err(NotRegistered::TooMany));
    assert_eq!(receive.register(Secret::new(&[9; 32])), Err(NotRegistered::TooMany));
    assert_eq!(freeze(&mut send), Step::Entered);
    open(&mut receive, 4);
    let expected = EpochKeys::new(suite(), Secret::new(&[0; 32]), 4).nonce(0);
    assert_eq!(send.keys(4).map(|keys| keys.nonce(0)), Some(expected));
    assert_eq!(receive.keys(4).map(|keys| keys.nonce(0)), Some(expected));
    send.release(3);
    for epoch in 4..7 {
        update(&mut send);
        open(&mut receive, epoch + 1);
        send.release(epoch);
    }
    send.peer_opened(7);
    assert_eq!(send.want_update(), Step::Unregistered, "used up");
}

#[test]
fn derived_epochs_take_no_secrets() {
    let secret = Secret::new(&[1; 32]);
    assert_eq!(send().register(secret.clone()), Err(NotRegistered::Derived));
    assert_eq!(receive().register(secret), Err(NotRegistered::Derived));
}

proptest! {
    /// Whatever happens, no sending epoch lives that the peer would not take, none is gone whose messages
    /// live, unless the limit was near.
    #[test]
    fn no_message_loses_its_key(steps in proptest::collection::vec(0..5u8, 0..400)) {
        let limits = AeadLimits { records: 1 << 20, blocks: 1 << 30, failed_opens: 1 };
        let mut send = SendEpochs::new(first(), Updates::Derived, limits);
        let mut messages: Vec<u32> = Vec::new();
        for step in steps {
            match step {
                0 => send.peer_opened(send.current()),
                1 => { send.want_update(); }
                2 => {
                    if let Some(epoch) = messages.pop() {
                        send.release(epoch);
                    }
                }
                3 if !messages.is_empty() => send.release(messages.remove(0)),
                _ => {
                    send.advance(suite(), Seals::of_message(1, 100));
                    send.reserve(Seals::of_message(1, 100));
                    messages.push(send.current());
                }
            }
            prop_assert!(send.oldest() + MAX_SPAN >= send.current());
            for epoch in live(&send) {
                prop_assert!(epoch == send.current() || messages.contains(&epoch));
            }
            for epoch in &messages {
                prop_assert!(send.keys(*epoch).is_some());
            }
        }
    }
}

//! The bytes of tickets.

use super::*;
use crate::ticket::format::{Content, append_signature};
use proptest::prelude::*;
use smt_proto::crypto::SuiteId;
use smt_proto::wire::Params;

/// Where the fixed fields begin.
const NOT_AFTER: usize = 26;
const KEM: usize = 34;
const SUITE: usize = 36;
const ALPN: usize = 42;
const PARAMS: usize = ALPN + 1 + 5;

fn content(kem: Kem, certificates: &[Vec<u8>]) -> Vec<u8> {
    Content {
        id: [7; TICKET_ID_LEN],
        not_before: 1000,
        not_after: 4600,
        kem,
        suite: SuiteId::Aes256GcmSha384,
        max_early: 1234,
        alpn: b"smt/1",
        params: Params {
            id_bits: 48,
            first_id: 10,
            max_rpcs: 1,
            max_message: 2,
            unscheduled: 3,
            wake_delay_us: 4,
            max_id_bits: 56,
            wants: 0,
            lanes: 1,
        },
        public_key: &vec![9; kem.public_key_len()],
        certificates,
    }
    .emit()
}

/// A ticket in form only.
fn plain(certificates: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = content(Kem::X25519, certificates);
    append_signature(&mut bytes, 0x0807, &[5; 64]);
    bytes
}

fn parse_changed(change: impl FnOnce(&mut Vec<u8>)) -> Result<Ticket, TicketError> {
    let mut bytes = plain(&[vec![1; 300]]);
    change(&mut bytes);
    Ticket::parse(&bytes)
}

fn malformed(change: impl FnOnce(&mut Vec<u8>)) {
    let refused = parse_changed(change);
    assert!(matches!(refused, Err(TicketError::Malformed { .. })), "{refused:?}");
}

#[test]
fn what_is_written_is_read() {
    let chain = [vec![1; 300], vec![2; 5], vec![3]];
    let bytes = plain(&chain);
    let ticket = Ticket::parse(&bytes).unwrap();
    assert_eq!(ticket.bytes(), bytes);
    assert_eq!(ticket.id(), &[7; TICKET_ID_LEN]);
    assert_eq!(ticket.validity(), (1000, 4600));
    assert_eq!((ticket.kem(), ticket.suite()), (Kem::X25519, SuiteId::Aes256GcmSha384));
    assert_eq!((ticket.max_early(), ticket.alpn()), (1234, &b"smt/1"[..]));
    assert_eq!((ticket.params().first_id, ticket.params().unscheduled), (6, 3));
    assert_eq!(ticket.public_key(), [9; 32]);
    assert!(ticket.certificates().eq(chain.iter().map(Vec::as_slice)));
    let (scheme, message, signature) = ticket.signature();
    assert_eq!((scheme, signature), (0x0807, &[5; 64][..]));
    let prefix = [&[b' '; 64][..], b"SMT/1 ticket\0"].concat();
    assert_eq!(message, [prefix.as_slice(), &content(Kem::X25519, &chain)].concat());
}

#[test]
fn a_ticket_cut_anywhere_is_truncated() {
    let bytes = plain(&[vec![1; 300], vec![2; 20]]);
    for len in 0..bytes.len() {
        assert_eq!(Ticket::parse(&bytes[..len]).unwrap_err(), TicketError::Truncated, "{len}");
    }
}

#[test]
fn each_rule_of_the_format_holds() {
    let unknown = |change: fn(&mut Vec<u8>)| parse_changed(change).unwrap_err();
    assert_eq!(unknown(|t| t[1] = 2), TicketError::UnknownVersion { version: 2 });
    assert_eq!(unknown(|t| t[KEM] = 0x11), TicketError::UnknownKem { kem: 0x1120 });
    assert_eq!(unknown(|t| t[SUITE + 1] = 4), TicketError::UnknownSuite { suite: 0x1304 });
    let long = unknown(|t| t[NOT_AFTER + 7] += 1);
    assert_eq!(long, TicketError::ValidityTooLong { seconds: 3601 });
    malformed(|t| t[NOT_AFTER + 6] = 0);
    malformed(|t| t.push(0));
    malformed(|t| t[ALPN + 1] = b'S');
    malformed(|t| t[PARAMS + 3] = 9); // the block's version
    // The key's length is another KEM's.
    malformed(|t| t[KEM..KEM + 2].copy_from_slice(&[0x64, 0x7a]));
    let key = PARAMS + 2 + Params::LEN;
    let certificates = key + 2 + 32;
    malformed(|t| t[certificates] = 0);
    malformed(|t| t[certificates] = 11);
    malformed(|t| {
        t.splice(certificates + 1..certificates + 4 + 300, [0; 3]);
    });
    assert!(Ticket::parse(&plain(&vec![vec![1]; MAX_CERTIFICATES])).is_ok());
    assert!(Ticket::parse(&plain(&vec![vec![1]; MAX_CERTIFICATES + 1])).is_err());
    // A first ID that is not the placeholder.
    malformed(|t| {
        let at = t.windows(8).position(|w| w == [0, 0, 0, 0, 0, 0, 0, 6]).unwrap();
        t[at + 7] = 10;
    });
}

#[test]
fn the_longest_ticket_is_taken_and_no_longer_one() {
    let rest = plain(&[vec![1; 300]]).len() - 300;
    let longest = plain(&[vec![1; MAX_TICKET_LEN - rest]]);
    assert_eq!(longest.len(), MAX_TICKET_LEN);
    assert!(Ticket::parse(&longest).is_ok());
    let longer = plain(&[vec![1; MAX_TICKET_LEN - rest + 1]]);
    let expected = TicketError::TooLong { len: MAX_TICKET_LEN + 1 };
    assert_eq!(Ticket::parse(&longer).unwrap_err(), expected);
}

#[test]
fn files_hold_one_ticket() {
    let path = std::env::temp_dir().join(format!("smt-ticket-test-{}", std::process::id()));
    let bytes = plain(&[vec![1; 300]]);
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(Ticket::from_file(&path).unwrap().bytes(), bytes);
    std::fs::write(&path, vec![0; 2 * MAX_TICKET_LEN]).unwrap();
    let expected = TicketError::TooLong { len: MAX_TICKET_LEN + 1 };
    assert_eq!(Ticket::from_file(&path).unwrap_err(), expected);
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(Ticket::from_file(&path), Err(TicketError::File { .. })));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Ticket::parse(&bytes).is_err());
    }

    #[test]
    fn any_change_is_survived(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut bytes = plain(&[vec![1; 100], vec![2; 30]]);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(ticket) = Ticket::parse(&bytes) {
            prop_assert_eq!(ticket.bytes(), bytes);
            let (_, message, _) = ticket.signature();
            prop_assert!(message.ends_with(ticket.certificates().last().unwrap()));
        }
    }
}

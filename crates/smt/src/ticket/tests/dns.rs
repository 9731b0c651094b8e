//! Tickets through DNS, over the loopback.

use std::net::{Ipv4Addr, SocketAddr};

use hickory_resolver::proto::op::{Message, MessageType, OpCode, Query};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use super::*;
use crate::ticket::dns::{RECORD_TYPE, TicketResolver, TicketServer, TicketZone};
use crate::tls::TlsError;

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn issuer(ca: &Ca, kem: Kem) -> TicketIssuer {
    TicketIssuer::builder(ca.server_identity()).kem(kem).build().unwrap()
}

/// A DNS server whose only name owns what `source` gives.
async fn serve(
    source: impl Fn(SystemTime) -> Option<Ticket> + Send + Sync + 'static,
) -> TicketServer {
    let zone = TicketZone::new().serve(SERVER, 443, source).unwrap();
    TicketServer::bind(ANY_PORT, zone).await.unwrap()
}

fn resolver(server: SocketAddr) -> TicketResolver {
    TicketResolver::with_servers(&[server]).unwrap()
}

fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.to_vec().unwrap()
}

async fn ask_udp(server: SocketAddr, question: &[u8]) -> Message {
    let socket = UdpSocket::bind(ANY_PORT).await.unwrap();
    socket.send_to(question, server).await.unwrap();
    let mut answer = vec![0; 65536];
    let len = socket.recv(&mut answer).await.unwrap();
    Message::from_vec(&answer[..len]).unwrap()
}

async fn ask_tcp(server: SocketAddr, question: &[u8]) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.write_all(&(question.len() as u16).to_be_bytes()).await.unwrap();
    stream.write_all(question).await.unwrap();
    let mut len = [0; 2];
    stream.read_exact(&mut len).await.unwrap();
    let mut answer = vec![0; u16::from_be_bytes(len).into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

/// A DNS server that answers every question with these bytes as the ticket.
async fn forge(rdata: Vec<u8>) -> SocketAddr {
    let socket = UdpSocket::bind(ANY_PORT).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut question = vec![0; 2048];
        while let Ok((len, asker)) = socket.recv_from(&mut question).await {
            let answer = forged_answer(&question[..len], &rdata);
            socket.send_to(&answer, asker).await.unwrap();
        }
    });
    address
}

/// The question again, as an answer with one record, written by hand.
fn forged_answer(question: &[u8], rdata: &[u8]) -> Vec<u8> {
    let end = 12 + question[12..].iter().position(|&byte| byte == 0).unwrap() + 5;
    let mut answer = question[..end].to_vec();
    answer[2..12].copy_from_slice(&[0x84, 0, 0, 1, 0, 1, 0, 0, 0, 0]);
    answer.extend_from_slice(&[0xc0, 12]);
    answer.extend_from_slice(&RECORD_TYPE.to_be_bytes());
    answer.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
    answer.extend_from_slice(&(rdata.len() as u16).to_be_bytes());
    answer.extend_from_slice(rdata);
    answer
}

#[tokio::test]
async fn a_ticket_comes_through_dns() {
    let ca = Ca::new("CA");
    for kem in [Kem::XWing, Kem::X25519] {
        let ticket = issuer(&ca, kem).ticket(SystemTime::now()).unwrap();
        let served = ticket.clone();
        let server = serve(move |_| Some(served.clone())).await;
        let resolver = resolver(server.local_addr());
        assert_eq!(resolver.lookup(SERVER, 443).await.unwrap(), [ticket]);
        let client = ca.client();
        let time = SystemTime::now();
        let verified = resolver.fetch(&client, SERVER, 443, time).await.unwrap();
        let stored = client.tickets().get(SERVER, 443, time).unwrap();
        assert_eq!(stored.ticket(), verified.ticket());
    }
}

#[tokio::test]
async fn what_is_not_there_is_no_record() {
    let server = serve(|_| None).await;
    let resolver = resolver(server.local_addr());
    let lookup = async |host, port| resolver.lookup(host, port).await.unwrap_err();
    let no_record = |name: &str| TicketError::NoRecord { name: name.to_owned() };
    assert_eq!(lookup(SERVER, 443).await, no_record("_443._smt.server.example."));
    assert_eq!(lookup(SERVER, 444).await, no_record("_444._smt.server.example."));
    assert_eq!(lookup("10.0.0.1", 443).await, no_record("10.0.0.1"));
    assert!(matches!(lookup("other.example", 443).await, TicketError::Dns { .. }));
    assert!(matches!(lookup("no..name", 443).await, TicketError::Dns { .. }));
}

#[tokio::test]
async fn long_answers_are_truncated_on_udp_and_whole_on_tcp() {
    let ca = Ca::new("CA");
    let issuer = issuer(&ca, Kem::XWing);
    let ticket = issuer.ticket(SystemTime::now()).unwrap();
    let server = serve(move |time| issuer.ticket(time).ok()).await;
    let question = question("_443._smt.Server.Example.", RecordType::Unknown(RECORD_TYPE));
    let short = ask_udp(server.local_addr(), &question).await;
    assert!(short.metadata.truncation && short.answers.is_empty());
    let whole = ask_tcp(server.local_addr(), &question).await;
    assert!(!whole.metadata.truncation && whole.metadata.authoritative);
    let [record] = whole.answers.as_slice() else { panic!("{:?}", whole.answers) };
    assert_eq!(record.ttl, 60);
    // The name comes back as it was written.
    assert_eq!(record.name.to_string(), "_443._smt.Server.Example.");
    let RData::Unknown { rdata, .. } = &record.data else { panic!("{record}") };
    assert_eq!(rdata.anything, ticket.bytes());
}

#[tokio::test]
async fn caches_keep_a_ticket_for_half_of_what_is_left() {
    let ca = Ca::new("CA");
    let issuer = issuer(&ca, Kem::X25519);
    let ticket = issuer.ticket(SystemTime::now() - seconds(3550)).unwrap();
    let server = serve(move |_| Some(ticket.clone())).await;
    let question = question("_443._smt.server.example.", RecordType::Unknown(RECORD_TYPE));
    let answer = ask_tcp(server.local_addr(), &question).await;
    assert!(answer.answers[0].ttl <= 25);
    let expired = issuer_of_the_past(&ca);
    let server = serve(move |_| Some(expired.clone())).await;
    assert!(ask_tcp(server.local_addr(), &question).await.answers.is_empty());
}

fn issuer_of_the_past(ca: &Ca) -> Ticket {
    issuer(ca, Kem::X25519).ticket(SystemTime::now() - seconds(7200)).unwrap()
}

#[tokio::test]
async fn only_ones_own_zone_is_answered_for() {
    let server = serve(|_| None).await;
    let ask = async |name, kind| {
        let answer = ask_udp(server.local_addr(), &question(name, kind)).await;
        (answer.metadata.response_code.low(), answer.answers.len(), answer.authorities.len())
    };
    assert_eq!(ask("_smt.server.example.", RecordType::SOA).await, (0, 1, 0));
    assert_eq!(ask("_smt.server.example.", RecordType::NS).await, (0, 0, 1));
    assert_eq!(ask("_443._smt.server.example.", RecordType::A).await, (0, 0, 1));
    assert_eq!(ask("x._smt.server.example.", RecordType::A).await, (3, 0, 1));
    assert_eq!(ask("server.example.", RecordType::A).await, (5, 0, 0));
}

#[tokio::test]
async fn poisoned_answers_are_caught_by_verification() {
    let (ca, stranger) = (Ca::new("CA"), Ca::new("CA"));
    let time = SystemTime::now();
    let fetch = async |rdata: &[u8]| {
        let resolver = resolver(forge(rdata.to_vec()).await);
        resolver.fetch(&ca.client(), SERVER, 443, time).await.map(drop)
    };
    let good = issuer(&ca, Kem::X25519).ticket(time).unwrap();
    assert_eq!(fetch(good.bytes()).await, Ok(()));
    let foreign = issuer(&stranger, Kem::X25519).ticket(time).unwrap();
    let refused = fetch(foreign.bytes()).await.unwrap_err();
    assert!(matches!(
        refused,
        TicketError::Untrusted(TlsError::UnknownIssuer | TlsError::BadSignature)
    ));
    let mut altered = good.bytes().to_vec();
    altered[60] ^= 1;
    assert!(fetch(&altered).await.is_err());
    let old = issuer_of_the_past(&ca);
    assert!(matches!(fetch(old.bytes()).await, Err(TicketError::Expired { .. })));
}

#[tokio::test]
async fn records_cut_short_are_told_from_records_that_are_not_there() {
    let ca = Ca::new("CA");
    let good = issuer(&ca, Kem::X25519).ticket(SystemTime::now()).unwrap();
    for len in [1, 40, good.bytes().len() - 1] {
        let resolver = resolver(forge(good.bytes()[..len].to_vec()).await);
        assert_eq!(resolver.lookup(SERVER, 443).await.unwrap_err(), TicketError::Truncated);
    }
    // More in the length field than there are bytes.
    let mut cut =
        forged_answer(&question("_443._smt.server.example.", RecordType::A), good.bytes());
    cut.truncate(cut.len() - 10);
    assert!(Message::from_vec(&cut).is_err());
}

#[test]
fn a_resolver_needs_a_server() {
    assert!(matches!(TicketResolver::with_servers(&[]), Err(TicketError::Dns { .. })));
}
